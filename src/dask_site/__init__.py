"""Dask for HPC centres: pools of different workers in one cluster, described by one site file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.cluster.core import Cluster
    from dask_site.history.naming import span
    from dask_site.placement.matching import NeedError
    from dask_site.placement.needs import needs
    from dask_site.placement.pool import pool
    from dask_site.site import Pool, Site, SiteError

__version__ = "0.1.0"
__all__ = [
    "Cluster",
    "NeedError",
    "Pool",
    "Site",
    "SiteError",
    "__version__",
    "needs",
    "pool",
    "span",
]

# Lazy: a worker on a compute node and `dask-site check` need nothing of the client's side.
_HOME = {
    "Cluster": "dask_site.cluster.core",
    "Pool": "dask_site.site",
    "Site": "dask_site.site",
    "SiteError": "dask_site.site",
    "NeedError": "dask_site.placement.matching",
    "needs": "dask_site.placement.needs",
    "pool": "dask_site.placement.pool",
    "span": "dask_site.history.naming",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
