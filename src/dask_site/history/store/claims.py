"""Which jobs clusters say are theirs: what the resource manager is to be asked about."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, select

from dask_site.history.model import AccountedJob
from dask_site.history.store import tables
from dask_site.history.store.keys import parts
from dask_site.history.titles import MADE_UP

#: How ends of schedulers begin that signals told to end.
SIGNAL = "SIG"


@dataclass
class Claim:
    """The jobs of one cluster.

    Attributes
    ----------
    cluster, label, kind : str
        Its id, what stands in the names of its jobs, and its class.
    owner : int
        User number of who wrote its records.
    started, seen : float
        By the clock of the scheduler's host, in seconds since 1970; `seen` is not later than when
        the collector heard of it last.
    how : str or None
        How it ended, or that it fell silent; None while it runs.
    own : str or None
        The job in which its scheduler runs.
    jobs : set of str
        Ids by its own records and its workers', the scheduler's included.
    pools : set of str
        In which it asked for jobs.
    rows : list of AccountedJob
        What is known of them.
    """

    cluster: str
    label: str
    kind: str
    owner: int
    started: float
    seen: float
    how: str | None = None
    own: str | None = None
    jobs: set[str] = field(default_factory=set)
    pools: set[str] = field(default_factory=set)
    rows: list[AccountedJob] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it has, or fell silent."""
        return self.how is not None

    @property
    def signalled(self) -> bool:
        """Whether a signal has ended it: the manager may know why."""
        return (self.how or "").startswith(SIGNAL)


def claims(conn: Connection, heard: float, also: Collection[str] = ()) -> list[Claim]:
    """Return the claims of the clusters heard of since some time, and of some others.

    Parameters
    ----------
    heard : float
        Seconds since 1970 by the collector's clock.
    also : collection of str
        Clusters.
    """
    c, ends = tables.clusters.c, tables.ends
    query = select(
        *(c.no, c.id, c.name, c.label, c.kind, c.owner, c.started, c.seen, c.heard, c.job),
        ends.c.how.label("how"),
    ).outerjoin(ends, ends.c.cluster == c.no)
    rows = conn.execute(query.where(c.heard >= heard)).mappings().all()
    there = {row["id"] for row in rows}
    others = sorted(set(also) - there)
    for some in parts(others):
        rows = [*rows, *conn.execute(query.where(c.id.in_(some))).mappings()]
    found = {int(row["no"]): _claim(row) for row in rows}
    for some_of in parts(list(found)):
        for no, job, pool in _of(conn, tables.jobs, some_of, "id", "pool"):
            found[no].pools.update({pool} - {""})
            if job:
                found[no].jobs.add(job)
        for no, job in _of(conn, tables.workers, some_of, "job"):
            if job:
                found[no].jobs.add(job)
        for no, row in _of(conn, tables.accounted, some_of, "row"):
            found[no].rows.append(AccountedJob(**json.loads(row)))
    return list(found.values())


def _claim(row: Any) -> Claim:
    own = row["job"] or None
    return Claim(
        cluster=row["id"],
        label=row["label"] or _made_up(row["name"] or ""),
        kind=row["kind"],
        owner=row["owner"],
        started=row["started"],
        # A clock that is wrong must not keep it for ever.
        seen=min(row["seen"], row["heard"]),
        how=row["how"],
        own=own,
        jobs={own} if own else set(),
    )


def _made_up(name: str) -> str:
    """Return what older records have instead of a label."""
    return name if MADE_UP.fullmatch(name) else ""


def _of(conn: Connection, table: Table, clusters: Collection[int], *names: str) -> Any:
    columns = [table.c[name] for name in names]
    query = select(table.c.cluster, *columns).where(table.c.cluster.in_(clusters))
    return conn.execute(query.distinct())
