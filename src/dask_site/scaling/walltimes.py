"""Jobs end at their walltime: replaced ahead of it, drained before it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.retire import Retirement
    from dask_site.scaling.waits import Waits

_LEAST_MARGIN = 6.0
_MOST_MARGIN = 600.0


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
    draining : set of str
        Names of jobs that take no new work any more.
    """

    def __init__(self, scheduler: PoolScheduler, retirement: Retirement, waits: Waits) -> None:
        self.leaving: set[str] = set()
        self.draining: set[str] = set()
        self._scheduler = scheduler
        self._retirement = retirement
        self._waits = waits

    def mind(self, live: Mapping[str, list[JobRecord]], longest: float) -> None:
        """Look at all live jobs, by pool; `longest` is how long the longest task takes, in s."""
        ending: dict[str, tuple[float, float]] = {}
        self.leaving = set()
        for pool, records in live.items():
            lead = self._waits.expected(pool)
            for record in records:
                if record.deadline is not None and record.walltime is not None and record.workers:
                    self._mind(record, record.deadline, record.walltime, lead, longest, ending)
        self._scheduler.set_ending(ending, longest)

    def _mind(
        self,
        record: JobRecord,
        deadline: datetime,
        limit: timedelta,
        lead: float,
        longest: float,
        ending: dict[str, tuple[float, float]],
    ) -> None:
        walltime = limit.total_seconds()
        margin = self._margin(record, walltime)
        left = (deadline - datetime.now(UTC)).total_seconds() - margin
        if left < min(lead, walltime / 2):
            self.leaving.add(record.name)
        if record.name in self.draining:
            return
        if left <= 0:
            self.draining.add(record.name)
            self._retirement.drain(record, margin / 3)
        elif left < max(1.2 * longest, lead):
            for address in record.workers:
                ending[address] = (time() + left, walltime)
                if left < 1.2 * longest:
                    self._scheduler.hand_back(address, left)

    def _margin(self, record: JobRecord, walltime: float) -> float:
        """Return the seconds before its end in which a job's results are moved."""
        there = self._scheduler.workers
        held = sum(there[a].nbytes for a in record.workers if a in there)
        moving = 2 * held / max(self._scheduler.bandwidth, 1e6)
        return float(min(max(0.05 * walltime, _LEAST_MARGIN, moving), walltime / 3, _MOST_MARGIN))
