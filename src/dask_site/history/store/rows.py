"""Records as rows of the tables, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Table

from dask_site.history.records import (
    BUSY,
    IDLE,
    ClusterRecord,
    ErrorRecord,
    JobRecord,
    Record,
    ScriptRecord,
    SpanRecord,
    TrafficRecord,
    UsageRecord,
    WorkerRecord,
)
from dask_site.history.store import tables

DAY = 86400
_MOST_TASKS = 10**9
_ROW = 64  # bytes of a row besides its texts
_WORDS = dict(zip((BUSY, *IDLE), tables.THREADS, strict=False))
Row = dict[str, Any]
_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_R = TypeVar("_R", bound=Record)


def dumps(value: Any) -> str:
    """Return JSON that the same value always gives."""
    return _encoder.encode(value)


@dataclass(frozen=True)
class Shape:
    """How records of one kind lie in their table.

    Attributes
    ----------
    key : str
        The column that, with the cluster, tells rows apart.
    counter : str
        The column of `clusters` that counts the rows.
    noted : tuple of str
        Columns that the sums over a cluster need of a row that is replaced.
    """

    record: type[Record]
    k: str
    table: Table
    key: str
    counter: str
    json: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()

    @property
    def plain(self) -> tuple[str, ...]:
        """Names that the columns and the record's fields share."""
        left_out = {"q", "t", *self.json}
        fields = self.record.model_fields
        return tuple(c.name for c in self.table.c if c.name in fields and c.name not in left_out)


SHAPES = (
    Shape(WorkerRecord, "worker", tables.workers, "id", "n_workers"),
    Shape(
        SpanRecord,
        "span",
        tables.spans,
        "id",
        "n_spans",
        ("name", "execute", "sizes"),
        ("total", "n_prefixes"),
    ),
    Shape(JobRecord, "job", tables.jobs, "name", "n_jobs"),
    Shape(ScriptRecord, "script", tables.scripts, "id", "n_scripts"),
    Shape(UsageRecord, "usage", tables.usage, "pool", "n_usage", ("threads",)),
    Shape(TrafficRecord, "traffic", tables.traffic, "scope", "n_traffic", ("seconds", "sizes")),
    Shape(ErrorRecord, "error", tables.errors, "key", "n_errors", (), ("count",)),
)
CLUSTER = Shape(ClusterRecord, "cluster", tables.clusters, "id", "", ("versions",))
_PLAIN = {shape.record: shape.plain for shape in (*SHAPES, CLUSTER)}
_SAMPLED = tuple(
    c.name for c in tables.samples.c if c.name not in {"cluster", "pool", "q", "t", *tables.THREADS}
)


def key_of(record: Record) -> str:
    """Return what tells the row of a record from others of its kind and cluster."""
    match record:
        case WorkerRecord() | SpanRecord() | ScriptRecord():
            return record.id
        case JobRecord():
            return record.name
        case UsageRecord():
            return clean(record.pool or "")
        case ErrorRecord():
            text = dumps([record.prefix, record.exception, record.span])
            return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return ""


def clean(text: str) -> str:
    """Return text without NUL, which PostgreSQL can't hold."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def row_of(shape: Shape, record: Record) -> Row:
    """Return the columns that a record fills, but those that say which cluster it is of."""
    row: Row = {"q": record.q, "t": record.t}
    size = _ROW
    for name in _PLAIN[shape.record]:
        value = getattr(record, name)
        if isinstance(value, str):
            value = clean(value)
            size += len(value)
        elif isinstance(value, bool):
            value = int(value)
        row[name] = value
    for name in shape.json:
        row[name] = dumps(getattr(record, name))
        size += len(row[name])
    if shape is CLUSTER:
        return row
    row[shape.key] = key_of(record)
    match record:
        case JobRecord():
            row["pool"] = row["pool"] or ""
        case SpanRecord():
            states = sum(sum(tasks.states.values()) for tasks in record.tasks.values())
            row["total"] = min(states, _MOST_TASKS)
            row["n_prefixes"] = len(record.tasks)
        case UsageRecord():
            row["busy"] = record.threads.get(BUSY, 0.0)
            row["total"] = sum(record.threads.values())
        case ErrorRecord():
            row["count"] = min(record.count, _MOST_TASKS)
    row["size"] = size
    return row


def task_rows(record: SpanRecord) -> list[Row]:
    """Return the rows of a span's tasks by prefix."""
    return [
        {
            "span": record.id,
            "prefix": prefix,
            "states": dumps(tasks.states),
            "seconds": dumps(tasks.seconds),
            "nbytes": tasks.nbytes,
        }
        for prefix, tasks in {clean(p): t for p, t in record.tasks.items()}.items()
    ]


def size_of(rows: Iterable[Row]) -> int:
    """Return about how many bytes rows of tasks take."""
    return sum(_ROW + len(r["prefix"]) + len(r["states"]) + len(r["seconds"]) for r in rows)


def sample_of(record: UsageRecord) -> Row:
    """Return a row of the time series."""
    row: Row = {"pool": key_of(record), "q": record.q, "t": record.t}
    row.update(dict.fromkeys(tables.THREADS))
    others = {}
    for word, seconds in record.threads.items():
        if word in _WORDS:
            row[_WORDS[word]] = seconds
        else:
            others[word] = seconds
    if others:
        row["others"] = dumps(others)
    for name in _SAMPLED:
        row[name] = getattr(record, name)
    return row


def record_of(shape: Shape, cluster: str, row: Mapping[Any, Any], **more: Any) -> Any:
    """Return the record that a row was made of."""
    values: Row = {name: row[name] for name in _PLAIN[shape.record]}
    values.update({name: json.loads(row[name]) for name in shape.json})
    if "pool" in values:
        values["pool"] = values["pool"] or None
    values.update(more, v=1, k=shape.k, c=cluster, q=row["q"], t=row["t"])
    return shape.record.model_validate(values)


def usage_of(cluster: str, row: Mapping[Any, Any]) -> UsageRecord:
    """Return the record that a row of the time series was made of."""
    threads = {word: row[name] for word, name in _WORDS.items() if row[name] is not None}
    if row["others"]:
        threads.update(json.loads(row["others"]))
    values: Row = {name: row[name] for name in _SAMPLED}
    values.update(v=1, k="usage", c=cluster, q=row["q"], t=row["t"])
    values.update(pool=row["pool"] or None, threads=threads)
    return UsageRecord.model_validate(values)
