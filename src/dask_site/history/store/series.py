"""What pools did over time: samples that get fewer as their cluster gets older."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select

from dask_site.history.records import UsageRecord
from dask_site.history.store import tables
from dask_site.history.store.rows import Row, sample_of
from dask_site.history.store.upserts import ignore

#: Samples of a pool that are kept while its cluster lives, and once it is a day old.
MOST_SAMPLES, FEW_SAMPLES = 512, 128
# Made once: to make a statement takes SQLAlchemy longer than SQLite takes to run it.
_S = tables.samples.c
_SAMPLES = (
    select(_S.pool, _S.q, _S.t)
    .where(_S.cluster == bindparam("cluster"), _S.t >= bindparam("start"))
    .order_by(_S.pool, _S.q)
)


def take_samples(conn: Connection, row: Row, before: Row, records: Sequence[UsageRecord]) -> None:
    """Take samples of a cluster in.

    Parameters
    ----------
    row, before : dict
        The cluster's row as it will be, and as it is.
    """
    if not records:
        return
    rows = [{**sample_of(record), "cluster": row["no"]} for record in records]
    conn.execute(ignore(conn, tables.samples), rows)
    width = width_of(row)
    same = width == width_of(before)
    start = min(record.t for record in records) // width * width if same else 0.0
    thin(conn, row["no"], width, start)


def width_of(row: Row, most: int = MOST_SAMPLES) -> float:
    """Return how many seconds lie between the samples of a cluster: a power of two."""
    return float(2 ** math.ceil(math.log2(max(1.0, (row["seen"] - row["first"]) / most))))


def thin(conn: Connection, cluster: int, width: float, start: float = 0.0) -> None:
    """Leave the first sample of each `width` seconds, from `start` on.

    The first: that of a wider part is the first of its parts' firsts, so it makes no difference
    when, and in which order, samples came.
    """
    c = tables.samples.c
    seen: set[tuple[str, float]] = set()
    gone = []
    for pool, q, t in conn.execute(_SAMPLES, {"cluster": cluster, "start": start}):
        part = (pool, t // width)
        if part in seen:
            gone.append({"c": cluster, "p": pool, "n": q})
        seen.add(part)
    if gone:
        same = (c.cluster == bindparam("c")) & (c.pool == bindparam("p")) & (c.q == bindparam("n"))
        conn.execute(delete(tables.samples).where(same), gone)
