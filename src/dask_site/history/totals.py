"""Where core-hours went, of many clusters: by user, account, pool, day, week or span."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dask_site.calls import SourceError
from dask_site.history.books import IN_TASKS, Books, Costs
from dask_site.history.store.listing import last_days
from dask_site.people import name_of

if TYPE_CHECKING:
    from dask_site.history.source import Source
    from dask_site.history.store.listing import Sum

BY = ("user", "account", "pool", "week", "day", "span")
#: Clusters that are looked into for their spans, the latest ones.
MOST_CLUSTERS = 50


@dataclass(frozen=True)
class Total:
    """What went into something.

    Attributes
    ----------
    name : str
        The user, account, pool, day (``2026-11-23``), week (``2026-W48``) or span.
    books : Books
        Of spans, what their tasks measured is all that was allocated.
    costs : Costs
        Of spans none.
    """

    name: str
    books: Books
    costs: Costs = field(default_factory=Costs)

    def __add__(self, other: Total) -> Total:
        return Total(self.name, self.books + other.books, self.costs + other.costs)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        parts = {part: seconds for part, seconds, _ in self.books.rows()}
        costs = {"costs": asdict(self.costs)} if self.costs.core_hours else {}
        return {
            "name": self.name,
            "allocated": self.books.allocated,
            "parts": parts,
            "again": self.books.again,
            **costs,
        }


def totals(
    source: Source, by: str, days: int = 30, user: str | None = None, account: str | None = None
) -> list[Total]:
    """Return where core-hours went in the last days; what had most comes first.

    `user` and `account` leave out all but theirs. Days and weeks come in their own order. Spans are
    those of the latest `MOST_CLUSTERS` clusters of these days.

    Raises
    ------
    SourceError
        If `by` is none of `BY`, or `days` no number from 1 to 3660.
    """
    if by not in BY:
        raise SourceError(f"{by!r} is none of {', '.join(BY)}")
    if not 1 <= days <= 3660:
        raise SourceError(f"{days} days are too few or too many: write 1 to 3660")
    if by == "span":
        return _largest(_by_span(source, days, user, account))
    first, after = last_days(days)
    last = after - timedelta(days=1)
    asked = "day" if by == "week" else by
    found = source.sums(asked, first, last, user=user, account=account)
    rows = _together(Total(_name(each, by), each.books, each.costs) for each in found)
    return sorted(rows, key=lambda t: t.name) if by in {"day", "week"} else _largest(rows)


def week_of(day: date) -> str:
    """Return the ISO week of a day: ``2026-W48``."""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def _together(found: Iterable[Total]) -> list[Total]:
    by_name: dict[str, Total] = {}
    for each in found:
        by_name[each.name] = by_name[each.name] + each if each.name in by_name else each
    return list(by_name.values())


def _largest(rows: Iterable[Total]) -> list[Total]:
    return sorted(rows, key=lambda t: (-t.books.allocated, t.name))


def _name(each: Sum, by: str) -> str:
    if each.day is not None:
        return week_of(each.day) if by == "week" else each.day.isoformat()
    if by == "user":
        return name_of(-1 if each.owner is None else each.owner)
    return (each.account if by == "account" else each.pool) or "(none)"


def _by_span(source: Source, days: int, user: str | None, account: str | None) -> list[Total]:
    from dask_site.history.ledger import close_books

    first, _ = last_days(days)
    since = (first - type(first)(1970, 1, 1)) / timedelta(seconds=1)
    latest = source.clusters(user=user, account=account, since=since, most=MOST_CLUSTERS)
    return _together(
        Total(" / ".join(span.name), Books(span.total, {p: span.parts[p] for p in IN_TASKS}))
        for summary in latest
        for span in close_books(source.cluster(summary.id).history).spans
        if span.total
    )
