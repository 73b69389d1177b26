"""The history of computations: recorder, spool, collector, store, ledger, advice.

Of your own clusters, as pandas DataFrames::

    from dask_site import history

    history.clusters()
    mine = history.cluster("-")  # the last one
    mine.ledger, mine.spans, mine.cost, mine.advice
    history.diff("3f2a", "-")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.calls import SourceError
    from dask_site.history.frames import RecordedCluster, cluster, clusters, diff, where

__all__ = ["RecordedCluster", "SourceError", "cluster", "clusters", "diff", "where"]

# Lazy: schedulers and commands import this package, and need nothing of it.
_HOME = {
    "RecordedCluster": "frames",
    "SourceError": "source",
    "cluster": "frames",
    "clusters": "frames",
    "diff": "frames",
    "where": "frames",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
