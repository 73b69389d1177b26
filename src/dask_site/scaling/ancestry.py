"""How much work comes before a task, by distributed's groups: a layer of a graph each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from dask_site.placement.matching import Shape
from dask_site.scaling.demand import Cell

_READY = ("queued", "no-worker", "processing")
# Steps in one tick, from a group to one that it waits for; about 1 us each.
_BUDGET = 2000


class Ancestry:
    """The work before a task; made anew for each tick, and looks when it is asked.

    Parameters
    ----------
    cells : iterable of Cell
        The unfinished tasks.
    seconds_of : callable
        From a task prefix to the seconds that such a task takes.
    takes : callable
        From a shape and the seconds of work that need it to the seconds until they are done.
    enough : float
        Seconds; no more is added up than shows that it is longer.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        seconds_of: Callable[[Any], float],
        takes: Callable[[Shape, float], float],
        enough: float = math.inf,
    ) -> None:
        # Of tasks of one name mostly all need the same.
        order = sorted(cells, key=lambda cell: cell.unfinished)
        self._shapes = {cell.prefix: cell.shape for cell in order}
        self._ready: dict[Shape, dict[Any, float]] = defaultdict(lambda: defaultdict(float))
        for cell in order:
            self._ready[cell.shape][cell.prefix] += cell.ready * seconds_of(cell.prefix)
        self._seconds_of = seconds_of
        self._takes = takes
        self._enough = enough
        self._budget = _BUDGET
        self._known: dict[Any, float | None] = {}

    def seconds_before(self, ts: Any) -> float | None:
        """Return how long the work of the groups before that of a task takes, and what is ready.

        Of what is ready other tasks of its name don't count: it would be done beside them. None if
        it is not known, and infinity if it is more than enough.
        """
        if ts.group not in self._known:
            self._known[ts.group] = self._all_before(ts.group)
        return self._known[ts.group]

    def _all_before(self, group: Any) -> float | None:
        found: set[Any] = set()
        todo = [group]
        work: dict[Shape, float] = {}
        while todo:
            for before in todo.pop().dependencies:
                self._budget -= 1
                if self._budget < 0:
                    return None
                left = before.states["waiting"]
                ready = sum(map(before.states.__getitem__, _READY))
                if before in found or not (left or ready):
                    continue  # where nothing is left, there is nothing before it either
                shape = self._shapes.get(before.prefix)
                if shape is None:
                    return None
                found.add(before)
                todo.append(before)
                if shape not in work:
                    work[shape] = self._ready_beside(group.prefix, shape)
                if before.prefix is group.prefix:
                    left += ready
                work[shape] += left * self._seconds_of(before.prefix)
                if self._takes(shape, work[shape]) > self._enough:
                    return math.inf
        return sum(self._takes(*each) for each in work.items())

    def _ready_beside(self, prefix: Any, shape: Shape) -> float:
        ready = self._ready[shape]
        return sum(ready.values()) - ready.get(prefix, 0.0)
