"""From work to the number of workers in each pool: the cheapest that does it in time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dask_site.placement.matching import Shape


@dataclass(frozen=True)
class Work:
    """Tasks of one shape that are ready, or will be by the time that workers have come.

    Attributes
    ----------
    tasks : float
        How many.
    seconds : float
        How long all of them take one after the other.
    """

    shape: Shape
    tasks: float
    seconds: float


@dataclass(frozen=True)
class Limits:
    """Bounds of a pool, in workers."""

    least: int = 0
    most: float = math.inf


def plan(work: Iterable[Work], pools: Mapping[str, Limits], horizon: float) -> dict[str, int]:
    """Return how many workers each pool shall have.

    What only few pools can run comes first. Work that several can run first takes what is left
    of the workers that are there for others anyhow, then adds workers of the cheapest pool, and
    beyond its bound of the next.

    Parameters
    ----------
    work : iterable of Work
    pools : dict of str to Limits
    horizon : float
        Seconds in which the work shall be done if the bounds allow it.
    """
    workers = {name: limits.least for name, limits in pools.items()}
    # Seconds for which the planned workers have nothing to do yet.
    spare = {name: limits.least * horizon for name, limits in pools.items()}
    for item in sorted(work, key=lambda w: (len(w.shape.slots), w.shape.restrictions)):
        if item.tasks <= 0:
            continue
        _place(item, pools, horizon, workers, spare)
    return workers


def _place(
    item: Work,
    pools: Mapping[str, Limits],
    horizon: float,
    workers: dict[str, int],
    spare: dict[str, float],
) -> None:
    each = max(item.seconds / item.tasks, 1e-6)
    tasks = item.tasks
    hosts = {pool: slots for pool, slots in item.shape.slots.items() if pool in pools}
    for pool, slots in hosts.items():
        taken = min(tasks, spare[pool] * slots / each)
        if workers[pool] and taken > 0:
            spare[pool] -= taken * each / slots
            tasks -= taken
    for pool, slots in hosts.items():
        if tasks < 1e-9:
            return
        wanted = math.ceil(min(tasks * each / horizon, tasks) / slots - 1e-9)
        added = int(min(max(wanted, 1), pools[pool].most - workers[pool]))
        if added > 0:
            done = min(tasks, added * max(horizon, each) * slots / each)
            workers[pool] += added
            spare[pool] += added * horizon - done * each / slots
            spare[pool] = max(0.0, spare[pool])
            tasks -= done
