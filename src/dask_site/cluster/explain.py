"""Why a computation is where it is: tasks by pool, what waits, and for what."""

from __future__ import annotations

import asyncio
import html
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask.base import collections_to_expr, unpack_collections

from dask_site.cluster.reasons import (
    DONE,
    ERRED,
    PLANNED,
    READY,
    RUNNING,
    WAITING,
    Reasons,
    duration_text,
)
from dask_site.cluster.records import PENDING, SUBMITTING, Table
from dask_site.placement.graph import Around
from dask_site.placement.matching import Shape
from dask_site.upstream.clients import clients_of
from dask_site.upstream.graphs import convert_legacy_graph

if TYPE_CHECKING:
    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.by_demand import Controller
    from dask_site.site import Pool, Site

#: Columns of tasks, in the order in which they are shown.
STATES = (PLANNED, WAITING, READY, RUNNING, DONE, ERRED)
# Seconds for which what was submitted may take to come to the scheduler, and between looks.
_ARRIVING, _MOMENT = 5.0, 0.02
_FACES = {
    "processing": RUNNING,
    "queued": READY,
    "no-worker": READY,
    "waiting": WAITING,
    "memory": DONE,
    "erred": ERRED,
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

    @property
    def standing(self) -> str:
        """What is particular about it, in few words."""
        words = [
            "paused" if self.paused else "",
            "" if self.by_demand else "scaled by hand",
            "at its bound" if self.at_bound else "",
        ]
        return ", ".join(word for word in words if word)


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
        """Return the explanation that `to_dict` wrote, be it that of another version."""
        lines = [{**line, "pools": tuple(line["pools"])} for line in values["tasks"]]
        return cls(
            cluster=values["cluster"],
            tasks=[TaskLine(**_known(TaskLine, line)) for line in lines],
            pools=[PoolLine(**_known(PoolLine, line)) for line in values["pools"]],
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
                "note": lambda p: p.standing,
            },
        )


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


def _count_of(state: str) -> Any:
    return lambda line: f"{line.tasks.get(state, 0):,}"


def _hanging(text: str) -> str:
    return text.replace("\n", "\n  ")


def graph_of(work: Any) -> dict[Any, Any]:
    """Return the tasks of collections as they would be submitted; futures have none."""
    collections, _ = unpack_collections(work)
    if not collections:
        return {}
    expression = collections_to_expr(collections).optimize()
    graph: dict[Any, Any] = convert_legacy_graph(expression.__dask_graph__())
    return graph


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
        self._reasons = Reasons(site, scheduler, fleet, controller)

    async def everything(self) -> Explanation:
        """Explain all unfinished work of the cluster."""
        await self._arrived()
        return self.now()

    async def _arrived(self) -> None:
        """Wait for graphs that programs of this process have sent, and that are on their way."""
        end = monotonic() + _ARRIVING
        while self._is_awaited() and monotonic() < end:
            await asyncio.sleep(_MOMENT)

    def _is_awaited(self) -> bool:
        known = self._scheduler.tasks
        return any(
            future.status == "pending" and key not in known
            for client in clients_of(self._scheduler.address)
            for key, future in list(client.futures.items())
        )

    def now(self) -> Explanation:
        """Explain all unfinished work of the cluster, from within the event loop."""
        tasks: dict[Shape, Counter[str]] = {}
        seconds: dict[Shape, float] = defaultdict(float)
        for cell in self._scheduler.demand.cells():
            counted = tasks.setdefault(cell.shape, Counter())
            for state, face in _FACES.items():
                if face not in {DONE, ERRED}:
                    counted[face] += cell.count[state]
            seconds[cell.shape] += cell.unfinished * self._scheduler.seconds_of(cell.prefix)
        executed = Counter(self._shape(ts) for ts in self._executed())
        for shape, counted in tasks.items():
            queued = max(0, counted[RUNNING] - executed[shape])
            counted[RUNNING] -= queued
            counted[READY] += queued
        return self._explained(tasks, seconds)

    async def work(
        self, keys: Iterable[Any], graph: Mapping[Any, Any], around: Around
    ) -> Explanation:
        """Explain the work behind some keys, and a graph that is not submitted yet."""
        await self._arrived()
        tasks: dict[Shape, Counter[str]] = {}
        seconds: dict[Shape, float] = defaultdict(float)
        unfinished = set()
        executed = self._executed()
        # What is submitted of the graph too: its futures may be others than the collection's.
        for ts in self._behind((*keys, *graph)):
            shape = self._shape(ts)
            queued = ts.state == "processing" and ts not in executed
            face = READY if queued else _FACES.get(ts.state, WAITING)
            tasks.setdefault(shape, Counter())[face] += 1
            if face != DONE:
                unfinished.add(ts.key)
            if face not in {DONE, ERRED}:
                seconds[shape] += self._scheduler.seconds_of(ts.prefix)
        for key, resources in self._scheduler.placer.resources(graph, around).items():
            if key not in self._scheduler.tasks:
                shape = self._scheduler.matcher.shape(resources)
                tasks.setdefault(shape, Counter())[PLANNED] += 1
                seconds[shape] += self._scheduler.expected_seconds(key)
        return self._explained(tasks, seconds, unfinished)

    def _behind(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Yield the tasks of some keys, and what is unfinished of what they depend on."""
        there = (self._scheduler.tasks.get(key) for key in keys)
        stack = list({ts: None for ts in there if ts is not None})
        seen = set(stack)
        while stack:
            ts = stack.pop()
            yield ts
            for dts in ts.waiting_on or ():
                if dts not in seen:
                    seen.add(dts)
                    stack.append(dts)

    def _executed(self) -> set[Any]:
        """Return the tasks that workers execute, without those that are queued there."""
        found: set[Any] = set()
        for ws in self._scheduler.workers.values():
            if len(ws.processing) <= ws.nthreads:
                found.update(ws.processing)
                continue
            # As of the last heartbeat; for those that have ended since, others have begun.
            known = [ts for ts in ws.executing if ts in ws.processing]
            others = (ts for ts in ws.processing if ts not in ws.executing)
            found.update(known, islice(others, max(0, ws.nthreads - len(known))))
        return found

    def _shape(self, ts: Any) -> Shape:
        return self._scheduler.matcher.shape(ts.resource_restrictions)

    def _explained(
        self,
        tasks: Mapping[Shape, Counter[str]],
        seconds: Mapping[Shape, float],
        keys: set[Any] | None = None,
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
        return Explanation(self._name, lines, pools, self._reasons.of(tasks, keys))

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
