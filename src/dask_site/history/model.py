"""All that is known of one cluster: its scheduler's records and its jobs' accounting."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dask_site.history.records import (
    ClusterRecord,
    EndRecord,
    ErrorRecord,
    JobRecord,
    Record,
    ScriptRecord,
    SpanRecord,
    TrafficRecord,
    UsageRecord,
    WorkerRecord,
)

_T = TypeVar("_T", bound=Record)


@dataclass(frozen=True)
class AccountedJob:
    """A row of the resource manager's accounting: one run of one job.

    Attributes
    ----------
    id : str
        The manager's, as submitting gave it; of an element of an array ``1234_5``.
    raw : str
        Its own number where that differs, which its workers report: of an element of an array.
    submit, eligible, start, end : float or None
        Seconds since 1970 by the manager's clock; None for what has not happened yet.
    state, reason, exit_code : str
        In the manager's words: ``COMPLETED``, ``TIMEOUT``; ``Priority``; ``0:0``.
    nodes : str
        As the manager lists them.
    cores, gpus, memory : int
        Allocated; memory in bytes. 0 for a job that never started.
    cpu_seconds : float or None
        Used, of all its processes, user and system.
    max_rss : int or None
        Bytes: the most that one of its steps used on a node.
    energy : float or None
        J, where it is measured.
    billing : float or None
        Billing units held while it ran (Slurm: ``billing`` of AllocTRES).
    pool : str or None
        Where the job's name says it; else that of the cluster's job record counts.
    asked : float
        When the manager said it, in seconds since 1970.
    """

    id: str
    raw: str = ""
    user: str = ""
    account: str = ""
    submit: float | None = None
    eligible: float | None = None
    start: float | None = None
    end: float | None = None
    state: str = ""
    reason: str = ""
    exit_code: str = ""
    nodes: str = ""
    cores: int = 0
    gpus: int = 0
    memory: int = 0
    cpu_seconds: float | None = None
    max_rss: int | None = None
    energy: float | None = None
    billing: float | None = None
    pool: str | None = None
    asked: float = 0.0

    @property
    def run(self) -> str:
        """What tells it from other runs: a job that is queued again is submitted again."""
        return self.id if self.submit is None else f"{self.id}@{self.submit:.0f}"


@dataclass(frozen=True)
class ClusterHistory:
    """One cluster, as of the moment when it was last heard of.

    Attributes
    ----------
    owner : str
        The user to whom its records belong, whatever they say.
    workers, spans, jobs : list
        The latest record of each, in the order in which they began.
    errors : list of ErrorRecord
        The latest of each, most frequent first.
    scripts : list of ScriptRecord
        What the jobs were submitted with.
    usage : list of UsageRecord
        The latest of each pool.
    samples : list of UsageRecord
        All of them, in time order.
    end : EndRecord or None
        None while it runs, or fell silent.
    seen : float
        When it was last heard of, in seconds since 1970 by the clock of the scheduler's host. The
        end record doesn't count where there are others: whoever found the cluster silent may have
        written it, much later.
    accounting : list of AccountedJob
        Of its jobs, as far as the manager's accounting was asked.
    elsewhere : list of (float, float)
        From when to when the job in which its scheduler runs counts for other clusters.
    """

    cluster: ClusterRecord
    owner: str
    workers: list[WorkerRecord] = field(default_factory=list)
    spans: list[SpanRecord] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    usage: list[UsageRecord] = field(default_factory=list)
    samples: list[UsageRecord] = field(default_factory=list)
    traffic: TrafficRecord | None = None
    errors: list[ErrorRecord] = field(default_factory=list)
    end: EndRecord | None = None
    seen: float = 0.0
    accounting: list[AccountedJob] = field(default_factory=list)
    scripts: list[ScriptRecord] = field(default_factory=list)
    elsewhere: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def from_records(
        cls, owner: str, records: Iterable[Record], accounting: Sequence[AccountedJob] = ()
    ) -> ClusterHistory:
        """Fold the records of one cluster into its history.

        Parameters
        ----------
        owner : str
            Who wrote them: the owner of the spool file.
        records : iterable of Record
            In any order, with duplicates and gaps; of each thing the highest `q` counts. Without
            a cluster record the cluster counts as a scheduler that began with its first record.
        accounting : sequence of AccountedJob
            Rows of its jobs.

        Raises
        ------
        ValueError
            If there are no records, or they are of several clusters.
        """
        unique = {(record.c, record.q, _key(record)): record for record in records}
        ordered = sorted(unique.values(), key=lambda r: r.q)
        names = sorted({record.c for record in ordered})
        if len(names) != 1:
            found = ", ".join(names[:3]) if names else "none"
            raise ValueError(
                f"the history of one cluster is made of the records of one cluster; these are of "
                f"{len(names)} ({found}): group them by `c` first"
            )
        latest = {_key(record): record for record in ordered}
        found_samples = [r for r in ordered if isinstance(r, UsageRecord)]
        clusters = _of(ClusterRecord, latest.values())
        traffic = _of(TrafficRecord, latest.values())
        ends = _of(EndRecord, latest.values())
        return cls(
            cluster=clusters[-1] if clusters else _unknown(names[0], ordered),
            owner=owner,
            workers=sorted(_of(WorkerRecord, latest.values()), key=lambda r: (r.started, r.name)),
            spans=sorted(_of(SpanRecord, latest.values()), key=lambda r: (r.enqueued, r.id)),
            jobs=sorted(_of(JobRecord, latest.values()), key=lambda r: (r.submitted, r.name)),
            usage=sorted(_of(UsageRecord, latest.values()), key=lambda r: r.pool or ""),
            samples=sorted(found_samples, key=lambda r: (r.t, r.q)),
            traffic=traffic[-1] if traffic else None,
            errors=sorted(_of(ErrorRecord, latest.values()), key=lambda r: (-r.count, r.prefix)),
            end=ends[-1] if ends else None,
            seen=max(r.t for r in ordered if not isinstance(r, EndRecord) or len(ordered) == 1),
            accounting=list(accounting),
            scripts=sorted(_of(ScriptRecord, latest.values()), key=lambda r: r.id),
        )


def _key(record: Record) -> Hashable:
    """Return what the record is about; later ones about the same stand for earlier ones."""
    match record:
        case WorkerRecord() | SpanRecord() | ScriptRecord():
            return record.k, record.id
        case JobRecord():
            return record.k, record.name
        case UsageRecord():
            return record.k, record.pool
        case ErrorRecord():
            return record.k, record.prefix, record.exception, record.span
    return type(record)


def _of(kind: type[_T], records: Iterable[Record]) -> list[_T]:
    return [record for record in records if isinstance(record, kind)]


def _unknown(name: str, records: Sequence[Record]) -> ClusterRecord:
    first = records[0]
    started = min(record.t for record in records)
    return ClusterRecord(v=1, k="cluster", c=name, q=0, t=first.t, started=started)
