"""Jobs whose workers begin nothing: distributed pauses a worker that is nearly out of memory."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from distributed.core import Status

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.cluster.scheduler import PoolScheduler

# Seconds after which a paused worker is not expected to go on soon.
_PATIENCE = 10.0


class PausedJobs:
    """Knows the jobs of a cluster that have been paused for a while.

    Parameters
    ----------
    scheduler : PoolScheduler
        Knows the workers, and finds others for what they have not begun.
    """

    def __init__(self, scheduler: PoolScheduler) -> None:
        self._scheduler = scheduler
        self._since: dict[str, float] = {}
        self._names: set[str] = set()

    def __contains__(self, record: JobRecord) -> bool:
        """Say whether none of the workers of a job has begun anything for a while."""
        return record.name in self._names

    def look(self, records: Iterable[JobRecord]) -> None:
        """Look at all live jobs once, and take back what paused ones have not begun."""
        now = monotonic()
        before, self._since, self._names = self._since, {}, set()
        for record in records:
            if self._is_paused(record):
                since = self._since[record.name] = before.get(record.name, now)
                if now - since >= _PATIENCE:
                    self._names.add(record.name)
                    for address in record.workers:
                        self._scheduler.take_back(address)

    def _is_paused(self, record: JobRecord) -> bool:
        there = self._scheduler.workers
        states = {there[address].status for address in record.workers if address in there}
        return Status.paused in states and Status.running not in states
