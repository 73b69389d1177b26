"""Jobs that have nothing to do: kept for a while, then given back, with what they hold moved."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING

from dask_site.cluster.records import CLOSING, JobRecord
from dask_site.scaling.plan import Limits, Work, plan

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.placement.matching import Shape
    from dask_site.scaling.by_hand import Scaling
    from dask_site.scaling.waits import Waits
    from dask_site.scaling.walltimes import Walltimes
    from dask_site.site import Pool, Site

_LEAST_GRACE, _MOST_GRACE = 5.0, 120.0
# Seconds after which a job is tried again whose results nobody could take.
_TRY_AGAIN = 60.0
# A worker is never filled beyond this with what others held.
_FILLED = 0.6


class IdleJobs:
    """Gives back the jobs of a cluster that are neither asked for nor in use.

    Parameters
    ----------
    site : Site
        The pools, cheapest first.
    scheduler : PoolScheduler
        What workers do and hold.
    fleet : Fleet
        The jobs.
    scaling : Scaling
        Takes jobs away without losing what they hold.
    waits : Waits
        How long getting a job again would take.
    walltimes : Walltimes
        Jobs that end are minded there.

    Attributes
    ----------
    grace : float or None
        Seconds for which an idle job is kept; None: as long as another one takes to come.
    harbour : bool
        Whether what an idle job holds needs a worker of the default pool.
    """

    def __init__(
        self,
        site: Site,
        scheduler: PoolScheduler,
        fleet: Fleet,
        scaling: Scaling,
        waits: Waits,
        walltimes: Walltimes,
    ) -> None:
        self.grace: float | None = None
        self.harbour = False
        self._site = site
        self._rank = {name: rank for rank, name in enumerate(site.pools)}
        self._scheduler = scheduler
        self._fleet = fleet
        self._scaling = scaling
        self._waits = waits
        self._walltimes = walltimes
        self._since: dict[str, float] = {}
        self._stays_until: dict[str, float] = {}
        self._done: deque[tuple[float, list[Work]]] = deque()

    def worked(self, done: Iterable[Work]) -> None:
        """Note what was computed since the last look."""
        now = monotonic()
        sums: dict[Shape, tuple[float, float]] = {}
        for work in done:
            tasks, seconds = sums.get(work.shape, (0.0, 0.0))
            sums[work.shape] = (tasks + work.tasks, seconds + work.seconds)
        if sums:
            self._done.append((now, [Work(shape, *both) for shape, both in sums.items()]))
        while self._done and now - self._done[0][0] > max(_MOST_GRACE, self.grace or 0.0):
            self._done.popleft()

    def kept(self, record: JobRecord) -> None:
        """Let a job be for a while that stayed because nobody could take its results."""
        self._stays_until[record.name] = monotonic() + _TRY_AGAIN

    def in_demand(self, records: Iterable[JobRecord]) -> None:
        """Note that no job of a pool is too many."""
        for record in records:
            self._since.pop(record.name, None)

    def give_back(
        self,
        pool: Pool,
        staying: list[JobRecord],
        surplus: int,
        limits: Mapping[str, Limits],
    ) -> None:
        """Give back jobs beyond the target: those that wait in the queue, then idle ones.

        Parameters
        ----------
        pool : Pool
            Of these jobs.
        staying : list of JobRecord
            Its live jobs that are not about to end anyway.
        surplus : int
            How many of them are not asked for.
        limits : dict of str to Limits
            Bounds of all pools that follow the work.
        """
        idle = [r for r in staying if self.is_idle(r)]
        kept = {r.name for r in idle} if surplus else set()
        self.in_demand(r for r in staying if r.name not in kept)
        if not (idle and surplus):
            return
        idle.sort(key=self._scaling.cost_of_losing)
        grace = self.grace_of(pool.name)
        ripe = [r for r in idle[:surplus] if self._is_ripe(r, grace)]
        if ripe:
            in_use = -(-self._in_use(pool, grace, limits) // pool.processes)
            self._retire(pool, ripe[: max(0, len(staying) - in_use)])

    def grace_of(self, pool: str) -> float:
        """Return how long an idle job is kept: as long as getting it again would take."""
        if self.grace is not None:
            return self.grace
        return min(max(self._waits.expected(pool), _LEAST_GRACE), _MOST_GRACE)

    def is_idle(self, record: JobRecord) -> bool:
        """Say whether nobody would miss the workers of a job, apart from what they hold."""
        if self._walltimes.is_draining(record) or record.state == CLOSING:
            return False
        there = self._scheduler.workers
        workers = [there[address] for address in record.workers if address in there]
        if any(ws.processing or ws.actors for ws in workers):
            return False
        return not any(self._scheduler.in_shuffle(ws) for ws in workers)

    def _is_ripe(self, record: JobRecord, grace: float) -> bool:
        now = monotonic()
        since = self._since.setdefault(record.name, now)
        return now - since >= grace and now >= self._stays_until.get(record.name, 0.0)

    def _in_use(self, pool: Pool, grace: float, limits: Mapping[str, Limits]) -> int:
        """Return how many workers the work of the last seconds took.

        Tasks that come one by one are done before anybody looks, and there is never one that
        asks for a worker. What could go to workers of cheaper pools that are there keeps none.
        """
        there = {name for name in self._rank if any(r.workers for r in self._fleet.of(name))}
        since = monotonic() - grace
        recent: dict[Shape, tuple[float, float]] = {}
        for when, works in self._done:
            for work in works if when >= since else ():
                tasks, seconds = recent.get(work.shape, (0.0, 0.0))
                recent[work.shape] = (tasks + work.tasks, seconds + work.seconds)
        works = [
            Work(shape, *both)
            for shape, both in recent.items()
            if there.isdisjoint(takewhile(pool.name.__ne__, shape.slots))
        ]
        return plan(works, limits, grace).get(pool.name, 0)

    def _retire(self, pool: Pool, ripe: list[JobRecord]) -> None:
        """Retire those whose results others can take, all at once."""
        if not ripe:
            return
        room = self._room(pool)
        left = sum(room.values()) - self._on_its_way()
        leaving = []
        for record in ripe:
            held, own = self._held_by(record), room.get(record.name, 0.0)
            if held <= left - own:
                left -= own + held
                leaving.append(record)
            elif pool.name != self._site.default_pool:
                self._seek_harbour(held)
        for record in leaving:
            self._since.pop(record.name, None)
            self._stays_until.pop(record.name, None)
        self._scaling.retirement.retire(leaving, quietly=True)

    def _held_by(self, record: JobRecord) -> float:
        there = self._scheduler.workers
        return float(sum(there[a].nbytes for a in record.workers if a in there))

    def _on_its_way(self) -> float:
        """Return the bytes that jobs still hold which are about to end.

        Whoever is to take them must not leave meanwhile, though it holds nothing itself.
        """
        held = 0.0
        for address, ws in self._scheduler.workers.items():
            record = self._fleet.job_of(address)
            if record is not None and record.state == CLOSING:
                held += ws.nbytes
        return held

    def _room(self, pool: Pool) -> dict[str, float]:
        """Return the bytes that each job could take of what idle jobs of a pool hold.

        Not those of dearer pools that have nothing to do either: they would only be kept for it.
        """
        room: dict[str, float] = {}
        dearer: dict[str, bool] = {}
        for ws in self._scheduler.running:
            other = self._fleet.job_of(ws.address)
            if other is None or not other.live:
                continue
            if self._rank[other.pool] > self._rank[pool.name]:
                if other.name not in dearer:
                    dearer[other.name] = self.is_idle(other)
                if dearer[other.name]:
                    continue
            used = ws.metrics.get("memory", ws.nbytes)
            free = max(0.0, _FILLED * ws.memory_limit - used)
            room[other.name] = room.get(other.name, 0.0) + free
        return room

    def _seek_harbour(self, held: float) -> None:
        """Ask for a worker of the default pool that can take what an idle, dearer job holds."""
        pool = self._site.pools[self._site.default_pool]
        if held < 0.4 * pool.memory / pool.processes:
            self.harbour = True
