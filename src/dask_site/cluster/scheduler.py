"""Dask's scheduler with pools: what is changed of distributed's own.

Its private methods and attributes are used here, in `dask_site.cluster.placing` and in
`dask_site.cluster.shuffles`; what else is not quite public (the state of tasks and workers, the
structure of graphs, nannies) is read where it is needed. `tests/contract` holds all of it against
the installed version.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import time
from typing import TYPE_CHECKING, Any

import dask.config
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.scheduler import DEFAULT_EXTENSIONS

from dask_site.cluster.guard import guarded, nothing
from dask_site.cluster.placing import FIRST, PlacingScheduler, begun, stimulus_of
from dask_site.cluster.resources import countable
from dask_site.cluster.shuffles import PoolShufflePlugin
from dask_site.dashboards import serving
from dask_site.dashboards.places import Places
from dask_site.placement.graph import Placer, inherit
from dask_site.placement.matching import NeedError, Restrictions
from dask_site.scaling.demand import Demand

if TYPE_CHECKING:
    from dask_site.faults.judge import Judge
    from dask_site.site import Site

logger = logging.getLogger("dask_site")
# Above this part of its memory a worker pauses: the inputs of one task have to be there at once.
_INPUTS_SHARE = 0.8
_UNFINISHED = frozenset({"waiting", "queued", "no-worker", "processing"})
_MOST_REFUSED = 10_000


class PoolScheduler(PlacingScheduler):
    """A scheduler that knows pools.

    What needs something finds its pools, whatever the optimisers made of it; graphs that need more
    than the default pool go first, so that dearer workers don't wait for their inputs behind other
    work; and what was lost with a worker is judged by its cause.

    Parameters
    ----------
    site : Site
        Its pools.
    **kwargs
        For `distributed.Scheduler`.

    Attributes
    ----------
    placer : Placer
        Finds what the tasks of a graph need.
    demand : Demand
        Counts tasks by what they need.
    judge : Judge or None
        Judges what was lost with a worker; without one distributed does.
    data_waiting : int
        How many clients wait for a worker that takes their data.
    workers_come : bool
        Whether there are jobs that bring workers, or have brought them.
    """

    def __init__(
        self,
        *args: Any,
        site: Site,
        about: dict[str, Any] | bool = False,
        pages: Callable[[Any], Awaitable[None]] | None = None,
        **kwargs: Any,
    ) -> None:
        #: What the dashboards' broker is told; False where nobody shall look.
        self.about = about
        #: Called before the first page is shown, where pages aren't made at the start.
        self.pages = pages
        self._private = site.dashboards.enabled and Places.of_site(site)
        self._default_pool = site.default_pool
        self.judge: Judge | None = None
        self._warned: set[str] = set()
        self.data_waiting = 0
        self.workers_come = False
        # Why keys were refused that persisted collections still name.
        self._refused: dict[Any, str] = {}
        extensions = {**DEFAULT_EXTENSIONS, "shuffle": PoolShufflePlugin}
        if not dask.config.get("distributed.scheduler.work-stealing"):
            extensions.pop("stealing", None)
        super().__init__(*args, site=site, extensions=extensions, **kwargs)
        self.placer = Placer(self.matcher)
        self.demand = Demand(self.matcher, self.tasks)
        self._small_inputs = _INPUTS_SHARE * self.matcher.smallest_memory()

    def start_http_server(self, *args: Any, **more: Any) -> None:
        """Serve behind the proxy where the site has one, also where Dask is told nothing of it."""
        if self._private:
            serving.start(self._private, self, args[0])
        else:
            super().start_http_server(*args, **more)

    def decide_worker_non_rootish(self, ts: Any) -> Any:
        """Look first whether the inputs of a task fit where it would go."""
        return None if self._must_stay(ts) else super().decide_worker_non_rootish(ts)

    @guarded(nothing, "tasks may be sent to workers that are too small for their inputs")
    def _must_stay(self, ts: Any) -> bool:
        """Say whether a task has to wait, though distributed would take any worker."""
        if ts.dependencies and not ts.worker_restrictions and not ts.actor:
            inputs = ts.get_nbytes_deps()
            if inputs > self._small_inputs:
                self._make_room_for(ts, inputs)
        # Were it held, or lacked every worker what it needs, it would go to one all the same.
        return bool(
            ts.loose_restrictions and (valid := self.valid_workers(ts)) is not None and not valid
        )

    def _make_room_for(self, ts: Any, inputs: int) -> None:
        have = ts.resource_restrictions or {}
        wanted = self.matcher.with_memory(have, int(inputs / _INPUTS_SHARE))
        if wanted is not None:
            self.set_need(ts, wanted)
            self.shuffles.follow(ts)

    # -- graphs ------------------------------------------------------------------------------

    def take_graph(
        self,
        *,
        dsk: dict[Any, Any],
        annotations_by_type: Any,
        global_annotations: dict[str, Any] | None,
        **kwargs: Any,
    ) -> Any:
        """Find out what its tasks need, or refuse it."""
        around = (global_annotations or {}).get("resources")
        try:
            parts = self.placer.place(dsk, annotations_by_type["resources"], around)
            around = None if callable(around) else around  # else it has been asked for each key
            if around:
                global_annotations = {**(global_annotations or {}), "resources": countable(around)}
            by_key = [v for kind, v in annotations_by_type.items() if kind != "resources"]
            for values in (*by_key, kwargs["ordered"], kwargs["user_priority"]):
                inherit(parts, values)
            unset = not kwargs["user_priority"] and kwargs["submitting_task"] is None
            if unset and self._needs_more(annotations_by_type["resources"], around):
                kwargs["user_priority"] = FIRST
                self._lift({d for task in dsk.values() for d in task.dependencies} - dsk.keys())
        except NeedError as error:
            self._refuse(kwargs["keys"], error)
            raise
        except Exception:
            self._degrade("Looking for needs in a graph", "its tasks run on the open pools")
        return super().take_graph(
            dsk=dsk,
            annotations_by_type=annotations_by_type,
            global_annotations=global_annotations,
            **kwargs,
        )

    def _needs_more(self, by_key: Mapping[Any, Restrictions], around: Restrictions | None) -> bool:
        """Say whether some tasks of a graph can't run on the default pool."""
        wanted = {id(resources): resources for resources in by_key.values()}
        return any(
            self._default_pool not in self.matcher.shape(resources).slots
            for resources in (*wanted.values(), around)
            if resources
        )

    def _lift(self, keys: Iterable[Any]) -> None:
        """Let tasks that nobody gave a priority, and what they wait for, go first."""
        assigned = {}
        stack = [ts for key in keys if (ts := self.tasks.get(key))]
        while stack:
            ts = stack.pop()
            if ts.state not in _UNFINISHED or not ts.priority or ts.priority[0]:
                continue
            ts.priority = (-FIRST, *ts.priority[1:])
            stack.extend(ts.waiting_on or ())
            if ts.state == "queued":
                self.queued.discard(ts)
                self.queued.add(ts)
            ws = ts.processing_on
            if ws is not None and not begun(ts, ws):
                assigned[ts.key] = "released"  # and assigned again: its worker knows the old one
        if assigned:
            self.transitions(assigned, stimulus_of("lift"))

    def _refuse(self, keys: Iterable[Any], error: NeedError) -> None:
        if len(self._refused) > _MOST_REFUSED:
            self._refused.clear()
        self._refused.update(dict.fromkeys(keys, str(error)))

    def find_lost(self, dsk: dict[Any, Any], keys: set[Any]) -> Any:
        """Say again why a collection was refused, where work builds on it: it was never lost."""
        lost = super().find_lost(dsk, keys)
        for key in lost if self._refused else ():
            if key in self._refused:
                self._refuse(keys, error := NeedError(self._refused[key]))
                raise error
        return lost

    @property
    def has_work(self) -> bool:
        """Whether there are unfinished tasks."""
        return any(self.demand.cells())

    # -- workers that go ---------------------------------------------------------------------

    def close_to_new_work(self, address: str) -> None:
        """Let a worker begin nothing any more; `take_back` hands what it has to others."""
        ws = self.workers.get(address)
        if ws is None:
            return
        stimulus = stimulus_of("closing")
        self.handle_worker_status_change(Status.closing_gracefully, ws, stimulus)
        self.worker_send(
            address,
            {
                "op": "worker-status-change",
                "status": Status.closing_gracefully.name,
                "stimulus_id": stimulus,
            },
        )

    @property
    def shuffles(self) -> PoolShufflePlugin:
        """What is known of P2P shuffles."""
        plugin: PoolShufflePlugin = self.extensions["shuffle"]
        return plugin

    def in_shuffle(self, ws: Any) -> bool:
        """Say whether a worker takes part in a P2P shuffle: without it, that begins anew."""
        active = self.shuffles.active_shuffles
        return any(ws.address in shuffle.participating_workers for shuffle in active.values())

    async def scatter(
        self,
        data: dict[Any, Any],
        workers: Iterable[Any] | None,
        client: str,
        broadcast: bool = False,
        timeout: float = 2,
    ) -> list[Any]:
        """Have a worker come for data that a client brings while there is none."""
        if workers is None and not self.running:
            self.data_waiting += 1
            try:
                await self._first_worker(timeout)
            finally:
                self.data_waiting -= 1
        keys: list[Any] = await super().scatter(data, workers, client, broadcast, timeout)
        return keys

    async def _first_worker(self, timeout: float) -> None:
        # Whoever names no time gets Dask's usual one, which is shorter than many a queue.
        usual = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
        begun = time()
        while not self.running:
            waited = time() - begun
            if waited > timeout and not (self.workers_come and timeout >= usual):
                return
            await asyncio.sleep(0.1)

    # -- what was lost with a worker ---------------------------------------------------------

    async def remove_worker(
        self, address: str, *, stimulus_id: str, expected: bool = False, close: bool = True
    ) -> Any:
        """Have the judge look at what a lost worker did, instead of counting all of it guilty."""
        if self.judge is not None:
            ws = self.workers.get(self.coerce_address(address))
            if ws is not None and ws.processing:
                try:
                    (self.judge.worker_retired if expected else self.judge.worker_lost)(ws)
                    expected = True
                except Exception:
                    self.let_go(ts.key for ts in ws.processing)
                    self._degrade("Judging a lost worker", "its tasks count as guilty")
        return await super().remove_worker(
            address, stimulus_id=stimulus_id, expected=expected, close=close
        )

    def remove_orphans(self, addresses: Iterable[str]) -> None:
        """Forget workers whose job is gone: a node that died in silence never says goodbye."""
        for address in addresses:
            if address in self.workers:
                removal = self.remove_worker(address, stimulus_id=stimulus_of("orphan"))
                self.in_background(_awaited, removal)

    def hold(self, keys: Iterable[Any]) -> None:
        """Let these tasks run nowhere until `let_go`."""
        self._held.update(keys)

    def let_go(self, keys: Iterable[Any]) -> None:
        """Let held tasks go on; those that are gone are passed over."""
        keys = list(keys)
        self._held.difference_update(keys)
        ready = [ts for key in keys if (ts := self.tasks.get(key)) and ts.state == "no-worker"]
        ready.sort(key=lambda ts: ts.priority, reverse=True)
        self.transitions({ts.key: "processing" for ts in ready}, stimulus_of("let-go"))

    def restrict(self, key: Any, resources: dict[str, float]) -> bool:
        """Replace what a task needs; says whether it could, which it can't while it is processing.

        A worker has set aside what a processing task took, and gives back what it needs then.
        """
        ts = self.tasks.get(key)
        if ts is None or ts.state == "processing":
            return False
        self.set_need(ts, dict(resources))
        self.shuffles.follow(ts)
        return True

    def set_need(self, ts: Any, resources: dict[str, float]) -> None:
        """Replace what a task needs that is not processing, and count it as such."""
        before, ts.resource_restrictions = ts.resource_restrictions, resources
        self.demand.restricted(ts, before)

    def fail(self, key: Any, error: Exception) -> None:
        """End a task, held or ready, with an error."""
        self._held.discard(key)
        ts = self.tasks.get(key)
        if ts is None or ts.state not in {"no-worker", "processing"}:
            return
        stimulus = stimulus_of("fail")
        text = str(error)
        # Not as `exception_text`: that is for tracebacks of workers.
        followed = self.transition(
            key,
            "erred",
            stimulus_id=stimulus,
            exception=pickle.dumps(error),
            cause=key,
            exception_text=text,
        )
        self.transitions(followed, stimulus)

    def _degrade(self, what: str, instead: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s went wrong; %s.", what, instead, exc_info=True)


async def _awaited(work: Awaitable[Any]) -> None:
    await work
