"""When waiting tasks will be ready: from the graph, known durations, and the workers there are."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dask_site.placement.matching import Matcher, Shape

#: Steps from a task to one that it waits for, taken in one tick; about 1.5 us each.
_BUDGET = 2000
_SAMPLES = 2
LATER = math.inf


@dataclass(frozen=True)
class Look:
    """Waiting tasks to look at.

    Attributes
    ----------
    waiting : dict
        The tasks, as keys.
    horizon : float
        Seconds beyond which it does not matter: LATER is returned.
    rest : float
        Seconds that all work takes which needs something else.
    before : callable
        From a task to the seconds that all work takes which may come before it, or None where that
        is not known: for where the graph is too large to look at.
    """

    waiting: dict[Any, None]
    horizon: float
    rest: float
    before: Callable[[Any], float | None] = lambda _: None

    def unseen(self, ts: Any) -> float:
        """Return when a task will be ready, as far as can be told without a look: rather late."""
        before = self.before(ts)
        latest = self.rest if before is None else before
        return latest if latest <= self.horizon else LATER


class Lookahead:
    """One look at a scheduler's waiting tasks; made anew for each tick.

    Parameters
    ----------
    matcher : Matcher
        From restrictions to shapes.
    duration : callable
        From a task prefix to the seconds that such a task takes.
    threads : callable
        From a shape to (tasks that run at once now, seconds until the first could if none can).
    """

    def __init__(
        self,
        matcher: Matcher,
        duration: Callable[[Any], float],
        threads: Callable[[Shape], tuple[int, float]],
    ) -> None:
        self._matcher = matcher
        self._duration = duration
        self._threads = threads
        self._budget = _BUDGET
        self._cut_short = False
        self._chain: dict[Any, float] = {}
        self._left: dict[Any, tuple[Shape, float]] = {}
        self._shape_threads: dict[Shape, tuple[int, float]] = {}

    def arrivals(self, looks: Sequence[Look]) -> list[tuple[float, float]]:
        """Return what `arrival` does, for several: what is soon looked at comes first.

        Else one that waits for thousands would leave nothing of what may be looked at to others.
        """
        found = [(LATER, LATER)] * len(looks)
        left = self._budget
        had = [0] * len(looks)
        again = list(range(len(looks)))
        for fair in (True, False):
            now, again = again, []
            for place, number in enumerate(now):
                given = left // (len(now) - place) if fair else left
                if not fair and given <= had[number]:
                    continue  # it would see no more than the first time
                had[number] = given
                self._budget, self._cut_short = given, False
                found[number] = self.arrival(looks[number])
                left -= given - self._budget
                if self._cut_short:
                    again.append(number)
        self._budget = left
        return found

    def arrival(self, look: Look) -> tuple[float, float]:
        """Return when the first and the last of some waiting tasks will be ready, in seconds.

        Where each waits for work of its own, the last one waits for that of all.
        """
        waiting = look.waiting
        first = list(itertools.islice(waiting, _SAMPLES))
        last = list(itertools.islice(reversed(waiting), _SAMPLES)) if len(first) > 1 else []
        looks: list[tuple[float, set[Any]]] = []
        for ts in dict.fromkeys((*first, *reversed(last))):
            before: set[Any] = set()
            looks.append((self._ready_in(ts, look, before), before))
        times = [time for time, _ in looks]
        own = looks[-1][1] - looks[0][1]
        return min(times), max(*times, 0.0, min(len(waiting) * self._all_of(own), look.rest))

    def _all_of(self, tasks: set[Any]) -> float:
        work: dict[Shape, float] = defaultdict(float)
        for ts in tasks:
            shape, left = self._remaining(ts)
            work[shape] += left
        return max((self.takes(shape, sec) for shape, sec in work.items()), default=0.0)

    def _ready_in(self, ts: Any, look: Look, seen: set[Any]) -> float:
        """Return when one task will be ready; `seen` takes up what it waits for."""
        work: dict[Shape, float] = defaultdict(float)
        stack: list[Any] = []
        if not self._push(stack, ts):
            return look.unseen(ts)
        order = []
        while stack:
            dts = stack.pop()
            if dts in seen:
                continue
            seen.add(dts)
            order.append(dts)
            shape, left = self._remaining(dts)
            work[shape] += left
            if work[shape] / max(1, self._at_once(shape)[0]) > look.horizon:
                return LATER
            if not self._push(stack, dts):
                return look.unseen(ts)
        by_work = max((self.takes(shape, sec) for shape, sec in work.items()), default=0.0)
        return max(by_work, self._longest_chain(ts, order))

    def _push(self, stack: list[Any], ts: Any) -> bool:
        """Take up what a task waits for; False if that is more than may be looked at."""
        before = ts.waiting_on
        if before:
            if len(before) > self._budget:
                self._cut_short = True
                return False
            self._budget -= len(before)
            stack.extend(before)
        return True

    def takes(self, shape: Shape, seconds: float) -> float:
        """Return how long work takes with the threads that are there for it, or will be."""
        at_once, delay = self._at_once(shape)
        return delay + seconds / max(1, at_once)

    def _longest_chain(self, ts: Any, order: list[Any]) -> float:
        # Discovered from the end of the chains; a later one may be a dependency of an earlier.
        for dts in reversed(order):
            if dts not in self._chain:
                self._chain[dts] = self._through(dts)
        return max((self._through(dts) for dts in ts.waiting_on or ()), default=0.0)

    def _through(self, dts: Any) -> float:
        before = max((self._chain.get(d, 0.0) for d in dts.waiting_on or ()), default=0.0)
        return before + self._remaining(dts)[1]

    def _remaining(self, ts: Any) -> tuple[Shape, float]:
        known = self._left.get(ts)
        if known is None:
            left = self._duration(ts.prefix)
            on = ts.processing_on
            if on is not None:
                left = max(0.0, left - on.executing.get(ts, 0.0))
            known = self._left[ts] = (self._matcher.shape(ts.resource_restrictions), left)
        return known

    def _at_once(self, shape: Shape) -> tuple[int, float]:
        known = self._shape_threads.get(shape)
        if known is None:
            known = self._shape_threads[shape] = self._threads(shape)
        return known
