"""How much one user may ask in a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_MANY = 10_000


class Buckets:
    """A bucket of questions for each who asks, filled again at a steady rate.

    Parameters
    ----------
    rate : float
        Questions per second, for long.
    burst : int
        Questions at once.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._left: dict[Hashable, tuple[float, float]] = {}

    def take(self, who: Hashable) -> bool:
        """Return whether there is one left, which is gone then."""
        now = self._clock()
        left = self._now(who, now)
        if left < 1:
            return False
        if len(self._left) >= _MANY:
            self._left = {
                each: self._left[each] for each in self._left if self._now(each, now) < self._burst
            }
        self._left[who] = (left - 1, now)
        return True

    def _now(self, who: Hashable, now: float) -> float:
        left, then = self._left.get(who, (self._burst, now))
        return min(self._burst, left + (now - then) * self._rate)
