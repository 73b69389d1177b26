"""Pools that are made to fit on one machine."""

from collections.abc import Iterable

from dask_site.sitefile.parts import Pool
from dask_site.sitefile.rules import LEAST_MEMORY

_MACHINE_SHARE = 0.8
_MEBIBYTE = 2**20


def scaled(pools: Iterable[Pool], cores: int, memory: int) -> dict[str, Pool]:
    """Return the pools by name, such that a job of each fits together into 80 % of `memory`.

    See `Site.scaled_to_machine`.
    """
    small = [_on_cores(pool, max(1, cores)) for pool in pools]
    share = min(1.0, _MACHINE_SHARE * memory / sum(pool.memory for pool in small))
    return {pool.name: _with_share(pool, share) for pool in small}


def _on_cores(pool: Pool, cores: int) -> Pool:
    """Return the pool with no more cores; its processes keep their size, if not their number."""
    most = min(pool.processes, cores)
    processes = max(n for n in range(1, most + 1) if not pool.gpus or pool.gpus % n == 0)
    return pool.model_copy(
        update={
            "cores": min(pool.cores, cores),
            "processes": processes,
            "memory": pool.memory * processes // pool.processes,
        }
    )


def _with_share(pool: Pool, share: float) -> Pool:
    each = pool.memory // pool.processes
    if share < 1.0:
        each = max(LEAST_MEMORY, int(each * share) // _MEBIBYTE * _MEBIBYTE)
    return pool.model_copy(update={"memory": each * pool.processes})
