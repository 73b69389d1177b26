"""The books of a cluster by pool and day, of which those of users, accounts and weeks are made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import Books, Costs
from dask_site.history.costs import Held, Tariff, bill, costs_of
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

    What was allocated is that of the day, at the rates of its time. Its parts and its energy are
    the day's share of those of the pool: nobody measured them by day.
    """
    tariff = tariff or Tariff()
    whole = bill(history, tariff).pools
    jobs: dict[str | None, list[Allocation]] = defaultdict(list)
    for job in allocations(history):
        jobs[job.pool].append(job)
    found = []
    for pool, books in close_books(history).pools.items():
        costs = _costs_of_days(pool, jobs.get(pool, []), tariff)
        shares = _shares(costs, history.seen)
        measured = whole.get(pool, Costs())
        for number in sorted({*shares, *costs}):
            share = shares.get(number, 0.0)
            parts = {name: n * share for name, n in books.parts.items()}
            part = Books(books.allocated * share, parts, books.again * share)
            of_day = costs.get(number, Costs())
            if measured.energy is not None:
                energy, metered = measured.energy * share, measured.metered * share
                of_day = replace(of_day, energy=energy, metered=metered)
            found.append(DayBooks(_FIRST + timedelta(days=number), pool, part, of_day))
    return found


def _shares(costs: Mapping[int, Costs], seen: float) -> dict[int, float]:
    """Return the share of each day, since 1970, in what was held; together they are 1."""
    whole = math.fsum(each.core_hours for each in costs.values())
    if not whole:
        return {int(seen // _DAY): 1.0}
    return {day: each.core_hours / whole for day, each in costs.items()}


def _costs_of_days(
    pool: str | None, jobs: Iterable[Allocation], tariff: Tariff
) -> dict[int, Costs]:
    """Return what jobs held on each day and its price, without energy.

    One sweep over all that begins and ends: there may be very many jobs, or very long ones.
    """
    steps: defaultdict[float, list[tuple[int, Allocation]]] = defaultdict(list)
    for job in jobs:
        if job.seconds:
            steps[job.start].append((1, job))
            steps[job.end].append((-1, job))
    if not steps:
        return {}
    last = int(max(steps) // _DAY)
    first = max(int(min(steps) // _DAY), last - MOST_DAYS + 1)
    midnights = (day * _DAY for day in range(first + 1, last + 1))
    # Those of which nobody knows the billing units have a price of their own.
    counted, uncounted = Held(billing=0.0), Held()
    found = defaultdict[int, Costs](Costs)
    for moment, following in pairwise(sorted({*steps, *midnights})):
        for sign, job in steps.get(moment, ()):
            if job.row is None or job.row.billing is None:
                uncounted = _changed(uncounted, sign, job, None)
            else:
                counted = _changed(counted, sign, job, job.row.billing)
        for held in (counted, uncounted):
            if held.cores or held.gpus or held.memory:
                day = max(first, int(moment // _DAY))
                found[day] += costs_of(pool, moment, following, held, tariff)
    return dict(found)


def _changed(held: Held, sign: int, job: Allocation, billing: float | None) -> Held:
    return Held(
        held.cores + sign * job.cores,
        held.gpus + sign * job.gpus,
        held.memory + sign * job.memory,
        None if billing is None else (held.billing or 0.0) + sign * billing,
    )
