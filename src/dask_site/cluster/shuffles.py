"""P2P shuffles on pools: all output of one lies where it may run, or the shuffle waits for that.

Uses distributed's private ones, as `dask_site.cluster.scheduler` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any

from distributed.core import error_message

from dask_site.cluster.guard import guarded, nothing
from dask_site.cluster.resources import pool_of_resource, pool_restriction
from dask_site.placement.matching import NeedError, Shape, describe
from dask_site.upstream.schedulers import (
    HookedShuffles,
    P2PBarrierTask,
    ShuffleClosedError,
    barrier_key,
    id_from_key,
)

if TYPE_CHECKING:
    from dask_site.cluster.scheduler import PoolScheduler

_LOOK_AGAIN = 0.3


def _at_once(*_: Any) -> bool:
    return True


def is_barrier(task: Any) -> bool:
    """Say whether a task of a graph is what all output of a P2P shuffle waits for."""
    return type(task) is P2PBarrierTask


@dataclass(frozen=True)
class WaitingShuffle:
    """A shuffle that can't begin, since no worker is there that may take all of its output.

    Attributes
    ----------
    shape : Shape
        What its output needs; of several, what the fewest pools have.
    keys : tuple
        Its first tasks, which are held.
    """

    shape: Shape
    keys: tuple[Any, ...]


class PoolShufflePlugin(HookedShuffles):
    """Keeps the output of a P2P shuffle on the workers that its tasks may run on.

    distributed spreads it over the workers of the barrier, which need not be those of the output:
    an optimiser fuses the output with the functions that follow, and these may need something.
    What is pinned where it may not run would wait for ever.

    Attributes
    ----------
    waiting : dict of str to WaitingShuffle
        The shuffles that can't begin yet, by their id.
    """

    scheduler: PoolScheduler

    def __init__(self, scheduler: PoolScheduler) -> None:
        super().__init__(scheduler)
        self.waiting: dict[Any, WaitingShuffle] = {}
        self._timer: asyncio.TimerHandle | None = None

    def get_or_create(self, shuffle_id: Any, key: Any, worker: str) -> Any:
        """Begin a shuffle if its output has a place; otherwise have its tasks wait for one."""
        refused = self._refusal(shuffle_id) if shuffle_id not in self.active_shuffles else None
        return refused or super().get_or_create(shuffle_id, key, worker)

    @guarded(nothing, "a P2P shuffle may wait for ever whose output needs a pool")
    def _refusal(self, shuffle_id: Any) -> Any:
        """Return what to answer instead of beginning a shuffle, None if it may begin."""
        barrier = self.scheduler.tasks.get(barrier_key(shuffle_id))
        if barrier is None or self._places(barrier) != set():
            return None
        try:
            self._wait(shuffle_id, barrier)
        except NeedError as error:
            return error_message(error)
        # Its worker lets go of the task, as of one whose shuffle begins anew.
        return error_message(ShuffleClosedError("waits for a worker that takes its output"))

    def restrict_task(self, id: Any, run_id: int, key: Any, worker: str) -> Any:  # noqa: A002  # distributed's signature
        """Pin an output to a worker; begin anew if it may not run there any more."""
        moved = self._begun_anew(id, run_id, key, worker)
        return {"status": "OK"} if moved else super().restrict_task(id, run_id, key, worker)

    @guarded(nothing, "a P2P shuffle may wait for ever whose output has come to need another pool")
    def _begun_anew(self, shuffle_id: Any, run_id: int, key: Any, worker: str) -> bool:
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(worker)
        shuffle = self.active_shuffles.get(shuffle_id)
        if ts is None or ws is None or shuffle is None or shuffle.run_id != run_id:
            return False
        if not ts.resource_restrictions or self.scheduler.offers(ws, ts.resource_restrictions):
            return False
        # All that share this output, or the next would be aligned with what is there.
        for other in list(filter(None, (id_from_key(dts.key) for dts in ts.dependencies))):
            if other in self.active_shuffles:
                self.begin_anew(other, _stimulus("moved"))
        return True

    @guarded(nothing, "a P2P shuffle may fail whose output has come to need another pool")
    def follow(self, ts: Any) -> None:
        """Have the output beside a task, whose need has changed, go where that may run now."""
        shape = self.scheduler.matcher.shape
        slots = shape(ts.resource_restrictions).slots
        barriers = [dts for dts in ts.dependencies if id_from_key(dts.key)]
        for other in {output: None for barrier in barriers for output in barrier.dependents}:
            have = other.resource_restrictions or {}
            if other.state == "processing" or not slots.keys().isdisjoint(shape(have).slots):
                continue
            amounts = {name: n for name, n in have.items() if not pool_of_resource(name)}
            for name in slots:
                wanted = {**amounts, **pool_restriction(name)}
                if self.scheduler.matcher.fits(wanted):
                    self.scheduler.set_need(other, wanted)
                    break

    def restart(self, scheduler: PoolScheduler) -> None:
        """Forget all shuffles; the same tasks may come again."""
        super().restart(scheduler)
        for waits in self.waiting.values():
            scheduler.let_go(waits.keys)
        self.waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @guarded(
        HookedShuffles.spread,
        "P2P shuffles are spread over all workers, and may wait for ever on several pools",
    )
    def spread(self, spec: Any) -> dict[Any, str]:
        """Spread outputs over workers that may run them."""
        barrier = self.scheduler.tasks[barrier_key(spec.id)]
        places = self._places(barrier)
        if not places:
            return super().spread(spec)
        before = barrier.worker_restrictions
        barrier.worker_restrictions = {ws.address for ws in places}
        try:
            return super().spread(spec)
        finally:
            barrier.worker_restrictions = before

    def _places(self, barrier: Any) -> set[Any] | None:
        """Return the workers that may run every output of a shuffle; None: any."""
        outputs = barrier.dependents or (barrier,)
        if any(map(self.scheduler.is_held, outputs)):
            return set()  # it is being found out what they need
        places: set[Any] | None = None
        for ts in self._kinds(outputs):
            valid = self.scheduler.able_workers(ts)
            if valid is not None:
                places = valid if places is None else places & valid
        return places

    @staticmethod
    def _kinds(outputs: Any) -> Iterator[Any]:
        """Yield one of all tasks that may run on the same workers."""
        seen = set()
        for ts in outputs:
            kind = (ts.prefix, *(ts.resource_restrictions or {}).items())
            if ts.worker_restrictions or ts.host_restrictions:
                yield ts
            elif kind not in seen:
                seen.add(kind)
                yield ts

    # -- those that wait ---------------------------------------------------------------------

    def _wait(self, shuffle_id: Any, barrier: Any) -> None:
        """Take the tasks that would begin a shuffle off the workers until it has a place."""
        keys = tuple(dts.key for dts in barrier.dependencies)
        self.waiting[shuffle_id] = WaitingShuffle(self._narrowest(barrier), keys)
        self.scheduler.hold(keys)
        begun = {
            ts.key: "released"
            for ts in barrier.dependencies
            if ts.state in {"processing", "queued"}
        }
        self.scheduler.transitions(begun, _stimulus("waits"))
        if self._timer is None:
            self._look_again_soon()

    def _narrowest(self, barrier: Any) -> Shape:
        """Return what the output needs that the fewest pools have.

        Raises
        ------
        NeedError
            If no pool may run all of it, so that no worker will ever come.
        """
        kinds = [ts.resource_restrictions for ts in self._kinds(barrier.dependents or (barrier,))]
        shapes = {self.scheduler.matcher.shape(restrictions): None for restrictions in kinds}
        if not set.intersection(*(set(shape.slots) for shape in shapes)):
            needs = "; ".join(describe(dict(shape.restrictions)) for shape in shapes)
            raise NeedError(
                f"The output of one P2P shuffle ({barrier.key}) needs {needs}, and no pool of "
                f"{self.scheduler.matcher.site_name} has all of it. Persist what is shuffled "
                "before the steps that need different pools."
            )
        return min(shapes, key=lambda shape: len(shape.slots))

    def _look_again_soon(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        for shuffle_id in list(self.waiting):
            if self._may_begin(shuffle_id):
                self.scheduler.let_go(self.waiting.pop(shuffle_id).keys)
        if self.waiting:
            self._look_again_soon()

    @guarded(_at_once, "P2P shuffles begin at once, and may wait for ever on several pools")
    def _may_begin(self, shuffle_id: Any) -> bool:
        barrier = self.scheduler.tasks.get(barrier_key(shuffle_id))
        return barrier is None or self._places(barrier) != set()


def _stimulus(what: str) -> str:
    return f"dask-site-shuffle-{what}-{time()}"
