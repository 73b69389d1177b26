"""What work there is, by what it needs: counted as tasks change their state, cheap to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distributed.scheduler import ALL_TASK_STATES

from dask_site.placement.matching import Matcher, Shape

_UNFINISHED = ("waiting", "queued", "no-worker", "processing")
# Below that, what there is of each kind is looked at for itself.
_MANY = 100


class Cell:
    """The unfinished tasks of one key prefix that need the same.

    Attributes
    ----------
    shape : Shape
        What they need.
    prefix : distributed.scheduler.TaskPrefix
        Knows how long such tasks take.
    count : dict of str to int
        Tasks by state; right for ``waiting``, ``queued``, ``no-worker`` and ``processing``.
    waiting : dict
        The tasks that wait for others, as keys, in the order in which they came.
    done : int
        Tasks computed since `Demand.take_done` was last asked.
    """

    __slots__ = ("count", "done", "prefix", "shape", "waiting")

    def __init__(self, shape: Shape, prefix: Any) -> None:
        self.shape = shape
        self.prefix = prefix
        self.done = 0
        self.waiting: dict[Any, None] = {}
        # All states that distributed knows, so that counting needs no check.
        self.count = dict.fromkeys(ALL_TASK_STATES, 0)

    @property
    def ready(self) -> int:
        """Tasks that could run now, or run."""
        return self.unassigned + self.count["processing"]

    @property
    def unassigned(self) -> int:
        """Tasks that could run now, and have no worker yet."""
        return self.count["queued"] + self.count["no-worker"]

    @property
    def unfinished(self) -> int:
        """Tasks that run, could run now, or wait for others."""
        return self.ready + self.count["waiting"]


class Demand:
    """Counts a scheduler's tasks by prefix and need.

    Parameters
    ----------
    matcher : Matcher
        From restrictions to shapes.
    tasks : dict
        The scheduler's tasks by key.
    """

    def __init__(self, matcher: Matcher, tasks: dict[Any, Any]) -> None:
        self._matcher = matcher
        self._tasks = tasks
        self._ordinary: dict[Any, Cell] = {}
        self._needing: dict[tuple[Any, tuple[tuple[str, float], ...]], Cell] = {}

    def transition(self, key: Any, start: str, finish: str) -> Any:
        """Count one change of state, and return the task."""
        ts = self._tasks[key]
        if ts.resource_restrictions:
            cell = self._cell(ts)
        else:
            found = self._ordinary.get(ts.prefix)
            cell = self._cell(ts) if found is None else found
        count = cell.count
        count[start] -= 1
        count[finish] += 1
        if finish == "waiting":
            cell.waiting[ts] = None
        elif start == "waiting":
            cell.waiting.pop(ts, None)
        elif start == "processing" and finish == "memory":
            cell.done += 1
        return ts

    def restricted(self, ts: Any, before: dict[str, float] | None) -> None:
        """Move a task, whose needs have changed, to where its like is counted."""
        now, ts.resource_restrictions = ts.resource_restrictions, before
        old = self._cell(ts)
        ts.resource_restrictions = now
        new = self._cell(ts)
        old.count[ts.state] -= 1
        new.count[ts.state] += 1
        if ts in old.waiting:
            del old.waiting[ts]
            new.waiting[ts] = None

    def _cell(self, ts: Any) -> Cell:
        restrictions = ts.resource_restrictions
        if not restrictions:
            cell = self._ordinary.get(ts.prefix)
            if cell is None:
                cell = self._ordinary[ts.prefix] = Cell(self._matcher.ordinary, ts.prefix)
            return cell
        key = (ts.prefix, tuple(restrictions.items()))
        cell = self._needing.get(key)
        if cell is None:
            cell = self._needing[key] = Cell(self._matcher.shape(restrictions), ts.prefix)
        return cell

    def take_done(self) -> Iterator[tuple[Cell, int]]:
        """Yield the cells of which tasks were computed since the last time, and how many."""
        for store in (self._ordinary, self._needing):
            for cell in store.values():
                if cell.done:
                    done, cell.done = cell.done, 0
                    yield cell, done

    def cells(self) -> Iterator[Cell]:
        """Yield the cells with unfinished tasks, and forget the others."""
        stores: tuple[dict[Any, Cell], ...] = (self._ordinary, self._needing)
        for store in stores:
            for key, cell in list(store.items()):
                if cell.unfinished:
                    yield cell
                else:
                    del store[key]


def merged(
    cells: Iterable[Cell], is_timed: Callable[[Any], bool], seconds_of: Callable[[Any], float]
) -> list[Cell]:
    """Return the cells, one for all of a shape that have a single task, which nobody has timed.

    Where keys are names such as ``sim_123``, each of them is a kind of its own.

    Parameters
    ----------
    cells : iterable of Cell
    is_timed : callable
        Says of a prefix whether anything is known of how long such tasks take.
    seconds_of : callable
        Returns how long they take as long as it is not.
    """
    kept: list[Cell] = []
    single: list[Cell] = []
    for cell in cells:
        alone = cell.unfinished == 1 and not is_timed(cell.prefix)
        (single if alone else kept).append(cell)
    if len(single) < _MANY:
        return kept + single
    together: dict[tuple[Shape, float], Cell] = {}
    for cell in single:
        kind = (cell.shape, seconds_of(cell.prefix))
        one = together.get(kind)
        if one is None:
            one = together[kind] = Cell(cell.shape, cell.prefix)
        for state in _UNFINISHED:
            one.count[state] += cell.count[state]
        one.waiting.update(cell.waiting)
    return kept + list(together.values())
