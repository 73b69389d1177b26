"""What is taken in together, what a user may fill, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dask_site.history.records import Record
    from dask_site.history.store.rows import Shape

#: Seconds after which records begin no cluster: it may have been here and been let go of. As long
#: are the names kept of those that were, so that no sum has anything twice, wherever its file
#: turns up again.
LATE = 366 * 86400.0


@dataclass(frozen=True)
class Bounds:
    """What one user may fill.

    Attributes
    ----------
    clusters : int
        New ones in 24 hours.
    workers, spans, prefixes, jobs, scripts, errors, pools : int
        Rows of one cluster; prefixes over all of its spans.
    bytes_cluster, bytes_owner : int
        About how much one cluster, and all clusters of the user, may take here.
    """

    clusters: int = 2000
    workers: int = 20_000
    spans: int = 5000
    prefixes: int = 50_000
    jobs: int = 20_000
    scripts: int = 200
    errors: int = 500
    pools: int = 50
    bytes_cluster: int = 32 * 1024**2
    bytes_owner: int = 8 * 1024**3

    def most(self, shape: Shape) -> int:
        """Return how many rows of a kind a cluster may have."""
        most = {
            "n_workers": self.workers,
            "n_spans": self.spans,
            "n_jobs": self.jobs,
            "n_scripts": self.scripts,
            "n_usage": self.pools,
            "n_errors": self.errors,
        }
        return most.get(shape.counter, 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a spool file was taken in.

    Attributes
    ----------
    device, inode, path : str
        Which file; one that is made anew in its place is another, or begins at 0 again.
    offset : int
        Bytes.
    cluster : str or None
        The cluster of the last record read.
    """

    device: str
    inode: str
    path: str
    offset: int
    cluster: str | None = None


@dataclass(frozen=True)
class Batch:
    """Records of one user, and what to write down with them in the same transaction."""

    owner: int
    records: Sequence[Record]
    mark: Mark | None = None


@dataclass
class Taken:
    """What became of records.

    Attributes
    ----------
    applied : int
        Records that said something new.
    refused : Counter of str
        Records that were not taken, by the reason.
    """

    applied: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: Taken) -> None:
        """Count what became of others too."""
        self.applied += other.applied
        self.refused.update(other.refused)
