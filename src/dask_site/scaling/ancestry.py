"""What kinds of tasks come before others, as seen on a few of each kind."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from dask_site.placement.matching import Matcher, Shape
from dask_site.scaling.demand import Cell

# Of each kind so many tasks are looked at from both ends, and of each so many it waits for.
_SAMPLES = 2
_SEEN = 32
# Steps in one tick, from a task to one that it waits for, or from a kind to one that comes before.
_BUDGET = 5000


class Ancestry:
    """How much work comes before that of a kind; made anew for each tick, looks when it is asked.

    Parameters
    ----------
    cells : iterable of Cell
        The unfinished tasks.
    matcher : Matcher
        From restrictions to shapes.
    seconds_of : callable
        From a task prefix to the seconds that such a task takes.
    takes : callable
        From a shape and the seconds of work that need it to the seconds until they are done.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        matcher: Matcher,
        seconds_of: Callable[[Any], float],
        takes: Callable[[Shape, float], float],
    ) -> None:
        self._cells = {(cell.prefix, cell.shape): cell for cell in cells}
        self._matcher = matcher
        self._seconds_of = seconds_of
        self._takes = takes
        self._budget = _BUDGET
        self._before: dict[Cell, set[Cell] | None] = {}
        self._seconds: dict[Cell, float | None] = {}

    def seconds_before(self, cell: Cell) -> float | None:
        """Return how long all work takes of the kinds that come before; None if that is not known.

        No task of the cell is ready later than that; some may be ready long before.
        """
        if cell not in self._seconds:
            self._seconds[cell] = self._all_before(cell)
        return self._seconds[cell]

    def _all_before(self, cell: Cell) -> float | None:
        found: set[Cell] = set()
        todo = [cell]
        while todo:
            before = self._directly_before(todo.pop())
            if before is None or self._budget < 0:
                return None
            self._budget -= len(before)
            todo += before - found
            found |= before
        work: dict[Shape, float] = defaultdict(float)
        for other in found:
            work[other.shape] += other.unfinished * self._seconds_of(other.prefix)
        return sum(itertools.starmap(self._takes, work.items()))

    def _directly_before(self, cell: Cell) -> set[Cell] | None:
        if cell not in self._before:
            self._before[cell] = self._look(cell)
        return self._before[cell]

    def _look(self, cell: Cell) -> set[Cell] | None:
        first = itertools.islice(cell.waiting, _SAMPLES)
        last = itertools.islice(reversed(cell.waiting), _SAMPLES)
        found = set()
        for ts in dict.fromkeys((*first, *last)):
            for before in itertools.islice(ts.waiting_on or (), _SEEN):
                self._budget -= 1
                shape = self._matcher.shape(before.resource_restrictions)
                other = self._cells.get((before.prefix, shape))
                if other is None or self._budget < 0:
                    return None
                found.add(other)
        return found
