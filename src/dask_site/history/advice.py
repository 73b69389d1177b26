"""Advice: what would have saved most, with what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dask_site.history.books import Ledger
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.rules import Advice, cutting, graphs, pools, tasks

__all__ = ["RULES", "Advice", "advise"]

Rule = Callable[[ClusterHistory, Ledger], Advice | None]

#: All rules, by name.
RULES: dict[str, Rule] = {
    "short tasks": cutting.short_tasks,
    "small chunks": cutting.small_chunks,
    "few tasks": tasks.few_tasks,
    "no work": tasks.no_work,
    "straggler": tasks.straggler,
    "threads": tasks.gil,
    "serialising": tasks.serialising,
    "same error": tasks.same_error,
    "lost work": tasks.lost_work,
    "large chunks": cutting.large_chunks,
    "large graph": graphs.large_graph,
    "recomputation": graphs.recomputed,
    "unused memory": pools.unused_memory,
    "full memory": pools.full_memory,
    "long walltime": pools.long_walltime,
    "short walltime": pools.short_walltime,
    "long queue": pools.long_queue,
}


def advise(history: ClusterHistory, ledger: Ledger | None = None) -> list[Advice]:
    """Return the advice of all rules that found evidence, by what it would have saved.

    Core-seconds come first, then seconds of waiting, then bytes.

    Parameters
    ----------
    ledger : Ledger, optional
        That of the history, where it was closed already.
    """
    books = close_books(history) if ledger is None else ledger
    found = [
        replace(advice, rule=name)
        for name, rule in RULES.items()
        if (advice := rule(history, books)) is not None
    ]
    return sorted(found, key=lambda a: (-a.core_seconds, -a.seconds, -a.nbytes))
