"""Work for workers that came later: what waits on full ones, where distributed leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from dask_site.cluster.backlog import backlog, has_too_much
from dask_site.cluster.resources import pool_of

if TYPE_CHECKING:
    from dask_site.cluster.scheduler import PoolScheduler

_LOOKS = 2
# Seconds of work for each thread that is there, from which on it is worth the trouble.
_WORTH = 5.0
# Tasks that are moved in one look at most: each is two messages.
_MOST = 250
# Of the tasks of a worker, to find out who may run them.
_LOOKED_AT = 10
# Seconds that it may take to move what they need, and the part of a worker's memory for that.
_MOVING, _FILLING = 2.0, 0.2


class Sharing:
    """Gives workers that have nothing a part of what waits on the fullest one of a pool.

    Tasks are assigned to where their inputs are, so to the workers that came first. Work stealing
    brings a worker without any a single one each tenth of a second: enough where tasks are long,
    and next to nothing where each long task waits for many short ones, as where arrays overlap.

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
        for victim in self._fullest():
            served = self._share(stealing, victim, takers)
            for taker in served:
                self._looks[taker.address] = 0
            takers = [taker for taker in takers if taker not in served]

    def _fullest(self) -> list[Any]:
        """Return the fullest worker of each pool in which one has more than it can do."""
        fullest: dict[str | None, Any] = {}
        for ws in self._scheduler.running:
            if has_too_much(ws):
                pool = pool_of(ws.resources)
                fullest[pool] = max(fullest.get(pool, ws), ws, key=backlog)
        return sorted(fullest.values(), key=backlog, reverse=True)

    def _share(self, stealing: Any, victim: Any, takers: list[Any]) -> list[Any]:
        """Share what waits on a worker among those that may run it; returns who got something."""
        waiting = victim.processing - {*victim.executing, *victim.long_running}
        tasks = nlargest(_MOST, waiting, key=attrgetter("priority"))[::-1]
        able = [ws for ws in takers if any(self._may_run(ts, ws) for ts in tasks[-_LOOKED_AT:])]
        able = able[:_MOST]
        each = min(len(waiting) // (len(able) + 1), _MOST // max(1, len(able)))
        served = []
        for taker in able:
            part = [tasks.pop() for _ in range(each)]
            moving = list(self._suitable(part, taker))
            for ts in moving:
                stealing.move_task_request(ts, victim, taker)
            if moving:
                served.append(taker)
        return served

    def _suitable(self, tasks: list[Any], taker: Any) -> Iterator[Any]:
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
