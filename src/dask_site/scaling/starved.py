"""Workers that stand idle beside others with more than they can do are not what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask_site.cluster.backlog import has_too_much
from dask_site.cluster.records import JobRecord
from dask_site.upstream.schedulers import STEALING_TAKES

if TYPE_CHECKING:
    from dask_site.cluster.scheduler import PoolScheduler
    from dask_site.scaling.demand import Cell
    from dask_site.scaling.idle import IdleJobs

_LOOKS = 3
# More than it takes until what others have is shared, see `Sharing`.
_LOOKS_IDLE = 5
# Seconds until more workers are tried again.
_HOLD = 60.0
# Seconds of such work for each thread that is there, from which on more threads are worth having.
_WORTH = 5.0


class Starved:
    """Finds out how many workers of one pool get work at all.

    A task whose inputs lie on a worker is assigned to that one, and moves only if that costs less
    than it gains: thousands of small ones stay where they are, however many workers come. What has
    no worker yet reaches a new one, and so do tasks that take longer than it takes to move them.

    Parameters
    ----------
    pool : str
    scheduler : PoolScheduler
        What workers do.
    idle : IdleJobs
        Which jobs have nothing to do.

    Attributes
    ----------
    most : int or None
        So many jobs get work; None as long as nothing says that there are too many.
    """

    def __init__(self, pool: str, scheduler: PoolScheduler, idle: IdleJobs) -> None:
        self.most: int | None = None
        self._pool = pool
        self._scheduler = scheduler
        self._idle = idle
        self._until = 0.0
        self._more = 0
        self._looks: dict[str, int] = {}

    def bounded(self, wanted: int, staying: list[JobRecord], cells: Iterable[Cell]) -> int:
        """Return how many jobs the pool shall have, of those that the work seems to want.

        Parameters
        ----------
        wanted : int
        staying : list of JobRecord
            The live jobs of the pool that are not about to end anyway.
        cells : iterable of Cell
            What work there is.
        """
        self._more = self._more + 1 if self._reaches_more(staying, cells) else 0
        if self._more >= _LOOKS:
            self.most = None
        if self._more:
            self._looks.clear()
            return wanted if self.most is None else min(wanted, self.most)
        waits = any(self._waits_on(record) for record in staying)
        idle = [r.name for r in staying if waits and r.workers and self._idle.is_idle(r)]
        self._looks = {name: self._looks.get(name, 0) + 1 for name in idle}
        starved = sum(looks >= _LOOKS_IDLE for looks in self._looks.values())
        now = monotonic()
        if starved:
            self.most, self._until = max(1, len(staying) - starved), now + _HOLD
        elif self.most is not None and now >= self._until:
            self.most, self._until = 2 * self.most, now + _HOLD
            if self.most >= wanted:
                self.most = None
        if idle:
            wanted = min(wanted, len(staying))
        return wanted if self.most is None else min(wanted, self.most)

    def _reaches_more(self, staying: list[JobRecord], cells: Iterable[Cell]) -> bool:
        """Say whether there is work that workers which come would get."""
        threads = sum(ws.nthreads for record in staying for ws in self._workers(record))
        moves = 0.0
        for cell in cells:
            if self._pool in cell.shape.slots:
                if cell.unassigned:
                    return True
                seconds = self._scheduler.seconds_of(cell.prefix)
                # distributed counts that much for moving one: of shorter ones few ever move.
                if seconds >= STEALING_TAKES:
                    moves += cell.count["processing"] * seconds
        return bool(moves > _WORTH * threads)

    def _waits_on(self, record: JobRecord) -> bool:
        """Say whether tasks wait on a worker of a job for those that run there."""
        return any(map(has_too_much, self._workers(record)))

    def _workers(self, record: JobRecord) -> list[Any]:
        there = self._scheduler.workers
        return [there[address] for address in record.workers if address in there]
