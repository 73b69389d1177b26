"""Books: an allocation of core-seconds and the parts into which it went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The parts of an allocation, in the order in which they are shown, and what they mean.
PARTS: dict[str, str] = {
    "cpu": "computing, in tasks",
    "non-cpu": "waiting, in tasks: for input and output, locks, the GIL",
    "serialise": "packing and unpacking data, in tasks",
    "disk": "reading and writing spilled data, in tasks",
    "other": "other work of the worker, in tasks",
    "failed": "tasks that failed or were cancelled",
    "unfinished": "tasks that had not ended when the cluster was last heard of",
    "idle: no work": "no task was submitted",
    "idle: starved": "other threads had all the tasks there were",
    "idle: transfer": "inputs were on their way",
    "idle: paused": "the worker was nearly out of memory",
    "idle: dispatch": "tasks were there and had not begun",
    "idle: unknown": "no task ran; nobody noted why",
    "start and stop": "the job ran, its worker was not there yet, or no longer",
    "lost": "tasks that ended with their worker",
    "no thread": "cores for which the workers had no thread",
}
UNEXPLAINED = "unexplained"
#: The parts that tasks measure themselves; spans have these only.
IN_TASKS = ("cpu", "non-cpu", "serialise", "disk", "other", "failed")


@dataclass(frozen=True)
class Books:
    """An allocation and its parts, in core-seconds; what they leave over is `unexplained`.

    Attributes
    ----------
    allocated : float
    parts : dict of str to float
        By the words of `PARTS`; none is negative.
    again : float
        About how much of that was done again, or had to be, as results left with their workers.
        It is part of the parts.
    """

    allocated: float = 0.0
    parts: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    again: float = 0.0

    @property
    def unexplained(self) -> float:
        """What the parts leave over; negative where they are more than was allocated."""
        return self.allocated - math.fsum(self.parts.values())

    def share(self, *parts: str) -> float:
        """Return the share of some parts, or of `UNEXPLAINED`, in the allocation: 0 to 1."""
        if not self.allocated:
            return 0.0
        return math.fsum(self.of(part) for part in parts) / self.allocated

    def of(self, part: str) -> float:
        """Return the core-seconds of a part, or of `UNEXPLAINED`."""
        return self.unexplained if part == UNEXPLAINED else self.parts.get(part, 0.0)

    @property
    def idle(self) -> float:
        """Core-seconds of threads without a task, for all causes."""
        return math.fsum(n for part, n in self.parts.items() if part.startswith("idle: "))

    def rows(self) -> list[tuple[str, float, float]]:
        """Return part, core-seconds and share of each part; `UNEXPLAINED` last, always."""
        return [(part, self.of(part), self.share(part)) for part in (*PARTS, UNEXPLAINED)]

    def __add__(self, other: Books) -> Books:
        both = {part: self.of(part) + other.of(part) for part in PARTS}
        return Books(self.allocated + other.allocated, both, self.again + other.again)


@dataclass(frozen=True)
class Costs:
    """What was held, and its price.

    Attributes
    ----------
    core_hours, gpu_hours, gib_hours : float
    money : float
        In the site's currency.
    unpriced : float
        Core-hours for which there is no price, or not the whole of it: the site names no rate, or
        one of billing units that nobody counted.
    billing : float or None
        Billing units times hours; None where the accounting has none.
    energy : float or None
        J, of the jobs for which it was measured; None if of none.
    metered : float
        Core-hours of these jobs.
    """

    core_hours: float = 0.0
    gpu_hours: float = 0.0
    gib_hours: float = 0.0
    money: float = 0.0
    unpriced: float = 0.0
    billing: float | None = None
    energy: float | None = None
    metered: float = 0.0

    def __add__(self, other: Costs) -> Costs:
        mine, others = vars(self), vars(other)
        both: dict[str, Any] = {name: _both(mine[name], others[name]) for name in mine}
        return Costs(**both)


@dataclass(frozen=True)
class SpanBooks:
    """What a span had of the allocation: only what its tasks measured. Idle time is nobody's.

    Attributes
    ----------
    name : tuple of str
    id : str
        Empty where several spans of one name are added up.
    count : int
        How many.
    parts : dict of str to float
        Core-seconds by the words of `IN_TASKS`.
    """

    name: tuple[str, ...]
    parts: Mapping[str, float]
    id: str = ""
    count: int = 1

    @property
    def total(self) -> float:
        """Core-seconds of all its parts."""
        return math.fsum(self.parts.values())

    def __add__(self, other: SpanBooks) -> SpanBooks:
        both = {part: self.parts.get(part, 0.0) + other.parts.get(part, 0.0) for part in IN_TASKS}
        return SpanBooks(self.name, both, count=self.count + other.count)


@dataclass(frozen=True)
class Beside:
    """What does not add up with the allocation.

    Attributes
    ----------
    jobs, never_started : int
        Jobs that were submitted; those of them that have not started, or never did.
    waited : float
        Seconds in the queue, of all jobs together.
    network_seconds, network_bytes : float
        Of results that workers got from each other; 0 bytes where distributed doesn't say.
    spill_seconds, spill_bytes : float
        Written to disk and read again outside of tasks.
    """

    jobs: int = 0
    never_started: int = 0
    waited: float = 0.0
    network_seconds: float = 0.0
    network_bytes: float = 0.0
    spill_seconds: float = 0.0
    spill_bytes: float = 0.0

    def __add__(self, other: Beside) -> Beside:
        mine, others = asdict(self), asdict(other)
        return Beside(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class Ledger:
    """The books of one cluster, or of several added up. ``sum(ledgers, Ledger())`` adds up many.

    Attributes
    ----------
    whole : Books
    pools : dict of str or None to Books
        They add up to the whole; None is for workers without a pool.
    spans : tuple of SpanBooks
        Of one cluster each by itself; of several added up by name.
    sources : dict of str to float
        Allocated core-seconds by where they are known from.
    beside : Beside
    clusters : int
    cores_per_thread : float
        Of one cluster, on average: what a second of a task is in core-seconds.
    """

    whole: Books = field(default_factory=Books)
    pools: Mapping[str | None, Books] = field(default_factory=dict)
    spans: tuple[SpanBooks, ...] = ()
    sources: Mapping[str, float] = field(default_factory=dict)
    beside: Beside = field(default_factory=Beside)
    clusters: int = 0
    cores_per_thread: float = 1.0

    def __add__(self, other: Ledger) -> Ledger:
        pools = dict(self.pools)
        for name, books in other.pools.items():
            pools[name] = pools.get(name, Books()) + books
        sources = dict(self.sources)
        for source, seconds in other.sources.items():
            sources[source] = sources.get(source, 0.0) + seconds
        return Ledger(
            self.whole + other.whole,
            pools,
            _by_name(self.spans + other.spans),
            sources,
            self.beside + other.beside,
            self.clusters + other.clusters,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `unexplained` stands among the parts, a pool None is ``""``."""

        def plain(books: Books) -> dict[str, Any]:
            parts = {part: seconds for part, seconds, _ in books.rows()}
            return {"allocated": books.allocated, "parts": parts, "again": books.again}

        return {
            **plain(self.whole),
            "pools": {name or "": plain(books) for name, books in self.pools.items()},
            "spans": [{**asdict(span), "name": list(span.name)} for span in self.spans],
            "sources": dict(self.sources),
            "beside": asdict(self.beside),
            "clusters": self.clusters,
        }


def _by_name(spans: Iterable[SpanBooks]) -> tuple[SpanBooks, ...]:
    found: dict[tuple[str, ...], SpanBooks] = {}
    for span in spans:
        found[span.name] = found[span.name] + span if span.name in found else span
    return tuple(found.values())


def _both(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
