"""Connections to the database: one writer, who knows at once that he is the one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from dask_site.history.store.failures import StoreError
from dask_site.history.store.journals import Journal

_WRITING = "dask_site_writing"
_MIGRATING = "dask_site_migrating"
_LOCK = 0x6461736B  # of PostgreSQL's advisory locks: "dask"
# By itself, TCP takes hours until it tells a server that a node has lost power, and what that held
# is held so long; or us of a server.
_OURS = {
    "client_encoding": "utf8",  # else a database made where no language was set answers in bytes
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_SERVERS = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "idle_in_transaction_session_timeout": 60_000,
}


def engine_for(url: str, journal: Journal, timeout: float) -> Engine:
    """Return an engine for a URL.

    Parameters
    ----------
    journal : str
        Of SQLite: ``wal``, with which reading and writing don't wait for each other; ``delete``
        for a file on a network file system, where it can't be used.
    timeout : float
        Seconds to wait for another who writes.

    Raises
    ------
    StoreError
        If the URL is none, or nothing is installed that can use it.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError(f"{url}: a history needs a file: sqlite:////var/lib/.../history.db")
        engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": timeout})
        event.listen(engine, "connect", _settings(journal, timeout))
        event.listen(engine, "begin", _begin)
        return engine
    ours = {name: value for name, value in _OURS.items() if name not in parsed.query}
    try:
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=ours)
    except (NoSuchModuleError, ImportError) as error:
        raise StoreError(f"{parsed.render_as_string()} can't be used: {error}") from None
    event.listen(engine, "connect", _limits({**_SERVERS, "lock_timeout": int(timeout * 1000)}))
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(
            f"{url!r} is no URL of a database: sqlite:////var/lib/dask-site/history.db, or "
            "postgresql+psycopg://user@host/name"
        ) from None
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StoreError(f"{parsed.render_as_string()}: only sqlite and postgresql are supported")
    return parsed


def file_of(engine: Engine) -> Path | None:
    """Return the file of a store on SQLite, None of others."""
    return Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


def _settings(journal: Journal, timeout: float) -> Any:
    def set_up(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # transactions begin where `_begin` says so
        cursor = dbapi.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        cursor.execute(f"PRAGMA journal_mode={journal}")
        # What was committed is acknowledged: its spool file may go. So it survives a power cut.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return set_up


def _limits(settings: Mapping[str, int]) -> Any:
    """Return what sets those that a server has, unless the URL does.

    Not as options of the connection: a server that has not all of them would refuse it, and a
    pooler any.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    sql = (
        f"SELECT set_config(name, value, false) FROM (VALUES {values}) AS ours (name, value)"  # noqa: S608  # our own
        " JOIN pg_settings USING (name) WHERE source <> 'client'"
    )

    def set_up(dbapi: Any, _record: Any) -> None:
        cursor = dbapi.cursor()
        cursor.execute(sql)
        cursor.close()
        dbapi.commit()

    return set_up


def _begin(conn: Connection) -> None:
    if conn.get_execution_options().get(_MIGRATING):
        # SQLite changes a table by making it anew: dropping the old one would delete, with it,
        # all rows that refer to it. Within a transaction this can't be set.
        conn.connection.cursor().execute("PRAGMA foreign_keys=OFF")
    # Who reads first and writes then may find that another has written in between.
    writing = conn.get_execution_options().get(_WRITING)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def writing(engine: Engine, *, migrating: bool = False) -> Iterator[Connection]:
    """Yield a connection in a transaction that no other writer can come between.

    Parameters
    ----------
    migrating : bool
        That tables are changed; whoever does it checks that all references hold.

    Raises
    ------
    sqlalchemy.exc.OperationalError
        If another writes for longer than the timeout, or the disk is full.
    """
    options = {_WRITING: True, _MIGRATING: migrating and engine.dialect.name == "sqlite"}
    with engine.connect().execution_options(**options) as conn, conn.begin():
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if migrating:  # which may take long, and waits for all who read
                conn.execute(text("SET LOCAL lock_timeout = 0"))
                conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield conn


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that sees one moment of the database."""
    # By itself, each statement of PostgreSQL sees a moment of its own.
    fixed = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with engine.connect().execution_options(**fixed) as conn, conn.begin():
        yield conn


@contextmanager
def plainly(what: str) -> Iterator[None]:
    """Turn the errors of the database into one that says what could not be done."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{what}: {cause}") from error
