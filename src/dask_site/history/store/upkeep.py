"""Lets clusters go: on their owner's demand, and with age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from dask_site.history.store import bookkeeping, tables
from dask_site.history.store.batches import LATE
from dask_site.history.store.claims import SIGNAL
from dask_site.history.store.failures import RunningError
from dask_site.history.store.keys import parts
from dask_site.history.store.rows import DAY, dumps
from dask_site.history.store.series import FEW_SAMPLES, thin, width_of
from dask_site.history.store.upserts import ignore, replace

if TYPE_CHECKING:
    from dask_site.history.model import AccountedJob

AT_ONCE = 100
# Seconds without news after which a cluster counts as gone: recorders write at least each half
# minute, or as seldom as they are told.
_NEWS, _SELDOM = 120.0, 3600.0
_THINNED, _GONE = 1, 2


@dataclass(frozen=True)
class Retention:
    """How long what is kept, in seconds since it was last heard of.

    Attributes
    ----------
    fine : float
        Samples as close together as they were taken in; then fewer.
    samples : float
        Samples at all.
    clusters : float
        Clusters with all they have. What they add to the sums by day stays.
    """

    fine: float = DAY
    samples: float = 14 * DAY
    clusters: float = 180 * DAY


def forget(conn: Connection, which: Any, now: float, *, running: bool = True) -> list[str]:
    """Delete clusters as if they had not been, and don't take them in again; return their ids.

    Raises
    ------
    RunningError
        If one of them runs, and `running` does not say that they go nevertheless.
    """
    rows = conn.execute(select(tables.clusters).where(which)).mappings().all()
    live = [] if running else _running(conn, rows, now)
    if live:
        raise RunningError(
            f"Cluster {live[0]['id']} is running, and would not be recorded any more: close it "
            "first, or try again two minutes after it has ended."
        )
    for row in rows:
        bookkeeping.move(conn, row, bookkeeping.payers(conn, row))
    return _delete(conn, rows, now)


def forget_owner(conn: Connection, owner: int, now: float, *, running: bool = True) -> list[str]:
    """Delete all of a user; what runs only if `running` says so."""
    c, owners = tables.clusters.c, tables.owners
    rows = conn.execute(select(tables.clusters).where(c.owner == owner)).mappings().all()
    kept = [] if running else _running(conn, rows, now)
    stay = {row["no"] for row in kept}
    gone = _delete(conn, [row for row in rows if row["no"] not in stay], now)
    for table in (tables.ledger, tables.refusals):
        conn.execute(delete(table).where(table.c.owner == owner))
    for row in kept:
        bookkeeping.add(conn, row)
    if not kept:
        conn.execute(delete(owners).where(owners.c.uid == owner))
    return gone


def _running(
    conn: Connection, rows: Sequence[Mapping[Any, Any]], now: float
) -> list[Mapping[Any, Any]]:
    """Return the clusters that have said something lately, and not that they ended."""
    ends = tables.ends.c
    lately = [
        row for row in rows if row["heard"] > now - max(_NEWS, 2 * min(row["interval"], _SELDOM))
    ]
    over: set[int] = set()
    for some in parts([row["no"] for row in lately]):
        over.update(conn.execute(select(ends.cluster).where(ends.cluster.in_(some))).scalars())
    return [row for row in lately if row["no"] not in over]


def _delete(conn: Connection, rows: Sequence[Mapping[Any, Any]], now: float) -> list[str]:
    clusters, owners = tables.clusters, tables.owners
    if not rows:
        return []
    gone = [
        {"id": row["id"], "owner": row["owner"], "at": max(now, min(row["seen"], now + LATE))}
        for row in rows
    ]
    conn.execute(ignore(conn, tables.forgotten), gone)
    for row in rows:
        conn.execute(delete(clusters).where(clusters.c.no == row["no"]))
        less = owners.c.size - row["size"]
        conn.execute(update(owners).where(owners.c.uid == row["owner"]).values(size=less))
    return [str(row["id"]) for row in rows]


def prune_clusters(conn: Connection, retention: Retention, now: float) -> int:
    """Delete some clusters that are too old; return how many."""
    clusters = tables.clusters
    old = select(clusters).where(clusters.c.heard < now - retention.clusters).limit(AT_ONCE)
    gone = _delete(conn, conn.execute(old).mappings().all(), now)
    names = tables.forgotten
    conn.execute(delete(names).where(names.c.at < now - LATE))
    return len(gone)


def prune_samples(conn: Connection, retention: Retention, now: float) -> int:
    """Thin the samples of some clusters, or delete them; return of how many clusters."""
    c = tables.clusters.c
    aged = (c.heard < now - retention.fine) & (c.thinned < _THINNED)
    old = (c.heard < now - retention.samples) & (c.thinned < _GONE)
    rows = conn.execute(select(tables.clusters).where(aged | old).limit(AT_ONCE)).mappings().all()
    for row in rows:
        level = _GONE if row["heard"] < now - retention.samples else _THINNED
        if level == _GONE:
            conn.execute(delete(tables.samples).where(tables.samples.c.cluster == row["no"]))
        else:
            thin(conn, row["no"], width_of(dict(row), FEW_SAMPLES))
        conn.execute(update(tables.clusters).where(c.no == row["no"]).values(thinned=level))
    return len(rows)


def silence(conn: Connection, now: float, after: float) -> list[str]:
    """Close the clusters that weren't heard of for longer; return their ids."""
    c, ends = tables.clusters.c, tables.ends
    query = (
        select(c.no, c.id, c.top, c.seen)
        .outerjoin(ends, ends.c.cluster == c.no)
        .where(ends.c.cluster.is_(None), c.heard < now - after)
        .limit(AT_ONCE)
    )
    rows = conn.execute(query).mappings().all()
    for row in rows:
        conn.execute(insert(ends), end_of(row, "silent", row["seen"]))
    return [str(row["id"]) for row in rows]


def end(conn: Connection, cluster: str, how: str, t: float) -> None:
    """Note how a cluster ended, unless its scheduler said so itself.

    Of a signal, all that it could say, the reason takes the place.
    """
    clusters, ends = tables.clusters, tables.ends
    row = conn.execute(select(clusters).where(clusters.c.id == cluster)).mappings().first()
    if row is None:
        return
    own = ends.c.cluster == row["no"]
    conn.execute(delete(ends).where(own, ends.c.said == 0))
    conn.execute(update(ends).where(own, ends.c.how.like(f"{SIGNAL}%")).values(how=how))
    if conn.execute(select(ends.c.q).where(own)).first() is None:
        conn.execute(insert(ends), end_of(row, how, t))
    bookkeeping.changed(conn, row["no"])


def account(conn: Connection, cluster: str, jobs: Sequence[AccountedJob]) -> None:
    """Keep the accounting of a cluster's jobs, and move its sums to the accounts that have paid."""
    clusters = tables.clusters
    row = conn.execute(select(clusters).where(clusters.c.id == cluster)).mappings().first()
    if row is None:
        raise KeyError(cluster)
    before = bookkeeping.payers(conn, row)
    if jobs:
        rows = [{"cluster": row["no"], "id": job.run, "row": dumps(asdict(job))} for job in jobs]
        conn.execute(replace(conn, tables.accounted), rows)
        bookkeeping.changed(conn, row["no"])
    name = next((job.account for job in jobs if job.account), row["account"])
    if name != row["account"]:
        own = clusters.c.no == row["no"]
        conn.execute(update(clusters).where(own).values(account=name))
    bookkeeping.move(conn, row, before, bookkeeping.payers(conn, {**row, "account": name}))


def end_of(row: Mapping[Any, Any], how: str, t: float) -> dict[str, Any]:
    """Return the row of an end that the scheduler did not write down itself."""
    return {"cluster": row["no"], "q": row["top"], "t": t, "how": how, "said": 0}
