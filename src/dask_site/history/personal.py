"""The history in a user's own spool folder, read where no service keeps it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_site.history.pace import patience
from dask_site.history.reading import SpoolError, read_spool
from dask_site.history.store.listing import ClusterSummary, Sum
from dask_site.people import name_of

if TYPE_CHECKING:
    from dask_site.history.costs import Tariff
    from dask_site.history.model import ClusterHistory
    from dask_site.history.records import Record

SUFFIX = ".spool"


def files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of a spool folder by cluster, the cluster with the latest change first.

    Raises
    ------
    OSError
        If the folder is there and can't be read.
    """
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    latest: dict[str, float] = defaultdict(float)
    for path in folder.iterdir() if folder.exists() else ():
        cluster, _, number = path.name.removesuffix(SUFFIX).rpartition(".")
        if path.suffix == SUFFIX and cluster and number.isascii() and number.isdigit():
            with suppress(OSError):  # deleted meanwhile
                latest[cluster] = max(latest[cluster], path.lstat().st_mtime)
                found[cluster].append((int(number), path))
    order = sorted(found, key=lambda cluster: (-latest[cluster], cluster))
    return {cluster: [path for _, path in sorted(found[cluster])] for cluster in order}


def load(cluster: str, paths: list[Path]) -> ClusterHistory | None:
    """Return the history of one cluster; None where its files hold none that can be read."""
    from dask_site.history.model import ClusterHistory

    records: list[Record] = []
    for path in paths:
        # What was read before it broke off counts.
        with suppress(SpoolError, OSError):
            records.extend(record for record, _ in read_spool(path) if record.c == cluster)
    return ClusterHistory.from_records(name_of(), records) if records else None


def state(history: ClusterHistory, now: float | None = None) -> str:
    """Return how a cluster stands: ``running``, ``ended``, or ``silent``: not heard of any more."""
    if history.end is not None:
        return "ended"
    moment = time.time() if now is None else now
    quiet = moment - history.seen
    return "running" if quiet < patience(history.cluster.interval) else "silent"


def summary(history: ClusterHistory, tariff: Tariff | None = None) -> ClusterSummary:
    """Return a history as a line of a list."""
    from dask_site.history.costs import bill
    from dask_site.history.ledger import close_books

    cluster, end = history.cluster, history.end
    ledger, costs = close_books(history), bill(history, tariff).whole
    return ClusterSummary(
        id=cluster.c,
        name=cluster.name,
        kind=cluster.kind,
        owner=os.getuid(),
        owner_name=name_of(),
        account="",
        program=cluster.program,
        started=cluster.started,
        seen=history.seen,
        ended=None if end is None else end.t,
        how=None if end is None else end.how,
        state=state(history),
        tasks=sum(
            sum(tasks.states.values()) for span in history.spans for tasks in span.tasks.values()
        ),
        errors=sum(error.count for error in history.errors),
        allocated=ledger.whole.allocated,
        cpu=ledger.whole.of("cpu"),
        money=costs.money if costs.unpriced < costs.core_hours else None,
        pools=tuple(sorted(name or "" for name, books in ledger.pools.items() if books.allocated)),
    )


def sums(
    histories: Iterable[ClusterHistory], by: str, first: date, last: date, tariff: Tariff
) -> list[Sum]:
    """Return the books of some days, the last included, UTC, by one of the words of `Sum`.

    Parameters
    ----------
    by : str
        ``day``, ``owner``, ``account`` or ``pool``.
    """
    from dask_site.history.books import Books, Costs
    from dask_site.history.daily import by_day

    found: dict[object, tuple[Books, Costs]] = {}
    for history in histories:
        for each in by_day(history, tariff):
            if first <= each.day <= last:
                mine = {"day": each.day, "owner": os.getuid(), "account": "", "pool": each.pool}
                books, costs = found.get(mine[by], (Books(), Costs()))
                found[mine[by]] = books + each.books, costs + each.costs
    nothing: dict[str, Any] = {"day": None, "owner": None, "account": None, "pool": None}
    return [
        Sum(**{**nothing, by: key}, books=books, costs=costs)
        for key, (books, costs) in sorted(found.items(), key=lambda item: str(item[0] or ""))
    ]
