"""`INSERT ... ON CONFLICT` for both dialects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table


def newer(conn: Connection, table: Table) -> Any:
    """Return a statement that puts rows in the place of those with a lower `q`."""
    return _upsert(conn.dialect.name, table, "newer")


def replace(conn: Connection, table: Table) -> Any:
    """Return a statement that puts rows in the place of those with the same key."""
    return _upsert(conn.dialect.name, table, "replace")


def ignore(conn: Connection, table: Table) -> Any:
    """Return a statement that adds the rows that aren't there yet."""
    return _upsert(conn.dialect.name, table, "ignore")


def added(conn: Connection, table: Table, columns: Sequence[str]) -> Any:
    """Return a statement that adds these columns to those of the row with the same key."""
    return _upsert(conn.dialect.name, table, "add", tuple(columns))


@cache
def _upsert(dialect: str, table: Table, how: str, columns: tuple[str, ...] = ()) -> Any:
    # One object each: SQLAlchemy keeps what it compiled by the statement.
    statement = _insert(dialect)(table)
    if how == "ignore":
        return statement.on_conflict_do_nothing()
    keys = [column.name for column in table.primary_key]
    values = {c.name: statement.excluded[c.name] for c in table.c if c.name not in keys}
    for name in columns:
        values[name] = table.c[name] + statement.excluded[name]
    where = table.c.q < statement.excluded.q if how == "newer" else None
    return statement.on_conflict_do_update(index_elements=keys, set_=values, where=where)


def _insert(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_postgresql

        return insert_postgresql
    from sqlalchemy.dialects.sqlite import insert as insert_sqlite

    return insert_sqlite
