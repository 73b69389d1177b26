"""Where the time of many clusters went, and the site's overview."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from dask_site.history.books import Books, Costs
from dask_site.history.store.listing import Sum
from dask_site.history.store.looking import SharedError, SpanSum, Unused
from dask_site.history.titles import title
from dask_site.history.totals import week_of
from dask_site.web import bars, words
from dask_site.web.frames import Frame
from dask_site.web.query import Query
from dask_site.web.rendering import render
from dask_site.web.tables import Column, Table

BY = ("day", "week", "pool", "span", "account", "user")
_NUMBERS = (
    Column("core_hours", "core-h", "hours", "allocated"),
    Column("of_all", "of all", "share", bar=True),
    Column("cost", "cost", "money", "in the site's currency"),
    Column("cpu_share", "computing", "share", "of its core-hours", bar=True),
    Column("no_work_hours", "nothing submitted", "hours", "core-hours"),
    Column("other_idle_hours", "idle otherwise", "hours", "core-hours"),
    Column(
        "wasted_hours", "in vain", "hours", "failed, lost with workers, and done again for that"
    ),
    Column(
        "other_hours",
        "all else",
        "hours",
        "waiting in tasks, unfinished, start and stop of jobs",
    ),
)
_UNUSED = (
    Column("cluster", "cluster", "name"),
    Column("user", "user", "name"),
    Column("pool", "pool", "name"),
    Column("workers", "workers", "count"),
    Column("threads", "threads", "count"),
    Column("idle_hours", "idle thread-h", "hours", "since it started"),
    Column("started", "started (UTC)", "moment"),
)
_ERRORS = (
    Column("exception", "exception", "name"),
    Column("prefix", "in tasks named", "name", "one of them"),
    Column("users", "users", "count"),
    Column("clusters", "clusters", "count"),
    Column("count", "times", "count"),
    Column("last", "last (UTC)", "moment"),
)
_WASTE = (
    Column("pool", "pool", "name"),
    Column("gpu_hours", "GPU-h", "hours", "allocated"),
    Column("idle_gpu_hours", "idle GPU-h", "hours", "about: by the idle share of its cores"),
    Column("idle_share", "idle", "share", "of its core-hours", bar=True),
)


def sum_table(
    by: str,
    sums: Iterable[Sum],
    name_of: Callable[[Sum], str],
    *,
    title: str = "",
    ordered: bool = False,
) -> Table:
    """Return sums by some name, the largest first, or as they come."""
    done: dict[str, tuple[Books, Costs]] = {}
    for one in sums:
        name = name_of(one)
        books, costs = done.get(name, (Books(), Costs()))
        done[name] = books + one.books, costs + one.costs
    whole = math.fsum(books.allocated for books, _ in done.values())
    rows: list[dict[str, Any]] = []
    for name, (books, costs) in done.items():
        none = books.of("idle: no work")
        lost = books.of("lost") + books.of("failed")
        rows.append(
            {
                by: name,
                "core_hours": books.allocated / 3600,
                "of_all": books.allocated / whole if whole else None,
                "cost": costs.money if costs.unpriced < costs.core_hours else None,
                "cpu_share": books.share("cpu") if books.allocated else None,
                "no_work_hours": none / 3600,
                "other_idle_hours": (books.idle - none) / 3600,
                "wasted_hours": (lost + books.again) / 3600,
                "other_hours": (books.allocated - books.idle - books.of("cpu") - lost) / 3600,
            }
        )
    if not ordered:
        rows.sort(key=lambda row: -row["core_hours"])
    return Table(
        f"by_{by}",
        title or f"By {by}",
        (Column(by, by, "name"), *_NUMBERS),
        rows,
        "No worker ran in this time. Take more days, or start one: "
        "`from dask_site import Cluster; cluster = Cluster()`",
    )


def span_table(found: Sequence[SpanSum]) -> Table:
    """Return what spans of one name took."""
    rows = []
    whole = math.fsum(math.fsum(one.execute.values()) for one in found)
    for one in found:
        hours = math.fsum(one.execute.values()) / 3600
        cpu = math.fsum(n for w, n in one.execute.items() if w.endswith("-cpu")) / 3600
        rows.append(
            {
                "span": " / ".join(one.name),
                "spans": one.spans,
                "tasks": one.tasks,
                "thread_hours": hours,
                "of_all": hours * 3600 / whole if whole else None,
                "cpu_share": cpu / hours if hours else None,
            }
        )
    columns = (
        Column("span", "span", "name"),
        Column("spans", "times", "count"),
        Column("tasks", "tasks", "count"),
        Column("thread_hours", "thread-h in tasks", "hours"),
        Column("of_all", "of all", "share", bar=True),
        Column("cpu_share", "computing", "share", "CPU time of that", bar=True),
    )
    return Table(
        "by_span",
        "By span",
        columns,
        rows,
        'No span in this time. Name what is computed: `with span("regrid"):`.',
    )


def by_week(one: Sum) -> str:
    """Return the week of a sum by day, as the command line does: ``2026-W48``."""
    return week_of(one.day or date(1970, 1, 1))


def where_page(frame: Frame, query: Query, by: str, table: Table, **more: Any) -> str:
    """Return the page that says where the time went, by one of `BY`."""
    chart: bars.Days | None = more.get("chart")
    bar: bars.LedgerBar | None = more.get("bar")
    choices = [one for one in BY if frame.overseer or one not in ("user", "account")]
    return render(
        "where.html",
        frame=frame,
        query=query,
        by=by,
        choices=choices,
        days=query.number("days", 30, 1, 3660),
        table=_shown(table, query),
        chart=chart,
        bar=bar,
    )


@dataclass(frozen=True)
class Overview:
    """What an overseer sees of the last days."""

    days: Sequence[date]
    by_day: Sequence[Sum]
    by_owner: Sequence[Sum]
    by_account: Sequence[Sum]
    by_pool: Sequence[Sum]
    unused: Sequence[Unused] = ()
    errors: Sequence[SharedError] = ()
    names: Mapping[int, str] = field(default_factory=dict)


def overview_tables(found: Overview) -> dict[str, Table]:
    """Return the tables of the site's page by name."""
    people = found.names
    return {
        "by_user": sum_table(
            "user", found.by_owner, lambda s: people.get(s.owner or 0, str(s.owner))
        ),
        "by_account": sum_table("account", found.by_account, lambda s: s.account or "(none)"),
        "by_pool": sum_table("pool", found.by_pool, lambda s: s.pool or "(no pool)"),
        "by_day": sum_table("day", found.by_day, lambda s: str(s.day), ordered=True),
        "waste": waste_table(found.by_pool),
        "unused": unused_table(found.unused),
        "errors": error_table(found.errors),
    }


def site_page(frame: Frame, query: Query, found: Overview, scope: str) -> str:
    """Return the site's page, or that of the accounts in `scope`."""
    tables = overview_tables(found)
    return render(
        "site.html",
        frame=frame,
        query=query,
        scope=scope,
        days=len(found.days),
        bar=bars.of_books(sum((one.books for one in found.by_day), Books())),
        chart=bars.of_days(found.by_day, found.days),
        **{name: _shown(table, query) for name, table in tables.items()},
    )


def waste_table(by_pool: Sequence[Sum]) -> Table:
    """Return the GPUs that were held and had nothing to do, by pool."""
    rows = []
    for one in by_pool:
        held, books = one.costs.gpu_hours, one.books
        if not held or not books.allocated:
            continue
        idle = books.idle / books.allocated
        rows.append(
            {
                "pool": one.pool or "(no pool)",
                "gpu_hours": held,
                "idle_gpu_hours": held * idle,
                "idle_share": idle,
            }
        )
    return Table("waste", "Idle GPUs", _WASTE, rows, "No pool with GPUs was used.")


def unused_table(found: Sequence[Unused]) -> Table:
    """Return what runs now and is not used."""
    rows = [
        {
            "cluster": title(one.name, one.program, f"{one.kind} {one.cluster[:8]}"),
            "user": one.owner,
            "pool": one.pool or "(no pool)",
            "workers": one.workers,
            "threads": one.threads,
            "idle_hours": one.idle / 3600,
            "started": one.started,
            "_href": f"/clusters/{one.cluster}",
        }
        for one in found
    ]
    return Table(
        "unused",
        "Running and unused",
        _UNUSED,
        rows,
        "All that runs has had tasks in the last ten minutes.",
        cards=True,
    )


def error_table(found: Sequence[SharedError]) -> Table:
    """Return the errors that several had."""
    rows = [
        {
            "exception": one.exception,
            "prefix": one.prefix,
            "users": one.users,
            "clusters": one.clusters,
            "count": one.count,
            "last": one.last,
        }
        for one in found
    ]
    return Table("errors", "Errors that many share", _ERRORS, rows, "No task failed.")


def _shown(table: Table, query: Query) -> Table:
    sort = query.sort(table.name)
    return (table.sorted(sort) if sort else table).part(query.page(table.name), 50)


def pools_of(sums: Iterable[Sum]) -> list[str]:
    """Return the pools that sums name."""
    return sorted({words.name(one.pool) for one in sums if one.pool})
