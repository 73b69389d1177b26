"""How long the jobs of a cluster were in the queue."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from dask_site.history.allocations import ids, unique
from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.records import JobRecord


@dataclass(frozen=True)
class Wait:
    """How long a job was in the queue: until it started, ended without, or was last heard of."""

    job: str
    name: str
    pool: str | None
    submitted: float
    until: float
    started: bool
    reason: str = ""

    @property
    def seconds(self) -> float:
        """How long."""
        return max(0.0, self.until - self.submitted)


def waits(history: ClusterHistory) -> list[Wait]:
    """Return how long each job waited, those that never started included, by submission.

    A job that was queued again waited as often as it was queued.
    """
    rows: dict[str, list[AccountedJob]] = defaultdict(list)
    for row in sorted(unique(history.accounting), key=lambda row: row.submit or 0.0):
        for name in ids(row):
            rows[name].append(row)
    known = {record.id for record in history.jobs} | {history.cluster.job}
    found = []
    for record in history.jobs:
        runs = rows.get(record.id or "", [])
        first, again = (runs[0], runs[1:]) if runs else (None, [])
        found.append(_wait_of(record, first, history.seen))
        found += [
            _accounted(row, row.submit, history.seen, record)
            for row in again
            if row.submit is not None
        ]
    found += [
        _accounted(row, row.submit, history.seen)
        for row in unique(history.accounting)
        if row.submit is not None and known.isdisjoint(ids(row))
    ]
    return sorted(found, key=lambda w: (w.submitted, w.name))


def _accounted(
    row: AccountedJob, submitted: float, seen: float, record: JobRecord | None = None
) -> Wait:
    until = next((t for t in (row.start, row.end) if t is not None), seen)
    name, pool = (record.name, record.pool) if record is not None else ("", row.pool)
    return Wait(row.id, name, pool, submitted, until, row.start is not None, row.reason)


def _wait_of(record: JobRecord, row: AccountedJob | None, seen: float) -> Wait:
    submitted, start, end, reason = record.submitted, record.started, record.ended, record.reason
    if row is not None:
        submitted = submitted if row.submit is None else row.submit
        # Of one that has ended without a start, the manager knows that it never began.
        start = row.start if row.start is not None or row.end is not None else start
        end = end if row.end is None else row.end
        reason = row.reason or reason
    until = next((t for t in (start, end) if t is not None), seen)
    name = record.id or ""
    return Wait(name, record.name, record.pool, submitted, until, start is not None, reason)
