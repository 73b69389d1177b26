"""How many workers each pool shall have, and the way there: asked for, waited for, given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_site.cluster import views
from dask_site.cluster.errors import PoolError, unknown_pool
from dask_site.cluster.records import FAILED, JobRecord

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.site import Site

logger = logging.getLogger("dask_site")


class Scaling:
    """The targets of one cluster's pools.

    Parameters
    ----------
    cluster_name : str
        For messages.
    site : Site
        The pools, and how many jobs each allows.
    fleet : Fleet
        The jobs.
    scheduler : distributed.Scheduler
        Moves results off workers that go.
    """

    def __init__(self, cluster_name: str, site: Site, fleet: Fleet, scheduler: Any) -> None:
        self.targets = dict.fromkeys(site.pools, 0)
        self._cluster_name = cluster_name
        self._site = site
        self._fleet = fleet
        self._scheduler = scheduler
        self._changed = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        fleet.on_change = self._changed.set

    async def scale(self, wanted: Mapping[str, int]) -> None:
        """Set targets of some pools; returns when the way there has begun."""
        self._check(wanted)
        surplus: list[JobRecord] = []
        for name, count in wanted.items():
            pool = self._site.pools[name]
            live = self._fleet.of(name)
            jobs = -(-count // pool.processes)
            self.targets[name] = jobs * pool.processes
            self._fleet.submit(pool, max(0, jobs - len(live)))
            surplus += sorted(live, key=self._cost_of_losing)[: max(0, len(live) - jobs)]
        self._retire(surplus)

    async def scale_down(self, named: Sequence[str]) -> None:
        """Retire the jobs of certain workers, given by name, address or job number."""
        leaving: list[JobRecord] = []
        for name in named:
            found = [r for r in self._fleet.records if r.live and r.goes_by(name)]
            if not found:
                here = ", ".join(r.name for r in self._fleet.records if r.live) or "none"
                raise ValueError(
                    f"No worker {name!r} in cluster {self._cluster_name}; it has {here}."
                )
            leaving += [record for record in found if record not in leaving]
        for record in leaving:
            processes = self._site.pools[record.pool].processes
            self.targets[record.pool] = max(0, self.targets[record.pool] - processes)
        self._retire(leaving)

    async def wait(
        self, in_all: int | None, wanted: Mapping[str, int], timeout: float | None
    ) -> None:
        """Wait for workers: `wanted` by pool, `in_all` whatever their pool, or every target."""
        self._check(wanted)
        if not wanted and in_all is None:
            wanted = dict(self.targets)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with views.Progress(sys.stderr) as progress:
            while True:
                self._changed.clear()
                missing = views.missing(self._fleet.records, wanted, in_all)
                if not missing:
                    if any(r.live and not r.node for r in self._fleet.records):
                        await self._fleet.look()
                    return
                self._refuse_hopeless(missing)
                waited = loop.time() - begun
                what = f"waiting for {views.waiting(self._fleet.records, missing)}"
                if timeout is not None and waited > timeout:
                    raise TimeoutError(f"After {timeout:g} s still {what}")
                progress.show(what.capitalize(), waited)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.5)

    def _check(self, wanted: Mapping[str, int]) -> None:
        for name, count in wanted.items():
            if name not in self._site.pools:
                raise unknown_pool(name, self._site.pools, f"Cluster {self._cluster_name}")
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"scale({name}={count!r}): a number of workers, 0 or more.")
            pool = self._site.pools[name]
            jobs = -(-count // pool.processes)
            if pool.max_jobs is not None and jobs > pool.max_jobs:
                raise ValueError(
                    f"scale({name}={count}) takes {jobs} jobs; pool {name!r} of {self._site.name} "
                    f"allows {pool.max_jobs}. The most is "
                    f"scale({name}={pool.max_jobs * pool.processes})."
                )

    def _refuse_hopeless(self, missing: Mapping[str, tuple[int, int]]) -> None:
        for name, (_, wanted) in missing.items():
            if name == views.ANY or sum(r.processes for r in self._fleet.of(name)) >= wanted:
                continue
            failed = self._fleet.of(name, FAILED)
            if failed:
                last = failed[-1]
                raise PoolError(
                    f"Pool {name!r} can't bring {wanted} workers: {last} {last.reason}\n"
                    f"{last.advice}"
                )
            if self.targets[name] < wanted:
                raise PoolError(
                    f"Pool {name!r} was asked for {self.targets[name]} workers, so {wanted} will "
                    f"never be there. Ask for them: cluster.scale({name}={wanted})"
                )

    def _retire(self, records: list[JobRecord]) -> None:
        if records:
            task = asyncio.create_task(self._retire_gracefully(records))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _retire_gracefully(self, records: list[JobRecord]) -> None:
        addresses = [address for record in records for address in record.workers]
        await self._fleet.end([r for r in records if not r.workers])
        if not addresses:
            return
        # By address: upstream's SpecCluster hands over names, which the scheduler takes for
        # addresses of workers that left already, and their results are computed again.
        retired = await self._scheduler.retire_workers(
            workers=addresses, close_workers=True, remove=True
        )
        leaving = []
        for record in records:
            kept = [a for a in record.workers if a not in retired and a in self._scheduler.workers]
            if kept:
                self.targets[record.pool] += self._site.pools[record.pool].processes
                logger.warning(
                    "Kept %s: it holds results that no other worker can take. Ask for room first, "
                    "or free the results.",
                    record,
                )
            else:
                leaving.append(record)
        await self._fleet.end(leaving, grace=10)

    def _cost_of_losing(self, record: JobRecord) -> tuple[int, int, int]:
        there = self._scheduler.workers
        workers = [there[address] for address in record.workers if address in there]
        return (
            len(workers),
            sum(len(ws.processing) for ws in workers),
            sum(ws.nbytes for ws in workers),
        )
