"""Where tasks may run: what is changed of how distributed finds a worker for each.

Its private methods and attributes are used here, as in `dask_site.cluster.scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from time import time
from typing import TYPE_CHECKING, Any

from dask.utils import key_split
from distributed import Scheduler
from distributed.core import Status

from dask_site.cluster.feeding import Feeding
from dask_site.cluster.guard import guarded, nothing
from dask_site.cluster.resources import pool_of, pool_resource
from dask_site.cluster.resting import Resting
from dask_site.placement.matching import Matcher
from dask_site.scaling.durations import Durations
from dask_site.upstream.schedulers import HookedScheduler

if TYPE_CHECKING:
    from dask_site.site import Site

#: A job of which this part of its time is left may try what takes longer than that.
YOUNG = 0.8
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
# Tasks that a worker which rests gives back at once: about 60 us each.
_MOST_GIVEN_BACK = 2000
#: Between what nobody gave a priority and the least that a user gives.
FIRST = 0.5


class PlacingScheduler(HookedScheduler):
    """A scheduler that knows which workers are for which tasks.

    Work that needs nothing stays off exclusive workers, and off dear ones that nobody asks for any
    more; workers take nothing that they can't finish before their job ends; and root tasks that
    dearer workers wait for don't queue behind others.

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
    resting : Resting
        Workers that nobody asks for, see `let_rest`.
    """

    def __init__(self, *args: Any, site: Site, **kwargs: Any) -> None:
        exclusive = [pool.name for pool in site.pools.values() if pool.exclusive]
        self._exclusive = frozenset(map(pool_resource, exclusive))
        self._exclusive_workers: set[Any] = set()
        self.matcher = Matcher(site)
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
        # The same, without those that rest.
        self._asked: dict[tuple[tuple[str, float], ...], set[Any]] = {}
        self._places_as_of: tuple[int, int] = (-1, -1)
        super().__init__(*args, **kwargs)
        self._feeding = Feeding(self.WORKER_SATURATION)
        # The worker for the task that is being handed out beside the queue.
        self._fed_next: Any = None

    @guarded(Scheduler.valid_workers, "whether a worker is asked for makes no difference any more")
    def valid_workers(self, ts: Any) -> set[Any] | None:
        """Return the workers that may get a task; None stands for all (as in distributed)."""
        able = self.able_workers(ts)
        if not self.resting.workers or ts.worker_restrictions or ts.host_restrictions:
            return able
        self._refresh_places()
        able = self._open if able is None else able
        # Last of all: whoever is left out must not be the only one that could.
        if self._ending or not able:
            return self.resting.asked(able)
        key = tuple((ts.resource_restrictions or {}).items())
        if key not in self._asked:
            self._asked[key] = self.resting.asked(able)
        return self._asked[key]

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
            self.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_of("lasting"))

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
        if before != self.resting.workers:
            self._epoch += 1
        for ws in concerned:
            self.check_idle_saturated(ws)
        for ws in self.resting.workers:
            # Each time: cheaper ones may have come just now.
            left = self._notbegun(ws, seconds)
            others = [ts for ts in left if (valid := self.valid_workers(ts)) and ws not in valid]
            given_back = {ts.key: "released" for ts in others[-_MOST_GIVEN_BACK:]}
            self.transitions(given_back, stimulus_of("rest"))
        self.stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_of("rest"))

    def try_again(self) -> None:
        """Look for a worker for what had none, as when a worker comes."""
        found = [ts for ts in self.unrunnable if (valid := self.valid_workers(ts)) is None or valid]
        found.sort(key=lambda ts: ts.priority, reverse=True)
        self.transitions({ts.key: "processing" for ts in found}, stimulus_of("again"))

    def _leave_out_for(self, seconds: float) -> None:
        """Keep root tasks of so many seconds off the workers that end before.

        Also called while a transition is made: it begins no other one.
        """
        self._root_seconds = seconds
        before, self._not_for_root_tasks = self._not_for_root_tasks, self._too_short_for(seconds)
        for ws in before ^ self._not_for_root_tasks:
            self.check_idle_saturated(ws)

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
        while self.queued and (ts := self.queued.peek()).priority[0] == -FIRST:
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
        if ws in self._exclusive_workers or ws in self._not_for_root_tasks:
            return False
        rests = ws in self.resting.workers and self._is_left_out(ws)
        return ws in self.running and not rests

    def decide_worker_rootish_queuing_enabled(self) -> Any:
        """Return the worker for a root task."""
        return self._fed_next or super().decide_worker_rootish_queuing_enabled()

    @guarded(nothing, "ordinary tasks may run on exclusive workers, and on those that end soon")
    def _keep_queue_off(self, ws: Any) -> None:
        if ws in self._exclusive_workers or ws in self._not_for_root_tasks:
            self.idle_task_count.discard(ws)
        elif ws in self.resting.workers and self._is_left_out(ws):
            self.idle_task_count.discard(ws)
            self.idle.pop(ws.address, None)  # nor does it steal

    def _is_left_out(self, ws: Any) -> bool:
        """Say whether ordinary work goes to cheaper workers than to this one, which rests."""
        self._refresh_places()
        return ws not in self.resting.asked(self._open - self._not_for_root_tasks)

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

    # -- what workers have -------------------------------------------------------------------

    def take_back(self, address: str, seconds: float = 0.0) -> None:
        """Hand to others what a worker has not begun and can't finish within `seconds`.

        What it has begun is known as of its last heartbeat. While it goes on beginning tasks, the
        next ones are left to it.
        """
        ws = self.workers.get(address)
        if ws is None:
            return
        given_back = {ts.key: "released" for ts in self._notbegun(ws, seconds)}
        if given_back:
            self.transitions(given_back, stimulus_of("take-back"))

    def _notbegun(self, ws: Any, seconds: float) -> list[Any]:
        """Return what a worker has not begun and can't finish within `seconds`, in its order."""
        room = seconds * ws.nthreads - sum(
            max(0.0, self.seconds_of(ts.prefix) - ran) for ts, ran in ws.executing.items()
        )
        left = ws.nthreads if ws.status == Status.running else 0
        found = []
        for ts in sorted(ws.processing, key=lambda ts: ts.priority):
            if begun(ts, ws):
                continue
            left -= 1
            room -= self.seconds_of(ts.prefix)
            if left < 0 and room < 0:
                found.append(ts)
        return found

    # -- how long tasks take -----------------------------------------------------------------

    def is_timed(self, prefix: Any) -> bool:
        """Say whether anything is known of how long a task of a prefix takes."""
        return bool(prefix.duration_average >= 0 or prefix.max_exec_time > 0)

    def seconds_of(self, prefix: Any) -> float:
        """Return how long a task of a prefix takes: measured, or else assumed."""
        mean = self._durations.mean(prefix)
        if mean is not None:
            return mean
        if prefix.name in _PLUMBING and not self.is_timed(prefix):
            return _MOMENT
        return self.guessed_seconds(prefix)

    def expected_seconds(self, key: Any) -> float:
        """Return how long the task of a key would take that is not known yet."""
        name = key_split(key)
        prefix = self.task_prefixes.get(name)
        if prefix is not None:
            return self.seconds_of(prefix)
        return _MOMENT if name in _PLUMBING else self.UNKNOWN_TASK_DURATION


def stimulus_of(what: str) -> str:
    """Return the name under which distributed notes why something happened."""
    return f"dask-site-{what}-{time()}"


def begun(ts: Any, ws: Any) -> bool:
    """Say whether a worker has begun a task, as of its last heartbeat, or always keeps it."""
    return ts in ws.executing or ts in ws.long_running or bool(ts.actor)
