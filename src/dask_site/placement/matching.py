"""Which pools may run what: needs, as Dask resources, matched with the pools of a site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_site.cluster.resources import (
    GPU,
    MEMORY,
    as_written,
    pool_of_resource,
    pool_resource,
    worker_resources,
)
from dask_site.sitefile.problems import nearest
from dask_site.sitefile.units import format_memory

if TYPE_CHECKING:
    from dask_site.site import Pool, Site

Restrictions = Mapping[str, float]


class NeedError(ValueError):
    """No pool of the site has what a task needs; the message names the largest there is."""


@dataclass(frozen=True, eq=False)
class Shape:
    """What a kind of task needs, and where that is; the same needs are the same object.

    Attributes
    ----------
    restrictions : tuple of (str, float)
        Dask's resources that each task takes; empty for ordinary work.
    slots : dict of str to int
        The pools that may run it, cheapest first, and how many such tasks run at once on one of
        their workers.
    """

    restrictions: tuple[tuple[str, float], ...]
    slots: Mapping[str, int]

    @property
    def ordinary(self) -> bool:
        """Whether it needs nothing in particular."""
        return not self.restrictions

    def __str__(self) -> str:
        return describe(dict(self.restrictions))


class Matcher:
    """Matches needs with the pools of one site.

    Open pools that have what is needed come first. Where none has, exclusive ones do: all with
    GPUs if a GPU is needed, otherwise the cheapest that has enough.

    Parameters
    ----------
    site : Site
        Pools in the order of the file are cheapest first.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pools = list(site.pools.values())
        self._offers = {pool.name: worker_resources(pool) for pool in self._pools}
        self._shapes: dict[tuple[tuple[str, float], ...], Shape] = {}
        self.ordinary = self.shape(None)
        self.pools = tuple(self._offers)
        self.site_name = site.name

    def shape(self, restrictions: Restrictions | None) -> Shape:
        """Return the shape of tasks with these restrictions; always the same object."""
        key = tuple(sorted(restrictions.items())) if restrictions else ()
        shape = self._shapes.get(key)
        if shape is None:
            shape = Shape(key, self._slots(dict(key)))
            self._shapes[key] = shape
        return shape

    def fits(self, restrictions: Restrictions) -> bool:
        """Say whether any pool has what is needed."""
        return bool(self.shape(restrictions).slots)

    def check(self, restrictions: Restrictions, what: str) -> None:
        """Refuse what no pool can run.

        Raises
        ------
        NeedError
            Naming what is needed, by what, and the most that this site has of it.
        """
        if not self.fits(restrictions):
            raise NeedError(
                f"{what} needs {describe(restrictions)}; no pool of {self._site.name} has that. "
                f"{self._most(restrictions)}"
            )

    def escalate(self, restrictions: Restrictions, ran_on: str, memory: int) -> str | None:
        """Return the next pool of `escalate` after `ran_on` with `memory` bytes for one task.

        Other resources that the task needs (GPUs) must be there too. None if there is none.
        """
        ladder = self._site.escalate
        above = ladder[ladder.index(ran_on) + 1 :] if ran_on in ladder else ladder
        kept = {k: v for k, v in restrictions.items() if k != MEMORY and not pool_of_resource(k)}
        for name in above:
            offers = self._offers[name]
            if name != ran_on and offers[MEMORY] >= memory and _covers(offers, kept):
                return name
        return None

    def with_memory(self, restrictions: Restrictions, memory: int) -> dict[str, float] | None:
        """Return restrictions like these with `memory` bytes that nobody has asked for.

        On open pools, or the pool that is named, if they have that much; otherwise on the first
        pool of `escalate` that has. None if nothing is to be changed: as much is asked for
        already, or there is none.
        """
        if restrictions.get(MEMORY, 0) >= memory:
            return None
        return self._with_memory(restrictions, _coarse(memory)) or self._with_memory(
            restrictions, memory
        )

    def _with_memory(self, restrictions: Restrictions, memory: int) -> dict[str, float] | None:
        grown = {**restrictions, MEMORY: memory}
        named = next(filter(None, map(pool_of_resource, restrictions)), None)
        if any(named or not self._site.pools[name].exclusive for name in self.shape(grown).slots):
            return grown
        above = self.escalate(restrictions, named or "", memory)
        if above is None:
            return None
        kept = {k: v for k, v in restrictions.items() if not pool_of_resource(k)}
        return {**kept, pool_resource(above): 1, MEMORY: memory}

    def smallest_memory(self) -> int:
        """Return the bytes of the worker that has the least."""
        return int(min(offers[MEMORY] for offers in self._offers.values()))

    def largest_memory(self) -> tuple[str, int]:
        """Return the pool whose workers have the most memory, and how many bytes."""
        name = max(self._offers, key=lambda n: self._offers[n][MEMORY])
        return name, int(self._offers[name][MEMORY])

    def _slots(self, restrictions: dict[str, float]) -> dict[str, int]:
        able = [p for p in self._pools if _covers(self._offers[p.name], restrictions)]
        named = any(pool_of_resource(resource) for resource in restrictions)
        chosen = able if named else self._unnamed(able, restrictions)
        return {pool.name: self._at_once(pool, restrictions) for pool in chosen}

    def _unnamed(self, able: list[Pool], restrictions: Restrictions) -> list[Pool]:
        open_pools = [pool for pool in able if not pool.exclusive]
        if not restrictions:
            # The default pool is where work goes that asks for nothing.
            return sorted(open_pools, key=lambda pool: pool.name != self._site.default_pool)
        if restrictions.get(GPU):
            return able
        return open_pools or able[:1]

    def _at_once(self, pool: Pool, restrictions: Restrictions) -> int:
        offers = self._offers[pool.name]
        counts = [offers[name] / amount for name, amount in restrictions.items() if amount > 0]
        # Ten tenths of a GPU are one.
        return max(1, math.floor(min([pool.cores // pool.processes, *counts]) + 1e-9))

    def _most(self, restrictions: Restrictions) -> str:
        pools = [name for name in map(pool_of_resource, restrictions) if name]
        unknown = next((name for name in pools if name not in self._offers), None)
        if unknown is not None:
            near = nearest(unknown, self._offers)
            hint = f" Did you mean {near!r}?" if near else ""
            return f"Its pools: {', '.join(self._offers)}.{hint}"
        if len(pools) > 1:
            return "One task runs on one pool."
        among = pools or list(self._offers)
        lines = [self._most_of(name, n, among) for name, n in restrictions.items()]
        return " ".join(filter(None, lines)) or self._apart(restrictions)

    def _most_of(self, resource: str, amount: float, among: list[str]) -> str:
        """Say what there is of one resource, if it is too little."""
        name = max(among, key=lambda n: self._offers[n].get(resource, 0))
        most = self._offers[name].get(resource, 0)
        if most >= amount:
            return ""
        of, where = (f" of pool {name!r}", "") if len(among) == 1 else ("", f", in pool {name!r}")
        if most == 0:
            return f"No worker{of} has {_kind(resource)}."
        return f"The most that one worker{of} has is {_amount(resource, most)}{where}."

    def _apart(self, restrictions: Restrictions) -> str:
        """Say where each of some resources is that are there, but not in one pool."""
        parts = []
        for name, amount in restrictions.items():
            where = [pool for pool, offers in self._offers.items() if offers.get(name, 0) >= amount]
            parts.append(f"{_amount(name, amount)} in {', '.join(map(repr, where))}")
        return f"Each is there, but not in one pool: {'; '.join(parts)}."


def describe(restrictions: Restrictions) -> str:
    """Return needs for people: ``1 GPU and 64GiB of memory in pool 'gpu'``."""
    parts = [_amount(k, v) for k, v in restrictions.items() if not pool_of_resource(k)]
    pools = [name for name in map(pool_of_resource, restrictions) if name]
    text = " and ".join(parts)
    where = " and ".join(f"pool {name!r}" for name in pools)
    if text and where:
        return f"{text} in {where}"
    return text or where or "nothing in particular"


def _amount(resource: str, amount: float) -> str:
    if resource == MEMORY:
        return f"{format_memory(int(amount))} of memory"
    if resource == GPU:
        return f"{as_written(amount)} GPU{'s' if amount > 1 else ''}"
    return f"{amount:g} {resource}"


def _kind(resource: str) -> str:
    return {GPU: "GPUs", MEMORY: "memory"}.get(resource, resource)


def _coarse(memory: int) -> int:
    """Round up by at most an eighth, so that tasks which need about the same are counted as one."""
    step = 1 << max(0, memory.bit_length() - 4)
    return -(-memory // step) * step


def _covers(offers: Restrictions, restrictions: Restrictions) -> bool:
    return all(offers.get(name, 0) >= amount for name, amount in restrictions.items())
