"""Which clusters are looked at: some of each user, all others wait in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from dask_site.history.accounting.due import KEPT
from dask_site.history.store.batches import Bounds
from dask_site.history.store.core import Store

# Of each user: as many as one may begin in a day, for so long unknown jobs are asked for.
_MOST = Bounds.clusters
_PART = 500
# What was taken in meanwhile may bear an earlier time.
_OVERLAP = 60.0

_OWNERS = "SELECT uid FROM owners ORDER BY uid"
_NEXT = """
SELECT id, heard, no FROM clusters
WHERE owner = :owner AND seen > :since AND (heard > :heard OR (heard = :heard AND no > :no))
ORDER BY heard, no LIMIT :most
"""


@dataclass
class _Ring:
    """Clusters of a user, and up to which time and number of cluster they were taken up."""

    heard: float
    no: int = 0
    clusters: dict[str, None] = field(default_factory=dict)


class Waiting:
    """The clusters that are looked at, by turns: of each user not more than one may begin in a day.

    Parameters
    ----------
    store : Store
        In which all others wait until there is room for them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rings: dict[int, _Ring] = {}

    def take_up(self, now: float) -> None:
        """Find clusters that were heard of, as many as there is room for."""
        since = now - KEPT
        with self._store.asking() as ask:
            for (owner,) in ask(_OWNERS, {}):
                ring = self._rings.setdefault(owner, _Ring(since))
                if len(ring.clusters) >= _MOST:
                    continue
                place = {"owner": owner, "since": since, "heard": ring.heard, "no": ring.no}
                found = ask(_NEXT, {**place, "most": _MOST})
                for cluster, ring.heard, ring.no in found:
                    ring.clusters.setdefault(cluster)
                    if len(ring.clusters) >= _MOST:
                        break
                else:
                    if len(found) < _MOST:
                        ring.heard, ring.no = now - _OVERLAP, 0

    def parts(self) -> Iterator[list[str]]:
        """Yield each cluster once, in parts; of everybody those that wait longest are first."""
        left = {owner: len(ring.clusters) for owner, ring in self._rings.items()}
        while left := {owner: n for owner, n in left.items() if n > 0}:
            share = max(1, _PART // len(left))
            part = []
            for owner, n in left.items():
                clusters = self._rings[owner].clusters
                some = list(islice(clusters, min(share, n)))
                for cluster in some:
                    clusters[cluster] = clusters.pop(cluster)  # behind all others
                part += some
                left[owner] = n - share
            yield part

    def drop(self, clusters: Iterable[str]) -> None:
        """Look at some no more, unless they are heard of again."""
        for cluster in clusters:
            for ring in self._rings.values():
                ring.clusters.pop(cluster, None)
