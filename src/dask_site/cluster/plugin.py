"""What a scheduler tells the cluster of: workers that come and go, and each change of a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from distributed import Scheduler, SchedulerPlugin

from dask_site.cluster.guard import nothing, switch_off
from dask_site.cluster.summary import Summary

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.cluster.scheduler import PoolScheduler

_UNCOUNTED = (
    "work is not counted any more, so pools can't follow it: cluster.scale(...) sets them by hand"
)


class PoolPlugin(SchedulerPlugin):
    """Tells the cluster of workers that come and go, and counts work by pool."""

    name = "dask-site-pools"

    def __init__(self, fleet: Any, summary: Summary) -> None:
        self._fleet = fleet
        self._summary = summary
        self._job_of: dict[str, JobRecord] = {}

    async def start(self, scheduler: PoolScheduler) -> None:
        """Keep the counters of the scheduler."""
        self._demand = scheduler.demand

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Match a worker to the job that brought it."""
        ws = scheduler.workers[worker]
        record = self._fleet.worker_joined(str(ws.name), worker, ws.extra.get("node") or ws.host)
        if record is None:
            return
        self._job_of[worker] = record
        if not record.live:
            # It joins although its job was given back: the job was running before it could be
            # cancelled. What it may have been handed already goes elsewhere.
            retiring = scheduler.retire_workers(workers=[worker], close_workers=True, remove=True)
            self._retiring = asyncio.ensure_future(retiring)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:  # noqa: ARG002  # distributed's signature
        """Tell the job that one of its workers left."""
        self._job_of.pop(worker, None)
        self._fleet.worker_left(worker)

    def transition(self, key: Any, start: str, finish: str, *_: Any, **kwargs: Any) -> None:
        """Count a change of state, and a task that was computed."""
        try:
            ts = self._demand.transition(key, start, finish)
            if start == "processing" and finish == "memory":
                self._computed(ts, kwargs.get("worker", ""), kwargs.get("startstops") or ())
        except Exception:
            # Without a call more: it runs several times for each task.
            switch_off(self, "transition", nothing, _UNCOUNTED)

    def _computed(self, ts: Any, worker: str, startstops: Any) -> None:
        job = self._job_of.get(worker)
        if job is not None:
            if not job.computed:
                self._fleet.computed(job)
            self._summary.computed(job.pool, ts.prefix.name, startstops)
