"""What work there is for the pools, and what will be ready by the time that workers have come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from dask_site.placement.matching import Shape
from dask_site.scaling.ancestry import Ancestry
from dask_site.scaling.lookahead import LATER, Look, Lookahead
from dask_site.scaling.plan import Work

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.by_hand import Scaling
    from dask_site.scaling.demand import Cell
    from dask_site.scaling.waits import Waits

# Seconds added for the looks that it takes until a job is asked for.
_ASKING = 2.0


class Prospects:
    """Finds the work that the pools of one cluster are for.

    Parameters
    ----------
    scheduler : PoolScheduler
        Knows the tasks, and how long they take.
    scaling : Scaling
        The targets.
    waits : Waits
        How long the queue takes.

    Attributes
    ----------
    look_ahead : bool
        Whether work counts that is not ready yet; a benchmark compares both.
    expected : dict of Shape to (float, float)
        Of work that is not ready yet: in how many seconds it will be, and how long a job takes to
        come.
    spread : dict of Shape to float
        Of such work: seconds from when the first is ready until the last is.
    """

    def __init__(self, scheduler: PoolScheduler, scaling: Scaling, waits: Waits) -> None:
        self.look_ahead = True
        self.expected: dict[Shape, tuple[float, float]] = {}
        self.spread: dict[Shape, float] = {}
        self._scheduler = scheduler
        self._scaling = scaling
        self._waits = waits

    def work(
        self, cells: list[Cell], live: Mapping[str, list[JobRecord]], horizon: float
    ) -> list[Work]:
        """Return the work that workers are needed for now, or will be as soon as they can be there.

        Parameters
        ----------
        cells : list of Cell
            The unfinished tasks.
        live : dict of str to list of JobRecord
            The live jobs of each pool.
        horizon : float
            Seconds in which work that is ready shall be done.
        """
        duration = cache(self._scheduler.seconds_of)
        work = [
            Work(cell.shape, cell.ready, cell.ready * duration(cell.prefix))
            for cell in cells
            if cell.ready
        ]
        work += [Work(shape, 1.0, 1.0) for shape in self.of_shuffles()]
        self.expected = {}
        self.spread = {}
        if not self.look_ahead:
            return work
        ahead = Lookahead(self._scheduler.matcher, duration, self._threads_of(live))
        rest: dict[Shape, float] = {}
        for cell in cells:
            rest[cell.shape] = rest.get(cell.shape, 0.0) + cell.unfinished * duration(cell.prefix)
        rest = {shape: ahead.takes(shape, seconds) for shape, seconds in rest.items()}
        whole = sum(rest.values())
        waits = {name: self._waits.expected(name, records) for name, records in live.items()}
        waiting = [cell for cell in cells if cell.waiting and cell.shape.slots]
        leads = [min(waits[name] for name in cell.shape.slots) for cell in waiting]
        horizons = [max(_early(lead), horizon) for lead in leads]
        enough = max(horizons, default=horizon)
        before = Ancestry(cells, duration, ahead.takes, enough).seconds_before
        looks = [
            Look(cell.waiting, until, whole - rest[cell.shape], before)
            for cell, until in zip(waiting, horizons, strict=True)
        ]
        arrivals = ahead.arrivals(looks)
        for cell, lead, look, arrival in zip(waiting, leads, looks, arrivals, strict=True):
            spread = self._expect(cell.shape, lead, look.rest, *arrival)
            if arrival[0] <= _early(lead):
                work.append(self._coming(cell, spread, horizon))
        return work

    def of_shuffles(self) -> set[Shape]:
        """Return what the output of shuffles needs that wait for a worker which takes it."""
        return {waits.shape for waits in self._scheduler.shuffles.waiting.values()}

    def _expect(self, shape: Shape, lead: float, others: float, first: float, last: float) -> float:
        """Note when work will be ready; returns the seconds from the first of it to the last."""
        known = self.expected.get(shape, (LATER, 0.0))[0]
        self.expected[shape] = (min(known, first), lead)
        spread = max(0.0, (others if last == LATER else last) - min(first, others))
        self.spread[shape] = max(spread, self.spread.get(shape, 0.0))
        return spread

    def _coming(self, cell: Cell, spread: float, horizon: float) -> Work:
        """Return the waiting tasks for which workers should be asked for now."""
        count = len(cell.waiting)
        # Those that become ready one by one need as many workers as come in one horizon.
        share = 1.0 if spread <= horizon else horizon / spread
        if not self._scheduler.is_timed(cell.prefix):
            share = min(share, 1.0 / count)  # one of them, for the worker that times them
        seconds = count * self._scheduler.seconds_of(cell.prefix)
        return Work(cell.shape, max(1.0, count * share), seconds * share)

    def _threads_of(self, live: Mapping[str, list[JobRecord]]) -> Any:
        there = {name: sum(len(r.workers) for r in records) for name, records in live.items()}

        def threads(shape: Shape) -> tuple[int, float]:
            now = sum(there[name] * slots for name, slots in shape.slots.items())
            if now or not shape.slots:
                return now, 0.0
            first = next(iter(shape.slots))
            planned = max(1, self._scaling.targets[first]) * shape.slots[first]
            return planned, self._waits.expected(first, live[first])

        return threads


def _early(lead: float) -> float:
    """Return how long before work is ready its workers are asked for."""
    # A little early: the wait is a median, and durations are estimates.
    return 1.25 * lead + _ASKING
