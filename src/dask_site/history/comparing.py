"""Two clusters side by side: which span got slower, and where the core-hours went instead."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_site.calls import SourceError
from dask_site.history.books import PARTS, UNEXPLAINED, Ledger
from dask_site.history.costs import bill
from dask_site.history.ledger import close_books

if TYPE_CHECKING:
    from dask_site.history.model import ClusterHistory
    from dask_site.history.records import SpanRecord
    from dask_site.history.source import Found


@dataclass(frozen=True)
class Pair:
    """A quantity in two clusters; None where one of them hasn't got it."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float:
        """After minus before; what isn't there counts as 0."""
        return (self.after or 0.0) - (self.before or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "change": self.change,
        }


@dataclass(frozen=True)
class Difference:
    """What differs from one cluster to another.

    Attributes
    ----------
    before, after : str
        Their ids.
    whole : tuple of Pair
        ``lasted (s)``, ``waited in the queue (s)``, ``core-hours``, ``GPU-hours``, ``money``,
        ``tasks``, ``failed``.
    parts : tuple of Pair
        Core-seconds of the parts of the ledger, without those that neither has.
    lasted : tuple of Pair
        Seconds of spans by name, while one of that name at least was at work; what got slower
        most comes first.
    worked : tuple of Pair
        Core-seconds of the tasks of spans by name, in the same order.
    """

    before: str
    after: str
    whole: tuple[Pair, ...]
    parts: tuple[Pair, ...]
    lasted: tuple[Pair, ...]
    worked: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        named = ("whole", "parts", "lasted", "worked")
        return {
            "before": self.before,
            "after": self.after,
            **{name: [pair.to_dict() for pair in getattr(self, name)] for name in named},
        }


def diff(before: Found, after: Found) -> Difference:
    """Say what differs from one cluster to another.

    Raises
    ------
    SourceError
        If both are the same.
    """
    if before.id == after.id:
        raise SourceError(
            f"both are cluster {before.id[:8]}: name two, as dask-site history ls does"
        )
    one, two = close_books(before.history), close_books(after.history)
    slower = _pairs(lasted(before.history), lasted(after.history))
    slower.sort(key=lambda pair: (-pair.change, pair.name))
    work = {
        pair.name: pair for pair in _pairs(worked(before.history, one), worked(after.history, two))
    }
    ledger = [Pair(part, one.whole.of(part), two.whole.of(part)) for part in (*PARTS, UNEXPLAINED)]
    return Difference(
        before.id,
        after.id,
        tuple(_pairs(_whole(before, one), _whole(after, two))),
        tuple(pair for pair in ledger if pair.before or pair.after),
        tuple(slower),
        tuple(work[pair.name] for pair in slower if pair.name in work),
    )


def _pairs(one: dict[str, float], two: dict[str, float]) -> list[Pair]:
    return [Pair(name, one.get(name), two.get(name)) for name in dict.fromkeys([*one, *two])]


def _whole(found: Found, ledger: Ledger) -> dict[str, float]:
    history = found.history
    costs = bill(history, found.tariff).whole
    tasks = [tasks for span in history.spans for tasks in span.tasks.values()]
    return {
        "lasted (s)": max(0.0, history.seen - history.cluster.started),
        "waited in the queue (s)": ledger.beside.waited,
        "core-hours": costs.core_hours,
        "GPU-hours": costs.gpu_hours,
        "money": costs.money,
        "tasks": float(sum(sum(each.states.values()) for each in tasks)),
        "failed": float(sum(error.count for error in history.errors)),
    }


def worked(history: ClusterHistory, ledger: Ledger) -> dict[str, float]:
    """Return the core-seconds of the tasks of spans of each name."""
    books = {span.id: span.total for span in ledger.spans}
    found: dict[str, float] = defaultdict(float)
    for span in history.spans:
        found[" / ".join(span.name)] += max(
            books.get(span.id, 0.0), computed(span) * ledger.cores_per_thread
        )
    return dict(found)


def computed(span: SpanRecord) -> float:
    """Return the seconds that the tasks of a span ran, as the scheduler heard with each.

    What parts these have comes with a worker's next heartbeat, or never, where the cluster is
    closed before.
    """
    return math.fsum(tasks.seconds.get("compute", 0.0) for tasks in span.tasks.values())


def lasted(history: ClusterHistory) -> dict[str, float]:
    """Return the seconds in which spans of each name were at work, at least one of them."""
    stretches: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for span in history.spans:
        if span.start:
            # A span that is not done is at work until it was last heard of.
            stop = max(span.start, span.stop if span.done else history.seen)
            stretches[" / ".join(span.name)].append((span.start, stop))
    return {name: covered(found) for name, found in stretches.items()}


def covered(stretches: list[tuple[float, float]]) -> float:
    """Return the length of the union of stretches of time."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(stretches):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
