"""What holds work up, in sentences for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from distributed.core import Status

from dask_site.cluster.records import FAILED, PENDING, STARTING, SUBMITTING, JobRecord, sentence
from dask_site.cluster.resources import pool_of_resource
from dask_site.faults.evidence import PARDON
from dask_site.faults.story import shown
from dask_site.placement.matching import Shape
from dask_site.scaling.lookahead import LATER

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.faults.judge import FaultEvent
    from dask_site.scaling.by_demand import Controller
    from dask_site.scaling.rules import Rules
    from dask_site.site import Pool, Site

RUNNING, READY, WAITING = "running", "ready", "waiting"
DONE, PLANNED, ERRED = "done", "not submitted", "failed"

Tasks = Mapping[Shape, Counter[str]]
_EVENTS = 3
_RECENT = 3600.0
# Of tasks without a worker.
_LOOKED_AT = 10_000


class Reasons:
    """Says why the work of one cluster waits; called in the scheduler's event loop."""

    def __init__(
        self, site: Site, scheduler: PoolScheduler, fleet: Fleet, controller: Controller
    ) -> None:
        self._site = site
        self._scheduler = scheduler
        self._fleet = fleet
        self._controller = controller

    def of(self, tasks: Tasks, keys: Collection[Any] | None = None) -> list[str]:
        """Return the reasons why tasks wait, the gravest first.

        Parameters
        ----------
        tasks : dict
            Numbers of tasks by what they need and by state.
        keys : collection, optional
            The keys that are asked about; by default all of the cluster.
        """
        concerned = {name for shape in tasks for name in shape.slots}
        pools = [p for p in self._site.pools.values() if p.name in concerned or not tasks]
        reasons = [*self._of_trouble()]
        reasons += [reason for pool in pools for reason in self._of_failures(pool)]
        reasons += [r for shape, counted in tasks.items() for r in self._of_shape(shape, counted)]
        reasons += self._of_restrictions(keys)
        reasons += self._of_shuffles(keys)
        reasons += [reason for pool in pools for reason in self._of_paused(pool)]
        reasons += [reason for pool in pools for reason in self._of_unasked(pool)]
        reasons += [reason for pool in pools for reason in self._of_jobs(pool)]
        reasons += self._of_losses(keys)
        ready = sum(counted[READY] for counted in tasks.values())
        if ready and not reasons:
            turn = "waits for its turn" if ready == 1 else "wait for their turn"
            reasons.append(f"Nothing is held up: {task_count(ready)} {turn} on the workers.")
        return reasons

    # -- pools and their jobs ----------------------------------------------------------------

    def _of_trouble(self) -> Iterator[str]:
        if self._controller.trouble:
            yield (
                "Pools don't follow the work, which goes wrong each time it is tried "
                f"({self._controller.trouble}): cluster.scale(...) sets them by hand."
            )

    def _of_failures(self, pool: Pool) -> Iterator[str]:
        rules = self._controller.rules[pool.name]
        if rules.paused:
            yield (
                f"Pool {pool.name!r} is paused, since its jobs failed; when that is mended: "
                f"cluster.resume({pool.name!r}). {rules.paused}"
            )
        elif rules.retry_at > monotonic():
            failed = [r for r in self._fleet.records if (r.pool, r.state) == (pool.name, FAILED)]
            why = f" {sentence(str(failed[-1]))} {failed[-1].reason}" if failed else ""
            wait = max(1.0, rules.retry_at - monotonic())
            yield (
                f"A job of pool {pool.name!r} failed; another one is tried in "
                f"{duration_text(wait)}.{why}"
            )

    def _of_jobs(self, pool: Pool) -> Iterator[str]:
        live = self._fleet.of(pool.name)
        by_reason: dict[str, list[JobRecord]] = {}
        for record in live:
            if record.state == PENDING:
                by_reason.setdefault(record.reason, []).append(record)
        for reason, records in by_reason.items():
            yield _pending(pool.name, reason, records)
        starting = [r for r in live if r.state == STARTING]
        if starting:
            yield (
                f"{_jobs_of(pool.name, starting)} {_have(starting)} started; "
                f"{_its(starting)} workers have not all joined yet."
            )
        yield from self._of_limits(pool, self._controller.rules[pool.name], live)

    def _of_paused(self, pool: Pool) -> Iterator[str]:
        there = self._scheduler.workers
        addresses = [a for record in self._fleet.of(pool.name) for a in record.workers]
        found = (there[address] for address in addresses if address in there)
        paused = [ws for ws in found if ws.status == Status.paused]
        if paused:
            fullest = max(paused, key=_memory_share)
            are = "is" if len(paused) == 1 else "are"
            yield (
                f"{_counted(len(paused), 'worker')} of pool {pool.name!r} {are} paused: "
                f"{fullest.name} uses {_memory_share(fullest):.0%} of its memory and begins "
                "nothing before that is less. If tasks leave it behind (a leak, a cache): "
                f"cluster.scale_down({str(fullest.name)!r}) gives the worker back."
            )

    def _of_unasked(self, pool: Pool) -> Iterator[str]:
        addresses = {a for record in self._fleet.of(pool.name) for a in record.workers}
        resting = sum(ws.address in addresses for ws in self._scheduler.resting.workers)
        if resting:
            yield (
                f"{_counted(resting, 'worker')} of pool {pool.name!r} "
                f"{'is' if resting == 1 else 'are'} not needed any more: what cheaper workers can "
                f"do goes to those, and {'it leaves' if resting == 1 else 'they leave'} when idle."
            )

    def _of_limits(self, pool: Pool, rules: Rules, live: list[JobRecord]) -> Iterator[str]:
        target = self._controller.scaling.targets[pool.name]
        if not rules.by_demand or not target:
            return
        if target >= rules.most:
            most = int(rules.most)
            jobs = most // pool.processes
            text = _counted(most, "worker")
            if pool.processes > 1:
                text += f" ({_counted(jobs, 'job')})"
            yield (
                f"Pool {pool.name!r} is at its bound of {text}: more work waits for "
                f"{'it' if most == 1 else 'them'}."
            )
        reached = self._controller.starved[pool.name].most
        if reached is not None and target >= reached * pool.processes:
            yield (
                f"Work reaches {_counted(reached, 'job')} of pool {pool.name!r} at present: others "
                "had nothing to do, as tasks that are short stay where their inputs are. In larger "
                "chunks there is more in each for others to take."
            )
        queued = sum(r.state in {SUBMITTING, PENDING} for r in live)
        missing = -(-target // pool.processes) - len(live)
        if missing > 0 and queued >= rules.backlog:
            yield (
                f"{_counted(missing, 'more job')} of pool {pool.name!r} will be asked for: at most "
                f"{rules.backlog} wait in the queue at once (`backlog`)."
            )

    # -- tasks -------------------------------------------------------------------------------

    def _of_shape(self, shape: Shape, counted: Counter[str]) -> Iterator[str]:
        waiting = counted[WAITING] + counted[READY] + counted[PLANNED]
        if not waiting:
            return
        need = _need(shape)
        if not shape.slots:
            yield (
                f"{task_count(waiting)}{need} found no pool of {self._site.name} that has it: "
                f"{'it waits' if waiting == 1 else 'they wait'} for a worker that offers it."
            )
        elif all(self._gets_nothing(name) for name in shape.slots):
            yield self._unstaffed(shape, f"{task_count(waiting)}{need}", waiting > 1)
        elif counted[READY] and next(iter(shape.slots)) in self._controller.gathering:
            yield self._gathering(next(iter(shape.slots)), f"{task_count(counted[READY])}{need}")
        elif shape in self._controller.prospects.expected:
            yield from self._coming(shape, counted, need)

    def _gets_nothing(self, pool: str) -> bool:
        rules = self._controller.rules[pool]
        asked = rules.most if rules.by_demand else self._controller.scaling.targets[pool]
        return not asked and not self._fleet.of(pool)

    def _unstaffed(self, shape: Shape, tasks: str, many: bool) -> str:
        names = list(shape.slots)
        pools = f"pool{'s'[: len(names) > 1]} {' and '.join(map(repr, names))}"
        how = "bounded" if self._controller.rules[names[0]].by_demand else "scaled"
        return (
            f"{tasks} {'get' if many else 'gets'} no worker: you {how} {pools} to 0. "
            f"cluster.scale({_given(names[0], 1)}) asks for one, "
            f"cluster.adapt({_given(names[0], None)}) lets the pool follow the work."
        )

    def _gathering(self, pool: str, tasks: str) -> str:
        longest = max(self._controller.horizon, self._controller.waits.expected(pool))
        return (
            f"{tasks} could run, but more comes little by little: the work of pool {pool!r} "
            f"gathers until it is worth a job, for {duration_text(longest)} at most. "
            f"cluster.adapt({_given(pool, '(1, None)')}) keeps a worker there."
        )

    def _coming(self, shape: Shape, counted: Counter[str], need: str) -> Iterator[str]:
        ready_in, lead = self._controller.prospects.expected[shape]
        first = next(iter(shape.slots))
        if not counted[WAITING] or counted[READY] + counted[RUNNING]:
            return
        when = (
            f"will be ready in about {duration_text(ready_in)}"
            if ready_in != LATER
            else "will not be ready soon"
        )
        there = sum(len(r.workers) for name in shape.slots for r in self._fleet.of(name))
        if there:
            what = f"{_counted(there, 'worker')} {'is' if there == 1 else 'are'} there for that"
        else:
            asked = bool(self._controller.scaling.targets[first])
            what = (
                f"a job of pool {first!r} takes about {duration_text(lead)} to come, and is "
                f"{'on its way' if asked else 'not asked for yet'}"
            )
        yield f"{task_count(counted[WAITING])}{need} {when}: {what}."

    def _of_restrictions(self, keys: Collection[Any] | None) -> Iterator[str]:
        scheduler = self._scheduler
        bound = [
            ts
            for ts in islice(scheduler.unrunnable, _LOOKED_AT)
            if (ts.worker_restrictions or ts.host_restrictions)
            and not ts.loose_restrictions
            and (keys is None or ts.key in keys)
            and scheduler.workers.keys().isdisjoint(ts.worker_restrictions or ())
            and scheduler.host_info.keys().isdisjoint(ts.host_restrictions or ())
        ]
        if bound:
            first = bound[0]
            names = sorted({*(first.worker_restrictions or ()), *(first.host_restrictions or ())})
            such = "" if len(bound) == 1 else f", such as {shown(first.key)},"
            yield (
                f"{task_count(len(bound))}{such} may run only where `workers=` says, on "
                f"{', '.join(map(str, names[:3]))}, and no such worker is there. Submitted with "
                "allow_other_workers=True they run on others."
            )

    def _of_shuffles(self, keys: Collection[Any] | None) -> Iterator[str]:
        waiting = self._scheduler.shuffles.waiting.values()
        concerned = [w for w in waiting if keys is None or not set(keys).isdisjoint(w.keys)]
        for shape in {waits.shape: None for waits in concerned}:
            pools = " or ".join(map(repr, shape.slots))
            yield (
                f"A P2P shuffle waits for a worker of pool {pools} that takes its output, which "
                f"needs {shape}."
            )

    # -- lost workers ------------------------------------------------------------------------

    def _of_losses(self, keys: Collection[Any] | None) -> Iterator[str]:
        judge = self._scheduler.judge
        if judge is None:
            return
        held = judge.waiting if keys is None else judge.waiting.intersection(keys)
        if held:
            its = "a lost worker is" if len(held) == 1 else "lost workers are"
            yield (
                f"{task_count(len(held))} of {its} held until it is known what they died of: a "
                "second or two, 20 s at most."
            )
        troubles = judge.troubles()
        for key in troubles if keys is None else troubles.keys() & set(keys):
            yield troubles[key]
        now = datetime.now(UTC)
        events = [
            event
            for event in judge.events
            if (now - event.time).total_seconds() < _RECENT and _matters(event, keys)
        ]
        for event in events[-_EVENTS:]:
            yield _loss(event, (now - event.time).total_seconds())
        if len(events) > _EVENTS:
            more = len(events) - _EVENTS
            yield f"Before that, in the last hour: {_counted(more, 'other worker')} lost with work."


def _memory_share(ws: Any) -> float:
    return float(ws.metrics.get("memory", 0) / max(1, ws.memory_limit))


def _need(shape: Shape) -> str:
    if shape.ordinary:
        return ""
    named = [name for name in map(pool_of_resource, dict(shape.restrictions)) if name]
    return (
        f" for pool {named[0]!r}"
        if len(named) == len(shape.restrictions) == 1
        else (f" with a need of {shape}")
    )


def _given(name: str, value: Any) -> str:
    return f"{name}={value}" if name.isidentifier() else f"**{{{name!r}: {value}}}"


def _matters(event: FaultEvent, keys: Collection[Any] | None) -> bool:
    if keys is not None:
        return any(key in keys for key in event.keys)
    return bool(event.keys) or event.cause != PARDON


def _loss(event: FaultEvent, ago: float) -> str:
    where = f" on {event.node}" if event.node else ""
    text = (
        f"{sentence(duration_text(ago))} ago: worker {event.worker} (pool {event.pool!r}{where}) "
        f"{event.how or 'died'}."
    )
    if len(event.keys) == 1:
        text += f" Its task {shown(event.keys[0])}: {event.did}."
    elif event.keys:
        text += f" Its {len(event.keys)} tasks, such as {shown(event.keys[0])}: {event.did}."
    return text


def _pending(pool: str, reason: str, records: list[JobRecord]) -> str:
    are = "is" if len(records) == 1 else "are"
    text = f"{_jobs_of(pool, records)} {are} pending{f': {reason}' if reason else ''}."
    starts = [r.expected_start for r in records if r.expected_start is not None]
    if starts:
        first = min(starts)
        seconds = max(0.0, (first - datetime.now(UTC)).total_seconds())
        text += (
            f" The resource manager expects to start {'it' if len(records) == 1 else 'the first'} "
            f"at {first:%Y-%m-%d %H:%M:%SZ}, in {duration_text(seconds)}."
        )
    return text


def _jobs_of(pool: str, records: list[JobRecord]) -> str:
    numbers = [r.job_id for r in records if r.job_id]
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"{_counted(len(records), 'job')} of pool {pool!r} ({', '.join(numbers[:3])}{more})"


def _have(records: list[JobRecord]) -> str:
    return "has" if len(records) == 1 else "have"


def _its(records: list[JobRecord]) -> str:
    return "its" if len(records) == 1 else "their"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"


def task_count(number: int) -> str:
    """Return ``1 task``, ``2,000 tasks``."""
    return _counted(number, "task")


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``3 s``, ``5 min``, ``2.5 h``."""
    if seconds < 0.95:
        return f"{seconds:.1f} s" if seconds > 0.05 else "0 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
