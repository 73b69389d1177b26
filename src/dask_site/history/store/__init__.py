"""Where the records of all clusters are kept, and asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.history.store.batches import Batch, Bounds, Mark, Taken
    from dask_site.history.store.core import Store
    from dask_site.history.store.failures import StoreError
    from dask_site.history.store.listing import ClusterSummary, Sum, reader
    from dask_site.history.store.upkeep import Retention

__all__ = [
    "Batch",
    "Bounds",
    "ClusterSummary",
    "Mark",
    "Retention",
    "Store",
    "StoreError",
    "Sum",
    "Taken",
    "reader",
]

# Lazy: SQLAlchemy takes a third of a second, which a command that only lists does not have.
_HOME = {
    "Batch": "batches",
    "Bounds": "batches",
    "ClusterSummary": "listing",
    "Mark": "batches",
    "Retention": "upkeep",
    "Store": "core",
    "StoreError": "failures",
    "Sum": "listing",
    "Taken": "batches",
    "reader": "listing",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
