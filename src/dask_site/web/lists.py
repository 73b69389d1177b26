"""The page of a user's clusters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dask_site.history.books import Books
from dask_site.history.pace import patience
from dask_site.history.store.listing import ClusterSummary, Sum
from dask_site.history.titles import title
from dask_site.web import bars, words
from dask_site.web.frames import Frame
from dask_site.web.query import Query
from dask_site.web.rendering import render
from dask_site.web.tables import Column, Table

#: Clusters on a page; among which names, states and pools are looked for; in a file.
ROWS, MOST, MOST_IN_FILE = 25, 1000, 20_000
STATES = ("any", "running", "finished", "ended otherwise", "with errors")
COLUMNS = (
    Column("cluster", "cluster", "name"),
    Column("state", "state", "text"),
    Column("started", "started (UTC)", "moment"),
    Column("lasted_s", "lasted", "seconds"),
    Column("tasks", "tasks", "count"),
    Column("failed", "failed", "count"),
    Column("core_hours", "core-h", "hours", "allocated"),
    Column("cost", "cost", "money", "in the site's currency"),
    Column("cpu_share", "computing", "share", "CPU time of the core-hours", bar=True),
)


def chosen(clusters: Iterable[ClusterSummary], query: Query) -> list[ClusterSummary]:
    """Return the clusters that a query asks for, those that run first."""
    name, pool = query.text("name").casefold(), query.text("pool")
    state = query.choice("state", STATES)
    some = [
        one
        for one in clusters
        if name in f"{one.name or ''} {one.program} {one.kind} {one.id}".casefold()
        and (not pool or pool in one.pools)
        and _is(one, state)
    ]
    return sorted(some, key=lambda one: (one.state != "running", -one.started))


def _is(one: ClusterSummary, state: str) -> bool:
    finished = one.state == "ended" and one.how == "closed"
    return {
        "any": True,
        "running": one.state == "running",
        "finished": finished,
        "ended otherwise": one.state != "running" and not finished,
        "with errors": one.errors > 0,
    }[state]


def since(query: Query) -> float | None:
    """Return the moment from which clusters are asked for, None for all; bad days are none."""
    return _day(query.text("since"))


def until(query: Query) -> float | None:
    """Return the moment until which clusters that are asked for began, None for all."""
    last = _day(query.text("until"))
    return None if last is None else last + 86400


def _day(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def older(query: Query, found: Sequence[ClusterSummary]) -> str:
    """Return the day until which those began that a page does not look at; empty if it does.

    Of several that began on that day some are on both pages.
    """
    if len(found) < MOST:
        return ""
    day = f"{datetime.fromtimestamp(min(one.started for one in found), UTC):%Y-%m-%d}"
    # Not once more the same, where one day has more than a page looks at.
    return day if day != query.text("until") else ""


def cluster_list(
    clusters: Sequence[ClusterSummary],
    dashboards: Mapping[str, str],
    *,
    others: bool = False,
    interval: float = 5.0,
) -> Table:
    """Return a table of clusters.

    Parameters
    ----------
    dashboards : dict of str to str
        Links of those that run.
    others : bool
        Whether there are clusters of several users.
    interval : float
        Seconds from one of their records to the next.
    """
    rows = [_row(one, dashboards.get(one.id, ""), interval) for one in clusters]
    columns: tuple[Column, ...] = COLUMNS
    if others:
        columns = (COLUMNS[0], Column("user", "user", "name"), *COLUMNS[1:])
    return Table("clusters", "Clusters", columns, rows, cards=True)


def _row(one: ClusterSummary, dashboard: str, interval: float) -> dict[str, Any]:
    state, mood = in_words(one, interval)
    return {
        "cluster": title(one.name, one.program, f"{one.kind} {one.id[:8]}"),
        "user": one.owner_name,
        "state": state,
        "started": one.started,
        "lasted_s": max(0.0, one.seen - one.started),
        "tasks": one.tasks,
        "failed": one.errors or None,
        "core_hours": None if one.allocated is None else one.allocated / 3600,
        "cost": one.money,
        "cpu_share": (one.cpu or 0.0) / one.allocated if one.allocated else None,
        "_href": f"/clusters/{one.id}",
        "_dashboard": dashboard,
        "_mood": mood,
    }


def in_words(one: ClusterSummary, interval: float) -> tuple[str, str]:
    """Return the state of a cluster in words, and its mood.

    Parameters
    ----------
    interval : float
        Seconds from one of its records to the next.
    """
    if one.state == "running":
        heard = time.time() - one.seen
        if heard > patience(interval):
            return f"not heard of for {words.length(heard)}", "poor"
        return "running", "live"
    if one.state == "silent":
        return "fell silent", "bad"
    if one.how == "closed":
        return ("finished, with errors", "poor") if one.errors else ("finished", "good")
    return f"ended: {words.name(one.how)}", "poor"


def choices(clusters: Iterable[ClusterSummary]) -> list[dict[str, str]]:
    """Return clusters as what a form offers: their ids, and by what they are known."""
    return [
        {
            "id": one.id,
            "text": f"{words.name(title(one.name, one.program, one.kind))[:40]}, "
            f"{words.moment(one.started)} ({one.id[:8]})",
        }
        for one in clusters
    ]


def clusters_page(
    frame: Frame,
    query: Query,
    table: Table,
    sums: Sequence[Sum],
    pools: Sequence[str],
    *,
    whose: str = "",
    filtered: bool = False,
    older: str | None = None,
) -> str:
    """Return the page of clusters.

    Parameters
    ----------
    table : Table
        One page of them.
    sums : sequence of Sum
        Of the last 30 days.
    pools : sequence of str
        That may be chosen.
    whose : str
        Of whom they are, where that isn't who looks.
    older : str, optional
        The day until which those began that are not looked at; None where all are.
    """
    bar = bars.of_books(sum((one.books for one in sums), Books()))
    return render(
        "clusters.html",
        frame=frame,
        query=query,
        table=table,
        bar=bar,
        pools=pools,
        states=STATES,
        whose=whose,
        filtered=filtered,
        most=MOST,
        older=older,
    )
