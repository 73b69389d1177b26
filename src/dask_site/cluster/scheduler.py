"""Dask's scheduler with pools: what is changed of distributed's own.

Its private methods and attributes are used here and in `dask_site.cluster.shuffles`; what else is
not quite public (the state of tasks and workers, the structure of graphs, nannies) is read where
it is needed. `tests/contract` holds all of it against the installed version.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping
from operator import itemgetter
from time import time
from typing import TYPE_CHECKING, Any

import dask.config
from dask.utils import key_split, parse_timedelta
from distributed import Scheduler
from distributed.core import Status
from distributed.scheduler import DEFAULT_EXTENSIONS

from dask_site.cluster.feeding import Feeding
from dask_site.cluster.guard import guarded, nothing
from dask_site.cluster.resources import countable, pool_of, pool_resource
from dask_site.cluster.resting import Resting
from dask_site.cluster.shuffles import PoolShufflePlugin
from dask_site.dashboards import serving
from dask_site.dashboards.places import Places
from dask_site.placement.graph import Placer, inherit
from dask_site.placement.matching import Matcher, NeedError, Restrictions
from dask_site.scaling.demand import Demand
from dask_site.scaling.durations import Durations
from dask_site.upstream.schedulers import HookedScheduler

if TYPE_CHECKING:
    from dask_site.faults.judge import Judge
    from dask_site.site import Site

logger = logging.getLogger("dask_site")
_STIMULUS = "dask-site"
#: A job of which this part of its time is left may try what takes longer than that.
YOUNG = 0.8
# Above this part of its memory a worker pauses: the inputs of one task have to be there at once.
_INPUTS_SHARE = 0.8
# Names of tasks that only take blocks apart and put them together. distributed assumes half a
# second for what it has not measured, and an array may have thousands of these.
_PLUMBING = frozenset(
    {
        *("getitem", "getter", "concatenate", "stack", "overlap", "blocks", "finalize"),
        *("transpose", "reshape", "squeeze", "expand_dims", "broadcast_to"),
        *("rechunk-merge", "rechunk-split"),
    }
)
_MOMENT = 0.001
_UNFINISHED = frozenset({"waiting", "queued", "no-worker", "processing"})
_MOST_REFUSED = 10_000
# Tasks that a worker which rests gives back at once: about 60 us each.
_MOST_GIVEN_BACK = 2000
# Between what nobody gave a priority and the least that a user gives.
_FIRST = 0.5


class PoolScheduler(HookedScheduler):
    """A scheduler that knows pools.

    Work that needs nothing stays off exclusive workers; what needs something finds its pools,
    whatever the optimisers made of it; graphs that need more than the default pool go first, so
    that dearer workers don't wait for their inputs behind other work; workers take nothing that
    they can't finish before their job ends; and what was lost with a worker is judged by its cause.

    Restricting every other task to the open pools would keep them off exclusive workers too, but
    distributed queues root tasks on the scheduler only while they are unrestricted.

    Parameters
    ----------
    site : Site
        Its pools.
    **kwargs
        For `distributed.Scheduler`.

    Attributes
    ----------
    matcher : Matcher
        Knows the pools.
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
    resting : Resting
        Workers that nobody asks for, see `let_rest`.
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
        exclusive = [pool.name for pool in site.pools.values() if pool.exclusive]
        self._exclusive = frozenset(map(pool_resource, exclusive))
        self._exclusive_workers: set[Any] = set()
        self._default_pool = site.default_pool
        self.matcher = Matcher(site)
        self.placer = Placer(self.matcher)
        self.judge: Judge | None = None
        self._durations = Durations()
        self._held: set[Any] = set()
        # Workers whose job ends, the soonest first: when (as of `time.time`), and for how many
        # seconds it takes tasks in all.
        self._ending: list[tuple[float, float, Any]] = []
        self._not_for_root_tasks: set[Any] = set()
        # Of the longest root task that they were chosen for.
        self._root_seconds = 0.0
        cheapest_first = sorted(site.pools, key=lambda name: name != site.default_pool)
        self.resting = Resting({name: rank for rank, name in enumerate(cheapest_first)})
        self._epoch = 0
        self._places: dict[tuple[tuple[str, float], ...], set[Any]] = {}
        self._open: set[Any] = set()
        # Of these sets, by their `id`: without those that rest.
        self._asked: dict[int, set[Any]] = {}
        self._places_as_of: tuple[int, int] = (-1, -1)
        self._warned: set[str] = set()
        self.data_waiting = 0
        self.workers_come = False
        # Why keys were refused that persisted collections still name.
        self._refused: dict[Any, str] = {}
        extensions = {**DEFAULT_EXTENSIONS, "shuffle": PoolShufflePlugin}
        if not dask.config.get("distributed.scheduler.work-stealing"):
            extensions.pop("stealing", None)
        super().__init__(*args, extensions=extensions, **kwargs)
        self.demand = Demand(self.matcher, self.tasks)
        self._small_inputs = _INPUTS_SHARE * self.matcher.smallest_memory()
        self._feeding = Feeding(self.WORKER_SATURATION)
        # The worker for the task that is being handed out beside the queue.
        self._fed_next: Any = None

    def start_http_server(self, *args: Any, **more: Any) -> None:
        """Serve behind the proxy where the site has one, also where Dask is told nothing of it."""
        if self._private:
            serving.start(self._private, self, args[0])
        else:
            super().start_http_server(*args, **more)

    # -- where tasks may run -----------------------------------------------------------------

    @guarded(Scheduler.valid_workers, "whether a worker is asked for makes no difference any more")
    def valid_workers(self, ts: Any) -> set[Any] | None:
        """Return the workers that may get a task; None stands for all (as in distributed)."""
        able = self.able_workers(ts)
        if not self.resting or ts.worker_restrictions or ts.host_restrictions:
            return able
        if able is None:
            self._refresh_places()
            able = self._open
        # Last of all: whoever is left out must not be the only one that could.
        if self._ending:
            return self.resting.left_out(able)
        asked = self._asked.get(id(able))
        if asked is None:
            asked = self._asked[id(able)] = self.resting.left_out(able)
        return asked

    @guarded(
        Scheduler.valid_workers,
        "ordinary tasks may run on exclusive workers too, and held ones are not held any more",
    )
    def able_workers(self, ts: Any) -> set[Any] | None:
        """Return the workers that may run a task, be they asked for or not; None: all."""
        if self._held and ts.key in self._held:
            return set()
        restrictions = ts.resource_restrictions
        valid: set[Any] | None
        if restrictions and not ts.worker_restrictions and not ts.host_restrictions:
            valid = self._workers_with(restrictions)
        else:
            valid = super().valid_workers(ts)
            if valid is not None and not valid and ts.loose_restrictions:
                # The workers that it would like best are gone.
                valid = self._workers_with(restrictions) if restrictions else None
            if valid is None and self._exclusive_workers:
                self._refresh_places()
                valid = self._open
        return self._lasting(ts, valid) if self._ending else valid

    def _workers_with(self, restrictions: Mapping[str, float]) -> set[Any]:
        self._refresh_places()
        key = tuple(restrictions.items())
        workers = self._places.get(key)
        if workers is None:
            workers = self._places[key] = self._look_up(restrictions)
        return workers

    def _look_up(self, restrictions: Mapping[str, float]) -> set[Any]:
        return {ws for ws in self.running if self.offers(ws, restrictions)}

    def offers(self, ws: Any, restrictions: Mapping[str, float]) -> bool:
        """Say whether a worker, be it paused, is one for tasks with these restrictions."""
        if any(ws.resources.get(name, 0) < amount for name, amount in restrictions.items()):
            return False
        pool = pool_of(ws.resources)
        return pool is None or pool in self.matcher.shape(restrictions).slots

    def is_held(self, ts: Any) -> bool:
        """Say whether a task is kept from running, see `hold`."""
        return ts.key in self._held

    def _refresh_places(self) -> None:
        as_of = (self._epoch, len(self.running))
        if as_of != self._places_as_of:
            self._places_as_of = as_of
            self._places.clear()
            self._asked.clear()
            self._open = set(self.running) - self._exclusive_workers

    def _lasting(self, ts: Any, valid: set[Any] | None) -> set[Any] | None:
        """Leave out the workers whose job ends before the task would."""
        short = self._too_short_for(self.seconds_of(ts.prefix))
        if not short:
            return valid
        return (set(self.running) if valid is None else valid) - short

    def _too_short_for(self, seconds: float) -> set[Any]:
        needed = 1.2 * seconds
        now = time()
        short = set()
        for end, whole, ws in self._ending:
            left = end - now
            if left >= needed:
                break
            # A task that is longer than any walltime may try its luck with a young job.
            if left < YOUNG * whole:
                short.add(ws)
        return short

    def set_ending(self, workers: Mapping[str, tuple[float, float]], longest: float) -> None:
        """Say when workers end that do.

        Parameters
        ----------
        workers : dict of str to (float, float)
            Address to when its job takes no more tasks (as of `time.time`), and for how many
            seconds it takes them in all.
        longest : float
            Seconds that the longest of the queued root tasks takes: workers with less than that
            left get none of them, which distributed hands out without asking for their kind.
        """
        self._ending = sorted(
            (
                (*end, self.workers[address])
                for address, end in workers.items()
                if address in self.workers
            ),
            key=itemgetter(0),
        )
        before = self._not_for_root_tasks
        self._leave_out_for(longest)
        if before - self._not_for_root_tasks:
            self.stimulus_queue_slots_maybe_opened(stimulus_id=_stimulus("lasting"))

    def let_rest(self, addresses: Iterable[str], seconds: float) -> None:
        """Keep what cheaper workers can do off those that nobody asks for any more.

        Else one of a dear pool that gets one ordinary task after another would never be idle.

        Parameters
        ----------
        addresses : iterable of str
            All of them, each time anew.
        seconds : float
            What they have and can't begin within that is handed to others.
        """
        before = self.resting.workers
        self.resting.only(ws for a in addresses if (ws := self.workers.get(a)) is not None)
        concerned = before | self.resting.workers
        if not concerned:
            return
        self._epoch += 1
        for ws in concerned:
            self.check_idle_saturated(ws)
        for ws in self.resting.workers:
            # Each time: cheaper ones may have come just now.
            left = self._not_begun(ws, seconds)
            others = [ts for ts in left if (valid := self.valid_workers(ts)) and ws not in valid]
            given_back = {ts.key: "released" for ts in others[-_MOST_GIVEN_BACK:]}
            self.transitions(given_back, _stimulus("rest"))
        self.stimulus_queue_slots_maybe_opened(stimulus_id=_stimulus("rest"))

    def try_again(self) -> None:
        """Look for a worker for what had none, as when a worker comes."""
        found = [ts for ts in self.unrunnable if (valid := self.valid_workers(ts)) is None or valid]
        found.sort(key=lambda ts: ts.priority, reverse=True)
        self.transitions({ts.key: "processing" for ts in found}, _stimulus("again"))

    def _leave_out_for(self, seconds: float) -> None:
        """Keep root tasks of so many seconds off the workers that end before.

        Also called while a transition is made: it begins no other one.
        """
        self._root_seconds = seconds
        before, self._not_for_root_tasks = self._not_for_root_tasks, self._too_short_for(seconds)
        for ws in before ^ self._not_for_root_tasks:
            self.check_idle_saturated(ws)

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

    @guarded(Scheduler.is_rootish, "a task that was lost with a worker may run again at once")
    def is_rootish(self, ts: Any) -> bool:
        """Keep a held task out of the queue of root tasks, which asks nobody where it may run."""
        if (self._held and ts.key in self._held) or not super().is_rootish(ts):
            return False
        if self._ending and (seconds := self.seconds_of(ts.prefix)) > self._root_seconds:
            self._leave_out_for(seconds)
        return True

    def check_idle_saturated(self, ws: Any, occ: float = -1.0) -> None:
        """Keep queued root tasks off exclusive workers and off those that end soon."""
        super().check_idle_saturated(ws, occ)
        self._keep_queue_off(ws)
        self._feeding.changed(ws)

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        """Hand out queued root tasks, those that dearer pools wait for also to busy workers."""
        super().stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)
        self._feed(stimulus_id)

    @guarded(nothing, "dearer workers may wait for their inputs behind other work")
    def _feed(self, stimulus: str) -> None:
        """Hand out what goes first, though all workers have enough.

        distributed hands out nothing of its queue while they have as many tasks as threads, of
        which those that go last count like all others.
        """
        while self.queued and (ts := self.queued.peek()).priority[0] == -_FIRST:
            self._fed_next = self._feeding.taker(self._may_be_fed)
            if self._fed_next is None:
                return
            try:
                self.transitions({ts.key: "processing"}, stimulus)
            finally:
                ws, self._fed_next = self._fed_next, None
            if ts.state == "queued":
                return
            self._feeding.took(ts, ws)

    def _may_be_fed(self, ws: Any) -> bool:
        return ws in self.running and not self._gets_no_roots(ws)

    def decide_worker_rootish_queuing_enabled(self) -> Any:
        """Return the worker for a root task."""
        return self._fed_next or super().decide_worker_rootish_queuing_enabled()

    @guarded(nothing, "ordinary tasks may run on exclusive workers, and on those that end soon")
    def _keep_queue_off(self, ws: Any) -> None:
        if self._gets_no_roots(ws):
            self.idle_task_count.discard(ws)
        if self._is_left_out(ws):
            self.idle.pop(ws.address, None)  # nor does it steal

    def _gets_no_roots(self, ws: Any) -> bool:
        if ws in self._exclusive_workers or ws in self._not_for_root_tasks:
            return True
        return self._is_left_out(ws)

    def _is_left_out(self, ws: Any) -> bool:
        """Say whether ordinary work goes to cheaper workers."""
        if ws not in self.resting.workers or ws in self._exclusive_workers:
            return False
        self._refresh_places()
        return ws not in self.resting.left_out(self._open - self._not_for_root_tasks)

    def add_resources(self, worker: str, resources: dict[str, float] | None = None) -> Any:
        """Note an exclusive worker: its resources tell its pool."""
        result = super().add_resources(worker=worker, resources=resources)
        self._epoch += 1
        self._note(self.workers[worker])
        return result

    @guarded(nothing, "workers of exclusive pools that come now may get ordinary tasks")
    def _note(self, ws: Any) -> None:
        if not self._exclusive.isdisjoint(ws.resources):
            self._exclusive_workers.add(ws)

    def remove_resources(self, worker: str) -> None:
        """Forget a worker that leaves."""
        super().remove_resources(worker)
        self._epoch += 1
        self._forget(self.workers[worker])

    @guarded(nothing, "what is known of workers that have left takes memory")
    def _forget(self, ws: Any) -> None:
        self._exclusive_workers.discard(ws)
        self._feeding.left(ws)
        self._not_for_root_tasks.discard(ws)
        self.resting.left(ws)
        self._ending = [end for end in self._ending if end[2] is not ws]

    def handle_worker_status_change(self, status: Any, worker: Any, stimulus_id: str) -> None:
        """Look again which workers may run what."""
        self._epoch += 1
        super().handle_worker_status_change(status, worker, stimulus_id)

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
                kwargs["user_priority"] = _FIRST
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
            ts.priority = (-_FIRST, *ts.priority[1:])
            stack.extend(ts.waiting_on or ())
            if ts.state == "queued":
                self.queued.discard(ts)
                self.queued.add(ts)
            ws = ts.processing_on
            if ws is not None and not self._begun(ts, ws):
                assigned[ts.key] = "released"  # and assigned again: its worker knows the old one
        if assigned:
            self.transitions(assigned, _stimulus("lift"))

    @staticmethod
    def _begun(ts: Any, ws: Any) -> bool:
        """Say whether a worker has begun a task, as of its last heartbeat, or always keeps it."""
        return ts in ws.executing or ts in ws.long_running or bool(ts.actor)

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

    def is_timed(self, prefix: Any) -> bool:
        """Say whether anything is known of how long a task of a prefix takes."""
        return bool(prefix.duration_average >= 0 or prefix.max_exec_time > 0)

    def seconds_of(self, prefix: Any) -> float:
        """Return how long a task of a prefix takes: measured, or else assumed."""
        if prefix.duration_average < 0:
            if prefix.name in _PLUMBING and not self.is_timed(prefix):
                return _MOMENT
            return self.guessed_seconds(prefix)
        mean = self._durations.mean(prefix)
        return self.guessed_seconds(prefix) if mean is None else mean

    def expected_seconds(self, key: Any) -> float:
        """Return how long the task of a key would take that is not known yet."""
        name = key_split(key)
        prefix = self.task_prefixes.get(name)
        if prefix is not None:
            return self.seconds_of(prefix)
        return _MOMENT if name in _PLUMBING else self.UNKNOWN_TASK_DURATION

    # -- workers that go ---------------------------------------------------------------------

    def close_to_new_work(self, address: str) -> None:
        """Let a worker begin nothing any more; `take_back` hands what it has to others."""
        ws = self.workers.get(address)
        if ws is None:
            return
        stimulus = _stimulus("closing")
        self.handle_worker_status_change(Status.closing_gracefully, ws, stimulus)
        self.worker_send(
            address,
            {
                "op": "worker-status-change",
                "status": Status.closing_gracefully.name,
                "stimulus_id": stimulus,
            },
        )

    def take_back(self, address: str, seconds: float = 0.0) -> None:
        """Hand to others what a worker has not begun and can't finish within `seconds`.

        What it has begun is known as of its last heartbeat. While it goes on beginning tasks, the
        next ones are left to it.
        """
        ws = self.workers.get(address)
        if ws is None:
            return
        given_back = {ts.key: "released" for ts in self._not_begun(ws, seconds)}
        if given_back:
            self.transitions(given_back, _stimulus("take-back"))

    def _not_begun(self, ws: Any, seconds: float) -> list[Any]:
        """Return what a worker has not begun and can't finish within `seconds`, in its order."""
        room = seconds * ws.nthreads - sum(
            max(0.0, self.seconds_of(ts.prefix) - ran) for ts, ran in ws.executing.items()
        )
        left = ws.nthreads if ws.status == Status.running else 0
        found = []
        for ts in sorted(ws.processing, key=lambda ts: ts.priority):
            if self._begun(ts, ws):
                continue
            left -= 1
            room -= self.seconds_of(ts.prefix)
            if left < 0 and room < 0:
                found.append(ts)
        return found

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
                removal = self.remove_worker(address, stimulus_id=_stimulus("orphan"))
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
        self.transitions({ts.key: "processing" for ts in ready}, _stimulus("let-go"))

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
        stimulus = _stimulus("fail")
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


def _stimulus(what: str) -> str:
    return f"{_STIMULUS}-{what}-{time()}"
