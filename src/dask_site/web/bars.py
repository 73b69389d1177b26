"""Bars: how wide each part of something is, in percent of the width of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from dask_site.history.books import Books
from dask_site.history.store.listing import Sum
from dask_site.history.tables import apportioned
from dask_site.web import words
from dask_site.web.looks import LOOKS, Look


@dataclass(frozen=True)
class Segment:
    """A part of a bar.

    Attributes
    ----------
    x, width : float
        Percent.
    hours : float
        What it stands for.
    text : str
        Its share as text, rounded so that all add up to 100.0.
    """

    look: Look
    x: float
    width: float
    hours: float
    text: str

    @property
    def title(self) -> str:
        """What a pointer over it says."""
        return f"{self.look.name}: {self.text}, {words.hours(self.hours)} h"


@dataclass(frozen=True)
class LedgerBar:
    """One bar that closes to 100 %.

    Attributes
    ----------
    segments : tuple of Segment
        What is drawn. A rest that is negative can't be; the others share the bar then.
    legend : tuple of Segment
        The same and what is negative.
    label : str
        All of it in words, for those who can't see the bar.
    """

    segments: tuple[Segment, ...]
    legend: tuple[Segment, ...]
    whole: float
    unit: str

    @property
    def label(self) -> str:
        """All of it in words, for those who can't see it."""
        parts = "; ".join(f"{s.look.name} {s.text}" for s in self.legend)
        return f"{words.hours(self.whole)} {self.unit}: {parts}"

    def largest(self, *, but: str = "cpu") -> Segment | None:
        """Return the largest part other than one."""
        others = [s for s in self.legend if s.look.key != but]
        return max(others, key=lambda s: s.hours, default=None)


def of_books(books: Books) -> LedgerBar:
    """Return the bar of an allocation."""
    return _bar(
        [(LOOKS[p], s / 3600) for p, s, _ in books.rows()], books.allocated / 3600, "core-h"
    )


def _bar(parts: Sequence[tuple[Look, float]], whole: float, unit: str) -> LedgerBar:
    if whole <= 0:
        return LedgerBar((), (), 0.0, unit)
    tenths = apportioned([n / whole for _, n in parts], 1000)
    drawn = math.fsum(n for _, n in parts if n > 0)
    segments, legend, x = [], [], 0.0
    for (look, n), tenth in zip(parts, tenths, strict=True):
        width = 100 * max(n, 0.0) / drawn
        if abs(n) <= 1e-9:
            continue
        segment = Segment(look, round(x, 4), round(width, 4), n, f"{tenth / 10:.1f} %")
        legend.append(segment)
        if width > 0:
            segments.append(segment)
        x += width
    return LedgerBar(tuple(segments), tuple(legend), whole, unit)


@dataclass(frozen=True)
class Stack:
    """What was done on one day, from the bottom of a chart up.

    Attributes
    ----------
    x, width : float
        Percent of the chart's width.
    parts : tuple of (Look, float, float)
        With the upper edge and the height in percent of the chart's height.
    """

    label: str
    x: float
    width: float
    parts: tuple[tuple[Look, float, float], ...]
    title: str
    named: bool


@dataclass(frozen=True)
class Days:
    """A chart of days.

    Attributes
    ----------
    top : float
        Hours at its upper edge; the lines below are at half of it and at none.
    """

    stacks: tuple[Stack, ...]
    top: float
    label: str


def of_days(sums: Iterable[Sum], days: Sequence[date]) -> Days:
    """Return a chart of the days from sums by day; days without any are there too."""
    by_day: dict[date, Books] = {}
    for one in sums:
        if one.day is not None:
            by_day[one.day] = by_day.get(one.day, Books()) + one.books
    parts_of = {
        day: [(LOOKS[part], seconds / 3600) for part, seconds, _ in books.rows()]
        for day, books in by_day.items()
    }
    # A rest that is negative isn't drawn; the others are higher than what was allocated then.
    heights = (math.fsum(n for _, n in parts if n > 0) for parts in parts_of.values())
    top = _round_up(max(heights, default=0.0))
    stacks = []
    every = max(1, math.ceil(len(days) / 6))
    for i, day in enumerate(days):
        total, done = by_day.get(day, Books()).allocated / 3600, parts_of.get(day, [])
        reached, parts = 0.0, []
        for look, n in done:
            if n > 0 and top:
                height = 100 * n / top
                reached += height
                parts.append((look, round(100 - reached, 3), round(height, 3)))
        told = ", ".join(f"{look.name} {words.hours(n)}" for look, n in done if n)
        title = f"{day}: {words.hours(total)} core-h" + (f" ({told})" if told else "")
        width = 100 / len(days)
        stacks.append(
            Stack(
                f"{day.day} {day:%b}",
                round(i * width + 0.1 * width, 3),
                round(0.8 * width, 3),
                tuple(parts),
                title,
                (len(days) - 1 - i) % every == 0,
            )
        )
    whole = math.fsum(books.allocated for books in by_day.values()) / 3600
    return Days(tuple(stacks), top, f"{words.hours(whole)} core-h in {len(days)} days")


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20 ... from a value up."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))
