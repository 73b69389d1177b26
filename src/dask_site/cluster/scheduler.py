"""Dask's scheduler with pools. What touches distributed's internals stands here, and only here.

`tests/contract/test_distributed.py` holds each of these internals against the installed version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import dask.config
from distributed import Scheduler, SchedulerPlugin
from distributed.scheduler import DEFAULT_EXTENSIONS
from distributed.shuffle._core import barrier_key
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin

from dask_site.cluster.resources import pool_resource
from dask_site.cluster.summary import Summary


class PoolScheduler(Scheduler):
    """A scheduler that keeps work which names no pool off exclusive workers.

    Restricting every other task to the open pools would do the same, but distributed queues
    root tasks on the scheduler only while they are unrestricted.

    Parameters
    ----------
    exclusive : iterable of str
        Names of the pools that only take work which names them.
    **kwargs
        For `distributed.Scheduler`.
    """

    def __init__(self, *args: Any, exclusive: Iterable[str] = (), **kwargs: Any) -> None:
        self._exclusive = frozenset(pool_resource(name) for name in exclusive)
        self._exclusive_workers: set[Any] = set()
        extensions = {**DEFAULT_EXTENSIONS, "shuffle": PoolShufflePlugin}
        if not dask.config.get("distributed.scheduler.work-stealing"):
            extensions.pop("stealing", None)
        super().__init__(*args, extensions=extensions, **kwargs)

    def valid_workers(self, ts: Any) -> set[Any] | None:
        """Return the workers that may run a task; None stands for all (as in distributed)."""
        valid: set[Any] | None = super().valid_workers(ts)
        if not self._exclusive_workers:
            return valid
        # distributed takes an empty set for "any worker" where restrictions are loose.
        anywhere = not valid and ts.loose_restrictions and not ts.resource_restrictions
        if valid is None or anywhere:
            return set(self.running) - self._exclusive_workers
        return valid

    def check_idle_saturated(self, ws: Any, occ: float = -1.0) -> None:
        """Keep exclusive workers out of the set that queued root tasks are drawn to."""
        super().check_idle_saturated(ws, occ)
        if ws in self._exclusive_workers:
            self.idle_task_count.discard(ws)

    def add_resources(self, worker: str, resources: dict[str, float] | None = None) -> Any:
        """Note an exclusive worker: its resources tell its pool."""
        result = super().add_resources(worker=worker, resources=resources)
        ws = self.workers[worker]
        if not self._exclusive.isdisjoint(ws.resources):
            self._exclusive_workers.add(ws)
        return result

    def remove_resources(self, worker: str) -> None:
        """Forget a worker that leaves."""
        super().remove_resources(worker)
        self._exclusive_workers.discard(self.workers[worker])


class PoolShufflePlugin(ShuffleSchedulerPlugin):
    """Keeps the output of a P2P shuffle on the workers that its tasks may run on.

    distributed spreads it over all workers: on a pool, the outputs pinned elsewhere would then
    wait for ever, and without one, they would land on exclusive workers.
    """

    def _calculate_worker_for(self, spec: Any) -> dict[Any, str]:
        barrier = self.scheduler.tasks[barrier_key(spec.id)]
        allowed = self.scheduler.valid_workers(barrier)
        if allowed is None or barrier.worker_restrictions:
            pinned: dict[Any, str] = super()._calculate_worker_for(spec)
            return pinned
        barrier.worker_restrictions = {ws.address for ws in allowed}
        try:
            pinned = super()._calculate_worker_for(spec)
        finally:
            barrier.worker_restrictions = None
        return pinned


class PoolPlugin(SchedulerPlugin):
    """Tells the cluster of workers that come and go, and counts work by pool."""

    name = "dask-site-pools"

    def __init__(self, fleet: Any, summary: Summary) -> None:
        self._fleet = fleet
        self._summary = summary
        self._pool_of: dict[str, str] = {}

    async def start(self, scheduler: Scheduler) -> None:
        """Keep the scheduler whose tasks are counted."""
        self._scheduler = scheduler

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Match a worker to the job that brought it."""
        ws = scheduler.workers[worker]
        record = self._fleet.worker_joined(str(ws.name), worker, ws.host)
        if record is None:
            return
        self._pool_of[worker] = record.pool
        if not record.live:
            # It joins although its job was given back: the job was running before it could be
            # cancelled. What it may have been handed already goes elsewhere.
            retiring = scheduler.retire_workers(workers=[worker], close_workers=True, remove=True)
            self._retiring = asyncio.ensure_future(retiring)

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:  # noqa: ARG002  # distributed's signature
        """Tell the job that one of its workers left."""
        self._pool_of.pop(worker, None)
        self._fleet.worker_left(worker)

    def transition(self, key: Any, start: str, finish: str, *_: Any, **kwargs: Any) -> None:
        """Count a task that was computed."""
        if start == "processing" and finish == "memory":
            pool = self._pool_of.get(kwargs.get("worker", ""))
            if pool is not None:
                prefix = self._scheduler.tasks[key].prefix.name
                self._summary.computed(pool, prefix, kwargs.get("startstops") or ())
