"""How long the jobs of a cluster were in the queue."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from dask_site.history.allocations import ids, unique
from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.records import JobRecord

# Slurm's reasons of what it may not start yet.
_HOLDS = {
    "BeginTime",
    "Dependency",
    "DependencyNeverSatisfied",
    "JobHeldAdmin",
    "JobHeldUser",
}


@dataclass(frozen=True)
class Wait:
    """How long a job was in the queue: until it started, ended without, or was last heard of.

    Attributes
    ----------
    eligible : float or None
        When the manager could have started it: what it waited for before, another job's end or a
        time that its user named, is no wait in the queue. None where nobody says.
    hold : bool
        Whether it could never have been started.
    row : AccountedJob or None
        What the accounting says of this run; None where that is behind what the cluster saw.
    """

    job: str
    name: str
    pool: str | None
    submitted: float
    until: float
    started: bool
    reason: str = ""
    eligible: float | None = None
    hold: bool = False
    row: AccountedJob | None = field(default=None, repr=False)

    @property
    def queued(self) -> float:
        """From when on it was in the queue, and could have been started."""
        latest = max(self.submitted, self.until)
        if self.hold:
            return latest
        return min(latest, max(self.submitted, self.eligible or 0.0))

    @property
    def seconds(self) -> float:
        """How long it was in the queue."""
        return max(0.0, self.until - self.queued)

    @property
    def held(self) -> float:
        """How long it could not have been started before."""
        return self.queued - self.submitted


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


def state_of(wait: Wait, record: JobRecord | None) -> str:
    """Return how a run of a job goes: by the accounting, unless the cluster saw its end since."""
    row = wait.row
    behind = row is not None and row.end is None and record is not None and record.ended is not None
    return (row.state if row and not behind else "") or (record.state if record else "")


def _accounted(
    row: AccountedJob, submitted: float, seen: float, record: JobRecord | None = None
) -> Wait:
    until = next((t for t in (row.start, row.end) if t is not None), seen)
    name, pool = (record.name, record.pool) if record is not None else ("", row.pool)
    return Wait(
        row.id,
        name,
        pool,
        submitted,
        until,
        row.start is not None,
        row.reason,
        row.eligible,
        _on_hold(row),
        row,
    )


def _on_hold(row: AccountedJob) -> bool:
    """Return whether a run could not have been started yet, or never."""
    # Of one that was cancelled, who did it has taken the place of what it waited for; Slurm's time
    # is that of the submission wherever nothing held it up.
    held_up = row.reason in _HOLDS or row.reason.startswith("cancelled by ")
    return row.eligible is None and row.start is None and held_up


def _wait_of(record: JobRecord, row: AccountedJob | None, seen: float) -> Wait:
    submitted, start, end, reason = record.submitted, record.started, record.ended, record.reason
    if row is not None:
        submitted = submitted if row.submit is None else row.submit
        # Of one that has ended without a start, the manager knows that it never began.
        start = row.start if row.start is not None or row.end is not None else start
        end = end if row.end is None else row.end
        reason = row.reason or reason
    until = next((t for t in (start, end) if t is not None), seen)
    behind = row is not None and row.start is None and start is not None
    return Wait(
        record.id or "",
        record.name,
        record.pool,
        submitted,
        until,
        start is not None,
        reason,
        None if row is None else row.eligible,
        row is not None and _on_hold(row),
        None if behind else row,
    )
