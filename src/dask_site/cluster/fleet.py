"""The jobs of a cluster: submitted, watched in the queue, matched with workers, ended."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dask_site.cluster import output
from dask_site.cluster.course import SUSPENDED, Course
from dask_site.cluster.errors import ClusterError
from dask_site.cluster.inquiry import Inquiry
from dask_site.cluster.pace import Pace
from dask_site.cluster.queue import ENDED as QUEUE_ENDED
from dask_site.cluster.queue import UNKNOWN, Queue, QueueEntry
from dask_site.cluster.records import (
    CLOSING,
    ENDED,
    FAILED,
    LIVE,
    PENDING,
    RUNNING,
    STARTING,
    SUBMITTING,
    JobRecord,
    sentence,
)
from dask_site.cluster.submission import Refusal, submit

if TYPE_CHECKING:
    from dask_site.cluster.folder import ClusterFolder
    from dask_site.cluster.jobs import JobFactory
    from dask_site.cluster.reaper import Reaper
    from dask_site.site import Pool

logger = logging.getLogger("dask_site")

_OVER = frozenset({ENDED, FAILED})
_SUBMISSIONS_AT_ONCE = 8
# Slurm numbers elements from 0 to 1000 by default (MaxArraySize 1001).
_ARRAY_MOST = 1000
# Seconds that jobs get to end by themselves once their workers are closed, and in all.
_CLOSING_GRACE, _CLOSING_PATIENCE = 12, 25
# With no more jobs than this it asks sooner than otherwise while it closes: somebody waits for it.
_FEW = 20
# Seconds without any worker after which a job counts as ended where the manager can't be asked: a
# worker that is started anew takes less.
_DESERTED = 60
# Where it can be asked: seconds that a job may run without any worker before another one may come
# in its place, or so many times as long as the longest start took; and after how many times that
# it is given up.
_LATE, _LATE_STARTS, _GIVEN_UP = 300.0, 3, 4


class Fleet:
    """All jobs of one cluster, past ones included.

    Parameters
    ----------
    factory : JobFactory
        Makes the dask-jobqueue jobs.
    queue : Queue
        Answers for the resource manager.
    folder : ClusterFolder
        Where jobs print to.
    reaper : Reaper
        Ends the jobs if this process is gone.
    job_names : list of str
        The names under which the resource manager shows this cluster's jobs.
    pace : Pace, optional
        When the resource manager may be asked; by default what the queue stands.
    """

    def __init__(
        self,
        factory: JobFactory,
        queue: Queue,
        folder: ClusterFolder,
        reaper: Reaper,
        job_names: list[str],
        pace: Pace | None = None,
    ) -> None:
        self.records: list[JobRecord] = []
        self.on_change: Callable[[], None] = lambda: None
        #: Told of a job that ended or was queued again: record, verdict, reason.
        self.on_ended: Callable[[JobRecord, str, str], None] = lambda *_: None
        #: Told, after `on_ended`, of addresses whose job is gone but that are still registered.
        self.on_orphans: Callable[[list[str]], None] = lambda _: None
        self._factory = factory
        self._queue = queue
        self._folder = folder
        self._reaper = reaper
        self._pace = pace or Pace(queue.interval)
        self._inquiry = Inquiry(queue, job_names, self._pace)
        self._present: dict[str, list[JobRecord]] = {}
        self._by_name: dict[str, JobRecord] = {}
        self._by_worker: dict[str, JobRecord] = {}
        self._numbers: Counter[str] = Counter()
        self._course = Course(
            factory.scheduler_address,
            self.output,
            self._tell_ended,
            self._tell_orphans,
        )
        self._elements: dict[str, set[str]] = {}
        # The most elements of an array that the resource manager may take: less than it refused.
        self._array_most = _ARRAY_MOST
        self._slots = asyncio.Semaphore(_SUBMISSIONS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._uncancelled: dict[str, JobRecord] = {}
        # Seconds from the begin of a job until its first worker joined, by pool.
        self._longest_start: dict[str, float] = {}
        self._strange: set[str] = set()
        self._doubts_until = 0
        self._asking = asyncio.Lock()
        self._stopping = False
        self._watcher = asyncio.create_task(self._watch())

    def of(self, pool: str) -> list[JobRecord]:
        """Return the live jobs of a pool, but for those that are `late`."""
        late = {r.name for r in self.late(pool)}
        return [r for r in self._not_over(pool) if r.live and r.name not in late]

    def late(self, pool: str) -> list[JobRecord]:
        """Return the live jobs of a pool whose workers nobody should count on.

        Those that are over, and those that have run for long without any worker. Of the latter no
        more than have their workers, but for one: where no job starts, more of them are no help.
        """
        empty = [r for r in self._not_over(pool) if r.state == STARTING and not r.workers]
        if not empty or not self._queue.can_look:
            return []
        late = [r for r in empty if not r.over and self._waited(r) > self._patience_with(pool)]
        well = sum(1 for r in self._not_over(pool) if r.live and r.workers)
        return [r for r in empty if r.over] + late[: max(1, well)]

    @staticmethod
    def _waited(record: JobRecord) -> float:
        return (datetime.now(UTC) - record.since).total_seconds()

    def _patience_with(self, pool: str) -> float:
        return max(_LATE, _LATE_STARTS * self._longest_start.get(pool, 0.0))

    def _not_over(self, pool: str) -> list[JobRecord]:
        """Return the jobs of a pool that have not ended; those that have are passed over for good.

        Asked every second, this must not take longer the more jobs there have been.
        """
        kept = [r for r in self._present.get(pool, ()) if r.state not in _OVER]
        self._present[pool] = kept
        return kept

    def failures_in_a_row(self, pool: str) -> int:
        """Return how many jobs of a pool failed in a row.

        Without ever joining, since the last that joined; or soon after they had joined, since the
        last that computed something. Submissions that were refused count as well.
        """
        return self._course.failures[pool] + self._course.early_ends[pool]

    def job_of(self, address: str) -> JobRecord | None:
        """Return the job that brought a worker, also one that has left."""
        return self._by_worker.get(address)

    # -- submitting ------------------------------------------------------------------------

    def submit(self, pool: Pool, count: int) -> None:
        """Ask for `count` more jobs of a pool, as far as it may have them; returns at once."""
        if pool.max_jobs is not None and self.late(pool.name):
            there = sum(r.live for r in self._not_over(pool.name))
            count = max(0, min(count, pool.max_jobs - there))
        first = self._numbers[pool.name]
        self._numbers[pool.name] += count
        records = [
            JobRecord(f"{pool.name}-{n}", pool.name, pool.processes, walltime=pool.walltime)
            for n in range(first, first + count)
        ]
        self.records += records
        self._present.setdefault(pool.name, []).extend(records)
        self._by_name.update({record.name: record for record in records})
        together = self._array_most if pool.submit == "array" else 1
        refused: list[Refusal] = []
        for n in range(0, count, together):
            self._spawn(self._submit(pool, records[n : n + together], refused))

    async def _submit(self, pool: Pool, asked: list[JobRecord], refused: list[Refusal]) -> None:
        """Submit jobs as one array, or the only one; what `refused` its likes refuses it too."""
        async with self._slots:
            records = [r for r in asked if r.state == SUBMITTING]
            for record in asked:
                if record.state == CLOSING and not record.job_id:
                    record.enter(ENDED, "called off")
            if not records:
                return
            numbers = [int(record.name.rpartition("-")[2]) for record in records]
            spanned = numbers[-1] - numbers[0] + 1
            # Others may have found out meanwhile that it takes only smaller ones.
            fits = len(records) == 1 or spanned <= self._array_most
            if fits:
                answer = refused[0] if refused else await submit(self._factory, pool, numbers)
        if not fits:
            await self._submit_in_parts(pool, records, refused)
        elif isinstance(answer, str):
            self._submitted(answer, numbers, records)
            await self._cancel([r for r in records if r.state == CLOSING])
            self._changed()
        elif len(records) > 1 and answer.of_array:
            self._take_smaller(pool, spanned)
            await self._submit_in_parts(pool, records, refused)
        else:
            self._refuse(records, answer, known=bool(refused))
            refused.append(answer)

    def _take_smaller(self, pool: Pool, refused: int) -> None:
        """Note that the resource manager refuses arrays of so many elements."""
        self._array_most = min(self._array_most, refused // 2)
        if self._array_most == 1:
            logger.warning(
                "The resource manager takes no arrays, so the jobs of pool %r are submitted one "
                "by one: leave `submit: array` out of the site file.",
                pool.name,
            )

    async def _submit_in_parts(
        self, pool: Pool, records: list[JobRecord], refused: list[Refusal]
    ) -> None:
        """Submit jobs as arrays of the size that may be taken: one, and if it is, the others."""
        first, *_ = self._parts(records)
        await self._submit(pool, first, refused)
        others = self._parts(records[len(first) :])
        await asyncio.gather(*(self._submit(pool, part, refused) for part in others))

    def _parts(self, records: list[JobRecord]) -> list[list[JobRecord]]:
        parts: list[list[JobRecord]] = []
        end = -1
        for record in records:
            number = int(record.name.rpartition("-")[2])
            if number >= end:
                end = number + self._array_most
                parts.append([])
            parts[-1].append(record)
        return parts

    def _submitted(self, job_id: str, numbers: list[int], records: list[JobRecord]) -> None:
        self._reaper.watch(job_id)
        now = datetime.now(UTC)
        for number, record in zip(numbers, records, strict=True):
            record.job_id = job_id if len(records) == 1 else f"{job_id}_{number - numbers[0]}"
            record.submitted = now
            if record.state == SUBMITTING:
                record.enter(PENDING)
        if len(records) > 1:
            self._elements[job_id] = {record.job_id for record in records}

    def _refuse(self, records: list[JobRecord], refusal: Refusal, known: bool) -> None:
        for record in records:
            record.enter(FAILED, refusal.what)
            record.advice = refusal.advice
            record.counts = True
        # It may have been taken nevertheless: look, twice, whether there is a job that we don't
        # know of.
        self._doubts_until = self._inquiry.answers + 2
        if not known:
            self._course.failures[records[0].pool] += 1
            logger.warning("%s %s\n%s", _sentence_of(records), refusal.what, refusal.advice)
        self._changed()

    # -- their workers ---------------------------------------------------------------------

    def worker_joined(self, name: str, address: str, host: str) -> JobRecord | None:
        """Match a worker to its job; None if it is not one of ours.

        Parameters
        ----------
        name, address : str
            Of the worker.
        host : str
            The name of its node, else its address.
        """
        record = self._by_name.get(name) or self._by_name.get(name.rpartition("-")[0])
        if record is None:
            return None
        now = datetime.now(UTC)
        record.workers[address] = name
        if record.joined_at is None:
            record.joined_at = now
            took = (now - (record.started or now)).total_seconds()
            self._longest_start[record.pool] = max(self._longest_start.get(record.pool, 0.0), took)
        self._course.failures[record.pool] = 0
        self._by_worker[address] = record
        record.joins[address] = now
        if not self._queue.can_look or _is_name(host):
            record.node = host
        if record.live:
            record.enter(RUNNING if len(record.workers) >= record.processes else STARTING)
        self._changed()
        return record

    def computed(self, record: JobRecord) -> None:
        """Note that a job has computed its first task: such jobs work."""
        record.computed = True
        self._course.early_ends[record.pool] = 0

    def worker_left(self, address: str) -> None:
        """Note that a worker is gone; the queue tells why."""
        record = self._by_worker.get(address)
        if record is None or record.workers.pop(address, None) is None:
            return
        if record.state == RUNNING:
            record.enter(STARTING, "a worker left")
        self._changed()

    # -- ending ----------------------------------------------------------------------------

    async def end(self, records: Iterable[JobRecord], grace: float = 0.0) -> None:
        """End jobs: those whose workers were told to close get `grace` seconds to do so.

        What can't be cancelled now stays "closing", and is tried again until it has ended.
        """
        ending = [r for r in records if r.live or r.state == CLOSING]
        for record in ending:
            record.enter(CLOSING)
        self._changed()
        if grace and self._queue.can_look:
            # Until the next answer at least, which spares most jobs the cancelling.
            grace = max(grace, self._queue.interval + 5)
            await _until(lambda: not any(r.state == CLOSING for r in ending), grace)
        await self._cancel([r for r in ending if r.state == CLOSING])

    async def stop(self) -> bool:
        """End every job and stop watching; say whether the resource manager has let go of all."""
        self._stopping = True
        self._watcher.cancel()
        self._doubts_until = min(self._doubts_until, self._inquiry.answers + 1)
        ending = [r for r in self.records if r.live or r.state == CLOSING]
        for record in ending:
            record.enter(CLOSING)
        self.on_change()
        graceful = self._queue.can_look
        await self._cancel([r for r in ending if not (r.joined and graceful)])
        # A submission that was under way when it was called off cancels its job itself.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)
        if graceful:
            await self._see_off([r for r in ending if r.joined])
        return not any(r.state in LIVE | {CLOSING} for r in self.records)

    async def _see_off(self, leaving: list[JobRecord]) -> None:
        """Wait until the manager has let go of the jobs; cancel those that don't leave."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        few = len(self._unfinished()) <= _FEW
        pause = min(1.0, self._queue.interval / 2)
        while self._something_there() and clock() - begun < _CLOSING_PATIENCE:
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._queue.interval)
            await self._ask(at_once=few)
            if leaving and clock() - begun >= _CLOSING_GRACE:
                await self._cancel([r for r in leaving if r.state == CLOSING])
                leaving = []
            await self._cancel_again()

    def _something_there(self) -> bool:
        return bool(self._strange or self._doubtful or self._unfinished())

    def output(self, record: JobRecord) -> str:
        """Return what a job printed so far, standard output first."""
        return output.read(self._folder.logs, record.job_id)

    async def _cancel(self, records: list[JobRecord]) -> None:
        submitted = [r for r in records if r.job_id]
        if not submitted:
            return
        try:
            await self._queue.cancel([r.job_id for r in submitted])
        except ClusterError as error:
            if not self._uncancelled:
                numbers = ", ".join(r.job_id for r in submitted)
                logger.warning("Could not cancel jobs %s, trying on: %s", numbers, error)
            self._uncancelled.update({r.name: r for r in submitted})
            return
        for record in submitted:
            self._uncancelled.pop(record.name, None)
            if not self._queue.can_look:
                record.enter(ENDED, "cancelled")
                self._forget(record)

    async def _cancel_again(self) -> None:
        await self._cancel([r for r in self._uncancelled.values() if r.state == CLOSING])

    def _forget(self, record: JobRecord) -> None:
        """Have the reaper forget a job; an array once all its elements have ended."""
        array, _, element = record.job_id.partition("_")
        left = self._elements.get(array) if element else None
        if left is None:
            self._reaper.forget(record.job_id)
            return
        left.discard(record.job_id)
        if not left:
            del self._elements[array]
            self._reaper.forget(array)

    # -- watching --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), self._patience())
                self._wake.clear()
                continue
            except TimeoutError:
                pass
            try:
                await self.look()
                await self._give_up()
                await self._cancel_again()
            except Exception:
                logger.exception("Watching the queue went wrong; trying again")
                await asyncio.sleep(self._pace.interval)

    def _patience(self) -> float | None:
        """Return the seconds until there is something to do; None until something changes."""
        if not self._queue.can_look:
            return self._pace.interval if self._uncancelled or self._deserted() else None
        if not self._something_there():
            return None
        settled = all(r.state == RUNNING for r in self._unfinished())
        return self._pace.wait(urgent=bool(self._strange or self._doubtful or not settled))

    def _deserted(self) -> list[JobRecord]:
        return [r for r in self._unfinished() if r.state == STARTING and r.joined and not r.workers]

    async def _give_up(self) -> None:
        """End jobs whose workers did not come, or left and did not come back."""
        now = datetime.now(UTC)
        gone = self._hopeless() if self._queue.can_look else self._left_alone()
        if not gone:
            return
        for record in gone:
            how = "left and did not come back" if record.joined else "did not come"
            self._course.apply(record, QueueEntry(QUEUE_ENDED, UNKNOWN, f"its workers {how}"), now)
        # What could not be cancelled is found as a job that nobody knows.
        self._doubts_until = self._inquiry.answers + 2
        try:
            await self._queue.cancel([r.job_id for r in gone])
        except ClusterError as error:
            logger.debug("Could not cancel them, which is left to the reaper: %s", error)
            return
        for record in gone:
            self._forget(record)

    def _left_alone(self) -> list[JobRecord]:
        return [r for r in self._deserted() if self._waited(r) > _DESERTED]

    def _hopeless(self) -> list[JobRecord]:
        """Tell of the jobs that are late, and return those that are so for very long."""
        hopeless = []
        for pool in [*self._present]:
            patience = self._patience_with(pool)
            for record in self.late(pool):
                waited = self._waited(record)
                if record.over or record.reason == SUSPENDED:
                    continue
                if waited > _GIVEN_UP * patience:
                    hopeless.append(record)
                else:
                    self._course.late(record, waited, _GIVEN_UP * patience - waited)
        return hopeless

    @property
    def _doubtful(self) -> bool:
        return self._inquiry.answers < self._doubts_until

    def _unfinished(self) -> list[JobRecord]:
        return [r for pool in [*self._present] for r in self._not_over(pool) if r.job_id]

    async def look(self) -> None:
        """Take over what the resource manager says of all jobs, if it may be asked now."""
        if self._queue.can_look and self._something_there():
            await self._ask()

    async def _ask(self, at_once: bool = False) -> None:
        async with self._asking:
            if not (at_once or self._pace.open):
                return
            seen = {r.job_id: r for r in self._unfinished()}
            leaving = {job for job, record in seen.items() if record.state == CLOSING}
            submitting, answers = self._submitting, self._inquiry.answers
            begun = datetime.now(UTC)
            entries = await self._inquiry.ask(seen.keys(), leaving)
            self._course.begin()
            for job_id, entry in entries.items():
                record = seen.get(job_id)
                if record is not None and (record.live or record.state == CLOSING):
                    if entry.phase == QUEUE_ENDED:
                        self._forget(record)
                    self._course.apply(record, entry, begun)
            # While a submission is under way, its job is one that we can't know yet.
            heard = self._inquiry.answers > answers
            if heard and not submitting and not self._submitting:
                await self._cancel_strangers(entries)
        self.on_change()

    @property
    def _submitting(self) -> bool:
        return bool(self._tasks)

    async def _cancel_strangers(self, entries: dict[str, QueueEntry]) -> None:
        """Cancel jobs under our names that no record has, once they were seen twice."""
        mine = {record.job_id for record in self._unfinished()}
        there = {job for job, entry in entries.items() if entry.phase != QUEUE_ENDED} - mine
        strangers = there if self._stopping else there & self._strange
        self._strange = there
        if not strangers:
            return
        logger.warning(
            "Cancelling jobs that the resource manager has under this cluster's name, although it "
            "never confirmed them or had ended them: %s",
            ", ".join(sorted(strangers)),
        )
        try:
            await self._queue.cancel(sorted(strangers))
        except ClusterError as error:
            logger.debug("Could not cancel them, trying on: %s", error)

    # Whoever listens may have come later than the course was made.
    def _tell_ended(self, record: JobRecord, verdict: str, reason: str) -> None:
        self.on_ended(record, verdict, reason)

    def _tell_orphans(self, addresses: list[str]) -> None:
        self.on_orphans(addresses)

    def _changed(self) -> None:
        self._pace.changed()
        self._wake.set()
        self.on_change()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _sentence_of(records: list[JobRecord]) -> str:
    if len(records) == 1:
        return sentence(str(records[0]))
    return f"Pool {records[0].pool!r}, an array of {len(records)} jobs"


def _is_name(host: str) -> bool:
    """Say whether a host goes by a name, not by an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(host)
    return False


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait, at most some seconds, until a condition holds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not condition() and clock() < deadline:
        await asyncio.sleep(0.2)
