"""The dated rates: old work keeps its price, also after a copy was put back."""

from __future__ import annotations

import json

from sqlalchemy import Connection, select

from dask_site.history.costs import Tariff
from dask_site.history.store import tables
from dask_site.history.store.rows import dumps
from dask_site.history.store.upserts import replace


def load(conn: Connection) -> Tariff:
    """Return the rates of all times, as far as they are kept."""
    rows = conn.execute(select(tables.tariffs).order_by(tables.tariffs.c.since)).all()
    return Tariff.from_list({"since": since, "pools": json.loads(pools)} for since, pools in rows)


def keep(conn: Connection, tariff: Tariff) -> None:
    """Keep the rates; none that are kept go."""
    rows = [{"since": each["since"], "pools": dumps(each["pools"])} for each in tariff.to_list()]
    if rows:
        conn.execute(replace(conn, tables.tariffs), rows)
