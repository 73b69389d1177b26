"""When the resource manager may be asked again: seldom, and more seldom when it suffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds from a change, such as a submission, to the first question about it: by then the manager
# has started what it can, or knows why not.
_SETTLING = 1.5
# Seconds between questions while nothing is on its way: enough to see nodes that died in silence.
_QUIET = 30.0
_LONGEST = 120.0
# Of the manager's time we take at most one part in eleven.
_SHARE = 10
_NEVER = float("inf")


class Pace:
    """Spaces the questions that one cluster puts to the resource manager.

    Parameters
    ----------
    interval : float
        Least seconds from the beginning of one question to that of the next.
    clock : callable, optional
        Returns seconds; for tests.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self._clock = clock
        self._allowed = float("-inf")
        self._wanted = _NEVER
        self._asked = clock()
        self._failures = 0

    def changed(self) -> None:
        """Note that something happened of which the manager knows more."""
        self._wanted = min(self._wanted, self._clock() + min(_SETTLING, self.interval))

    @property
    def open(self) -> bool:
        """Whether a question may be asked now."""
        return self._clock() >= self._allowed

    def wait(self, urgent: bool) -> float:
        """Return the seconds until the next question is due; 0 if it is.

        Parameters
        ----------
        urgent : bool
            Whether something is on its way: jobs that are pending, starting or closing.
        """
        due = self._wanted
        if due == _NEVER:
            due = self._asked + (self.interval if urgent else max(_QUIET, self.interval))
        return max(0.0, max(self._allowed, due) - self._clock())

    @contextmanager
    def question(self) -> Iterator[None]:
        """Time a question; one that raises makes the next ones wait, twice as long each time."""
        begun = self._asked = self._clock()
        self._wanted = _NEVER
        try:
            yield
        except BaseException:
            self._failures += 1
            pause = min(_LONGEST, self.interval * 2**self._failures)
            self._allowed = self._clock() + pause
            raise
        self._failures = 0
        now = self._clock()
        self._allowed = max(begun + self.interval, now + _SHARE * (now - begun))
