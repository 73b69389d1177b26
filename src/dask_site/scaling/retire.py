"""Taking workers away: their results move, what they run is finished or handed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from time import time
from typing import TYPE_CHECKING, Any

from dask_site.cluster.records import CLOSING, RUNNING, STARTING, JobRecord

if TYPE_CHECKING:
    from distributed.core import Status

    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.scheduler import PoolScheduler

logger = logging.getLogger("dask_site")
# Seconds within which a worker has read a message.
_TOLD = 0.2


class Retirement:
    """Ends jobs of a cluster without losing what their workers hold.

    Parameters
    ----------
    fleet : Fleet
        The jobs.
    scheduler : PoolScheduler
        Moves results off workers that go.
    kept : callable
        Told of a job that stays, because nobody could take its results.
    """

    def __init__(
        self, fleet: Fleet, scheduler: PoolScheduler, kept: Callable[[JobRecord], None]
    ) -> None:
        self._fleet = fleet
        self._scheduler = scheduler
        self._kept = kept
        self._tasks: set[asyncio.Task[None]] = set()

    def retire(self, records: list[JobRecord], *, quietly: bool = False) -> None:
        """Begin to end jobs; returns at once.

        Parameters
        ----------
        records : list of JobRecord
            What their workers run is computed again elsewhere.
        quietly : bool, optional
            Say nothing if one of them has to stay.
        """
        if records:
            # At once, so that whoever counts jobs next does not count on them.
            for record in records:
                record.enter(CLOSING)
            self._spawn(self._end(records, quietly=quietly))

    def drain(self, record: JobRecord, seconds: float) -> None:
        """Begin to end a job whose workers get `seconds` to finish what they run."""
        for address in record.workers:
            self._scheduler.close_to_new_work(address)
        self._spawn(self._drain(record, seconds))

    def end(self, record: JobRecord) -> None:
        """End a job at once, with what it holds: its time is over."""
        record.enter(CLOSING)
        self._spawn(self._fleet.end([record]))

    async def _drain(self, record: JobRecord, seconds: float) -> None:
        begun = time()
        asked = set(record.workers)
        while self._busy(record) and time() < begun + seconds:
            await asyncio.sleep(0.1)
            for address in list(asked):
                ws = self._scheduler.workers.get(address)
                # Its heartbeat tells what it had begun when it was told to begin no more.
                if ws is None or ws.last_seen > begun + _TOLD:
                    asked.discard(address)
                    self._scheduler.take_back(address)
        if record.live:
            record.enter(CLOSING)
            await self._end([record], quietly=True)

    def _busy(self, record: JobRecord) -> bool:
        there = self._scheduler.workers
        return any(address in there and there[address].processing for address in record.workers)

    async def _end(self, records: list[JobRecord], *, quietly: bool) -> None:
        await self._fleet.end([r for r in records if not r.workers])
        leaving = [r for r in records if r.workers]
        try:
            leaving = await self._emptied(leaving, quietly=quietly)
        except Exception:
            logger.warning(
                "Moving results off %s went wrong. They are computed again where they are needed.",
                ", ".join(map(str, leaving)),
                exc_info=True,
            )
        finally:
            await self._fleet.end(leaving, grace=10)

    async def _emptied(self, records: list[JobRecord], *, quietly: bool) -> list[JobRecord]:
        """Move results away, and close the workers of the jobs that then hold none; return these.

        Nobody is closed before: a job whose last worker has to stay would be left with that one.
        """
        there = self._scheduler.workers
        before = {a: there[a].status for r in records for a in r.workers if a in there}
        movable = await self._retire(list(before), close_workers=False, remove=False)
        stay = self._that_stay(records, before, movable)
        addresses = [a for r in records if r not in stay for a in r.workers if a in before]
        # What was finished meanwhile is moved as well.
        gone = await self._retire(addresses, close_workers=True, remove=True)
        stay += self._that_stay([r for r in records if r not in stay], before, gone)
        for record in stay:
            self._stays(record, before, quietly=quietly)
        return [record for record in records if record not in stay]

    async def _retire(self, addresses: list[str], **how: bool) -> Collection[str]:
        # By address: upstream's SpecCluster hands over names, which the scheduler takes for
        # addresses of workers that left already, and their results are computed again.
        return await self._scheduler.retire_workers(workers=addresses, **how) if addresses else ()

    def _that_stay(
        self, records: list[JobRecord], asked: Collection[str], retired: Collection[str]
    ) -> list[JobRecord]:
        kept = {a for a in asked if a not in retired and a in self._scheduler.workers}
        return [record for record in records if not kept.isdisjoint(record.workers)]

    def _stays(self, record: JobRecord, before: Mapping[str, Status], *, quietly: bool) -> None:
        """Have all workers of a job go on as before."""
        for address in record.workers:
            if address in before and address in self._scheduler.workers:
                self._scheduler.worker_send(
                    address,
                    {
                        "op": "worker-status-change",
                        "status": before[address].name,
                        "stimulus_id": f"dask-site-stays-{time()}",
                    },
                )
        whole = len(record.workers) >= record.processes
        record.enter(RUNNING if whole else STARTING)
        self._kept(record)
        if not quietly:
            logger.warning(
                "Kept %s: it holds results that no other worker can take. Ask for room "
                "first, or free the results.",
                record,
            )

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
