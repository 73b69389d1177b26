"""Takes records in: of each thing the highest `q` counts, and every user has bounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, StatementError

from dask_site.history.records import ClusterRecord, EndRecord, Record, SpanRecord, UsageRecord
from dask_site.history.store import rollup, tables
from dask_site.history.store.batches import LATE, Batch, Bounds, Taken
from dask_site.history.store.keys import parts
from dask_site.history.store.rows import (
    CLUSTER,
    DAY,
    SHAPES,
    Row,
    Shape,
    key_of,
    row_of,
    size_of,
    task_rows,
)
from dask_site.history.store.series import take_samples
from dask_site.history.store.upserts import ignore, newer, replace
from dask_site.people import name_of

_UNSTORABLE = (DataError, IntegrityError, InterfaceError)
_R = TypeVar("_R", bound=Record)
# Made once: to make a statement takes SQLAlchemy longer than SQLite takes to run it.
_SIZE = select(tables.owners.c.size).where(tables.owners.c.uid == bindparam("owner"))
_CLUSTER = select(tables.clusters).where(tables.clusters.c.id == bindparam("id"))
_UPDATE = update(tables.clusters).where(tables.clusters.c.no == bindparam("which"))
# Columns of a cluster that its own record sets, and those that others change.
_OWN = {"q", "t", *CLUSTER.plain, *CLUSTER.json}
_OFTEN = {"first", "seen", "latest", "heard", "top", "thinned", "changes"}
_OFTEN |= {"tasks", "failed", "size", "n_prefixes", *(shape.counter for shape in SHAPES)}
_OLD_TASKS = delete(tables.span_tasks).where(
    tables.span_tasks.c.cluster == bindparam("cluster"),
    tables.span_tasks.c.span.in_(bindparam("spans", expanding=True)),
)


def take(conn: Connection, batch: Batch, bounds: Bounds, now: float) -> Taken:
    """Take a batch in, within the caller's transaction.

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If the database is locked or the disk is full; nothing of the batch holds then.
    """
    if conn.execute(_SIZE, {"owner": batch.owner}).first() is None:
        name = name_of(batch.owner)
        conn.execute(ignore(conn, tables.owners), [{"uid": batch.owner, "name": name, "size": 0}])
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for record in batch.records:
        groups[record.c].append(record)
    taken = Taken()
    for cluster, records in groups.items():
        taken.add(_safely(conn, batch.owner, cluster, records, bounds, now))
    if batch.mark is not None:
        mark = {**asdict(batch.mark), "owner": batch.owner}
        conn.execute(replace(conn, tables.files), [mark])
    rollup.add(
        conn,
        tables.refusals,
        {(batch.owner, reason): (n,) for reason, n in taken.refused.items()},
        {"last": now},
    )
    return taken


def _safely(
    conn: Connection, owner: int, cluster: str, records: list[Record], bounds: Bounds, now: float
) -> Taken:
    """Take the records of a cluster in; one that the database refuses spoils no other."""
    try:
        with conn.begin_nested():
            return _Cluster(conn, owner, cluster, bounds, now).take(records)
    except (StatementError, OverflowError, UnicodeError) as error:
        if isinstance(error, DBAPIError) and not isinstance(error, _UNSTORABLE):
            raise
        if len(records) == 1:
            return Taken(refused=Counter(["can't be stored"]))
    half = len(records) // 2
    taken = _safely(conn, owner, cluster, records[:half], bounds, now)
    taken.add(_safely(conn, owner, cluster, records[half:], bounds, now))
    return taken


class _Cluster:
    """One cluster while records of it are taken in."""

    def __init__(
        self, conn: Connection, owner: int, cluster: str, bounds: Bounds, now: float
    ) -> None:
        self._conn = conn
        self._owner = owner
        self._id = cluster
        self._bounds = bounds
        self._now = now
        self._taken = Taken()
        self._row: Row = {}
        self._before: Row = {}
        size = conn.execute(_SIZE, {"owner": owner}).scalar_one()
        self._left = bounds.bytes_owner - int(size)

    def take(self, records: list[Record]) -> Taken:
        why = self._open(records)
        if why:
            self._taken.refused[why] += len(records)
            return self._taken
        self._before = dict(self._row)
        self._times(records)
        self._own(_newest(records, ClusterRecord))
        self._end(_newest(records, EndRecord))
        for shape in SHAPES:
            found = [record for record in records if type(record) is shape.record]
            if found:
                self._things(shape, found)
        self._write()
        return self._taken

    def _open(self, records: Iterable[Record]) -> str | None:
        """Find the cluster, or begin it; return why not."""
        table = tables.clusters
        row = self._conn.execute(_CLUSTER, {"id": self._id}).mappings().first()
        if row is not None:
            self._row = dict(row)
            return "another's cluster" if row["owner"] != self._owner else None
        why = self._gone(max(record.t for record in records))
        if why:
            return why
        since = (table.c.owner == self._owner) & (table.c.created > self._now - DAY)
        many = self._conn.execute(select(func.count()).select_from(table).where(since))
        if int(many.scalar_one()) >= self._bounds.clusters:
            return "too many clusters a day"
        first = min(record.t for record in records)
        made = self._conn.execute(
            insert(table).returning(table),
            {
                "id": self._id,
                "owner": self._owner,
                "created": self._now,
                "heard": self._now,
                "first": first,
                "seen": first,
                "latest": min(first, self._now),
                "started": first,
                "t": first,
                "interval": 0.0,
                "versions": "{}",
                "top": -1,
            },
        )
        self._row = dict(made.mappings().one())
        return None

    def _gone(self, newest: float) -> str | None:
        """Return why a cluster that isn't here can't begin: it was here, or may have been."""
        names = tables.forgotten
        own = names.c.id == self._id
        at = self._conn.execute(select(names.c.at).where(own)).scalar()
        if at is None:
            return "too old" if newest < self._now - LATE else None
        if newest > at:  # it goes on, and its name is kept until these are too old, too
            until = min(newest, self._now + LATE)
            self._conn.execute(update(names).where(own).values(at=until))
        return "forgotten"

    def _times(self, records: Sequence[Record]) -> None:
        row = self._row
        row["first"] = min(row["first"], *(record.t for record in records))
        row["seen"] = max(row["seen"], *(record.t for record in records))
        if row["q"] < 0:
            row["started"] = row["first"]
        top = max(record.q for record in records)
        if top > row["top"]:
            latest = max(row["latest"], min(row["seen"], self._now))
            row.update(top=top, heard=self._now, latest=latest, thinned=0)
            ends = tables.ends.c
            found = (ends.cluster == row["no"]) & (ends.said == 0) & (ends.q < top)
            self._conn.execute(delete(tables.ends).where(found))

    def _own(self, record: ClusterRecord | None) -> None:
        if record is not None and record.q > self._row["q"]:
            self._row.update(row_of(CLUSTER, record))
            self._taken.applied += 1

    def _end(self, record: EndRecord | None) -> None:
        if record is None:
            return
        row = {"cluster": self._row["no"], "q": record.q, "t": record.t, "how": record.how}
        table = tables.ends
        inferred = (table.c.cluster == row["cluster"]) & (table.c.said == 0)
        self._conn.execute(delete(table).where(inferred))
        # Without it, PostgreSQL's driver does not tell how many.
        counted = newer(self._conn, table).execution_options(preserve_rowcount=True)
        done = self._conn.execute(counted, {**row, "said": 1})
        self._taken.applied += done.rowcount

    def _things(self, shape: Shape, records: Sequence[Any]) -> None:
        latest: dict[str, Any] = {}
        for record in sorted(records, key=lambda record: -record.q):
            latest.setdefault(key_of(record), record)
        old = self._old(shape, latest)
        rows, replaced = [], []
        for key, record in latest.items():
            before = old.get(key)
            if before is not None and before["q"] >= record.q:
                continue
            row = row_of(shape, record)
            tasks = task_rows(record) if isinstance(record, SpanRecord) else []
            row["size"] += size_of(tasks)
            if self._admit(shape, row, before):
                rows.append({**row, "cluster": self._row["no"]})
                replaced.append((key, tasks))
        if rows:
            self._conn.execute(newer(self._conn, shape.table), rows)
            self._taken.applied += len(rows)
        if shape.record is SpanRecord:
            self._tasks(replaced)
        if shape.record is UsageRecord:
            admitted = {row["pool"] for row in rows} | old.keys()
            admitted_ones = [r for r in records if key_of(r) in admitted]
            take_samples(self._conn, self._row, self._before, admitted_ones)

    def _old(self, shape: Shape, keys: Iterable[str]) -> dict[str, Any]:
        query = _old_rows(shape)
        found: dict[str, Any] = {}
        for some in parts(list(keys)):
            for row in self._conn.execute(
                query, {"cluster": self._row["no"], "keys": some}
            ).mappings():
                found[row[shape.key]] = row
        return found

    def _admit(self, shape: Shape, row: Row, before: Any) -> bool:
        """Whether there is room for a row; counts it where there is."""
        total, bounds = self._row, self._bounds
        why = None
        more = row["size"] - (before["size"] if before else 0)
        prefixes = row.get("n_prefixes", 0) - (
            before["n_prefixes"] if before and _spans(row) else 0
        )
        if before is None and total[shape.counter] >= bounds.most(shape):
            why = f"too many rows of kind {shape.k}"
        elif prefixes > 0 and total["n_prefixes"] + prefixes > bounds.prefixes:
            why = "too many key prefixes"
        elif more > 0 and (total["size"] + more > bounds.bytes_cluster or more > self._left):
            why = "too many bytes"
        if why:
            self._taken.refused[why] += 1
            return False
        self._left -= more
        total["size"] += more
        total["n_prefixes"] += prefixes
        total[shape.counter] += before is None
        for name, sum_ in (("total", "tasks"), ("count", "failed")):
            if name in shape.noted:
                total[sum_] += row[name] - (before[name] if before else 0)
        return True

    def _tasks(self, replaced: Sequence[tuple[str, list[Row]]]) -> None:
        table, no = tables.span_tasks, self._row["no"]
        for some in parts([span for span, _ in replaced]):
            self._conn.execute(_OLD_TASKS, {"cluster": no, "spans": some})
        rows = [{**row, "cluster": no} for _, tasks in replaced for row in tasks]
        if rows:
            self._conn.execute(insert(table), rows)

    def _write(self) -> None:
        changed = {k for k, v in self._row.items() if self._before[k] != v}
        if not (changed or self._taken.applied):
            return
        self._row["changes"] += 1
        # Not just those that changed: each set of columns would be a statement that is kept.
        names = _OFTEN if changed <= _OFTEN else _OFTEN | _OWN
        row = {name: self._row[name] for name in names}
        self._conn.execute(_UPDATE, {"which": self._row["no"], **row})
        owners = tables.owners
        more = self._row["size"] - self._before["size"]
        if more:
            size = update(owners).where(owners.c.uid == self._owner)
            self._conn.execute(size.values(size=owners.c.size + more))


def _newest(records: Iterable[Record], kind: type[_R]) -> _R | None:
    found = [record for record in records if isinstance(record, kind)]
    return max(found, key=lambda record: record.q) if found else None


def _spans(row: Row) -> bool:
    return "n_prefixes" in row


@cache
def _old_rows(shape: Shape) -> Any:
    columns = [shape.table.c[name] for name in (shape.key, "q", "size", *shape.noted)]
    return select(*columns).where(
        shape.table.c.cluster == bindparam("cluster"),
        shape.table.c[shape.key].in_(bindparam("keys", expanding=True)),
    )
