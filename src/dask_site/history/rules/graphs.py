"""Rules on the graph that was submitted: how large its chunks are, and what it carries."""

from __future__ import annotations

import math

from dask.utils import format_bytes

from dask_site.history.allocations import allocations
from dask_site.history.books import Ledger
from dask_site.history.model import ClusterHistory
from dask_site.history.rules import WORTH, Advice, core_hours, percent

_MIB = 2**20
_ENDED = ("memory", "released", "forgotten")
#: A task holds its inputs, its result and copies at once: several chunks.
_CHUNKS_AT_ONCE = 4
#: Of what a chunk should be, and of the definitions of all tasks, in bytes.
_GOOD_CHUNK = 128 * _MIB
_HEAVY_TASK, _HEAVY_GRAPH = _MIB, 100 * _MIB


def large_chunks(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Find results so large that a thread has no room for a few, where workers spilled."""
    spent = ledger.whole.of("disk") + ledger.whole.of("idle: paused")
    spilled = max((sample.spilled for sample in history.samples), default=0)
    room = _room(history)
    # Spilling takes time that only tasks which wait for it see: what is on disk is evidence too.
    if not room or not (spent >= WORTH or (spilled and spilled >= room)):
        return None
    found: tuple[float, str, int] | None = None
    for span in history.spans:
        for prefix, tasks in span.tasks.items():
            count = sum(tasks.states.get(state, 0) for state in _ENDED)
            if count and (found is None or tasks.nbytes / count > found[0]):
                found = tasks.nbytes / count, prefix, count
    if found is None or _CHUNKS_AT_ONCE * found[0] < room:
        return None
    size, prefix, count = found
    wanted = max(_MIB, min(_GOOD_CHUNK, 2 ** int(math.log2(room / (2 * _CHUNKS_AT_ONCE)))))
    share = ledger.whole.share("disk", "idle: paused")
    return Advice(
        "Chunks are too large for the memory of the workers",
        (
            f"{count} results of {prefix!r} have {format_bytes(size)} each on average; a thread "
            f"has {format_bytes(room)}, and a task holds some {_CHUNKS_AT_ONCE} chunks at once.",
            f"At most {format_bytes(spilled)} of a pool were on disk; spilling in tasks and "
            f"pausing took {core_hours(spent)}, {percent(share)} of the allocation.",
        ),
        f'x = x.rechunk("{wanted // _MIB}MiB")  # where it is opened: chunks=..., or\n'
        f'df = df.repartition(partition_size="{wanted // _MIB}MiB")',
        core_seconds=spent,
        nbytes=spilled,
    )


def large_graph(history: ClusterHistory, _ledger: Ledger) -> Advice | None:
    """Find data that is part of the tasks' own definitions, and goes through the scheduler."""
    heavy = [s for s in history.spans if s.sizes.get("largest definition", 0.0) >= _HEAVY_TASK]
    span = max(heavy, key=lambda s: s.sizes.get("definitions", 0.0), default=None)
    if span is None or span.sizes.get("definitions", 0.0) < _HEAVY_GRAPH:
        return None
    whole, each = span.sizes["definitions"], span.sizes["largest definition"]
    count = sum(sum(tasks.states.values()) for tasks in span.tasks.values())
    where = f", submitted at {span.code}" if span.code else ""
    return Advice(
        "Data travels with the tasks, through the scheduler",
        (
            f"{' / '.join(span.name)!r}{where}: its {count} tasks carry up to {format_bytes(each)} "
            "each in their own definition.",
            f"The scheduler kept and sent about {format_bytes(whole)} that workers could read or "
            "hold themselves.",
        ),
        "big = client.scatter(big, broadcast=True)  # once; then give `big` to the tasks\n"
        "# or open it in the tasks: xr.open_zarr(...), da.from_zarr(...), client.map(read, paths)",
        nbytes=whole,
    )


def _room(history: ClusterHistory) -> float:
    """Return the least memory of a thread among the workers; 0 if nobody knows."""
    workers = [stay.worker for job in allocations(history) for stay in job.stays]
    return min((w.memory / w.threads for w in workers if w.memory and w.threads), default=0.0)
