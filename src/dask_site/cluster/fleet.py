"""The jobs of a cluster: submitted, watched in the queue, matched with workers, ended."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.hints import pending_hint, start_hint, submission_hint
from dask_site.cluster.queue import ENDED as QUEUE_ENDED
from dask_site.cluster.queue import PENDING as QUEUE_PENDING
from dask_site.cluster.queue import Queue, QueueEntry
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

if TYPE_CHECKING:
    from dask_site.cluster.folder import ClusterFolder
    from dask_site.cluster.jobs import JobFactory
    from dask_site.cluster.reaper import Reaper
    from dask_site.site import Pool

logger = logging.getLogger("dask_site")

# Seconds between questions to the resource manager while jobs are on their way: quick after a
# change, so that a job that can't start is told at once, then seldom. With nothing on its way there
# are none: a worker that leaves wakes the watch.
_PACE = (0.5, 1.0, 1.0, 2.0, 3.0, 5.0, 10.0)
_SUBMISSIONS_AT_ONCE = 8


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
    """

    def __init__(
        self,
        factory: JobFactory,
        queue: Queue,
        folder: ClusterFolder,
        reaper: Reaper,
        job_names: list[str],
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
        self._job_names = job_names
        self._by_name: dict[str, JobRecord] = {}
        self._by_worker: dict[str, JobRecord] = {}
        self._slots = asyncio.Semaphore(_SUBMISSIONS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._uncancelled: dict[str, JobRecord] = {}
        self._looking = asyncio.Lock()
        self._deaf = False
        self._failures: Counter[str] = Counter()
        self._watcher = asyncio.create_task(self._watch())

    def of(self, pool: str) -> list[JobRecord]:
        """Return the live jobs of a pool."""
        return [r for r in self.records if r.pool == pool and r.live]

    def failures_in_a_row(self, pool: str) -> int:
        """Return how many jobs of a pool failed without ever joining since the last that joined.

        Submissions that were refused count as well.
        """
        return self._failures[pool]

    def job_of(self, address: str) -> JobRecord | None:
        """Return the job that brought a worker, also one that has left."""
        return self._by_worker.get(address)

    def submit(self, pool: Pool, count: int) -> None:
        """Ask for `count` more jobs of a pool; returns at once."""
        first = sum(r.pool == pool.name for r in self.records)
        for number in range(first, first + count):
            record = JobRecord(
                f"{pool.name}-{number}", pool.name, pool.processes, walltime=pool.walltime
            )
            self.records.append(record)
            self._by_name[record.name] = record
            self._spawn(self._submit(pool, record))

    async def _submit(self, pool: Pool, record: JobRecord) -> None:
        async with self._slots:
            if record.state != SUBMITTING:
                record.enter(ENDED, "called off")
                return
            try:
                job = self._factory.make(pool, record.name)
                await job.start()
            except ClusterError as error:
                self._fail(record, str(error), "")
                return
            except Exception as error:  # whatever it was, the job must not stay "submitting"
                words = _words_of(error)
                self._fail(record, f"was refused: {words}", submission_hint(words))
                return
        record.job_id = str(job.job_id)
        record.submitted = datetime.now(UTC)
        self._reaper.watch(record.job_id)
        if record.state == SUBMITTING:
            record.enter(PENDING)
        elif record.state == CLOSING:
            await self._cancel([record])
        self._changed()

    def worker_joined(self, name: str, address: str, host: str) -> JobRecord | None:
        """Match a worker to its job; None if it is not one of ours."""
        record = self._by_name.get(name) or self._by_name.get(name.rpartition("-")[0])
        if record is None:
            return None
        record.workers[address] = name
        record.joined_at = record.joined_at or datetime.now(UTC)
        self._failures[record.pool] = 0
        self._by_worker[address] = record
        if not self._queue.can_look:
            record.node = host
        if record.live:
            record.enter(RUNNING if len(record.workers) >= record.processes else STARTING)
        self._changed()
        return record

    def worker_left(self, address: str) -> None:
        """Note that a worker is gone; the queue tells why."""
        record = self._by_worker.get(address)
        if record is None or record.workers.pop(address, None) is None:
            return
        if record.state == RUNNING:
            record.enter(STARTING, "a worker left")
        self._changed()

    async def end(self, records: Iterable[JobRecord], grace: float = 0.0) -> None:
        """End jobs: those whose workers were told to close get `grace` seconds to do so.

        What can't be cancelled now stays "closing", and is tried again until it has ended.
        """
        ending = [r for r in records if r.live or r.state == CLOSING]
        for record in ending:
            record.enter(CLOSING)
        self._changed()
        if grace and self._queue.can_look:
            await self._wait_ended(ending, grace)
        await self._cancel([r for r in ending if r.state == CLOSING])

    async def stop(self) -> bool:
        """End every job and stop watching; say whether the resource manager has let go of all."""
        self._watcher.cancel()
        live = [r for r in self.records if r.live or r.state == CLOSING]
        await asyncio.gather(
            self.end([r for r in live if not r.joined]),
            self.end([r for r in live if r.joined], grace=5),
        )
        # A submission that was under way when it was called off cancels its job itself.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)
        if self._queue.can_look:
            await self._wait_ended(live, 15)
        return not any(r.state in LIVE | {CLOSING} for r in self.records)

    def output(self, record: JobRecord) -> str:
        """Return what a job printed so far, standard output first."""
        if not record.job_id:
            return ""
        # As a word of its own (job-12.out), or as SGE and PBS write it (job.o12).
        mine = re.compile(rf"(?:(?<![0-9a-z])|(?<=\.[oe])){re.escape(record.job_id)}(?![0-9a-z])")
        files = [path for path in self._folder.logs.iterdir() if mine.search(path.name)]
        return "".join(_read(path) for path in sorted(files, key=_errors_last))

    async def _wait_ended(self, records: list[JobRecord], seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while any(r.state == CLOSING and r.job_id for r in records):
            await self.look()
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.3)

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
                self._reaper.forget(record.job_id)

    async def _watch(self) -> None:
        step = 0
        while True:
            unsettled = any(r.state in {PENDING, STARTING, CLOSING} for r in self.records)
            pace = _PACE[min(step, len(_PACE) - 1)] if unsettled else None
            try:
                await asyncio.wait_for(self._wake.wait(), pace)
                self._wake.clear()
                step = 0
                await asyncio.sleep(_PACE[0])
            except TimeoutError:
                step += 1
            try:
                await self.look()
                await self._cancel([r for r in self._uncancelled.values() if r.state == CLOSING])
            except Exception:
                logger.exception("Watching the queue went wrong; trying again")

    async def look(self) -> None:
        """Ask the resource manager once for all live jobs and take over what it says."""
        async with self._looking:
            seen = {
                r.job_id: r for r in self.records if r.job_id and (r.live or r.state == CLOSING)
            }
            if not seen or not self._queue.can_look:
                return
            try:
                entries = await self._queue.look(list(seen), self._job_names)
            except ClusterError as error:
                if not self._deaf:
                    logger.warning(
                        "The resource manager does not answer; trying on. It said: %s", error
                    )
                self._deaf = True
                return
            self._deaf = False
            for job_id, entry in entries.items():
                if job_id in seen:
                    await self._apply(seen[job_id], entry)
        self.on_change()

    async def _apply(self, record: JobRecord, entry: QueueEntry) -> None:
        record.node = entry.node or record.node
        if not record.live and record.state != CLOSING:
            return
        if entry.phase == QUEUE_ENDED:
            await self._ended(record, entry)
        elif record.state == CLOSING:
            return
        elif entry.phase == QUEUE_PENDING:
            if record.state in {STARTING, RUNNING}:
                logger.warning(
                    "%s was taken off its node, and the resource manager queued it again (%s). "
                    "What its workers held is computed again where it is needed.",
                    sentence(str(record)),
                    entry.reason or entry.verdict,
                )
                record.queued_again()
                self._gone(record, "REQUEUED", entry.reason)
            record.enter(PENDING, entry.reason)
            hint = pending_hint(entry.reason)
            if hint and record.warned != hint:
                record.warned = hint
                logger.warning("Waiting: %s can't start: %s. %s", record, entry.reason, hint)
        elif record.state == PENDING:
            record.enter(STARTING)

    async def _ended(self, record: JobRecord, entry: QueueEntry) -> None:
        self._reaper.forget(record.job_id)
        if record.state == CLOSING:
            record.enter(ENDED, entry.verdict)
            self._gone(record, entry.verdict, entry.reason)
            return
        found = await self._queue.verdict(record.job_id)
        if found is None or found.phase != QUEUE_ENDED:
            found = entry  # the accounting is off, or behind
        how = f"{found.verdict}{f' ({found.reason})' if found.reason else ''}"
        if record.joined and not record.workers and found.verdict == "COMPLETED":
            # Its workers closed because the user or Dask asked them to.
            record.enter(ENDED, how)
            self._gone(record, found.verdict, found.reason)
            return
        output = self.output(record)
        when = "while it was in use" if record.joined else "before its worker joined"
        said = f" Its output ends with:\n{_tail(output)}" if output else " It printed nothing."
        if record.joined:
            hint = f"cluster.scale({record.pool}=...) asks for a new one."
        else:
            hint = start_hint(output, self._factory.scheduler_address)
        self._fail(record, f"ended {when}: {how}.{said}", hint)
        self._gone(record, found.verdict, found.reason)

    def _gone(self, record: JobRecord, verdict: str, reason: str) -> None:
        """Tell of a job that has left its node."""
        if record.state in {ENDED, FAILED}:
            record.verdict = verdict
        self.on_ended(record, verdict, reason)
        if record.workers:
            self.on_orphans(list(record.workers))

    def _fail(self, record: JobRecord, what: str, hint: str) -> None:
        record.enter(FAILED, what)
        record.advice = hint
        if not record.joined:
            self._failures[record.pool] += 1
        logger.warning("%s %s\n%s", sentence(str(record)), what, hint)
        self._changed()

    def _changed(self) -> None:
        self._wake.set()
        self.on_change()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _words_of(error: Exception) -> str:
    """Return the resource manager's own words out of dask-jobqueue's report of a failed command."""
    text = str(error)
    if "Command exited with non-zero exit code" not in text:
        return text
    spoken = re.search(r"stderr:\n(.*)", text, re.DOTALL)
    return (spoken.group(1).strip() if spoken else "") or text.strip()


def _errors_last(path: Path) -> tuple[bool, str]:
    return path.suffix == ".err", path.name


def _read(path: Path, limit: int = 1_000_000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _tail(text: str, lines: int = 12) -> str:
    kept = deque((line for line in text.splitlines() if line.strip()), lines)
    return "\n".join(f"    {line}" for line in kept)
