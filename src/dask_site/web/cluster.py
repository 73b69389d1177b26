"""The page of one cluster."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask_site.history.advice import advise
from dask_site.history.allocations import SOURCES
from dask_site.history.books import Ledger
from dask_site.history.costs import Bill, Tariff, bill
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.rules import Advice
from dask_site.history.store.listing import ClusterSummary
from dask_site.history.titles import title
from dask_site.web import bars, words
from dask_site.web.cluster_tables import facts, tables
from dask_site.web.frames import Frame
from dask_site.web.lists import choices
from dask_site.web.query import Query
from dask_site.web.rendering import render
from dask_site.web.tables import Table
from dask_site.web.timeline import timeline
from dask_site.web.verdict import verdict

#: Rows of a table that are shown at once; all of them are in its file.
ROWS = 50


@dataclass(frozen=True)
class Item:
    """A number beside the ledger."""

    label: str
    value: str
    note: str = ""


def cluster_table(history: ClusterHistory, tariff: Tariff, name: str) -> Table | None:
    """Return one of a cluster's tables with all its rows, None if there is none of that name."""
    makers = tables(history, close_books(history), bill(history, tariff))
    return makers[name]() if name in makers else None


def cluster_page(
    frame: Frame,
    history: ClusterHistory,
    tariff: Tariff,
    query: Query,
    others: Sequence[ClusterSummary] = (),
    now: float | None = None,
) -> str:
    """Return the page of a cluster.

    Parameters
    ----------
    others : sequence of ClusterSummary
        With which it may be compared.
    now : float, optional
        In seconds since 1970.
    """
    ledger, costs = close_books(history), bill(history, tariff)
    bar = bars.of_books(ledger.whole)
    shown = {
        name: _shown(make(), query)
        for name, make in tables(history, ledger, costs).items()
        if name != "samples"
    }
    c = history.cluster
    return render(
        "cluster.html",
        frame=frame,
        query=query,
        id=c.c,
        name=title_of(history),
        owner=history.owner,
        program=c.program,
        started=c.started,
        lasted=max(0.0, history.seen - c.started),
        dashboard=safe_link(c.dashboard) if history.end is None else "",
        verdict=verdict(history, now),
        bar=bar,
        summary=summary_of(bar),
        sources=_sources(ledger),
        strip=strip_of(ledger, costs),
        advice=[_advice(a) for a in advise(history, ledger)],
        timeline=timeline(history),
        others=_others(history, others),
        facts=facts(history),
        samples=len(history.samples),
        sample_table=Table("samples", "Samples", (), ()) if history.samples else None,
        **shown,
    )


def title_of(history: ClusterHistory) -> str:
    """Return by what a cluster goes on pages: its name, its program's, or the start of its id."""
    c = history.cluster
    return title(c.name, c.program, f"{c.kind} {c.c[:8]}")


def safe_link(link: str | None) -> str:
    """Return a link that leads to a web page; empty for anything else."""
    return link if link and re.fullmatch(r"https?://[^\s\"'<>\\]+", link) else ""


def summary_of(bar: bars.LedgerBar) -> str:
    """Return what a bar says most."""
    computed = next((s.text for s in bar.legend if s.look.key == "cpu"), "0.0 %")
    largest = bar.largest()
    text = f"Of {words.hours(bar.whole)} core-hours, {computed} were spent computing"
    if largest is None or largest.hours <= 0:
        return f"{text}."
    look = largest.look
    return f"{text}; most of the rest, {largest.text}, was {look.name} ({look.meaning})."


def strip_of(ledger: Ledger, costs: Bill) -> list[Item]:
    """Return the cost, and what does not add up with the core-hours."""
    whole, beside = costs.whole, ledger.beside
    items = [Item("Core-hours", words.hours(whole.core_hours), "allocated")]
    if whole.money or (whole.core_hours and whole.unpriced < whole.core_hours):
        some = (
            f"{words.hours(whole.unpriced)} core-h have no rate" if whole.unpriced > 0.005 else ""
        )
        items.append(Item("Cost", words.money(whole.money), some or "in the site's currency"))
    if whole.gpu_hours:
        idle = math.fsum(
            held.gpu_hours * books.idle / books.allocated
            for pool, held in costs.pools.items()
            if (books := ledger.pools.get(pool)) is not None and books.allocated
        )
        share = words.percent(idle / whole.gpu_hours)
        items.append(Item("GPU-hours", words.hours(whole.gpu_hours), f"about {share} of them idle"))
    items.append(Item("GiB-hours", words.hours(whole.gib_hours), "of memory"))
    if whole.billing is not None:
        items.append(Item("Billing", words.hours(whole.billing), "units times hours"))
    if whole.energy is not None:
        part = whole.metered / whole.core_hours if whole.core_hours else 0.0
        items.append(
            Item("Energy", f"{whole.energy / 3.6e6:,.2f} kWh", f"of {words.percent(part)} measured")
        )
    again, allocated = ledger.whole.again, ledger.whole.allocated
    if again and allocated:
        share = words.percent(again / allocated)
        text = f"about {share} of all: what had been computed and died with workers"
        items.append(Item("Lost results", f"{words.hours(again / 3600)} core-h", text))
    queue = words.plural(beside.jobs, "job")
    never = f", {words.count(beside.never_started)} never started" if beside.never_started else ""
    items.append(Item("Queue", words.length(beside.waited), f"{queue}{never}"))
    network = words.size(beside.network_bytes) if beside.network_bytes else "between workers"
    items.append(Item("Network", words.length(beside.network_seconds), network))
    spilled = words.size(beside.spill_bytes) if beside.spill_seconds else "none seen"
    items.append(Item("Spill", words.length(beside.spill_seconds), spilled))
    return items


def _shown(table: Table, query: Query) -> Table:
    sort = query.sort(table.name)
    return (table.sorted(sort) if sort else table).part(query.page(table.name), ROWS)


def _sources(ledger: Ledger) -> str:
    known = {source: n for source, n in ledger.sources.items() if n > 0}
    total = sum(known.values())
    if not total:
        return ""
    parts = [
        source + (f" ({words.percent(known[source] / total)})" if len(known) > 1 else "")
        for source in SOURCES
        if source in known
    ]
    return f"What was allocated is known from {words.joined(parts)}."


def _advice(advice: Advice) -> dict[str, Any]:
    return {
        "title": advice.title,
        "evidence": advice.evidence,
        "paste": "\n".join(words.name(line) for line in advice.paste.splitlines()),
        "saving": advice.saving,
    }


def _others(history: ClusterHistory, others: Sequence[ClusterSummary]) -> list[dict[str, str]]:
    """Return with what it may be compared, those most like it first."""
    c = history.cluster

    def unlike(one: ClusterSummary) -> tuple[bool, bool, bool, float]:
        named = bool(c.name) and one.name == c.name
        same = bool(c.program) and one.program == c.program
        return not named, not same, one.started > c.started, abs(one.started - c.started)

    return choices(sorted((one for one in others if one.id != c.c), key=unlike)[:30])
