"""One cluster with all it has."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Table, and_, or_, select

from dask_site.history.allocations import ids
from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.records import ClusterRecord, EndRecord
from dask_site.history.store import tables
from dask_site.history.store.rows import (
    CLUSTER,
    SHAPES,
    Row,
    Shape,
    record_of,
    usage_of,
)

_SHAPES = {shape.k: shape for shape in SHAPES}
_ALWAYS = (0.0, 1e300)


def load(conn: Connection, cluster: str) -> ClusterHistory | None:
    """Return a cluster, None if it isn't there."""
    clusters, owners = tables.clusters, tables.owners
    query = select(clusters, owners.c.name.label("owner_name")).join(owners)
    row = conn.execute(query.where(clusters.c.id == cluster)).mappings().first()
    if row is None:
        return None
    return _Loading(conn, dict(row)).everything()


class _Loading:
    def __init__(self, conn: Connection, row: Row) -> None:
        self._conn = conn
        self._row = row

    def everything(self) -> ClusterHistory:
        row = self._row
        traffic = self._records("traffic")
        samples = [usage_of(row["id"], sample) for sample in self._rows(tables.samples)]
        accounting = [AccountedJob(**json.loads(r["row"])) for r in self._rows(tables.accounted)]
        return ClusterHistory(
            cluster=self._cluster(),
            owner=row["owner_name"],
            workers=sorted(self._records("worker"), key=lambda r: (r.started, r.name)),
            spans=sorted(self._spans(), key=lambda r: (r.enqueued, r.id)),
            jobs=sorted(self._records("job"), key=lambda r: (r.submitted, r.name)),
            usage=sorted(self._records("usage"), key=lambda r: r.pool or ""),
            samples=sorted(samples, key=lambda r: (r.t, r.q)),
            traffic=traffic[0] if traffic else None,
            errors=sorted(self._records("error"), key=lambda r: (-r.count, r.prefix)),
            end=self._end(),
            seen=row["seen"],
            scripts=sorted(self._records("script"), key=lambda r: r.id),
            accounting=accounting,
            elsewhere=self._elsewhere(accounting) if row["job"] else [],
        )

    def _elsewhere(self, accounting: Iterable[AccountedJob]) -> list[tuple[float, float]]:
        """Return when the job of its scheduler is that of others; see `ClusterHistory`."""
        row, c, jobs, workers = self._row, tables.clusters.c, tables.jobs.c, tables.workers.c
        own = {row["job"]}.union(*(ids(job) for job in accounting if row["job"] in ids(job)))
        near = and_(c.owner == row["owner"], c.no != row["no"], c.latest >= row["started"])
        near &= c.started <= row["seen"]
        asked = select(jobs.cluster).where(jobs.cluster == c.no, jobs.id.in_(own)).exists()
        if self._conn.execute(select(c.no).where(near, asked).limit(1)).first():
            return [_ALWAYS]
        later = or_(c.started > row["started"], and_(c.started == row["started"], c.no > row["no"]))
        there = select(workers.cluster).where(workers.cluster == c.no, workers.job.in_(own))
        query = select(c.started, c.seen).where(near, later, c.job.in_(own), there.exists())
        return sorted((begun, seen) for begun, seen in self._conn.execute(query))

    def _rows(self, table: Table) -> Any:
        query = select(table).where(table.c.cluster == self._row["no"])
        return self._conn.execute(query).mappings()

    def _records(self, kind: str) -> list[Any]:
        shape: Shape = _SHAPES[kind]
        return [record_of(shape, self._row["id"], row) for row in self._rows(shape.table)]

    def _spans(self) -> list[Any]:
        tasks: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for row in self._rows(tables.span_tasks):
            tasks[row["span"]][row["prefix"]] = {
                "states": json.loads(row["states"]),
                "seconds": json.loads(row["seconds"]),
                "nbytes": row["nbytes"],
            }
        shape = _SHAPES["span"]
        return [
            record_of(shape, self._row["id"], row, tasks=tasks[row["id"]])
            for row in self._rows(shape.table)
        ]

    def _cluster(self) -> ClusterRecord:
        row = self._row
        if row["q"] >= 0:
            record: ClusterRecord = record_of(CLUSTER, row["id"], row)
            return record
        first = row["first"]
        return ClusterRecord(v=1, k="cluster", c=row["id"], q=0, t=first, started=first)

    def _end(self) -> EndRecord | None:
        row = self._rows(tables.ends).first()
        if row is None:
            return None
        return EndRecord(v=1, k="end", c=self._row["id"], q=row["q"], t=row["t"], how=row["how"])
