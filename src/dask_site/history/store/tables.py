"""The tables of the store, on SQLite and on PostgreSQL.

Times are seconds since 1970, UTC. What a user said is kept as he said it, in columns where
questions are asked of it and as JSON where not; what is added up has columns of numbers.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

from dask_site.history.store.columns import SUMS

#: STRICT tables of SQLite know only its own names of types.
INT = BigInteger().with_variant(Integer(), "sqlite")
NUM: Double[Any] = Double().with_variant(REAL(), "sqlite")
#: What threads do, as columns: `busy` and the words of `records.IDLE`; the rest is `others`.
THREADS = ("busy", "no_work", "starved", "transfer", "paused", "dispatch", "others")
metadata = MetaData()


def _int(name: str, default: int = 0) -> Column[Any]:
    return Column(name, INT, nullable=False, server_default=str(default))


def _num(name: str, *, needed: bool = True) -> Column[Any]:
    return Column(name, NUM, nullable=not needed)


def _text(name: str, *, needed: bool = True) -> Column[Any]:
    if needed:
        return Column(name, Text, nullable=False, server_default="")
    return Column(name, Text, nullable=True)


def _of_cluster(name: str, keys: tuple[str, ...], *columns: Column[Any]) -> Table:
    """Return a table whose rows go with their cluster, and lie together on SQLite."""
    cluster = Column(
        "cluster",
        INT,
        ForeignKey("clusters.no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    for column in columns:
        if column.name in keys:
            column.primary_key = True
    return _table(name, cluster, *columns)


def _table(name: str, *columns: Column[Any], rowid: bool = False) -> Table:
    return Table(name, metadata, *columns, sqlite_strict=True, sqlite_with_rowid=rowid)


def _key(name: str, type_: Any = Text) -> Column[Any]:
    return Column(name, type_, primary_key=True, nullable=False, autoincrement=False)


def _record(*columns: Column[Any]) -> tuple[Column[Any], ...]:
    """Return the columns of a record: its number and time, and its size here in bytes."""
    return (_int("q"), _num("t"), _int("size"), *columns)


owners = _table("owners", _key("uid", INT), _text("name"), _int("size"))

# Books that are not those of the last change.
_OPEN = text("changes <> closed")

clusters = Table(
    "clusters",
    metadata,
    Column("no", INT, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("owner", INT, ForeignKey("owners.uid"), nullable=False),
    _text("account"),
    # By the clock of whoever collects: first and last heard of.
    _num("created"),
    _num("heard"),
    # By the clock of the scheduler's host: of all records, and the highest `q` of all.
    _num("first"),
    _num("seen"),
    # As `seen`, but not later than it was heard of: a clock that is ahead wins no first place.
    Column("latest", NUM, nullable=False, server_default="0"),
    _int("top"),
    # The cluster's own record; q is -1 while there is none.
    _int("q", -1),
    _num("t"),
    _num("started"),
    _text("kind"),
    _text("name", needed=False),
    _text("user"),
    _text("host"),
    _int("pid"),
    _text("site", needed=False),
    _text("job", needed=False),
    _text("program"),
    _text("versions"),
    _num("interval"),
    _text("dashboard", needed=False),
    _text("label"),
    # Added up over its rows, so that a list and the bounds need not look at them.
    _int("tasks"),
    _int("failed"),
    _int("size"),
    _int("n_workers"),
    _int("n_spans"),
    _int("n_prefixes"),
    _int("n_jobs"),
    _int("n_scripts"),
    _int("n_usage"),
    _int("n_errors"),
    _int("n_traffic"),
    # 1: its samples are few; 2: they are gone.
    _int("thinned"),
    # How often something new was taken in; of which of these times the books are, and when they
    # were closed.
    _int("changes", 1),
    _int("closed"),
    _int("closed_at"),
    Index("clusters_latest", "latest"),
    Index("clusters_owner_latest", "owner", "latest"),
    Index("clusters_owner_created", "owner", "created"),
    Index("clusters_open", "closed_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

workers = _of_cluster(
    "workers",
    ("id",),
    _text("id"),
    *_record(
        _text("name"),
        _num("started"),
        _num("seen"),
        _int("threads"),
        _int("memory"),
        _int("gpus"),
        _text("host"),
        _text("pool", needed=False),
        _text("job", needed=False),
        _num("ended", needed=False),
        _int("expected", 1),
        _int("lost_tasks"),
        _num("lost_seconds"),
        _int("again_tasks"),
        Column("again_seconds", NUM, nullable=False, server_default="0"),
        _num("busy"),
    ),
)

spans = _of_cluster(
    "spans",
    ("id",),
    _text("id"),
    *_record(
        _text("name"),
        _text("parent", needed=False),
        _num("enqueued"),
        _num("start"),
        _num("stop"),
        _int("done"),
        _text("execute"),
        _text("sizes"),
        _text("code", needed=False),
        _int("total"),
        _int("n_prefixes"),
    ),
)

span_tasks = _of_cluster(
    "span_tasks",
    ("span", "prefix"),
    _text("span"),
    _text("prefix"),
    _text("states"),
    _text("seconds"),
    _int("nbytes"),
)

jobs = _of_cluster(
    "jobs",
    ("name",),
    _text("name"),
    *_record(
        _text("pool"),
        _text("id", needed=False),
        _text("state"),
        _text("reason"),
        _num("submitted"),
        _num("started", needed=False),
        _num("ended", needed=False),
        _text("node"),
        _text("exit_code"),
        _int("workers"),
        _int("cores"),
        _int("memory"),
        _int("gpus"),
        _num("walltime", needed=False),
        _text("script", needed=False),
        _text("arguments"),
    ),
)

scripts = _of_cluster("scripts", ("id",), _text("id"), *_record(_text("text")))

_POOL_NOW = ("workers", "nthreads", "processing", "queued", "memory", "spilled", "peak", "limit")

usage = _of_cluster(
    "usage",
    ("pool",),
    _text("pool"),
    *_record(
        _text("threads"),
        *(_int(name) for name in _POOL_NOW),
        _num("cpu"),
        _num("busy"),
        _num("total"),
    ),
)

samples = _of_cluster(
    "samples",
    ("pool", "q"),
    _text("pool"),
    _int("q"),
    _num("t"),
    *(_num(name, needed=False) for name in THREADS[:-1]),
    _text("others", needed=False),
    *(_int(name) for name in _POOL_NOW),
    _num("cpu"),
)

#: The books of a pool on a day, in whole numbers so that sums don't depend on their order.
books = _of_cluster(
    "books", ("pool", "day"), _text("pool"), _int("day"), *(_int(name) for name in SUMS)
)

traffic = _of_cluster(
    "traffic", ("scope",), _text("scope"), *_record(_text("seconds"), _text("sizes"))
)

errors = _of_cluster(
    "errors",
    ("key",),
    _text("key"),
    *_record(
        _text("prefix"),
        _text("exception"),
        _text("message"),
        _int("count"),
        _text("span", needed=False),
    ),
)

#: `said`: by its scheduler; else by whoever found it gone.
ends = _of_cluster("ends", (), _int("q"), _num("t"), _text("how"), _int("said"))

accounted = _of_cluster("accounted", ("id",), _text("id"), _text("row"))

#: The books of all clusters added up, by day (since 1970, UTC), owner, account and pool.
ledger = _table(
    "ledger",
    _key("day", INT),
    _key("owner", INT),
    _key("account"),
    _key("pool"),
    *(_int(name) for name in SUMS),
)
Index("ledger_owner", ledger.c.owner, ledger.c.day)

#: The number of the process that writes: see `writers`.
writers = _table("writers", _key("one", INT), _int("number"))

#: The site's rates, as JSON by pool, and since when they hold: old work keeps its price.
tariffs = _table("tariffs", _key("since", NUM), _text("pools"))

#: Spool files, and how far they were taken in. Some file systems' inode numbers have 64 bits.
files = _table(
    "files",
    _key("device"),
    _key("inode"),
    _key("path"),
    _int("owner"),
    _int("offset"),
    _text("cluster", needed=False),
)

#: Clusters that are not to be taken in again.
forgotten = _table("forgotten", _key("id"), _int("owner"), _num("at"))

refusals = _table(
    "refusals",
    _key("owner", INT),
    _key("reason"),
    _int("count"),
    _num("last"),
)
