"""Workers by hand: how many each pool shall have, asked for, waited for, given back."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_site.cluster import views
from dask_site.cluster.errors import PoolError, unknown_pool
from dask_site.cluster.records import JobRecord, sentence
from dask_site.scaling.retire import Retirement

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.site import Site

# Seconds after which the pools have grown by what work there is.
_DEMAND_SHOWS = 5.0
# And within which what was submitted just now arrives.
_ARRIVES = 1.0


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
        #: Told of a job that stays because nobody could take its results.
        self.kept: Callable[[JobRecord], None] = lambda _: None
        #: Why a pool is paused; empty if it is not.
        self.paused: Callable[[str], str] = lambda _: ""
        self.retirement = Retirement(fleet, scheduler, self._stays)
        fleet.on_change = self._changed.set

    async def scale(self, wanted: Mapping[str, int]) -> None:
        """Set targets of some pools; returns when the way there has begun."""
        wanted = self._checked("scale", wanted)
        surplus: list[JobRecord] = []
        for name, count in wanted.items():
            pool = self._site.pools[name]
            live = self._fleet.of(name)
            jobs = -(-count // pool.processes)
            self.targets[name] = jobs * pool.processes
            self._fleet.submit(pool, max(0, jobs - len(live)))
            surplus += sorted(live, key=self.cost_of_losing)[: max(0, len(live) - jobs)]
            if jobs <= len(live):
                surplus += self._fleet.late(name)
        self.retirement.retire(surplus)

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
        self.retirement.retire(leaving)

    async def wait(
        self, in_all: int | None, wanted: Mapping[str, int], timeout: float | None
    ) -> None:
        """Wait for workers: `wanted` by pool, `in_all` whatever their pool, or every target."""
        wanted = self._checked("wait_for_workers", wanted)
        if in_all is not None:
            in_all = _count(in_all, f"wait_for_workers({in_all!r})")
        elif not wanted:
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
                waited = loop.time() - begun
                more = waited < (_DEMAND_SHOWS if self._scheduler.has_work else _ARRIVES)
                self._refuse_hopeless({name: count for name, (_, count) in missing.items()}, more)
                what = f"waiting for {views.waiting(self._fleet.records, missing)}"
                if timeout is not None and waited > timeout:
                    raise TimeoutError(f"After {timeout:g} s still {what}")
                progress.show(sentence(what), waited)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.5)

    def _checked(self, call: str, wanted: Mapping[str, int]) -> dict[str, int]:
        counts = {}
        for name, given in wanted.items():
            if name not in self._site.pools:
                raise unknown_pool(name, self._site.pools, f"Cluster {self._cluster_name}")
            count = _count(given, f"{call}({name}={given!r})")
            pool = self._site.pools[name]
            jobs = -(-count // pool.processes)
            if pool.max_jobs is not None and jobs > pool.max_jobs:
                raise ValueError(
                    f"{call}({name}={count}) takes {jobs} jobs; pool {name!r} of "
                    f"{self._site.name} allows {pool.max_jobs}. The most is "
                    f"{call}({name}={pool.max_jobs * pool.processes})."
                )
            counts[name] = count
        return counts

    def _refuse_hopeless(self, missing: Mapping[str, int], demand: bool) -> None:
        """Raise PoolError if what is missing will not come; `demand`: more may be asked for."""
        for name, wanted in missing.items():
            pools = [name] if name else list(self.targets)
            coming = sum(r.processes for r in self._fleet.records if r.live and r.pool in pools)
            if coming >= wanted:
                continue
            what = f"Pool {name!r}" if name else "The cluster"
            paused = next(filter(None, map(self.paused, pools)), "")
            if paused:
                raise PoolError(f"{what} can't bring {wanted} workers: {paused}")
            asked = sum(self.targets[pool] for pool in pools)
            if asked < wanted and not demand:
                raise PoolError(
                    f"{what} has, or has asked for, {asked} workers, so {wanted} will not be there "
                    "unless the work demands it. Ask for them: "
                    f"cluster.scale({name or self._site.default_pool}={wanted})"
                )

    def _stays(self, record: JobRecord) -> None:
        self.kept(record)
        there = sum(r.processes for r in self._fleet.of(record.pool))
        self.targets[record.pool] = max(self.targets[record.pool], there)

    def cost_of_losing(self, record: JobRecord) -> tuple[int, int, int]:
        """Return a key that sorts jobs by what is lost with them: workers, tasks, bytes."""
        there = self._scheduler.workers
        workers = [there[address] for address in record.workers if address in there]
        return (
            len(workers),
            sum(len(ws.processing) for ws in workers),
            sum(ws.nbytes for ws in workers),
        )


def _count(given: Any, call: str) -> int:
    """Return a number of workers; integers of any kind, NumPy's too."""
    try:
        count = operator.index(given)
    except TypeError:
        count = -1
    if count < 0 or isinstance(given, bool):
        raise ValueError(f"{call}: a number of workers, 0 or more.")
    return count
