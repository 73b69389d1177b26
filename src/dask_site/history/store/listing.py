"""Questions about many clusters, as plain SQL that a command asks without loading more.

`Store` asks them through SQLAlchemy, and `reader` through Python's own sqlite3, which imports in a
tenth of the time.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dask_site.history import migrations
from dask_site.history.books import Books, Costs
from dask_site.history.store.columns import SUMS, from_columns
from dask_site.history.store.failures import StoreError, other_version
from dask_site.history.store.keys import named, parts

Ask = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]
_DAY = 86400
_BY = ("day", "owner", "account", "pool")


@dataclass(frozen=True)
class ClusterSummary:
    """A cluster in a list.

    Attributes
    ----------
    owner : int
        User number of who wrote its records.
    owner_name : str
        That user's name.
    started, seen : float
        Seconds since 1970, by the clock of the scheduler's host.
    ended : float or None
        None while it runs.
    how : str or None
        How it ended.
    state : str
        ``running``; ``ended``; ``silent``: nothing was heard of it any more.
    tasks, errors : int
        Of all its spans; that failed.
    allocated, cpu, money : float or None
        Core-seconds that it was allocated, those of them in which tasks computed, and what that
        costs in the site's currency. None until its books are closed for the first time; money
        also where there is no price.
    pools : tuple of str
        Those in which something was allocated; empty for workers without one.
    """

    id: str
    name: str | None
    kind: str
    owner: int
    owner_name: str
    account: str
    program: str
    started: float
    seen: float
    ended: float | None
    how: str | None
    state: str
    tasks: int
    errors: int
    allocated: float | None
    cpu: float | None
    money: float | None
    pools: tuple[str, ...]


@dataclass(frozen=True)
class Sum:
    """What was done on days, by users, accounts or pools.

    Attributes
    ----------
    day, owner, account, pool
        What it is the sum for; None for all.
    books : Books
    costs : Costs
    """

    day: date | None
    owner: int | None
    account: str | None
    pool: str | None
    books: Books
    costs: Costs


_CLUSTERS = (
    "SELECT c.no, c.id, c.name, c.kind, c.owner, o.name, c.account, c.program, c.started, c.seen,"
    " e.t, e.how, e.said, c.tasks, c.failed, c.closed FROM clusters c"
    " JOIN owners o ON o.uid = c.owner LEFT JOIN ends e ON e.cluster = c.no"
    " {} ORDER BY c.latest DESC, c.no DESC LIMIT :limit OFFSET :skip"
)
_BOOKS = (
    "SELECT cluster, pool, sum(allocated + 0.0), sum(cpu + 0.0), sum(money + 0.0),"
    " sum(unpriced + 0.0) FROM books WHERE cluster IN ({}) GROUP BY cluster, pool"
)
_SUMMARY = (
    *("id", "name", "kind", "owner", "owner_name", "account", "program", "started", "seen"),
    *("ended", "how", "tasks", "errors"),
)


def clusters(
    ask: Ask,
    owner: int | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    account: str | None = None,
    live: bool | None = None,
    skip: int = 0,
) -> list[ClusterSummary]:
    """Return clusters, those heard of last first.

    Parameters
    ----------
    owner : int, optional
        Only this user's.
    since, until : float, optional
        Only those that were there between these times, in seconds since 1970.
    limit : int
        At most so many.
    account : str, optional
        Only what was charged to it.
    live : bool, optional
        Only those that have not ended, or have.
    skip : int
        Leave out the first so many.
    """
    tests: dict[str, Any]
    tests = {"c.owner = :owner": owner, "c.latest >= :since": since, "c.started < :until": until}
    tests["c.account = :account"] = account
    tests["e.how IS NULL"] = live or None
    tests["e.how IS NOT NULL"] = None if live is None or live else True
    where = " AND ".join(test for test, value in tests.items() if value is not None)
    known = {"owner": owner, "since": since, "until": until, "limit": limit, "account": account}
    known["skip"] = skip
    rows = ask(
        _CLUSTERS.format(f"WHERE {where}" if where else ""),
        {name: value for name, value in known.items() if value is not None},
    )
    books = _books(ask, [int(row[0]) for row in rows])
    return [_summary(row, books.get(row[0], {})) for row in rows]


def _books(ask: Ask, numbers: list[int]) -> dict[int, dict[str, tuple[float, ...]]]:
    """Return allocated and computed core-ms, price and core-ms without one, by cluster and pool."""
    found: dict[int, dict[str, tuple[float, ...]]] = {}
    for some in parts(numbers):
        names, values = named(some)
        for no, pool, *done in ask(_BOOKS.format(names), values):
            found.setdefault(no, {})[pool] = tuple(map(float, done))
    return found


def _summary(row: Sequence[Any], books: dict[str, tuple[float, ...]]) -> ClusterSummary:
    how, said, closed = row[11], row[12], row[15]
    state = "running" if how is None else "silent" if how == "silent" and not said else "ended"
    values = dict(zip(_SUMMARY, (*row[1:12], *row[13:15]), strict=True))
    allocated, cpu, money, unpriced = (sum(n[i] for n in books.values()) for i in range(4))
    return ClusterSummary(
        **values,
        state=state,
        allocated=allocated / 1000 if closed else None,
        cpu=cpu / 1000 if closed else None,
        money=money / 1e6 if closed and unpriced < allocated else None,
        pools=tuple(sorted(pool for pool, done in books.items() if done[0])),
    )


def sums(
    ask: Ask,
    since: date,
    until: date,
    by: Sequence[str] = ("day",),
    owner: int | None = None,
    account: str | None = None,
) -> list[Sum]:
    """Return what was done from one day until before another, UTC.

    Parameters
    ----------
    by : sequence of str
        Of ``day``, ``owner``, ``account``, ``pool``: what there shall be a sum for each of.
    owner, account : optional
        Only of this user, this account.

    Raises
    ------
    ValueError
        If `by` names anything else.
    """
    unknown = [name for name in by if name not in _BY]
    if unknown:
        raise ValueError(f"by={unknown[0]!r} is none of {', '.join(_BY)}")
    asked: dict[str, Any] = {"since": _number(since), "until": _number(until)}
    tests = ["day >= :since", "day < :until"]
    for name, value in (("owner", owner), ("account", account)):
        if value is not None:
            tests.append(f"{name} = :{name}")
            asked[name] = value
    groups = ", ".join(by)
    # Not as integers: SQLite's sum of those fails where it gets too large, for everybody.
    columns = ", ".join([*by, *(f"sum({name} + 0.0)" for name in SUMS)])
    sql = f"SELECT {columns} FROM ledger WHERE {' AND '.join(tests)}"  # noqa: S608  # names from above
    if by:
        sql += f" GROUP BY {groups} ORDER BY {groups}"
    return [_sum(by, row) for row in ask(sql, asked) if row[-1] is not None]


def _sum(by: Sequence[str], row: Sequence[Any]) -> Sum:
    keys: dict[str, Any] = dict.fromkeys(_BY)
    keys.update(zip(by, row, strict=False))
    if keys["day"] is not None:
        keys["day"] = _day(keys["day"])
    books, costs = from_columns(row[len(by) :])
    return Sum(**keys, books=books, costs=costs)


def _number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def _day(number: int) -> date:
    return date(1970, 1, 1) + timedelta(days=number)


@contextmanager
def reader(path: str | os.PathLike[str]) -> Iterator[Ask]:
    """Open a store in an SQLite file, to ask it the questions above.

    Raises
    ------
    StoreError
        If there is no store, or it is of another version.
    """
    where = Path(path)
    if not where.is_file():
        raise StoreError(f"{where}: there is no history yet")
    try:
        conn = sqlite3.connect(f"file:{quote(str(where.absolute()))}?mode=ro", uri=True, timeout=10)
        try:
            version = conn.execute("SELECT version_num FROM alembic_version").fetchone()
            if version is None or version[0] != migrations.HEAD:
                raise other_version(str(where), version and version[0])
            yield lambda sql, values: conn.execute(sql, values).fetchall()
        finally:
            conn.close()
    except sqlite3.Error as error:
        raise StoreError(f"{where} can't be read as a history: {error}") from None


def last_days(days: int, today: date | None = None) -> tuple[date, date]:
    """Return the first of so many days, the last of which is today, and the day after, UTC."""
    end = (today or datetime.now(UTC).date()) + timedelta(days=1)
    return end - timedelta(days=days), end
