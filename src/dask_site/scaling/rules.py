"""How each pool follows the work: its bounds, and whether it is paused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.site import Pool

# Jobs of a pool that may wait in the queue at once, where neither site nor user says.
_BACKLOG = 10


@dataclass
class Rules:
    """How one pool follows the work.

    Attributes
    ----------
    by_demand : bool
        Whether it does; otherwise it has what it was asked for by hand.
    least, most : float
        Bounds in workers.
    backlog : int
        Most jobs that wait in the queue at once.
    """

    by_demand: bool = True
    least: int = 0
    most: float = math.inf
    backlog: int = _BACKLOG
    paused: str = ""
    retry_at: float = field(default=0.0, repr=False)
    failures: int = field(default=0, repr=False)
    seen: int = field(default=0, repr=False)


def rules_of(pool: Pool) -> Rules:
    """Return the rules of a pool with the site's bounds."""
    most = math.inf if pool.max_jobs is None else pool.max_jobs * pool.processes
    backlog = _BACKLOG if pool.backlog is None else pool.backlog
    return Rules(most=most, backlog=backlog)


def bounded(pool: Pool, given: Any) -> Rules:
    """Return the rules of a pool with bounds as `Cluster.adapt` takes them."""
    rules = rules_of(pool)
    if given is None:
        return rules
    least, most = given if isinstance(given, tuple | list) and len(given) == 2 else (0, given)
    if not _is_count(least) or not (most is None or _is_count(most)):
        raise ValueError(
            f"adapt({pool.name}={given!r}): the most workers, such as 4, or the least and the "
            "most, such as (1, 4)."
        )
    if most is not None and least > most:
        raise ValueError(f"adapt({pool.name}={given!r}): the least is more than the most.")
    if max(least, most or 0) > rules.most:
        raise ValueError(
            f"adapt({pool.name}={given!r}): the site allows {rules.most} workers of pool "
            f"{pool.name!r}."
        )
    rules.least = least
    rules.most = rules.most if most is None else most
    return rules


def _is_count(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 0
