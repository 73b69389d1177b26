"""The named parts of a computation as a tree, and what was slow in them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from dask_site.history.books import Ledger
from dask_site.history.comparing import computed
from dask_site.history.model import ClusterHistory
from dask_site.history.records import SpanRecord
from dask_site.web.tables import Column, Table

_DEEPEST = 8
_ENDED = ("memory", "released", "forgotten", "erred")

SPANS = (
    Column("span", "span", "name"),
    Column("core_hours", "core-h", "hours", "in tasks, with its inner parts"),
    Column("cpu_share", "computing", "share", "the share of that which was CPU time", bar=True),
    Column("lasted_s", "lasted", "seconds", "from its first task to its last"),
    Column("started", "started (UTC)", "moment"),
    Column("tasks", "tasks", "count"),
    Column("failed", "failed", "count"),
    Column("result_bytes", "results", "bytes"),
    Column("code", "submitted by", "code"),
)
PREFIXES = (
    Column("prefix", "tasks named", "name", "by the prefix of their keys"),
    Column("span", "span", "name"),
    Column("tasks", "tasks", "count"),
    Column("compute_s", "thread time", "seconds", "running, all together"),
    Column("mean_s", "each", "seconds"),
    Column("share", "of all", "share", "of the time that all tasks ran", bar=True),
    Column("transfer_s", "transfer", "seconds", "getting their inputs"),
    Column("disk_s", "disk", "seconds", "reading spilled data and writing it"),
    Column("result_bytes", "results", "bytes"),
)


def span_table(history: ClusterHistory, ledger: Ledger) -> Table:
    """Return the spans as a tree, each with its inner parts below it."""
    own = {books.id: books.parts for books in ledger.spans}
    errors: Counter[str | None] = Counter()
    for error in history.errors:
        errors[error.span] += error.count
    inner: dict[str | None, list[SpanRecord]] = defaultdict(list)
    known = {span.id for span in history.spans}
    for span in history.spans:
        inner[span.parent if span.parent in known else None].append(span)
    share = ledger.cores_per_thread
    rows = [_row(span, depth, inner, own, errors, share) for span, depth in _walk(inner)]
    return Table(
        "spans",
        "Spans",
        SPANS,
        rows,
        "No computation was submitted. Name the parts of the next with "
        '`with span("regrid"):` from `dask_site`, and each shows what it cost.',
    )


def _walk(inner: dict[str | None, list[SpanRecord]]) -> Iterator[tuple[SpanRecord, int]]:
    # Without recursion, and each once: what stands in a record may be a ring of parents.
    waiting = [(span, 0) for span in reversed(inner.get(None, []))]
    seen: set[str] = set()
    while waiting:
        span, depth = waiting.pop()
        if span.id in seen:
            continue
        seen.add(span.id)
        yield span, depth
        waiting += [(child, depth + 1) for child in reversed(inner.get(span.id, []))]


def _row(
    span: SpanRecord,
    depth: int,
    inner: dict[str | None, list[SpanRecord]],
    own: dict[str, Any],
    errors: Mapping[str | None, int],
    share: float,
) -> dict[str, Any]:
    parts: dict[str, float] = defaultdict(float)
    tasks = failed = nbytes = 0
    total = 0.0
    stop = span.stop
    below = [span]
    seen = {span.id}
    for one in below:
        for part, seconds in own.get(one.id, {}).items():
            parts[part] += seconds
        total += max(math.fsum(own.get(one.id, {}).values()), computed(one) * share)
        erred = 0
        for group in one.tasks.values():
            tasks += sum(group.states.values())
            erred += group.states.get("erred", 0)
            nbytes += group.nbytes
        # Those that nobody wants any more are in no state; their errors stay.
        failed += max(erred, errors.get(one.id, 0))
        stop = max(stop, one.stop)
        more = [child for child in inner.get(one.id, []) if child.id not in seen]
        seen.update(child.id for child in more)
        below += more
    begun = span.start or span.enqueued
    return {
        "span": " / ".join(span.name),
        "core_hours": total / 3600,
        "cpu_share": parts.get("cpu", 0.0) / total if total else None,
        "lasted_s": max(0.0, stop - begun) if stop else None,
        "started": begun,
        "tasks": tasks,
        "failed": failed or None,
        "result_bytes": nbytes,
        "code": _first_line(span.code),
        "_shown": span.name[-1] if depth else " / ".join(span.name),
        "_depth": min(depth, _DEEPEST),
        "_code": span.code,
    }


def _first_line(code: str | None) -> str | None:
    lines = [line.strip() for line in (code or "").splitlines() if line.strip()]
    return lines[-1] if lines else None


def slow_table(history: ClusterHistory) -> Table:
    """Return the kinds of tasks by the time that they took, the longest first."""
    rows: list[dict[str, Any]] = []
    for span in history.spans:
        for prefix, tasks in span.tasks.items():
            seconds = tasks.seconds
            ended = sum(tasks.states.get(state, 0) for state in _ENDED)
            compute = seconds.get("compute", 0.0)
            rows.append(
                {
                    "prefix": prefix,
                    "span": " / ".join(span.name),
                    "tasks": sum(tasks.states.values()),
                    "compute_s": compute,
                    "mean_s": compute / ended if ended else None,
                    "transfer_s": seconds.get("transfer", 0.0),
                    "disk_s": seconds.get("disk-read", 0.0) + seconds.get("disk-write", 0.0),
                    "result_bytes": tasks.nbytes,
                }
            )
    whole = math.fsum(row["compute_s"] for row in rows)
    for row in rows:
        row["share"] = row["compute_s"] / whole if whole else None
    rows.sort(key=lambda row: -row["compute_s"])
    return Table("tasks", "What took the time", PREFIXES, rows, "No task has run.")
