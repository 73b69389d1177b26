"""What the queue says becomes the state of a job, and is told to whom it concerns."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from dask_site.cluster import output, queue
from dask_site.cluster.hints import pending_hint, start_hint
from dask_site.cluster.queue import UNKNOWN, QueueEntry
from dask_site.cluster.records import (
    CLOSING,
    ENDED,
    FAILED,
    PENDING,
    RUNNING,
    STARTING,
    JobRecord,
    sentence,
)

logger = logging.getLogger("dask_site")

# Of jobs that share their lot, so many are told of one by one.
_SHOWN = 3
#: Why a job is there but does nothing.
SUSPENDED = "suspended by the resource manager"
_LATE = "runs without a worker"
# Slurm's words for a job whose processes have ended, or are being killed: it may stay like that for
# as long as its node or its burst buffer hangs.
_OVER = frozenset({"COMPLETING", "STAGE_OUT"})
# How jobs end through no fault of what they run: their output has nothing to tell.
_NOT_OURS = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "CANCELLED"})
# Of these, what says nothing of how the next job would fare.
_BAD_LUCK = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})
# Seconds after its first worker joined in which a job that ends has hardly been in use.
_SOON = 60.0


class Course:
    """Takes the jobs of a cluster through their states.

    Parameters
    ----------
    scheduler_address : str
        Where workers connect to; for advice.
    output_of : callable
        Returns what a job printed.
    ended : callable
        Told of each job that left its node: record, verdict, reason.
    orphans : callable
        Told of addresses that are still registered though they are of no job that runs.
    """

    def __init__(
        self,
        scheduler_address: str,
        output_of: Callable[[JobRecord], str],
        ended: Callable[[JobRecord, str, str], None],
        orphans: Callable[[list[str]], None],
    ) -> None:
        #: Jobs of a pool that failed without ever joining since the last that joined, and those
        #: that joined but ended at once since the last that computed something.
        self.failures: Counter[str] = Counter()
        self.early_ends: Counter[str] = Counter()
        self._scheduler_address = scheduler_address
        self._output = output_of
        self._tell = ended
        self._orphans = orphans
        self._shown: Counter[str] = Counter()

    def begin(self) -> None:
        """Note that an answer of the queue comes, in which many jobs may share their lot."""
        self._shown.clear()

    def apply(self, record: JobRecord, entry: QueueEntry, asked: datetime) -> None:
        """Take over what the queue said of a job when it was asked.

        Parameters
        ----------
        record : JobRecord
            A job that is live, or closing.
        entry : QueueEntry
            What the queue said.
        asked : datetime
            When it was asked, UTC.
        """
        record.node = entry.node or record.node
        record.over = entry.verdict in _OVER
        if entry.phase == queue.ENDED:
            self._ended(record, entry)
        elif record.state == CLOSING:
            return
        elif entry.phase == queue.PENDING:
            self._waits(record, entry, asked)
        else:
            self._runs(record, entry)

    def _waits(self, record: JobRecord, entry: QueueEntry, asked: datetime) -> None:
        if record.state in {STARTING, RUNNING}:
            if record.since >= asked:
                return  # it began while the manager was still answering
            if 0 < entry.restarts <= record.restarts:
                # Not queued again once more: workers of its last run, from a node that was cut off
                # and is back.
                record.withdraw()
                self._orphans(list(record.workers))
            else:
                self._queued_again(record, entry)
        record.restarts = max(record.restarts, entry.restarts)
        record.expected_start = entry.expected
        record.enter(PENDING, entry.reason)
        hint = pending_hint(entry.reason)
        if hint and record.warned != hint:
            record.warned = hint
            self._show(
                record, "Waiting: %s can't start: %s. %s", record, entry.reason, hint, kind=hint
            )

    def _runs(self, record: JobRecord, entry: QueueEntry) -> None:
        if record.started is not None and entry.restarts > record.restarts:
            self._queued_again(record, entry)
            record.enter(PENDING)
        record.restarts = max(record.restarts, entry.restarts)
        if entry.started is not None:
            record.starts(entry.started, entry.ends)
        if record.state == PENDING:
            record.enter(RUNNING if len(record.workers) >= record.processes else STARTING)
        if entry.verdict != "RUNNING" or record.reason == SUSPENDED:
            record.reason = SUSPENDED if entry.verdict in {"SUSPENDED", "STOPPED"} else ""

    def _queued_again(self, record: JobRecord, entry: QueueEntry) -> None:
        """Note that the manager took a job off its node; it starts again, or has already."""
        self._show(
            record,
            "%s was taken off its node, and the resource manager queued it again%s. "
            "What its workers held is computed again where it is needed.",
            sentence(str(record)),
            f" ({entry.reason})" if entry.reason else "",
            kind="queued again",
        )
        record.queued_again()
        began = entry.started
        gone = [a for a in record.workers if began is None or record.joins[a] < began]
        stay = [record.joins[a] for a in record.workers if a not in gone]
        record.joined_at = min(stay, default=None)
        self._gone(record, "REQUEUED", entry.reason, gone)

    def _ended(self, record: JobRecord, entry: QueueEntry) -> None:
        how = f"{entry.verdict}{f' ({entry.reason})' if entry.reason else ''}"
        if entry.started is not None and entry.node:
            record.starts(entry.started)
        # In the second case its workers closed because the user or Dask asked them to.
        if record.state == CLOSING:
            if entry.verdict == UNKNOWN and record.started is None:
                # Slurm keeps no entry of elements of an array that never began.
                entry = replace(entry, verdict="CANCELLED", reason="")
            record.enter(ENDED, entry.verdict)
        elif record.joined and not record.workers and entry.verdict == "COMPLETED":
            record.enter(ENDED, how)
        else:
            record.finished = entry.ends or record.finished
            self._failed(record, entry.verdict, how)
        record.finished = entry.ends or record.finished
        self._gone(record, entry.verdict, entry.reason, list(record.workers))

    def _failed(self, record: JobRecord, verdict: str, how: str) -> None:
        when = "while it was in use" if record.joined else "before its worker joined"
        early = record.joined and self._is_early(record, verdict)
        if early:
            self.early_ends[record.pool] += 1
            record.counts = True
            hint = "It had computed nothing. If the next ones end alike, the pool is paused."
        elif record.joined:
            hint = "What its workers held is computed again where it is needed."
        elif verdict in _BAD_LUCK:
            hint = "Another one is asked for if there is work for it."
        else:
            self.failures[record.pool] += 1
            record.counts = True
            hint = "The next job of the pool would end alike: mend what its output tells first."
        said = ""
        if verdict not in _NOT_OURS and self._shown[record.pool] < _SHOWN:
            text = self._output(record)
            said = (
                f" Its output ends with:\n{output.tail(text)}" if text else " It printed nothing."
            )
            if not record.joined:
                hint = start_hint(text, self._scheduler_address)
        record.enter(FAILED, f"ended {when}: {how}.{said}")
        record.advice = hint
        words = (sentence(str(record)), record.reason, hint)
        self._show(record, "%s %s\n%s", *words, kind=record.pool)

    def late(self, record: JobRecord, seconds: float, more: float) -> None:
        """Tell, once, of a job that has run for some seconds without any worker.

        Parameters
        ----------
        record : JobRecord
        seconds : float
            How long it has been so.
        more : float
            Seconds after which it is given up.
        """
        if record.warned == _LATE:
            return
        record.warned = record.reason = _LATE
        self._show(
            record,
            "%s has run for %.0f s without a worker, so another one is asked for if there is work "
            "for it. A prologue or a file system may hang on its node. It is cancelled if no "
            "worker joins in %.0f s more.",
            *(sentence(str(record)), seconds, more),
            kind=f"{record.pool} {_LATE}",
        )

    @staticmethod
    def _is_early(record: JobRecord, verdict: str) -> bool:
        """Say whether a job whose workers had joined ended at once, by itself."""
        if record.computed or record.joined_at is None:
            return False
        if verdict in _NOT_OURS | {"OUT_OF_MEMORY"}:  # a task's doing, which moves on
            return False
        end = record.finished or datetime.now(UTC)
        return (end - record.joined_at).total_seconds() < _SOON

    def _gone(self, record: JobRecord, verdict: str, reason: str, workers: list[str]) -> None:
        if record.state in {ENDED, FAILED}:
            record.verdict = verdict
        self._tell(record, verdict, reason)
        if workers:
            self._orphans(workers)

    def _show(self, record: JobRecord, message: str, *words: object, kind: str) -> None:
        """Warn of a job, but not of every one of many that share its lot."""
        self._shown[kind] += 1
        if self._shown[kind] <= _SHOWN:
            logger.warning(message, *words)
        elif self._shown[kind] == _SHOWN + 1:
            logger.warning(
                "More jobs of pool %r have the same trouble: cluster.jobs lists them.", record.pool
            )
