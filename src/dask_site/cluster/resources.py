"""The names under which a pool's workers announce themselves to Dask's scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dask_site.site import Pool

#: Share of its job's GPUs that a worker has, and bytes of memory: the names that Dask's
#: documentation uses, so that ``annotate(resources={"GPU": 1})`` works too.
GPU = "GPU"
MEMORY = "MEMORY"
_PREFIX = "pool:"
# A task that names a pool takes one of these. The pool is a place, not a quantity: it must never
# be what limits how many tasks run at once, so there are more of them than threads on any node.
_PLENTY = 1_000_000
# Workers add and subtract what tasks take: of a whole GPU, 0.9999999999999998 would be left after
# some tenths. Sums of multiples of this are exact.
_GRAIN = 2**-20


def pool_resource(pool_name: str) -> str:
    """Return the name of the Dask resource that stands for a pool."""
    return f"{_PREFIX}{pool_name}"


def pool_of_resource(resource: str) -> str | None:
    """Return the pool that a Dask resource stands for; None if it stands for something else."""
    return resource.removeprefix(_PREFIX) if resource.startswith(_PREFIX) else None


def pool_of(resources: Iterable[str]) -> str | None:
    """Return the pool of a worker, as its resources tell; None if it is of none."""
    return next(filter(None, map(pool_of_resource, resources)), None)


def pool_restriction(pool_name: str) -> dict[str, float]:
    """Return the resource restriction of a task that must run on a pool."""
    return {pool_resource(pool_name): 1}


def countable(resources: Mapping[str, float]) -> dict[str, float]:
    """Return resources of a task with its part of a GPU rounded down so that sums are exact."""
    gpus = resources.get(GPU, 0)
    if not 0 < gpus < math.inf or gpus == int(gpus):
        return dict(resources)
    return {**resources, GPU: max(1, gpus // _GRAIN) * _GRAIN}


def as_written(gpus: float) -> str:
    """Return GPUs of a task as its user wrote them, before they were made `countable`."""
    return f"{round(gpus + _GRAIN / 2, 6):g}"


def worker_resources(pool: Pool) -> dict[str, float]:
    """Return what one worker process of `pool` offers."""
    offered: dict[str, float] = {
        pool_resource(pool.name): _PLENTY,
        MEMORY: pool.memory // pool.processes,
    }
    if pool.gpus:
        offered[GPU] = pool.gpus / pool.processes
    return offered
