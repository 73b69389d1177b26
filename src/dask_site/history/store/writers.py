"""Who writes: each writer has a number, and one with an old number writes nothing any more."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from dask_site.history.store import tables


def begin(conn: Connection) -> int:
    """Make the caller the writer; return its number, which is higher than all before."""
    found = conn.execute(select(tables.writers.c.number).with_for_update()).scalar()
    number = int(found or 0) + 1
    if number == 1:
        conn.execute(insert(tables.writers), {"one": 1, "number": number})
    else:
        conn.execute(update(tables.writers).values(number=number))
    return number


def current(conn: Connection) -> int:
    """Return the number of the latest writer, 0 if there was none.

    It stays that while the transaction lasts: SQLite has one that writes, PostgreSQL a shared lock.
    """
    query = select(tables.writers.c.number).with_for_update(read=True)
    found = conn.execute(query).scalar()
    return 0 if found is None else int(found)
