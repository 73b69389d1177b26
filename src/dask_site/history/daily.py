"""The books of a cluster by pool and day, of which those of users, accounts and weeks are made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import Books, Costs
from dask_site.history.costs import Tariff, bill
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory

#: Of what was held on more days than this, the earlier ones count as the first of the last ones.
MOST_DAYS = 400
_DAY = 86400.0
_FIRST = date(1970, 1, 1)


@dataclass(frozen=True)
class DayBooks:
    """What a pool of a cluster was allocated on a day (UTC), what became of it, and its costs."""

    day: date
    pool: str | None
    books: Books
    costs: Costs


def by_day(history: ClusterHistory, tariff: Tariff | None = None) -> list[DayBooks]:
    """Return the books of a cluster by pool and day; all together they are those of the cluster.

    What was allocated is that of the day. Its parts and costs are the day's share of those of the
    pool: nobody measured them by day.
    """
    costs = bill(history, tariff).pools
    jobs: dict[str | None, list[Allocation]] = defaultdict(list)
    for job in allocations(history):
        jobs[job.pool].append(job)
    found = []
    for pool, books in close_books(history).pools.items():
        for number, share in _shares(jobs.get(pool, []), history.seen):
            parts = {name: n * share for name, n in books.parts.items()}
            part = Books(books.allocated * share, parts, books.again * share)
            of_day = _share_of(costs.get(pool, Costs()), share)
            found.append(DayBooks(_FIRST + timedelta(days=number), pool, part, of_day))
    return found


def _shares(jobs: Sequence[Allocation], seen: float) -> list[tuple[int, float]]:
    """Return the share of each day, since 1970, in what these jobs held; together they are 1."""
    held = list(_held(jobs))
    whole = math.fsum(core_seconds for _, core_seconds in held)
    if not whole:
        return [(int(seen // _DAY), 1.0)]
    return [(day, n / whole) for day, n in held if n]


def _held(jobs: Iterable[Allocation]) -> Iterable[tuple[int, float]]:
    """Yield days and the core-seconds held on them.

    One sweep over all that begins and ends: there may be very many jobs, or very long ones.
    """
    steps: defaultdict[float, float] = defaultdict(float)
    for job in jobs:
        if job.seconds:
            steps[job.start] += job.cores
            steps[job.end] -= job.cores
    if not steps:
        return
    last = int(max(steps) // _DAY)
    first = max(int(min(steps) // _DAY), last - MOST_DAYS + 1)
    midnights = (day * _DAY for day in range(first + 1, last + 1))
    cores, found = 0.0, defaultdict[int, float](float)
    for moment, following in pairwise(sorted({*steps, *midnights})):
        cores += steps.get(moment, 0.0)
        found[max(first, int(moment // _DAY))] += cores * (following - moment)
    yield from found.items()


def _share_of(costs: Costs, share: float) -> Costs:
    shared: list[Any]
    shared = [None if amount is None else amount * share for amount in astuple(costs)]
    return Costs(*shared)
