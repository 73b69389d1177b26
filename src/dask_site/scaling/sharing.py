"""Work for workers that came later: what waits on full ones, where distributed leaves it."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.cluster.scheduler import PoolScheduler

_LOOKS = 2
# Seconds of work for each thread that is there, from which on it is worth the trouble.
_WORTH = 5.0
# Tasks that are moved in one look at most: each is two messages.
_MOST = 1000
# Seconds that it may take to move what they need, and the part of a worker's memory for that.
_MOVING, _FILLING = 2.0, 0.2


class Sharing:
    """Gives workers that have nothing a part of what waits on the fullest one.

    Tasks are assigned to where their inputs are, so to the workers that came first. Work stealing
    moves those that take longer than it takes to move them. Where each long task waits for many
    short ones, as where arrays overlap, hardly a long one is ever ready that could be stolen.

    What comes last in the order of the graph moves: neighbours there build on each other, so what
    follows is done where they went.

    Parameters
    ----------
    scheduler : PoolScheduler
    """

    def __init__(self, scheduler: PoolScheduler) -> None:
        self._scheduler = scheduler
        self._looks: dict[str, int] = {}

    def look(self, addresses: Iterable[str], seconds: float) -> None:
        """Look once at who has nothing.

        Parameters
        ----------
        addresses : iterable of str
            The workers that are asked for.
        seconds : float
            How long the unfinished work takes, one task after the other.
        """
        running = self._scheduler.running
        workers = filter(None, map(self._scheduler.workers.get, addresses))
        idle = [ws for ws in workers if ws in running and not ws.processing]
        self._looks = {ws.address: self._looks.get(ws.address, 0) + 1 for ws in idle}
        takers = [ws for ws in idle if self._looks[ws.address] >= _LOOKS]
        stealing = self._scheduler.extensions.get("stealing")
        if not takers or stealing is None or seconds < _WORTH * self._scheduler.total_nthreads:
            return
        fullest = max(running, key=_backlog)
        tasks = sorted(fullest.processing, key=attrgetter("priority"))
        each = min(len(tasks) // (len(takers) + 1), _MOST // len(takers))
        # What it has beyond its threads so that there is no gap is its own.
        if _backlog(fullest) <= 3:
            return
        for taker in takers:
            part = [tasks.pop() for _ in range(each)]
            for ts in self._suitable(part, taker):
                stealing.move_task_request(ts, fullest, taker)
                self._looks[taker.address] = 0

    def _suitable(self, tasks: list[Any], taker: Any) -> Iterable[Any]:
        """Yield the tasks that a worker may run, as long as their inputs are soon there."""
        most = min(_MOVING * self._scheduler.bandwidth, _FILLING * taker.memory_limit)
        seen: set[Any] = set()
        moved = 0.0
        for ts in tasks:
            if ts.actor or not self._may_run(ts, taker):
                continue
            new = [d for d in ts.dependencies if d not in seen and taker not in d.who_has]
            moved += sum(d.get_nbytes() for d in new)
            if moved > most:
                return
            seen.update(new)
            yield ts

    def _may_run(self, ts: Any, ws: Any) -> bool:
        valid = self._scheduler.valid_workers(ts)
        return valid is None or ws in valid


def _backlog(ws: Any) -> float:
    return float(len(ws.processing) / ws.nthreads)
