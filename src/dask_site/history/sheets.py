"""The history of a cluster as plain tables: for files, for JSON, for pandas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from dask_site.history.books import IN_TASKS

if TYPE_CHECKING:
    from dask_site.history.books import Books
    from dask_site.history.source import Found
    from dask_site.history.store.listing import ClusterSummary

Kind = Literal["text", "number", "whole", "flag", "moment", "seconds"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes
    ----------
    name : str
    columns : dict of str to str
        From each column to the kind of its values: ``text``; ``number``; ``whole``, a number
        without a fraction; ``flag``; ``moment``, in seconds since 1970; ``seconds``, a duration.
    rows : list of dict
        By column; None is unknown.
    """

    name: str
    columns: dict[str, Kind]
    rows: list[Row]

    @property
    def headings(self) -> list[str]:
        """Names of the columns in files: those of durations end in ``_seconds``."""
        return [f"{c}_seconds" if kind == "seconds" else c for c, kind in self.columns.items()]

    def plain(self) -> list[Row]:
        """Return the rows by heading as JSON has them: moments as ISO 8601 in UTC."""
        pairs = list(zip(self.headings, self.columns.items(), strict=True))
        return [
            {heading: _plain(row[column], kind) for heading, (column, kind) in pairs}
            for row in self.rows
        ]


def whole_text(value: object) -> str:
    """Return text that any file can hold: half a character, which a name may hold, becomes ?."""
    return str(value).encode(errors="replace").decode()


def _plain(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "text":
        return whole_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON can't say it
    if kind != "moment":
        return value
    return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def sheet(found: Found, name: str) -> Sheet:
    """Return one of the tables of `SHEETS` of a cluster.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    columns, rows = SHEETS[name]
    return Sheet(name, columns, list(rows(found)))


def clusters(summaries: Iterable[ClusterSummary]) -> Sheet:
    """Return clusters as a table."""
    names = tuple(CLUSTERS)[:-3]
    rows = [
        {
            **_of(each, names),
            "core_seconds": each.allocated,
            "cpu_core_seconds": each.cpu,
            "cost": each.money,
        }
        for each in summaries
    ]
    return Sheet("clusters", CLUSTERS, rows)


CLUSTERS: dict[str, Kind] = {
    "id": "text",
    "name": "text",
    "kind": "text",
    "owner_name": "text",
    "account": "text",
    "program": "text",
    "started": "moment",
    "seen": "moment",
    "ended": "moment",
    "how": "text",
    "state": "text",
    "tasks": "whole",
    "errors": "whole",
    "core_seconds": "number",
    "cpu_core_seconds": "number",
    "cost": "number",
}
_LEDGER: dict[str, Kind] = {
    "pool": "text",
    "part": "text",
    "core_seconds": "number",
    "share": "number",
}
_SPANS: dict[str, Kind] = {
    "name": "text",
    "id": "text",
    "parent": "text",
    "enqueued": "moment",
    "start": "moment",
    "stop": "moment",
    "lasted": "seconds",
    "done": "flag",
    "tasks": "whole",
    "failed_tasks": "whole",
    "result_bytes": "whole",
    **{f"{part.replace('-', '_')}_core_seconds": "number" for part in IN_TASKS},
    "core_seconds": "number",
    "code": "text",
}
_WORKERS: dict[str, Kind] = {
    "name": "text",
    "id": "text",
    "pool": "text",
    "host": "text",
    "job": "text",
    "threads": "whole",
    "gpus": "whole",
    "memory_bytes": "whole",
    "started": "moment",
    "seen": "moment",
    "ended": "moment",
    "expected": "flag",
    "busy_thread_seconds": "number",
    "lost_tasks": "whole",
    "again_tasks": "whole",
    "lost_thread_seconds": "number",
    "again_thread_seconds": "number",
}
_JOBS: dict[str, Kind] = {
    "job": "text",
    "name": "text",
    "pool": "text",
    "state": "text",
    "reason": "text",
    "submitted": "moment",
    "eligible": "moment",
    "started": "moment",
    "ended": "moment",
    "held": "seconds",
    "waited": "seconds",
    "ran": "seconds",
    "walltime": "seconds",
    "node": "text",
    "exit_code": "text",
    "workers": "whole",
    "cores": "whole",
    "gpus": "whole",
    "memory_bytes": "whole",
    "cpu": "seconds",
    "max_rss_bytes": "whole",
    "energy_j": "number",
    "script": "text",
    "arguments": "text",
}
_SCRIPTS: dict[str, Kind] = {"script": "text", "jobs": "whole", "text": "text"}
_WORDS = ("busy", "no work", "starved", "transfer", "paused", "dispatch")
_SAMPLES: dict[str, Kind] = {
    "time": "moment",
    "pool": "text",
    "workers": "whole",
    "nthreads": "whole",
    "processing": "whole",
    "queued": "whole",
    "memory_bytes": "whole",
    "limit_bytes": "whole",
    "spilled_bytes": "whole",
    "cpu_cores": "number",
    **{f"{word.replace(' ', '_')}_thread_seconds": "number" for word in _WORDS},
}
_ERRORS: dict[str, Kind] = {
    "prefix": "text",
    "exception": "text",
    "message": "text",
    "count": "whole",
    "span": "text",
}
_COST: dict[str, Kind] = {
    "pool": "text",
    "core_hours": "number",
    "gpu_hours": "number",
    "gib_hours": "number",
    "billing": "number",
    "money": "number",
    "unpriced_core_hours": "number",
    "energy_j": "number",
}
_ADVICE: dict[str, Kind] = {
    "rule": "text",
    "title": "text",
    "evidence": "text",
    "paste": "text",
    "core_seconds": "number",
    "waiting": "seconds",
    "nbytes": "number",
}


def _of(thing: Any, names: tuple[str, ...]) -> Row:
    return {name: getattr(thing, name) for name in names}


def _ledger(found: Found) -> Iterable[Row]:
    """Yield the parts of each pool; a pool without a name is that of workers without one."""
    from dask_site.history.ledger import close_books

    for pool, books in close_books(found.history).pools.items():
        for row in parts(books):
            yield {"pool": pool or "", **row}


def parts(books: Books) -> list[Row]:
    """Return the parts of an allocation; they add up to it."""
    return [
        {"part": part, "core_seconds": seconds, "share": share}
        for part, seconds, share in books.rows()
    ]


def _spans(found: Found) -> Iterable[Row]:
    from dask_site.history.ledger import close_books

    books = {span.id: span for span in close_books(found.history).spans}
    failed: dict[str | None, int] = defaultdict(int)
    for error in found.history.errors:
        failed[error.span] += error.count
    for span in found.history.spans:
        mine = books[span.id]
        yield {
            **_of(span, ("id", "parent", "enqueued", "done", "code")),
            "name": " / ".join(span.name),
            "start": span.start or None,
            "stop": span.stop or None,
            "lasted": max(0.0, span.stop - span.start) if span.start and span.stop else None,
            "tasks": sum(sum(tasks.states.values()) for tasks in span.tasks.values()),
            "failed_tasks": failed[span.id],
            "result_bytes": sum(tasks.nbytes for tasks in span.tasks.values()),
            **{f"{p.replace('-', '_')}_core_seconds": mine.parts.get(p, 0.0) for p in IN_TASKS},
            "core_seconds": mine.total,
        }


def _workers(found: Found) -> Iterable[Row]:
    same = ("name", "id", "pool", "host", "job", "threads", "gpus", "started", "seen", "ended")
    for worker in found.history.workers:
        yield {
            **_of(worker, (*same, "expected", "lost_tasks", "again_tasks")),
            "memory_bytes": worker.memory,
            "busy_thread_seconds": worker.busy,
            "lost_thread_seconds": worker.lost_seconds,
            "again_thread_seconds": worker.again_seconds,
        }


def _jobs(found: Found) -> Iterable[Row]:
    """Yield submissions, those that never started included; what the accounting says counts."""
    from dask_site.history.waits import state_of, waits

    history = found.history
    records = {record.name: record for record in history.jobs}
    for wait in waits(history):
        row, record = wait.row, records.get(wait.name)
        start = wait.until if wait.started else None
        end = row.end if row and row.end is not None else record.ended if record else None
        until = history.seen if end is None else end
        yield {
            "job": wait.job or None,
            "name": wait.name or None,
            "pool": wait.pool,
            "state": state_of(wait, record),
            "reason": wait.reason,
            "submitted": wait.submitted,
            "started": start,
            "ended": end,
            "eligible": wait.eligible,
            "held": wait.held,
            "waited": wait.seconds,
            "ran": None if start is None else max(0.0, until - start),
            "walltime": record.walltime if record else None,
            "node": (row and row.nodes) or (record and record.node) or "",
            "exit_code": (row and row.exit_code) or (record and record.exit_code) or "",
            "workers": record.workers if record else None,
            "cores": (row and row.cores) or (record and record.cores) or 0,
            "gpus": (row and row.gpus) or (record and record.gpus) or 0,
            "memory_bytes": (row and row.memory) or (record and record.memory) or 0,
            "cpu": row.cpu_seconds if row else None,
            "max_rss_bytes": row.max_rss if row else None,
            "energy_j": row.energy if row else None,
            "script": record.script if record else None,
            "arguments": record.arguments if record else "",
        }


def _scripts(found: Found) -> Iterable[Row]:
    for script in found.history.scripts:
        jobs = sum(job.script == script.id for job in found.history.jobs)
        yield {"script": script.id, "jobs": jobs, "text": script.text}


def _samples(found: Found) -> Iterable[Row]:
    for sample in found.history.samples:
        yield {
            **_of(sample, ("pool", "workers", "nthreads", "processing", "queued")),
            "time": sample.t,
            "memory_bytes": sample.memory,
            "limit_bytes": sample.limit,
            "spilled_bytes": sample.spilled,
            "cpu_cores": sample.cpu,
            **{f"{w.replace(' ', '_')}_thread_seconds": sample.threads.get(w, 0.0) for w in _WORDS},
        }


def _errors(found: Found) -> Iterable[Row]:
    names = {span.id: " / ".join(span.name) for span in found.history.spans}
    for error in found.history.errors:
        row = _of(error, ("prefix", "exception", "message", "count"))
        yield {**row, "span": names.get(error.span or "", error.span)}


def _cost(found: Found) -> Iterable[Row]:
    from dask_site.history.costs import bill

    names = ("core_hours", "gpu_hours", "gib_hours", "billing", "money")
    for pool, costs in bill(found.history, found.tariff).pools.items():
        more = {"unpriced_core_hours": costs.unpriced, "energy_j": costs.energy}
        yield {"pool": pool or "", **_of(costs, names), **more}


def _advice(found: Found) -> Iterable[Row]:
    from dask_site.history.advice import advise

    for advice in advise(found.history):
        row = _of(advice, ("rule", "title", "paste", "core_seconds", "nbytes"))
        yield {**row, "evidence": " ".join(advice.evidence), "waiting": advice.seconds}


#: What there is of a cluster: columns, and what yields the rows.
SHEETS: dict[str, tuple[dict[str, Kind], Callable[[Found], Iterable[Row]]]] = {
    "ledger": (_LEDGER, _ledger),
    "spans": (_SPANS, _spans),
    "workers": (_WORKERS, _workers),
    "jobs": (_JOBS, _jobs),
    "scripts": (_SCRIPTS, _scripts),
    "samples": (_SAMPLES, _samples),
    "errors": (_ERRORS, _errors),
    "cost": (_COST, _cost),
    "advice": (_ADVICE, _advice),
}
