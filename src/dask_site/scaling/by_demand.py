"""Workers by demand: each second, what work there is decides what jobs each pool has."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from dask_site.cluster.records import (
    CLOSING,
    FAILED,
    PENDING,
    SUBMITTING,
    JobRecord,
    sentence,
)
from dask_site.placement.matching import Shape
from dask_site.scaling.demand import Cell
from dask_site.scaling.lookahead import LATER, Lookahead
from dask_site.scaling.plan import Limits, Work, plan
from dask_site.scaling.rules import Rules, bounded, rules_of
from dask_site.scaling.walltimes import Walltimes

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.by_hand import Scaling
    from dask_site.scaling.waits import Waits
    from dask_site.site import Pool, Site

logger = logging.getLogger("dask_site")

_EVERY = 1.0
_FAILURES = 3
_HISTORY = 3600


@dataclass(frozen=True)
class PoolSample:
    """A pool at one moment: workers and jobs as numbers, tasks that run and that are ready."""

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
    look_ahead : bool
        Whether work counts that is not ready yet; a benchmark compares both.
    horizon : float
        Seconds in which the work that is ready shall be done.
    idle : float or None
        Seconds for which an idle job is kept; None: as long as another one takes to come.
    history : deque of Sample
        One a second, the last hour.
    expected : dict of Shape to (float, float)
        Of work that is not ready yet: in how many seconds it will be, and how long a job takes to
        come.
    """

    def __init__(
        self,
        site: Site,
        scheduler: PoolScheduler,
        fleet: Fleet,
        scaling: Scaling,
        waits: Waits,
    ) -> None:
        self.look_ahead = True
        self.horizon = 60.0
        self.idle: float | None = None
        self.history: deque[Sample] = deque(maxlen=_HISTORY)
        self.rules = {name: rules_of(pool) for name, pool in site.pools.items()}
        self.expected: dict[Shape, tuple[float, float]] = {}
        self._site = site
        self._matcher = scheduler.matcher
        self._scheduler = scheduler
        self._fleet = fleet
        self.scaling = scaling
        self.waits = waits
        self._surplus_since: dict[str, float] = {}
        self._walltimes = Walltimes(scheduler, scaling.retirement, waits)
        self._stays_until: dict[str, float] = {}
        self._harbour = False
        self._warned = False
        scaling.kept = self._kept
        scaling.paused = lambda name: self.rules[name].paused
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop following the work."""
        self._task.cancel()

    def by_hand(self, pool: str) -> None:
        """Let a pool have what it is asked for by hand."""
        self.rules[pool].by_demand = False
        self.resume(pool)

    async def adapt(
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
        for name in rules:
            self.resume(name)
        self.horizon = target_duration or self.horizon
        self.idle = idle or self.idle

    def resume(self, pool: str) -> None:
        """Let a paused pool try again."""
        rules = self.rules[pool]
        rules.paused = ""
        rules.retry_at = 0.0
        rules.failures = self._fleet.failures_in_a_row(pool)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            try:
                self.tick()
            except Exception:
                if not self._warned:
                    self._warned = True
                    logger.warning("Following the work went wrong; trying on.", exc_info=True)

    def tick(self) -> None:
        """Look at the work once, and ask for jobs or give them back."""
        self.waits.observe(self._fleet.records)
        live = {name: self._fleet.of(name) for name in self.rules}
        cells = list(self._scheduler.demand.cells())
        full = {name: self._is_full(name, live[name]) for name in live}
        self._walltimes.mind(live, self._longest(cells), full)
        wanted = plan(
            self._work(cells, live),
            self._limits(),
            self.horizon,
        )
        self._harbour = False
        # The dearest first: what its workers hold goes to cheaper ones.
        for name, rules in reversed(self.rules.items()):
            pool = self._site.pools[name]
            if rules.by_demand:
                self.scaling.targets[name] = -(-wanted[name] // pool.processes) * pool.processes
            self._supply(pool, rules, live[name])
        self.history.append(self._sample(cells, live))

    # -- what work there is ------------------------------------------------------------------

    def _work(self, cells: list[Cell], live: Mapping[str, list[JobRecord]]) -> list[Work]:
        duration = self._scheduler.seconds_of
        work = [
            Work(cell.shape, cell.ready, cell.ready * duration(cell.prefix))
            for cell in cells
            if cell.ready
        ]
        self.expected = {}
        if not self.look_ahead:
            return work
        at_once = self._threads_of(live)
        ahead = Lookahead(self._matcher, duration, at_once)
        rest = self._rest(cells, at_once)
        for cell in cells:
            if cell.waiting and cell.shape.slots:
                coming = self._coming(cell, ahead, rest, live)
                if coming is not None:
                    work.append(coming)
        return work

    def _coming(
        self,
        cell: Cell,
        ahead: Lookahead,
        rest: dict[Any, float],
        live: Mapping[str, list[JobRecord]],
    ) -> Work | None:
        """Return the waiting tasks for which workers should be asked for now."""
        lead = min(self.waits.expected(name, live[name]) for name in cell.shape.slots)
        # A little early: the wait is a median, and durations are estimates.
        horizon = 1.25 * lead + 2 * _EVERY
        others = sum(rest.values()) - rest[cell.shape]
        first, last = ahead.arrival(cell.waiting, max(horizon, self.horizon), others)
        known = self.expected.get(cell.shape, (LATER, 0.0))[0]
        self.expected[cell.shape] = (min(known, first), lead)
        if first > horizon:
            return None
        count = len(cell.waiting)
        # Those that become ready one by one need as many workers as come in one horizon.
        spread = (others if last == LATER else last) - first
        share = 1.0 if spread <= self.horizon else self.horizon / spread
        seconds = count * self._scheduler.seconds_of(cell.prefix)
        return Work(cell.shape, max(1.0, count * share), seconds * share)

    def _longest(self, cells: list[Cell]) -> float:
        return max((self._scheduler.seconds_of(cell.prefix) for cell in cells), default=0.0)

    def _rest(self, cells: list[Cell], at_once: Any) -> dict[Shape, float]:
        """Return the seconds that the unfinished work of each shape takes with what is there."""
        rest: dict[Shape, float] = {}
        for cell in cells:
            seconds = cell.unfinished * self._scheduler.seconds_of(cell.prefix)
            threads, delay = at_once(cell.shape)
            took = seconds / max(1, threads)
            rest[cell.shape] = rest.get(cell.shape, delay) + took
        return rest

    def _threads_of(self, live: Mapping[str, list[JobRecord]]) -> Any:
        there = {name: sum(len(r.workers) for r in records) for name, records in live.items()}

        def threads(shape: Shape) -> tuple[int, float]:
            now = sum(there[name] * slots for name, slots in shape.slots.items())
            if now or not shape.slots:
                return now, 0.0
            first = next(iter(shape.slots))
            planned = max(1, self.scaling.targets[first]) * shape.slots[first]
            return planned, self.waits.expected(first, live[first])

        return threads

    # -- jobs --------------------------------------------------------------------------------

    def _limits(self) -> dict[str, Limits]:
        limits = {n: Limits(r.least, r.most) for n, r in self.rules.items() if r.by_demand}
        default = self._site.default_pool
        if self._harbour and default in limits:
            limits[default] = Limits(max(1, limits[default].least), max(1, limits[default].most))
        return limits

    def _is_full(self, name: str, live: list[JobRecord]) -> bool:
        pool, rules = self._site.pools[name], self.rules[name]
        most = min(
            rules.most, math.inf if pool.max_jobs is None else pool.max_jobs * pool.processes
        )
        return len(live) * pool.processes >= most

    def _supply(self, pool: Pool, rules: Rules, live: list[JobRecord]) -> None:
        target = -(-self.scaling.targets[pool.name] // pool.processes)
        staying = [r for r in live if r.name not in self._walltimes.leaving]
        missing = target - len(staying)
        if missing > 0:
            for record in live:
                self._surplus_since.pop(record.name, None)
            self._ask(pool, rules, live, missing)
        elif rules.by_demand:
            self._give_back(pool, staying, -missing)

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
            rules.failures = 0  # one has joined since
        if failures - rules.failures >= _FAILURES:
            last = next(
                r
                for r in reversed(self._fleet.records)
                if r.pool == pool.name and r.state == FAILED
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

    def _give_back(self, pool: Pool, staying: list[JobRecord], surplus: int) -> None:
        """Give back jobs beyond the target: those that wait in the queue, then idle ones."""
        now = monotonic()
        grace = self._grace(pool.name)
        idle = [r for r in staying if self._is_idle(r)]
        for record in staying:
            if record not in idle:
                self._surplus_since.pop(record.name, None)
        if not surplus:
            for record in idle:
                self._surplus_since.pop(record.name, None)
            return
        idle.sort(key=self.scaling.cost_of_losing)
        for record in idle[:surplus]:
            since = self._surplus_since.setdefault(record.name, now)
            waited = now - since >= grace and now >= self._stays_until.get(record.name, 0.0)
            if not waited:
                continue
            held = self._held_by(record)
            if held <= self._room_for(record):
                self.scaling.retirement.retire([record], quietly=True)
            elif pool.name != self._site.default_pool:
                self._seek_harbour(held)

    def _kept(self, record: JobRecord) -> None:
        self._stays_until[record.name] = monotonic() + 60.0
        self._walltimes.kept(record)

    def _grace(self, pool: str) -> float:
        """Return how long an idle job is kept: as long as getting it again would take."""
        if self.idle is not None:
            return self.idle
        return min(max(self.waits.expected(pool), 5.0), 120.0)

    def _is_idle(self, record: JobRecord) -> bool:
        if self._walltimes.is_draining(record) or record.state == CLOSING:
            return False
        there = self._scheduler.workers
        workers = [there[address] for address in record.workers if address in there]
        return not any(ws.processing or ws.actors for ws in workers)

    def _held_by(self, record: JobRecord) -> float:
        there = self._scheduler.workers
        return float(sum(there[a].nbytes for a in record.workers if a in there))

    def _room_for(self, record: JobRecord) -> float:
        """Return the bytes that others could take of what the workers of an idle job hold.

        Not those of dearer pools that have nothing to do either: they would only be kept for it.
        """
        order = list(self.rules)
        room = 0.0
        for ws in self._scheduler.running:
            other = self._fleet.job_of(ws.address)
            if other is None or not other.live or other is record:
                continue
            if order.index(other.pool) <= order.index(record.pool) or not self._is_idle(other):
                used = ws.metrics.get("memory", ws.nbytes)
                room += max(0.0, 0.6 * ws.memory_limit - used)
        return room

    def _seek_harbour(self, held: float) -> None:
        """Ask for a worker of the default pool that can take what an idle, dearer job holds."""
        pool = self._site.pools[self._site.default_pool]
        if held < 0.4 * pool.memory / pool.processes:
            self._harbour = True

    # -- looking at it -----------------------------------------------------------------------

    def _sample(self, cells: list[Cell], live: Mapping[str, list[JobRecord]]) -> Sample:
        running = dict.fromkeys(self.rules, 0)
        for ws in self._scheduler.workers.values():
            record = self._fleet.job_of(ws.address)
            if record is not None:
                running[record.pool] += min(len(ws.processing), ws.nthreads)
        ready = dict.fromkeys(self.rules, 0)
        for cell in cells:
            if cell.shape.slots:
                ready[next(iter(cell.shape.slots))] += cell.ready
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
