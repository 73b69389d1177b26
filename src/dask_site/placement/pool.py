"""Putting work on a pool by name."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask

from dask_site.cluster.errors import unknown_pool
from dask_site.cluster.resources import pool_resource, pool_restriction

if TYPE_CHECKING:
    from dask_site.cluster.core import Cluster

logger = logging.getLogger("dask_site")
# dask.dataframe says that annotations are ignored. Those of a collection are; ours is that of
# the submission.
warnings.filterwarnings("ignore", r"Dask annotations \{'resources': \{'pool:", UserWarning)
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

    Parameters
    ----------
    name : str
        A pool of the site file.

    Raises
    ------
    ValueError
        If clusters are open in this process and none of them has the pool.
    """
    clusters = [cluster for cluster in _open_clusters if cluster.is_open]
    having = [cluster for cluster in clusters if name in cluster.pools]
    if clusters and not having:
        raise unknown_pool(name, clusters[0].pools, f"Cluster {clusters[0].name}")
    if having and not any(cluster.target(name) for cluster in having):
        logger.warning(
            "Pool %r was asked for no workers yet, so work on it waits. Ask for some: "
            "cluster.scale(%s=1)",
            name,
            name if name.isidentifier() else f"**{{{name!r}: 1}}",
        )
    restrictions = dict(dask.get_annotations().get("resources") or {})
    for other in [key for key in restrictions if key.startswith(pool_resource(""))]:
        del restrictions[other]
    with dask.annotate(resources={**restrictions, **pool_restriction(name)}):
        yield
