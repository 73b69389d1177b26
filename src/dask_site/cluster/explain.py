"""Why a computation is where it is: tasks by pool, what waits, and for what."""

from __future__ import annotations

import html
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dask_site.cluster.records import PENDING, SUBMITTING, JobRecord, Table, sentence
from dask_site.placement.matching import Shape
from dask_site.scaling.lookahead import LATER

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.by_demand import Controller
    from dask_site.site import Pool, Site

_RUNNING, _READY, _WAITING = "running", "ready", "waiting"
_DONE, _PLANNED, _FAILED = "done", "not submitted", "failed"
#: Columns of tasks, in the order in which they are shown.
STATES = (_PLANNED, _WAITING, _READY, _RUNNING, _DONE, _FAILED)
_FACES = {
    "processing": _RUNNING,
    "queued": _READY,
    "no-worker": _READY,
    "waiting": _WAITING,
    "memory": _DONE,
    "erred": _FAILED,
}


@dataclass(frozen=True)
class TaskLine:
    """Tasks that need the same: how many are in which state, and where they may run."""

    needs: str
    pools: tuple[str, ...]
    tasks: Mapping[str, int]
    seconds_left: float


@dataclass(frozen=True)
class PoolLine:
    """One pool: what it has, what it was asked for, and what holds it up."""

    pool: str
    workers: int
    target: int
    pending: int
    by_demand: bool
    at_bound: bool
    queue_wait: float
    paused: str = ""


@dataclass(frozen=True)
class Explanation:
    """What a cluster does and what it waits for; shown as text or HTML, `to_json` for machines.

    Attributes
    ----------
    cluster : str
        Name of the cluster.
    tasks : list of TaskLine
        By need.
    pools : list of PoolLine
        Cheapest first.
    reasons : list of str
        What waits and why, a sentence each.
    """

    cluster: str
    tasks: list[TaskLine]
    pools: list[PoolLine]
    reasons: list[str]
    taken: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values; durations in seconds, times in ISO 8601."""
        values = asdict(self)
        values["taken"] = self.taken.isoformat(timespec="seconds")
        return values

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Explanation:
        """Return the explanation that `to_dict` wrote."""
        lines = [TaskLine(**{**line, "pools": tuple(line["pools"])}) for line in values["tasks"]]
        return cls(
            cluster=values["cluster"],
            tasks=lines,
            pools=[PoolLine(**line) for line in values["pools"]],
            reasons=list(values["reasons"]),
            taken=datetime.fromisoformat(values["taken"]),
        )

    def __repr__(self) -> str:
        parts = [repr(self._task_table())] if self.tasks else ["Nothing to do."]
        parts.append(repr(self._pool_table()))
        if self.reasons:
            parts.append("\n".join(f"- {_hanging(reason)}" for reason in self.reasons))
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        reasons = "".join(
            f"<li style='white-space: pre-wrap'>{html.escape(reason)}</li>"
            for reason in self.reasons
        )
        tasks = self._task_table()._repr_html_() if self.tasks else "<p>Nothing to do.</p>"
        return f"<div>{tasks}{self._pool_table()._repr_html_()}<ul>{reasons}</ul></div>"

    def _task_table(self) -> Table:
        shown = [state for state in STATES if any(line.tasks.get(state) for line in self.tasks)]
        columns = {
            "tasks need": lambda line: line.needs,
            "run on": lambda line: ", ".join(line.pools) or "no pool",
            **{f"{state} ": _count_of(state) for state in shown},
            "work left ": lambda line: duration_text(line.seconds_left),
        }
        return Table(self.tasks, columns)

    def _pool_table(self) -> Table:
        return Table(
            self.pools,
            {
                "pool": lambda p: p.pool,
                "workers ": lambda p: f"{p.workers}/{p.target}",
                "jobs pending ": lambda p: str(p.pending),
                "queue takes ": lambda p: duration_text(p.queue_wait),
                "": _standing,
            },
        )


def _count_of(state: str) -> Any:
    return lambda line: f"{line.tasks.get(state, 0):,}"


def _standing(line: PoolLine) -> str:
    words = [
        "paused" if line.paused else "",
        "" if line.by_demand else "scaled by hand",
        "at its bound" if line.at_bound else "",
    ]
    return ", ".join(word for word in words if word)


def _hanging(text: str) -> str:
    return text.replace("\n", "\n  ")


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``3 s``, ``5 min``, ``2.5 h``."""
    if seconds < 0.95:
        return f"{seconds:.1f} s" if seconds > 0.05 else "0 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


class Explainer:
    """Explains one cluster; its methods run in the scheduler's event loop."""

    def __init__(
        self,
        name: str,
        site: Site,
        scheduler: PoolScheduler,
        fleet: Fleet,
        controller: Controller,
    ) -> None:
        self._name = name
        self._site = site
        self._scheduler = scheduler
        self._fleet = fleet
        self._controller = controller

    async def everything(self) -> Explanation:
        """Explain all unfinished work of the cluster."""
        tasks: dict[Shape, Counter[str]] = {}
        seconds: dict[Shape, float] = defaultdict(float)
        for cell in self._scheduler.demand.cells():
            counted = tasks.setdefault(cell.shape, Counter())
            for state, face in _FACES.items():
                if face not in {_DONE, _FAILED}:
                    counted[face] += cell.count[state]
            seconds[cell.shape] += cell.unfinished * self._scheduler.seconds_of(cell.prefix)
        return self._explained(tasks, seconds)

    async def work(
        self, keys: Iterable[Any], graph: Mapping[Any, Any], around: dict[str, float]
    ) -> Explanation:
        """Explain the work behind some keys, and a graph that is not submitted yet."""
        tasks: dict[Shape, Counter[str]] = {}
        seconds: dict[Shape, float] = defaultdict(float)
        for ts in self._behind(keys):
            shape = self._scheduler.matcher.shape(ts.resource_restrictions)
            face = self._face(ts)
            tasks.setdefault(shape, Counter())[face] += 1
            if face not in {_DONE, _FAILED}:
                seconds[shape] += self._scheduler.seconds_of(ts.prefix)
        for key, resources in self._scheduler.placer.resources(graph, around).items():
            if key not in self._scheduler.tasks:
                shape = self._scheduler.matcher.shape(resources)
                tasks.setdefault(shape, Counter())[_PLANNED] += 1
                seconds[shape] += self._scheduler.expected_seconds(key)
        return self._explained(tasks, seconds)

    def _behind(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Yield the tasks of some keys, and what is unfinished of what they depend on."""
        stack = [ts for key in keys if (ts := self._scheduler.tasks.get(key)) is not None]
        seen = set(stack)
        while stack:
            ts = stack.pop()
            yield ts
            for dts in ts.waiting_on or ():
                if dts not in seen:
                    seen.add(dts)
                    stack.append(dts)

    def _face(self, ts: Any) -> str:
        if ts.state == "processing" and ts not in ts.processing_on.executing:
            queue = ts.processing_on.processing
            if len(queue) > ts.processing_on.nthreads:
                return _READY
        return _FACES.get(ts.state, _WAITING)

    def _explained(
        self, tasks: Mapping[Shape, Counter[str]], seconds: Mapping[Shape, float]
    ) -> Explanation:
        order = sorted(tasks, key=lambda shape: (len(shape.restrictions), shape.restrictions))
        lines = [
            TaskLine(
                str(shape),
                tuple(shape.slots),
                {state: tasks[shape][state] for state in STATES if tasks[shape][state]},
                float(seconds[shape]),
            )
            for shape in order
            if sum(tasks[shape].values())
        ]
        pools = [self._pool(pool) for pool in self._site.pools.values()]
        concerned = {pool for shape in tasks for pool in shape.slots}
        reasons = [
            reason
            for pool in self._site.pools.values()
            if pool.name in concerned or not lines
            for reason in self._pool_reasons(pool)
        ]
        reasons += self._shape_reasons(tasks)
        return Explanation(self._name, lines, pools, reasons)

    def _pool(self, pool: Pool) -> PoolLine:
        records = self._fleet.of(pool.name)
        rules = self._controller.rules[pool.name]
        target = self._controller.scaling.targets[pool.name]
        return PoolLine(
            pool=pool.name,
            workers=sum(len(r.workers) for r in records),
            target=target,
            pending=sum(r.state in {SUBMITTING, PENDING} for r in records),
            by_demand=rules.by_demand,
            at_bound=bool(target and target >= rules.most),
            queue_wait=self._controller.waits.expected(pool.name, records),
            paused=rules.paused,
        )

    def _pool_reasons(self, pool: Pool) -> Iterator[str]:
        rules = self._controller.rules[pool.name]
        if rules.paused:
            yield (
                f"Pool {pool.name!r} is paused, since its jobs failed; when that is mended: "
                f"cluster.resume({pool.name!r}). {rules.paused}"
            )
        records = self._fleet.of(pool.name)
        pending: dict[str, list[JobRecord]] = {}
        for record in records:
            if record.state == PENDING:
                pending.setdefault(record.reason, []).append(record)
        for reason, waiting in pending.items():
            yield _pending(pool.name, reason, waiting)
        target = self._controller.scaling.targets[pool.name]
        if rules.by_demand and target and target >= rules.most:
            jobs = int(rules.most // pool.processes)
            yield (
                f"Pool {pool.name!r} is at its bound of {rules.most:g} workers ({jobs} "
                f"job{'s'[: jobs != 1]}): more work waits for them."
            )

    def _shape_reasons(self, tasks: Mapping[Shape, Counter[str]]) -> Iterator[str]:
        for shape, counted in tasks.items():
            waiting = counted[_WAITING] + counted[_READY] + counted[_PLANNED]
            if not shape.slots and waiting:
                yield (
                    f"{_tasks(waiting)} with a need of {shape} found no pool of {self._site.name} "
                    "that has it: waiting for a worker that offers it."
                )
            elif shape in self._controller.expected:
                yield from self._coming(shape, counted)

    def _coming(self, shape: Shape, counted: Counter[str]) -> Iterator[str]:
        ready_in, lead = self._controller.expected[shape]
        first = next(iter(shape.slots))
        if counted[_WAITING] and not counted[_READY] + counted[_RUNNING]:
            when = (
                f"will be ready in about {duration_text(ready_in)}"
                if ready_in != LATER
                else "will not be ready soon"
            )
            asked = bool(self._controller.scaling.targets[first])
            what = "its workers are on their way" if asked else "it is not asked for workers yet"
            yield (
                f"{_tasks(counted[_WAITING])} with a need of {shape} {when}; a job of pool {first!r} "
                f"takes about {duration_text(lead)} to come: {what}."
            )


def _pending(pool: str, reason: str, records: list[JobRecord]) -> str:
    numbers = ", ".join(r.job_id for r in records[:3] if r.job_id)
    more = f" and {len(records) - 3} more" if len(records) > 3 else ""
    why = f": {reason}" if reason else ""
    starts = [r.expected_start for r in records if r.expected_start is not None]
    text = f"{sentence(_jobs(len(records)))} of pool {pool!r} ({numbers}{more}) pending{why}."
    if starts:
        first = min(starts)
        seconds = max(0.0, (first - datetime.now(UTC)).total_seconds())
        text += (
            f" The resource manager expects to start {'it' if len(records) == 1 else 'the first'} "
            f"at {first:%Y-%m-%d %H:%M:%SZ}, in {duration_text(seconds)}."
        )
    return text


def _jobs(count: int) -> str:
    return f"{count} job{'s'[: count != 1]}"


def _tasks(count: int) -> str:
    return f"{count:,} task{'s'[: count != 1]}"
