"""Putting work on a pool by name."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask

from dask_site.cluster.errors import unknown_pool
from dask_site.cluster.resources import pool_of_resource, pool_restriction

if TYPE_CHECKING:
    from dask_site.cluster.core import Cluster

# dask.dataframe says that annotations are ignored. Those of a collection are; ours is that of
# the submission.
_OURS = r"Dask annotations \{'resources': \{'(pool:|GPU|MEMORY)"
warnings.filterwarnings("ignore", _OURS, UserWarning)
_open_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


def register(cluster: Cluster) -> None:
    """Let `pool` check names against a cluster, for as long as the cluster lives."""
    _open_clusters.add(cluster)


@contextmanager
def pool(name: str) -> Iterator[None]:
    """Run the work that is submitted inside on one pool.

    Covers `persist`, `compute`, `Client.submit` and `Client.map`, and delayed objects that are
    made inside. Dask optimises collections when they are submitted, so what counts for arrays,
    dataframes, bags and xarray objects is where `persist` or `compute` stands::

        with pool("highmem"):
            wide = x.rechunk({"time": -1}).persist()

    Functions that carry a need of their own (`needs`) keep it.

    Parameters
    ----------
    name : str
        A pool of the site file.

    Raises
    ------
    ValueError
        If clusters are open in this process and none of them has the pool.
    """
    with placed(pool_restriction(name), name):
        yield


@contextmanager
def placed(resources: dict[str, float], name: str | None) -> Iterator[None]:
    """Annotate what is submitted inside with resources; `name` is the pool among them, if any."""
    clusters = [cluster for cluster in _open_clusters if cluster.is_open]
    if name is not None and clusters and not any(name in c.pools for c in clusters):
        raise unknown_pool(name, clusters[0].pools, f"Cluster {clusters[0].name}")
    around = dask.get_annotations().get("resources") or {}

    def inside(given: Mapping[str, float] | None) -> dict[str, float]:
        kept = dict(given or {})
        if name is not None:  # the innermost pool counts
            kept = {key: amount for key, amount in kept.items() if not pool_of_resource(key)}
        return {**kept, **resources}

    by_key = (lambda key: inside(around(key))) if callable(around) else inside(around)
    with dask.annotate(resources=by_key):
        yield
