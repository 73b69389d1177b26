"""Sums that are kept up to date with each change, so that no question adds up clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, and_, delete

from dask_site.history.store.upserts import added

Sums = Mapping[Any, tuple[int, ...]]


def difference(after: Sums, before: Sums) -> dict[Any, tuple[int, ...]]:
    """Return by how much sums have changed, of those that have."""
    change = {}
    for key in after.keys() | before.keys():
        width = len(next(iter((after if key in after else before).values())))
        new, old = after.get(key, (0,) * width), before.get(key, (0,) * width)
        if new != old:
            change[key] = tuple(n - o for n, o in zip(new, old, strict=True))
    return change


def add(
    conn: Connection, table: Table, change: Sums, more: Mapping[str, Any] | None = None
) -> None:
    """Add to the sums of a table, whose primary key comes first and whose numbers follow.

    Parameters
    ----------
    change : dict
        From the key to what is added; the rows that become nothing go.
    more : dict
        Columns that are set besides.
    """
    if not change:
        return
    keys = [column.name for column in table.primary_key]
    width = len(next(iter(change.values())))
    names = [column.name for column in table.c if column.name not in keys][:width]
    rows = [
        {**dict(zip(keys, key, strict=True)), **dict(zip(names, sums, strict=True)), **(more or {})}
        for key, sums in change.items()
    ]
    conn.execute(added(conn, table, names), rows)
    for key, sums in change.items():
        if min(sums) < 0:
            same = [table.c[name] == value for name, value in zip(keys, key, strict=True)]
            conn.execute(delete(table).where(and_(*same, *(table.c[n] == 0 for n in names))))
