"""What computations cost: core-hours, GPU-hours, GiB-hours, billing units, money, energy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import Costs, Ledger
from dask_site.history.model import ClusterHistory
from dask_site.site import Site

_HOUR = 3600.0
_GIB = 2**30


@dataclass(frozen=True)
class Rates:
    """What an hour costs in a pool, in the site's currency."""

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    gib_hour: float = 0.0
    billing_hour: float = 0.0


@dataclass(frozen=True)
class Held:
    """What a job held.

    Attributes
    ----------
    memory : int
        Bytes.
    billing : float or None
        Billing units, None where the accounting doesn't tell.
    """

    cores: int = 0
    gpus: int = 0
    memory: int = 0
    billing: float | None = None

    def an_hour(self, rates: Rates) -> float:
        """Return what an hour of it costs."""
        return (
            self.cores * rates.core_hour
            + self.gpus * rates.gpu_hour
            + self.memory / _GIB * rates.gib_hour
            + (self.billing or 0.0) * rates.billing_hour
        )


@dataclass(frozen=True)
class Tariff:
    """The rates of the pools, with the moments from which they hold: old work keeps its price.

    Attributes
    ----------
    dated : tuple of (float, dict of str to Rates)
        By moment, in seconds since 1970, ascending. What was held before the first is unpriced.

    Raises
    ------
    ValueError
        If two begin at the same moment, or one begins before the one that it follows.
    """

    dated: tuple[tuple[float, Mapping[str, Rates]], ...] = ()

    def __post_init__(self) -> None:
        moments = [moment for moment, _ in self.dated]
        for one, following in pairwise(moments):
            if one >= following:
                raise ValueError(
                    f"the rates of {following:g} s since 1970 follow those of {one:g}: write the "
                    "rates by the moment from which they hold, each moment once"
                )

    @classmethod
    def of_site(cls, site: Site, since: float = 0.0) -> Tariff:
        """Return the rates of a site file as those that hold from a moment on."""
        return cls(((since, _rates(site)),))

    def with_site(self, site: Site, since: float) -> Tariff:
        """Return these rates and from a moment on those of a site file; as they are if the same.

        Raises
        ------
        ValueError
            If the moment is not after the last one.
        """
        rates = _rates(site)
        if self.dated and dict(self.dated[-1][1]) == rates:
            return self
        return Tariff((*self.dated, (since, rates)))

    def price(
        self,
        pool: str | None,
        start: float,
        end: float,
        cores: int,
        gpus: int,
        memory: int = 0,
        billing: float | None = None,
    ) -> float:
        """Return what holding these costs, each stretch at the rates of its time."""
        held = Held(cores, gpus, memory, billing)
        total = 0.0
        for since, until, rates in self._stretches(start, end):
            hours = (until - since) / _HOUR
            total += hours * held.an_hour(rates.get(pool or "", Rates()))
        return total

    def unpriced(
        self, pool: str | None, start: float, end: float, billing: float | None = 0.0
    ) -> float:
        """Return for how many of the seconds there is no price.

        The pool has no rate then, be it zero; or the price is that of billing units, and nobody
        knows how many.
        """
        priced = (
            until - since
            for since, until, rates in self._stretches(start, end)
            if (pool or "") in rates and not (billing is None and rates[pool or ""].billing_hour)
        )
        return max(0.0, end - start - math.fsum(priced))

    def _stretches(
        self, start: float, end: float
    ) -> Iterable[tuple[float, float, Mapping[str, Rates]]]:
        for (since, rates), (until, _) in pairwise([*self.dated, (math.inf, {})]):
            if start < until and end > since:
                yield max(start, since), min(end, until), rates

    def to_list(self) -> list[dict[str, Any]]:
        """Return JSON-ready values, for keeping."""
        return [
            {"since": since, "pools": {name: asdict(rate) for name, rate in rates.items()}}
            for since, rates in self.dated
        ]

    @classmethod
    def from_list(cls, values: Iterable[Mapping[str, Any]]) -> Tariff:
        """Return what `to_list` gave.

        Raises
        ------
        ValueError
            If it is not such a list.
        """
        try:
            return cls(
                tuple(
                    (float(v["since"]), {name: Rates(**rate) for name, rate in v["pools"].items()})
                    for v in values
                )
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"these are no dated rates ({error}): each has `since` and `pools`, each pool "
                "of `core_hour`, `gpu_hour`, `gib_hour` and `billing_hour`"
            ) from None


def _rates(site: Site) -> dict[str, Rates]:
    return {
        name: Rates(
            pool.cost.core_hour, pool.cost.gpu_hour, pool.cost.gib_hour, pool.cost.billing_hour
        )
        for name, pool in site.pools.items()
        if pool.cost is not None
    }


@dataclass(frozen=True)
class Bill:
    """Costs by pool, and all together. ``sum(bills, Bill())`` adds up many."""

    pools: Mapping[str | None, Costs] = field(default_factory=dict)

    @property
    def whole(self) -> Costs:
        """Of all pools."""
        return sum(self.pools.values(), Costs())

    def __add__(self, other: Bill) -> Bill:
        pools = dict(self.pools)
        for name, costs in other.pools.items():
            pools[name] = pools.get(name, Costs()) + costs
        return Bill(pools)

    def money_of(self, ledger: Ledger, *parts: str) -> float:
        """Return the price of some parts of the ledger of the same clusters: each pool's share."""
        return math.fsum(
            costs.money * ledger.pools[name].share(*parts)
            for name, costs in self.pools.items()
            if name in ledger.pools
        )


def bill(history: ClusterHistory, tariff: Tariff | None = None) -> Bill:
    """Return what a cluster held and what it cost, as far as it has got.

    GPUs, memory, billing units and energy are those of the accounting; without it, GPUs and memory
    are those that were asked for.
    """
    found = Bill()
    for job in allocations(history):
        found += Bill({job.pool: _costs(job, tariff or Tariff())})
    return found


def costs_of(pool: str | None, start: float, end: float, held: Held, tariff: Tariff) -> Costs:
    """Return what holding something for a while costs, without energy."""
    hours = max(0.0, end - start) / _HOUR
    cores, gpus, memory, billing = held.cores, held.gpus, held.memory, held.billing
    return Costs(
        core_hours=cores * hours,
        gpu_hours=gpus * hours,
        gib_hours=memory / _GIB * hours,
        money=tariff.price(pool, start, end, cores, gpus, memory, billing),
        unpriced=cores * tariff.unpriced(pool, start, end, billing) / _HOUR,
        billing=None if billing is None else billing * hours,
    )


def _costs(job: Allocation, tariff: Tariff) -> Costs:
    row = job.row
    held = Held(job.cores, job.gpus, job.memory, row.billing if row else None)
    costs = costs_of(job.pool, job.start, job.end, held, tariff)
    if row is None or row.energy is None:
        return costs
    return replace(costs, energy=row.energy, metered=costs.core_hours)
