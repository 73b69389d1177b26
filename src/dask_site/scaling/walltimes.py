"""Jobs end at their walltime: replaced ahead of it, drained before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING

from dask_site.cluster.placing import YOUNG

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.demand import Cell
    from dask_site.scaling.retire import Retirement
    from dask_site.scaling.waits import Waits

_LEAST_MARGIN = 10.0
_MOST_MARGIN = 600.0
# Jobs whose draining is remembered, to begin in time with the next.
_REMEMBERED = 10
_TRY_AGAIN = 2.0


class Walltimes:
    """Minds the walltimes of a cluster's jobs.

    Parameters
    ----------
    scheduler : PoolScheduler
        Keeps tasks off workers that would not finish them.
    retirement : Retirement
        Drains jobs.
    waits : Waits
        Tells how early to ask for the next job.

    Attributes
    ----------
    leaving : set of str
        Names of jobs that end within the time that another one takes to come.
    """

    def __init__(self, scheduler: PoolScheduler, retirement: Retirement, waits: Waits) -> None:
        self.leaving: set[str] = set()
        self._scheduler = scheduler
        self._retirement = retirement
        self._waits = waits
        # Jobs that take no new work any more, and when their results are tried to be moved again.
        self._draining: dict[str, float] = {}
        # Of those: the jobs, and when it was time to begin (as of `time.time`).
        self._begun: dict[str, tuple[JobRecord, float]] = {}
        self._took: deque[float] = deque(maxlen=_REMEMBERED)
        # Of jobs with workers: for how many seconds they take tasks, from now on and in all.
        self._left: dict[str, tuple[float, float]] = {}
        # How long tasks took by then that no worker was found for.
        self._tried: dict[Cell, float] = {}
        self._ends: dict[str, float] = {}

    def mind(
        self, live: Mapping[str, list[JobRecord]], cells: list[Cell], full: Mapping[str, bool]
    ) -> None:
        """Look at all live jobs once.

        Parameters
        ----------
        live : dict of str to list of JobRecord
            By pool.
        cells : list of Cell
            The unfinished tasks.
        full : dict of str to bool
            Whether a pool is at its bound, so that the next job comes only when one has gone.
        """
        ending: dict[str, tuple[float, float]] = {}
        self.leaving = set()
        self._left = {}
        self._look_at_drained()
        longest = self._longest(cells, "processing")
        for pool, records in live.items():
            lead = self._waits.expected(pool)
            limited = [r for r in records if r.deadline is not None and r.walltime and r.workers]
            limited.sort(key=_deadline)
            for number, record in enumerate(limited):
                # All at once they would have nobody to hand their results to.
                first = full[pool] and number < len(limited) // 2
                self._mind(record, lead, longest, ending, first=first)
        self._scheduler.set_ending(ending, self._longest(cells, "queued"))
        if self._last_longer(ending) | self._got_shorter(cells):
            self._scheduler.try_again()

    def outlasted(self, pool: str, records: list[JobRecord], cells: list[Cell]) -> list[JobRecord]:
        """Return the jobs of a pool that end before what waits for a worker would be done.

        Of those that are there no more than such tasks could make use of instead.
        """
        ends = [self._left[r.name][0] for r in records if r.name in self._left]
        soonest = min(ends, default=math.inf)
        longest = tasks = 0.0
        for cell in cells:
            if cell.unassigned and pool in cell.shape.slots:
                needed = 1.2 * self._scheduler.seconds_of(cell.prefix)
                if needed > soonest:
                    longest = max(longest, needed)
                    tasks += cell.unassigned / cell.shape.slots[pool]
        if not tasks:
            return []
        short = []
        for record in records:
            left, whole = self._left.get(record.name, (math.inf, math.inf))
            if left < min(longest, YOUNG * whole):
                short.append(record)
        return short[: math.ceil(tasks / records[0].processes)]

    def _last_longer(self, ending: Mapping[str, tuple[float, float]]) -> bool:
        """Say whether workers can take longer tasks than a moment ago."""
        before, self._ends = self._ends, {address: end for address, (end, _) in ending.items()}
        return any(end > before.get(address, end) + 1 for address, end in self._ends.items())

    def _got_shorter(self, cells: list[Cell]) -> bool:
        """Say whether tasks without a worker turned out to be shorter than they were when tried."""
        tried, self._tried = self._tried, {}
        shorter = False
        for cell in cells:
            if cell.count["no-worker"]:
                seconds = self._scheduler.seconds_of(cell.prefix)
                before = max(tried.get(cell, seconds), seconds)
                if seconds < 0.9 * before:
                    shorter, before = True, seconds
                self._tried[cell] = before
        return shorter

    def _longest(self, cells: list[Cell], state: str) -> float:
        seconds = (self._scheduler.seconds_of(c.prefix) for c in cells if c.count[state])
        return max(seconds, default=0.0)

    def is_draining(self, record: JobRecord) -> bool:
        """Say whether a job takes no new work any more."""
        return record.name in self._draining

    def kept(self, record: JobRecord) -> None:
        """Try again soon to move the results of a job that nobody could take."""
        if record.name in self._draining:
            self._draining[record.name] = time() + _TRY_AGAIN
            # It takes as long as there is nobody, whenever it is begun.
            self._begun.pop(record.name, None)

    def _mind(
        self,
        record: JobRecord,
        lead: float,
        longest: float,
        ending: dict[str, tuple[float, float]],
        *,
        first: bool,
    ) -> None:
        walltime = record.walltime.total_seconds() if record.walltime else math.inf
        margin = self._margin(record, walltime)
        early = min(lead + margin, walltime / 3) if first else 0.0
        to_the_end = (_deadline(record) - datetime.now(UTC)).total_seconds()
        left = to_the_end - margin - early
        whole = walltime - margin - early
        self._left[record.name] = (left, whole)
        if left < min(lead, walltime / 2):
            self.leaving.add(record.name)
        if to_the_end < 0:
            record.time_up = True
            self._retirement.end(record)
        elif left <= 0:
            # Begun late, what it runs gets less, and not the moving of its results.
            self._drain(record, left, min(margin / 3, max(0.0, to_the_end - 2 * margin / 3)))
        else:
            for address in record.workers:
                ending[address] = (time() + left, whole)
                if left < 1.2 * longest:
                    self._scheduler.take_back(address, left)

    def _drain(self, record: JobRecord, late: float, seconds: float) -> None:
        if time() >= self._draining.get(record.name, 0.0):
            if record.name not in self._draining:
                self._begun[record.name] = (record, time() + late)
            self._draining[record.name] = math.inf
            record.time_up = True
            self._retirement.drain(record, seconds)

    def _look_at_drained(self) -> None:
        """Note how long it took until the workers of jobs had left."""
        for name, (record, begun) in list(self._begun.items()):
            if not record.workers:
                del self._begun[name]
                self._took.append(time() - begun)

    def _margin(self, record: JobRecord, walltime: float) -> float:
        """Return the seconds before its end in which a job's results are moved."""
        there = self._scheduler.workers
        held = sum(there[a].nbytes for a in record.workers if a in there)
        moving = 2 * held / max(self._scheduler.bandwidth, 1e6)
        usual = 1.5 * max(self._took, default=0.0)
        least = max(0.05 * walltime, min(_LEAST_MARGIN, walltime / 4))
        return float(min(max(least, moving, usual), walltime / 3, _MOST_MARGIN))


def _deadline(record: JobRecord) -> datetime:
    return record.deadline or datetime.max.replace(tzinfo=UTC)
