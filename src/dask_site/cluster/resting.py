"""Workers that are not asked for any more: what cheaper ones can do goes there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dask_site.cluster.resources import pool_of


class Resting:
    """Which workers get nothing that a cheaper one could have.

    Parameters
    ----------
    ranks : dict of str to int
        The place of each pool among all of them, the cheapest first.

    Attributes
    ----------
    workers : frozenset of distributed.scheduler.WorkerState
    """

    def __init__(self, ranks: Mapping[str, int]) -> None:
        self.workers: frozenset[Any] = frozenset()
        self._ranks = ranks

    def only(self, workers: Iterable[Any]) -> None:
        """Let these workers rest, and no others."""
        self.workers = frozenset(workers)

    def asked(self, able: set[Any]) -> set[Any]:
        """Return those of some workers that shall have a task which each of them could have."""
        if self.workers.isdisjoint(able):
            return able
        cheapest = min(map(self._rank, able - self.workers), default=math.inf)
        return {ws for ws in able if ws not in self.workers or self._rank(ws) <= cheapest}

    def left(self, ws: Any) -> None:
        """Forget a worker."""
        self.workers -= {ws}

    def _rank(self, ws: Any) -> float:
        return self._ranks.get(pool_of(ws.resources) or "", -1)
