"""Two clusters side by side: which span got slower, and where the core-hours went instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dask_site.history.books import Ledger
from dask_site.history.comparing import lasted, worked
from dask_site.history.costs import Tariff, bill
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.web import bars, words
from dask_site.web.cluster import title_of
from dask_site.web.frames import Frame
from dask_site.web.looks import LOOKS
from dask_site.web.query import Query
from dask_site.web.rendering import render
from dask_site.web.tables import Column, Table
from dask_site.web.verdict import verdict

PARTS = (
    Column("part", "part", "text"),
    Column("a_core_hours", "A core-h", "hours"),
    Column("b_core_hours", "B core-h", "hours"),
    Column("more_core_hours", "B less A", "hours"),
    Column("a_share", "A share", "share"),
    Column("b_share", "B share", "share"),
)
SPANS = (
    Column("span", "span", "name"),
    Column("a_worked_s", "A in tasks", "seconds", "what all its tasks took together"),
    Column("b_worked_s", "B in tasks", "seconds", "what all its tasks took together"),
    Column("times_worked", "B : A", "number", "how many times as much"),
    Column("a_lasted_s", "A lasted", "seconds", "while others may have run beside it"),
    Column("b_lasted_s", "B lasted", "seconds", "while others may have run beside it"),
    Column("times", "B : A", "number", "how many times as long"),
    Column("a_tasks", "A tasks", "count"),
    Column("b_tasks", "B tasks", "count"),
)


def comparison(a: ClusterHistory, b: ClusterHistory) -> dict[str, Table]:
    """Return the differences of two clusters, as tables by name."""
    books = close_books(a), close_books(b)
    return {"parts": _parts(*books), "spans": _spans((a, b), books)}


def compare_page(
    frame: Frame, query: Query, a: ClusterHistory, b: ClusterHistory, tariff: Tariff
) -> str:
    """Return the page that compares two clusters."""
    tables = comparison(a, b)
    shown = {}
    for name, table in tables.items():
        sort = query.sort(name)
        shown[name] = (table.sorted(sort) if sort else table).part(query.page(name), 100)
    return render(
        "compare.html",
        frame=frame,
        query=query,
        sides=[_side("A", a, tariff), _side("B", b, tariff)],
        sentence=_sentence(a, b, tables["spans"]),
        **shown,
    )


def choose_page(frame: Frame, query: Query, clusters: list[dict[str, str]]) -> str:
    """Return the page on which two clusters are chosen."""
    return render("choose.html", frame=frame, query=query, clusters=clusters)


def _side(letter: str, history: ClusterHistory, tariff: Tariff) -> dict[str, Any]:
    costs = bill(history, tariff).whole
    return {
        "letter": letter,
        "id": history.cluster.c,
        "name": title_of(history),
        "started": history.cluster.started,
        "lasted": _lasted(history),
        "verdict": verdict(history),
        "bar": bars.of_books(close_books(history).whole),
        "core_hours": costs.core_hours,
        "money": costs.money if costs.unpriced < costs.core_hours else None,
        "workers": len(history.workers),
    }


def _lasted(history: ClusterHistory) -> float:
    return max(0.0, history.seen - history.cluster.started)


def _sentence(a: ClusterHistory, b: ClusterHistory, spans: Table) -> str:
    one, other = _lasted(a), _lasted(b)
    if not one or not other:
        return ""
    how = "as long as" if 0.95 < other / one < 1.05 else "longer than" if other > one else ""
    text = f"B took {words.length(other)}, "
    text += f"{how} A's {words.length(one)}" if how else f"less than A's {words.length(one)}"
    # What a span takes in its tasks is its own; how long it lasts depends on what runs beside it.
    least = 0.05 * math.fsum(row["b_worked_s"] or 0.0 for row in spans.rows)
    if worst := _worst(spans, "more_worked_s", "times_worked", least):
        return (
            f"{text}; of the spans that both have, {words.name(worst['span'])} took most more: "
            f"{words.length(worst['a_worked_s'])} in its tasks became "
            f"{words.length(worst['b_worked_s'])}{_workers(a, b)}."
        )
    if worst := _worst(spans, "more_s", "times"):
        before, after = words.length(worst["a_lasted_s"]), words.length(worst["b_lasted_s"])
        return (
            f"{text}; no span that both have took much more in its tasks, and "
            f"{words.name(worst['span'])} lasted longer by most: {before} became "
            f"{after}{_workers(a, b)}."
        )
    return f"{text}; no span that both have got much slower{_workers(a, b)}."


def _worst(spans: Table, more: str, times: str, least: float = 0.0) -> Mapping[str, Any] | None:
    slower = (
        row
        for row in spans.rows
        if row[more] is not None and row[more] >= least and (row[times] or 0) > 1.1
    )
    return max(slower, key=lambda row: row[more], default=None)


def _workers(a: ClusterHistory, b: ClusterHistory) -> str:
    one, other = len(a.workers), len(b.workers)
    return "" if one == other else f". A had {words.plural(one, 'worker')} in all, B {other}"


def _parts(a: Ledger, b: Ledger) -> Table:
    rows = []
    for (part, one, share), (_, other, other_share) in zip(
        a.whole.rows(), b.whole.rows(), strict=True
    ):
        if abs(one) + abs(other) < 1e-6:
            continue
        rows.append(
            {
                "part": LOOKS[part].name,
                "a_core_hours": one / 3600,
                "b_core_hours": other / 3600,
                "more_core_hours": (other - one) / 3600,
                "a_share": share,
                "b_share": other_share,
                "_look": LOOKS[part],
            }
        )
    allocated = a.whole.allocated / 3600, b.whole.allocated / 3600
    foot = {
        "part": "allocated",
        "a_core_hours": allocated[0],
        "b_core_hours": allocated[1],
        "more_core_hours": allocated[1] - allocated[0],
    }
    return Table("parts", "Where the core-hours went", PARTS, rows, "No worker came.", foot=foot)


def _spans(histories: tuple[ClusterHistory, ...], ledgers: tuple[Ledger, ...]) -> Table:
    found: dict[str, dict[str, Any]] = {}
    empty = dict.fromkeys((column.key for column in SPANS), None)
    for letter, history, ledger in zip("ab", histories, ledgers, strict=True):
        times, work, tasks = lasted(history), worked(history, ledger), _tasks(history)
        for name, count in tasks.items():
            row = found.setdefault(name, {**empty, "span": name})
            row[f"{letter}_lasted_s"] = times.get(name)
            row[f"{letter}_worked_s"] = work.get(name, 0.0)
            row[f"{letter}_tasks"] = count
    for row in found.values():
        for what, more, ratio in (
            ("lasted_s", "more_s", "times"),
            ("worked_s", "more_worked_s", "times_worked"),
        ):
            one, other = row[f"a_{what}"], row[f"b_{what}"]
            both = one is not None and other is not None
            row[more] = other - one if both else None
            row[ratio] = other / one if both and one else None
    rows = sorted(
        found.values(),
        key=lambda row: -math.inf if row["more_worked_s"] is None else row["more_worked_s"],
    )
    return Table("spans", "Which span got slower", SPANS, rows[::-1], "Neither computed anything.")


def _tasks(history: ClusterHistory) -> dict[str, int]:
    found: Counter[str] = Counter()
    for span in history.spans:
        tasks = sum(sum(each.states.values()) for each in span.tasks.values())
        found[" / ".join(span.name)] += tasks
    return found
