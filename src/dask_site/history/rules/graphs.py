"""Rules on the graph that was submitted: what it carries, and what it computes again."""

from __future__ import annotations

import math

from dask.utils import format_bytes

from dask_site.history.books import IN_TASKS, Ledger
from dask_site.history.model import ClusterHistory
from dask_site.history.records import AGAIN, SpanRecord
from dask_site.history.rules import WORTH, Advice, core_hours, percent

_MIB = 2**20
#: Of the definitions of one task, and of all, in bytes.
_HEAVY_TASK, _HEAVY_GRAPH = _MIB, 100 * _MIB


def large_graph(history: ClusterHistory, _ledger: Ledger) -> Advice | None:
    """Find data that is part of the tasks' own definitions, and goes through the scheduler."""
    heavy = [s for s in history.spans if s.sizes.get("largest definition", 0.0) >= _HEAVY_TASK]
    span = max(heavy, key=lambda s: s.sizes.get("definitions", 0.0), default=None)
    if span is None or span.sizes.get("definitions", 0.0) < _HEAVY_GRAPH:
        return None
    whole, each = span.sizes["definitions"], span.sizes["largest definition"]
    count = sum(sum(tasks.states.values()) for tasks in span.tasks.values())
    return Advice(
        "Data travels with the tasks, through the scheduler",
        (
            f"{_named(span)}: its {count} tasks carry up to {format_bytes(each)} "
            "each in their own definition.",
            f"The scheduler kept and sent about {format_bytes(whole)} that workers could read or "
            "hold themselves.",
        ),
        "big = client.scatter(big, broadcast=True)  # once; then give `big` to the tasks\n"
        "# or open it in the tasks: xr.open_zarr(...), da.from_zarr(...), client.map(read, paths)",
        nbytes=whole,
    )


def recomputed(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Find tasks that were computed again, as nothing had kept their results."""
    again = {
        (number, prefix): tasks.seconds[AGAIN]
        for number, span in enumerate(history.spans)
        for prefix, tasks in span.tasks.items()
        if AGAIN in tasks.seconds
    }
    seconds = min(math.fsum(again.values()), math.fsum(map(ledger.whole.of, IN_TASKS)))
    if seconds < WORTH or seconds < 0.05 * ledger.whole.allocated:
        return None
    number, prefix = max(again, key=again.__getitem__)
    share = seconds / ledger.whole.allocated
    return Advice(
        "The same tasks were computed again, as nothing kept their results",
        (
            f"{_named(history.spans[number])}: its tasks {prefix!r} computed for "
            f"{core_hours(again[number, prefix])} what had been computed before and let go.",
            f"All that was computed again took {core_hours(seconds)}, {percent(share)} of the "
            "allocation.",
        ),
        "x = x.persist()  # once, before all that uses it; or all of that at once:\n"
        "# a, b = dask.compute(x.mean(), x.std())",
        core_seconds=seconds,
    )


def _named(span: SpanRecord) -> str:
    where = f", submitted at {span.code}" if span.code else ""
    return f"{' / '.join(span.name)!r}{where}"
