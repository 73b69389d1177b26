"""The books of clusters by pool and day, and all of them added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Connection, cast, delete, func, insert, or_, select, update
from sqlalchemy import type_coerce as coerce

from dask_site.history.store import rollup, tables
from dask_site.history.store.columns import SUMS, to_columns

if TYPE_CHECKING:
    from dask_site.history.daily import DayBooks

_FIRST = date(1970, 1, 1)
_LATE = 120.0


@dataclass(frozen=True)
class Due:
    """A cluster whose books are not those of its last change.

    Attributes
    ----------
    owner : int
        User number.
    changes : int
        How often it has changed until now.
    """

    cluster: str
    owner: int
    changes: int


def due(conn: Connection, now: float, every: float, again: float, most: int) -> list[Due]:
    """Return clusters whose books are to be closed, users in turn; see `Store.due`."""
    c, ends = tables.clusters.c, tables.ends
    ended = select(ends.c.cluster).where(ends.c.cluster == c.no).exists()
    turn = func.row_number().over(partition_by=c.owner, order_by=c.closed_at)
    found = (
        select(c.id, c.owner, c.changes, c.closed_at, turn.label("turn"))
        .where(c.changes != c.closed, c.closed_at <= int(now - again))
        .where(or_(c.closed_at <= int(now - every), ended))
        .subquery()
    )
    query = (
        select(found.c.id, found.c.owner, found.c.changes)
        .order_by(found.c.turn, found.c.closed_at)
        .limit(most)
    )
    return [Due(str(name), int(owner), int(n)) for name, owner, n in conn.execute(query)]


def close(conn: Connection, one: Due, days: Sequence[DayBooks] | None, now: float) -> None:
    """Put the books of a cluster in the place of those before, and into the sums.

    Parameters
    ----------
    days : sequence of DayBooks or None
        None where they can't be made: those before stay until the cluster changes again.
    """
    clusters, books = tables.clusters, tables.books
    row = conn.execute(select(clusters).where(clusters.c.id == one.cluster)).mappings().first()
    if row is None:
        return  # forgotten meanwhile
    if days is not None:
        after = _columns(days)
        before = _of_cluster(conn, row["no"])
        if after != before:
            conn.execute(delete(books).where(books.c.cluster == row["no"]))
            rows = [
                {"cluster": row["no"], "pool": pool, "day": day, **dict(zip(SUMS, n, strict=True))}
                for (pool, day), n in after.items()
            ]
            if rows:
                conn.execute(insert(books), rows)
            who = payers(conn, row)
            change = rollup.difference(_of_whom(after, who), _of_whom(before, who))
            rollup.add(conn, tables.ledger, change)
    own = clusters.c.no == row["no"]
    conn.execute(update(clusters).where(own).values(closed=one.changes, closed_at=int(now)))
    if row["job"]:
        _again_of_those_before(conn, row)


def _again_of_those_before(conn: Connection, row: Mapping[Any, Any]) -> None:
    """Let the books of clusters that were in the same job be closed again.

    The job is not theirs for as long as this one is there. A minute or so after one of them has
    ended this one can't take more from it.
    """
    c = tables.clusters.c
    near = [c.owner == row["owner"], c.job == row["job"], c.no != row["no"]]
    since = max(row["started"], row["closed_at"] - _LATE)
    those = update(tables.clusters).where(*near, c.started <= row["started"], c.latest >= since)
    conn.execute(those.values(changes=c.changes + 1))


@dataclass(frozen=True)
class Payers:
    """Who pays for a cluster.

    Attributes
    ----------
    owner : int
        User number.
    account : str
        Of what none of `pools` says it.
    pools : dict
        The account of each pool, as its jobs have it.
    """

    owner: int
    account: str
    pools: Mapping[str, str]


def payers(conn: Connection, row: Mapping[Any, Any]) -> Payers:
    """Return who pays for a cluster; of a pool with several accounts that of its first job."""
    told, jobs = tables.accounted.c, tables.jobs.c
    sqlite = conn.dialect.name == "sqlite"
    said = coerce(told.row, JSON) if sqlite else cast(told.row, JSON)
    own, account = told.cluster == row["no"], said["account"].as_string()
    pools: dict[str, str] = {}
    if len(conn.execute(select(account).where(own, account != "").distinct()).all()) > 1:
        known = select(jobs.id, jobs.pool).where(jobs.cluster == row["no"])
        pool_of = {each.id: each.pool for each in conn.execute(known)}
        names = [said[name].as_string() for name in ("id", "raw", "pool")]
        query = select(account, *names).where(own, account != "")
        for who, job, raw, pool in conn.execute(query.order_by(said["submit"].as_float(), told.id)):
            pools.setdefault(pool_of.get(job) or pool_of.get(raw) or pool or "", who)
    return Payers(row["owner"], row["account"], pools)


def move(
    conn: Connection, row: Mapping[Any, Any], before: Payers, after: Payers | None = None
) -> None:
    """Take a cluster out of the sums of some, and add it to those of others if any are given."""
    if before != after:
        books = _of_cluster(conn, row["no"])
        change = _of_whom(books, after) if after is not None else {}
        rollup.add(conn, tables.ledger, rollup.difference(change, _of_whom(books, before)))


def add(conn: Connection, row: Mapping[Any, Any]) -> None:
    """Add a cluster to the sums, which it is not in."""
    books = _of_cluster(conn, row["no"])
    rollup.add(conn, tables.ledger, _of_whom(books, payers(conn, row)))


def changed(conn: Connection, no: int) -> None:
    """Note that the books of a cluster are to be closed again."""
    c = tables.clusters.c
    conn.execute(update(tables.clusters).where(c.no == no).values(changes=c.changes + 1))


def _columns(days: Sequence[DayBooks]) -> dict[tuple[str, int], tuple[int, ...]]:
    found = {
        (each.pool or "", (each.day - _FIRST).days): to_columns(each.books, each.costs)
        for each in days
    }
    return {key: done for key, done in found.items() if any(done)}


def _of_cluster(conn: Connection, no: int) -> dict[tuple[str, int], tuple[int, ...]]:
    table = tables.books
    rows = conn.execute(select(table).where(table.c.cluster == no)).mappings()
    return {(row["pool"], row["day"]): tuple(row[name] for name in SUMS) for row in rows}


def _of_whom(
    books: Mapping[tuple[str, int], tuple[int, ...]], who: Payers
) -> dict[tuple[int, int, str, str], tuple[int, ...]]:
    return {
        (day, who.owner, who.pools.get(pool, who.account), pool): done
        for (pool, day), done in books.items()
    }
