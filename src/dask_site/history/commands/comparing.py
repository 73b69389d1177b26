"""Commands that compare: `where`, over many clusters, and `diff`, of two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_site.history.commands.common import (
    as_json,
    asking,
    cluster_argument,
    command,
    hours,
    owner,
    percent,
    print_json,
    say,
    spool,
    whose,
    width,
)

if TYPE_CHECKING:
    from dask_site.history.comparing import Difference, Pair
    from dask_site.history.totals import Total

_MOST_ROWS = 20


@command(
    "dask-site history where",
    "dask-site history where --by span --days 7",
    "dask-site history where --by user --everyone",
)
@click.option(
    "--by",
    type=click.Choice(["user", "account", "pool", "week", "day", "span"]),
    default="pool",
    show_default=True,
    help="What the hours are added up by.",
)
@click.option(
    "--days", default=30, show_default=True, type=click.IntRange(1, 3660), help="The last so many."
)
@whose
@as_json
@spool
def where(by: str, days: int, as_json: bool, spool: Path | None, **asked: Any) -> None:
    """Show where core-hours went in the last days."""
    from dask_site.history.books import PARTS, UNEXPLAINED
    from dask_site.history.tables import listing
    from dask_site.history.totals import MOST_CLUSTERS, totals

    with asking(spool) as source:
        found = totals(source, by, days, *owner(**asked))
        if by == "span":
            say(f"Of the latest {MOST_CLUSTERS} clusters of these days at most.")
        if as_json:
            print_json([total.to_dict() for total in found])
            return
        if not found:
            say(f"Nothing is recorded of the last {days} days.")
            return
        parts = sorted(
            {*PARTS, UNEXPLAINED} - {"cpu"},
            key=lambda part: -abs(sum(total.books.of(part) for total in found)),
        )[:4]
        columns: dict[str, Callable[[Total], Any]] = {
            by: lambda total: total.name,
            "core-h ": lambda total: hours(total.books.allocated),
        }
        if any(total.costs.money for total in found):
            columns["cost "] = lambda total: f"{total.costs.money:.2f}"
        for part in ("cpu", *parts):
            if any(total.books.of(part) for total in found):
                columns[f"{part} "] = _share_of(part)
        click.echo(listing(found, columns, width()))


def _share_of(part: str) -> Callable[[Total], str]:
    return lambda t: percent(t.books.share(part) if t.books.allocated else None)


@command("dask-site history diff 3f2a 91c0", "dask-site history diff 3f2a - --json")
@cluster_argument("before", default=None, required=True)
@cluster_argument("after")
@as_json
@spool
def diff(before: str, after: str, as_json: bool, spool: Path | None) -> None:
    """Compare two clusters: which span got slower, and where the core-hours went instead."""
    from dask_site.history.comparing import diff as compare

    with asking(spool) as source:
        found = compare(source.cluster(before), source.cluster(after))
        if as_json:
            print_json(found.to_dict())
            return
        click.echo("\n\n".join(_told(found)))


def _told(found: Difference) -> list[str]:
    from dask_site.history.tables import listing

    def table(title: str, pairs: tuple[Pair, ...], factor: float, digits: int) -> str:
        def shown(value: float | None) -> str | None:
            return None if value is None else f"{value * factor:.{digits}f}"

        columns: dict[str, Callable[[Pair], Any]] = {
            title: lambda pair: pair.name,
            f"before: {found.before[:8]} ": lambda pair: shown(pair.before),
            f"after: {found.after[:8]} ": lambda pair: shown(pair.after),
            "change ": lambda pair: f"{pair.change * factor:+.{digits}f}",
            "% ": _relative,
        }
        text = listing(pairs[:_MOST_ROWS], columns, width())
        more = len(pairs) - _MOST_ROWS
        return f"{text}\n... and {more} more" if more > 0 else text

    slowest = next((pair for pair in found.lasted if pair.before and pair.change > 0), None)
    parts = ["No span got slower."]
    if slowest is not None:
        parts = [_slower(slowest)]
    parts.append(table("whole", found.whole, 1, 3))
    if found.lasted:
        parts.append(table("span (s)", found.lasted, 1, 2))
    if found.worked:
        parts.append(table("span (core-h)", found.worked, 1 / 3600, 4))
    if found.parts:
        parts.append(table("ledger (core-h)", found.parts, 1 / 3600, 4))
    return parts


def _slower(pair: Pair) -> str:
    from dask_site.history.tables import clean, duration

    return (
        f"{clean(pair.name)} got slower most: {duration(pair.before or 0)} before, "
        f"{duration(pair.after or 0)} after."
    )


def _relative(pair: Pair) -> str | None:
    return f"{100 * pair.change / pair.before:+.0f}" if pair.before and pair.after else None


COMMANDS = {"where": where, "diff": diff}
