"""Workers by demand: each second, what work there is decides what jobs each pool has."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, thread_time, time
from typing import TYPE_CHECKING, Any

from dask_site.cluster.guard import guarded, nothing
from dask_site.cluster.records import (
    FAILED,
    PENDING,
    SUBMITTING,
    JobRecord,
    sentence,
)
from dask_site.scaling.demand import Cell, merged
from dask_site.scaling.gather import Gathering
from dask_site.scaling.growth import Growth
from dask_site.scaling.idle import IdleJobs
from dask_site.scaling.paused import PausedJobs
from dask_site.scaling.plan import Limits, Work, plan
from dask_site.scaling.prospects import Prospects
from dask_site.scaling.rules import Rules, bounded, rules_of
from dask_site.scaling.sharing import Sharing
from dask_site.scaling.starved import Starved
from dask_site.scaling.unasked import Unasked
from dask_site.scaling.walltimes import Walltimes

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.by_hand import Scaling
    from dask_site.scaling.waits import Waits
    from dask_site.site import Pool, Site

logger = logging.getLogger("dask_site")

_EVERY = 1.0
# Work is shared out more often: tasks that others wait for may be done in less time than that.
_SHARING_EVERY = 0.25
# Of the scheduler's time looks take at most one part in so many, whatever there is to look at.
_SHARE = 20
_FAILURES = 3
_HISTORY = 3600
# Seconds in which a worker that nobody asks for begins what it has.
_BEGUN_BEFORE_REST = 5.0
# Seconds after which a trouble that lasts is logged again.
_REMIND = 600.0


@dataclass(frozen=True)
class PoolSample:
    """A pool at one moment: workers and jobs as numbers, tasks that run and that could."""

    target: int
    workers: int
    pending: int
    running: int
    ready: int


@dataclass(frozen=True)
class Sample:
    """All pools at one moment (as of `time.time`)."""

    time: float
    pools: Mapping[str, PoolSample]


def _nobody_rests(controller: Controller, *_: Any) -> None:
    """Let all workers have what they can do, as nobody looks any more who should not."""
    with contextlib.suppress(Exception):
        controller._scheduler.let_rest((), 0.0)


class Controller:
    """Lets the pools of one cluster follow the work.

    Parameters
    ----------
    site : Site
    scheduler : PoolScheduler
        What work there is, and what workers do.
    fleet : Fleet
        The jobs.
    scaling : Scaling
        The targets, those set by hand too.
    waits : Waits
        How long the queue takes.

    Attributes
    ----------
    horizon : float
        Seconds in which the work that is ready shall be done.
    idle : IdleJobs
        Gives back what is not needed any more.
    history : deque of Sample
        One a second, or as often as it looks at the work, the last hour.
    prospects : Prospects
        What work there is, and what will be ready when.
    gathering : set of str
        Pools without a job, whose work gathers until it is worth one.
    starved : dict of str to Starved
        Of each pool, how many of its jobs work reaches.
    trouble : str
        Why the pools don't follow the work at present; empty if they do.
    """

    def __init__(
        self,
        site: Site,
        scheduler: PoolScheduler,
        fleet: Fleet,
        scaling: Scaling,
        waits: Waits,
    ) -> None:
        self.horizon = 60.0
        self.history: deque[Sample] = deque(maxlen=_HISTORY)
        self.rules = {name: rules_of(pool) for name, pool in site.pools.items()}
        self._site = site
        self._scheduler = scheduler
        self._fleet = fleet
        self.scaling = scaling
        self.waits = waits
        self._walltimes = Walltimes(scheduler, scaling.retirement, waits)
        self.idle = IdleJobs(site, scheduler, fleet, scaling, waits, self._walltimes)
        self._paused_jobs = PausedJobs(scheduler)
        self._growth = Growth(self.rules)
        self.starved = {name: Starved(name, scheduler, self.idle) for name in self.rules}
        self.prospects = Prospects(scheduler, scaling, waits)
        self._unasked = Unasked(scaling.cost_of_losing)
        self._sharing = Sharing(scheduler)
        self._asked: list[str] = []
        self._left = 0.0
        self._drops = Gathering()
        self.gathering: set[str] = set()
        self.trouble = ""
        self._remind_at = 0.0
        scaling.kept = self._kept
        scaling.paused = lambda name: self.rules[name].paused
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._go_on_sharing())]

    def stop(self) -> None:
        """Stop following the work."""
        for task in self._tasks:
            task.cancel()

    def by_hand(self, pool: str) -> None:
        """Let a pool have what it is asked for by hand."""
        self.rules[pool].by_demand = False
        self.resume(pool)

    def adapt(
        self,
        bounds: Mapping[str, Any],
        backlog: int | None,
        target_duration: float | None,
        idle: float | None,
    ) -> None:
        """Let pools follow the work; see `Cluster.adapt`."""
        rules = {name: bounded(self._site.pools[name], given) for name, given in bounds.items()}
        if backlog is not None:
            if isinstance(backlog, bool) or not isinstance(backlog, int) or backlog < 1:
                raise ValueError(f"adapt(backlog={backlog!r}): a number of jobs, 1 or more.")
            for changed in rules.values():
                changed.backlog = backlog
        self.rules.update(rules)
        for name, changed in rules.items():
            self.resume(name)
            # At once, so that whoever waits for them next waits.
            least = self._in_jobs(name, changed.least)
            self.scaling.targets[name] = max(self.scaling.targets[name], least)
        self.horizon = target_duration or self.horizon
        self.idle.grace = idle or self.idle.grace

    def resume(self, pool: str) -> None:
        """Let a paused pool try again."""
        rules = self.rules[pool]
        rules.paused = ""
        rules.retry_at = 0.0
        rules.failures = self._fleet.failures_in_a_row(pool)

    def _in_jobs(self, pool: str, workers: int) -> int:
        """Return the workers of as many whole jobs as bring that many."""
        processes = self._site.pools[pool].processes
        return -(-workers // processes) * processes

    async def _run(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(_EVERY, _SHARE * took))
            begun = thread_time()
            try:
                self.tick()
            except Exception as error:
                self._tell_of(error)
                _nobody_rests(self)
                self._asked = []
            else:
                self.trouble = ""
            took = thread_time() - begun

    def _tell_of(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        if monotonic() >= self._remind_at:
            self._remind_at = monotonic() + _REMIND
            logger.warning(
                "Following the work went wrong, so pools keep what they have: cluster.scale(...) "
                "sets them by hand. Trying on.",
                exc_info=error,
            )

    def tick(self) -> None:
        """Look at the work once, and ask for jobs or give them back."""
        live = {name: self._fleet.of(name) for name in self.rules}
        self.waits.observe(record for records in live.values() for record in records)
        self.idle.worked(
            Work(cell.shape, done, done * self._scheduler.seconds_of(cell.prefix))
            for cell, done in self._scheduler.demand.take_done()
        )
        found = self._scheduler.demand.cells()
        cells = merged(found, self._scheduler.is_timed, self._scheduler.seconds_of)
        full = {name: self._is_full(name, live[name]) for name in live}
        self._walltimes.mind(live, cells, full)
        self._paused_jobs.look(record for records in live.values() for record in records)
        limits = self._limits(live)
        work = self.prospects.work(cells, live, self.horizon)
        wanted = plan(work, limits, self.horizon)
        cheapest = {next((n for n in w.shape.slots if limits[n].most), None) for w in work}
        self.gathering = {n for n in wanted if not live[n] and self._gathers(n, cells)}
        for name in self.gathering:
            wanted[name] = self.rules[name].least
        self.idle.harbour = False
        # The dearest first: what its workers hold goes to cheaper ones.
        for name, rules in reversed(self.rules.items()):
            pool = self._site.pools[name]
            if rules.by_demand:
                there = len(live[name]) * pool.processes
                lasting = self._growth.lasting(
                    name, wanted[name], there, limits[name].least, name in cheapest
                )
                self.scaling.targets[name] = self._that_get_work(pool, lasting, live[name], cells)
            self._supply(pool, rules, live[name], cells, limits)
        self._let_rest(live)
        self._asked = self._asked_for(live)
        self._left = sum(c.unfinished * self._scheduler.seconds_of(c.prefix) for c in cells)
        self._scheduler.workers_come = any(live.values())
        self.history.append(self._sample(cells, live))

    # -- what work there is ------------------------------------------------------------------

    def _gathers(self, name: str, cells: list[Cell]) -> bool:
        """Say whether the work of a pool that has no job had better gather before it has one."""
        rules = self.rules[name]
        if name == self._site.default_pool or rules.least or not rules.by_demand:
            return False
        if any(name in shape.slots for shape in self.prospects.of_shuffles()):
            return False
        own = [cell for cell in cells if next(iter(cell.shape.slots), None) == name]
        if not all(self._scheduler.is_timed(cell.prefix) for cell in own):
            return False  # a worker has to time them
        ready = sum(cell.ready * self._scheduler.seconds_of(cell.prefix) for cell in own)
        spread = max((self.prospects.spread.get(cell.shape, 0.0) for cell in own), default=0.0)
        lead = self.waits.expected(name)
        return self._drops.goes_on(name, ready, spread, lead, max(lead, self.horizon))

    # -- jobs --------------------------------------------------------------------------------

    def _limits(self, live: Mapping[str, list[JobRecord]]) -> dict[str, Limits]:
        """Return the bounds of all pools; those that can't get more have what is there."""
        limits = {}
        for name, rules in self.rules.items():
            there = len(live[name]) * self._site.pools[name].processes
            if not rules.by_demand:
                limits[name] = Limits(there, there)
            elif rules.paused:
                limits[name] = Limits(min(rules.least, there), there)
            else:
                limits[name] = Limits(rules.least, rules.most)
        default = limits[self._site.default_pool]
        if self.idle.harbour or self._scheduler.data_waiting:
            least = int(min(max(1, default.least), default.most))
            limits[self._site.default_pool] = Limits(least, default.most)
        return limits

    def _that_get_work(
        self, pool: Pool, wanted: int, live: list[JobRecord], cells: list[Cell]
    ) -> int:
        """Return the workers of as many of the wanted jobs as work can reach."""
        jobs = self._in_jobs(pool.name, wanted) // pool.processes
        reached = self.starved[pool.name].bounded(jobs, self._staying(live), cells)
        return max(reached * pool.processes, self._in_jobs(pool.name, self.rules[pool.name].least))

    def _staying(self, live: list[JobRecord]) -> list[JobRecord]:
        return [r for r in live if r.name not in self._walltimes.leaving]

    def _is_full(self, name: str, live: list[JobRecord]) -> bool:
        pool, rules = self._site.pools[name], self.rules[name]
        most = min(
            rules.most, math.inf if pool.max_jobs is None else pool.max_jobs * pool.processes
        )
        return len(live) * pool.processes >= most

    def _supply(
        self,
        pool: Pool,
        rules: Rules,
        live: list[JobRecord],
        cells: list[Cell],
        limits: Mapping[str, Limits],
    ) -> None:
        target = -(-self.scaling.targets[pool.name] // pool.processes)
        staying = self._staying(live)
        missing = target - len(staying)
        missing += self._of_no_use(pool, rules, staying, cells)
        if missing > 0:
            self.idle.in_demand(live)
            self._ask(pool, rules, live, missing)
        elif rules.by_demand:
            self.idle.give_back(pool, staying, -missing, limits)

    @guarded(_nobody_rests, "dear workers may stay for what cheaper ones could do")
    def _let_rest(self, live: Mapping[str, list[JobRecord]]) -> None:
        """Have work that cheaper workers can do kept off those that nobody asks for."""
        staying = {}
        for name, rules in self.rules.items():
            if rules.by_demand and name != self._site.default_pool:
                wanted = -(-self.scaling.targets[name] // self._site.pools[name].processes)
                jobs = [r for r in self._staying(live[name]) if r.live]
                staying[name] = (wanted, jobs)
        self._scheduler.let_rest(self._unasked.among(staying), _BEGUN_BEFORE_REST)

    def _asked_for(self, live: Mapping[str, list[JobRecord]]) -> list[str]:
        """Return the workers that pools shall have, first those that have nothing."""
        there = self._scheduler.workers
        asked: list[str] = []
        for name, records in live.items():
            addresses = [a for r in self._staying(records) for a in r.workers if a in there]
            addresses.sort(key=lambda address: not there[address].processing)
            asked += addresses[: self.scaling.targets[name]]
        return asked

    async def _go_on_sharing(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(_SHARING_EVERY, _SHARE * took))
            begun = thread_time()
            self._share()
            took = thread_time() - begun

    @guarded(nothing, "workers that come when others have everything may stay without work")
    def _share(self) -> None:
        """Have workers that are asked for and have nothing get a part of what others have."""
        self._sharing.look(self._asked, self._left)

    def _of_no_use(
        self, pool: Pool, rules: Rules, staying: list[JobRecord], cells: list[Cell]
    ) -> int:
        """Return how many jobs can't do what waits, and may have another one beside them."""
        useless = self._walltimes.outlasted(pool.name, staying, cells)
        idle = sum(map(self.idle.is_idle, useless))
        paused = [r for r in staying if r in self._paused_jobs and r not in useless]
        if paused:
            slots = (cell.shape.slots.get(pool.name) for cell in cells)
            waiting = sum(c.unassigned / n for c, n in zip(cells, slots, strict=True) if n)
            useless += paused[: math.ceil(waiting / pool.processes)]
        most = rules.most if rules.by_demand else self.scaling.targets[pool.name]
        return int(min(len(useless), max(idle, most / pool.processes - len(staying))))

    def _ask(self, pool: Pool, rules: Rules, live: list[JobRecord], missing: int) -> None:
        if self._paused(pool, rules):
            return
        if pool.max_jobs is not None:
            missing = min(missing, pool.max_jobs - len(live))
        if rules.by_demand:
            waiting = sum(r.state in {SUBMITTING, PENDING} for r in live)
            missing = min(missing, rules.backlog - waiting)
        if rules.failures:
            missing = min(missing, 1)  # one try, to see whether it goes again
        if missing > 0:
            self._fleet.submit(pool, missing)

    def _paused(self, pool: Pool, rules: Rules) -> bool:
        """Say whether a pool is paused or waits before it tries again; pause it if it must be."""
        if rules.paused:
            return True
        failures = self._fleet.failures_in_a_row(pool.name)
        if failures < rules.failures:
            rules.failures = 0  # one has joined, or computed something, since
        if failures - rules.failures >= _FAILURES:
            last = next(
                r
                for r in reversed(self._fleet.records)
                if r.pool == pool.name and r.state == FAILED and r.counts
            )
            rules.paused = f"{sentence(str(last))} {last.reason}\n{last.advice}".rstrip()
            logger.warning(
                "Pool %r is paused: %d of its jobs failed in a row. When that is mended: "
                "cluster.resume(%r). The last one: %s",
                pool.name,
                failures - rules.failures,
                pool.name,
                rules.paused,
            )
            return True
        return self._waits_before_retry(rules, failures)

    def _waits_before_retry(self, rules: Rules, failures: int) -> bool:
        if failures <= rules.failures:
            rules.retry_at = 0.0
            return False
        if not rules.retry_at or failures != rules.seen:
            rules.seen = failures
            rules.retry_at = monotonic() + failures - rules.failures
        return monotonic() < rules.retry_at

    def _kept(self, record: JobRecord) -> None:
        self.idle.kept(record)
        self._walltimes.kept(record)

    # -- looking at it -----------------------------------------------------------------------

    def _sample(self, cells: list[Cell], live: Mapping[str, list[JobRecord]]) -> Sample:
        running = dict.fromkeys(self.rules, 0)
        ready = dict.fromkeys(self.rules, 0)
        for ws in self._scheduler.workers.values():
            record = self._fleet.job_of(ws.address)
            if record is not None:
                begun = min(len(ws.processing), ws.nthreads)
                running[record.pool] += begun
                ready[record.pool] += len(ws.processing) - begun
        for cell in cells:
            if cell.shape.slots:
                ready[next(iter(cell.shape.slots))] += cell.unassigned
        return Sample(
            time(),
            {
                name: PoolSample(
                    self.scaling.targets[name],
                    sum(len(r.workers) for r in records),
                    sum(r.state in {SUBMITTING, PENDING} for r in records),
                    running[name],
                    ready[name],
                )
                for name, records in live.items()
            },
        )
