"""Rules on how finely the work was cut: into tasks, and into chunks of data."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from dask.utils import format_bytes

from dask_site.history.allocations import allocations
from dask_site.history.books import Ledger
from dask_site.history.model import ClusterHistory
from dask_site.history.records import SpanRecord
from dask_site.history.rules import WORTH, Advice, core_hours, percent

_MIB = 2**20
_ENDED = ("memory", "released", "forgotten")
#: Seconds that a task should take, and below which it counts as short.
_GOOD_TASK, _SHORT_TASK = 1.0, 0.1
#: A task holds its inputs, its result and copies at once: several chunks.
_CHUNKS_AT_ONCE = 4
#: Of what a chunk should be, and below which a result is a number rather than a chunk, in bytes.
_GOOD_CHUNK, _LEAST_CHUNK = 128 * _MIB, 1024
#: Names by which tasks of dataframes are known.
_FRAMES = re.compile(r"pandas|parquet|csv|partition|p2pshuffle|hashjoin|_index|dataframe")
_FUTURES = re.compile(r"\.(map|submit)\(")
_COLLECTED = re.compile(r"\.(compute|persist)\(")


@dataclass(frozen=True)
class _Tiny:
    """Short tasks that cost a good part of the allocation, and the prefix of most of them."""

    ended: int
    mean: float
    overhead: float
    share: float
    prefix: str
    count: int
    nbytes: float
    span: SpanRecord
    threads: int

    @property
    def factor(self) -> int:
        """How many of them may be one, with work left for each thread."""
        wanted = math.ceil(_GOOD_TASK / max(self.mean, 1e-3))
        return max(2, min(wanted, self.count // max(1, self.threads)))

    @property
    def saved(self) -> float:
        """Core-seconds that larger ones would have saved."""
        return self.overhead * (1 - 1 / self.factor)

    @property
    def chunks(self) -> bool:
        """Whether they make chunks of a collection, by their results and by who submitted them."""
        code = self.span.code or ""
        futures = _FUTURES.search(code) and not _COLLECTED.search(code)
        return not futures and self.nbytes >= _LEAST_CHUNK


def short_tasks(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Tasks so short that starting them costs a good part of the time."""
    tiny = _tiny(history, ledger)
    if tiny is None or small_chunks(history, ledger) is not None:
        return None
    return Advice(
        "Tasks are too short: starting them costs a good part of the time",
        (
            f"{tiny.ended} tasks computed for {tiny.mean * 1000:.1f} ms each on average; most of "
            f"them, {tiny.count}, are {tiny.prefix!r}.",
            f"Starting them and moving their data took {percent(tiny.share)} of the allocation "
            f"({core_hours(tiny.overhead)}).",
        ),
        # No batched() of itertools: it is not in Python 3.11.
        "def many(batch):\n"
        "    return [function(item) for item in batch]\n\n"
        f"n = {tiny.factor}  # so many in a task; chunks of a collection so many times larger\n"
        "batches = [items[i : i + n] for i in range(0, len(items), n)]\n"
        "futures = client.map(many, batches)\n"
        "results = [result for batch in client.gather(futures) for result in batch]",
        core_seconds=tiny.saved,
    )


def small_chunks(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Find results so small that starting their tasks costs a good part of the time."""
    tiny = _tiny(history, ledger)
    if tiny is None or not tiny.chunks:
        return None
    fits = [_GOOD_CHUNK, tiny.nbytes * tiny.factor]
    if room := _room(history):
        fits.append(room / (2 * _CHUNKS_AT_ONCE))
    wanted = _rounded(min(fits))
    if wanted < 2 * tiny.nbytes:
        return None
    return Advice(
        "Chunks are too small: starting their tasks costs a good part of the time",
        (
            f"{tiny.count} results of {tiny.prefix!r} have {format_bytes(int(tiny.nbytes))} each "
            f"on average; {format_bytes(wanted)} would fit as well.",
            f"{tiny.ended} tasks computed for {tiny.mean * 1000:.1f} ms each on average; starting "
            f"them and moving their data took {percent(tiny.share)} of the allocation "
            f"({core_hours(tiny.overhead)}).",
        ),
        _larger(tiny, wanted),
        core_seconds=tiny.saved,
    )


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
    wanted = _rounded(min(_GOOD_CHUNK, room / (2 * _CHUNKS_AT_ONCE)))
    share = ledger.whole.share("disk", "idle: paused")
    return Advice(
        "Chunks are too large for the memory of the workers",
        (
            f"{count} results of {prefix!r} have {format_bytes(size)} each on average; a thread "
            f"has {format_bytes(room)}, and a task holds some {_CHUNKS_AT_ONCE} chunks at once.",
            f"At most {format_bytes(spilled)} of a pool were on disk; spilling in tasks and "
            f"pausing took {core_hours(spent)}, {percent(share)} of the allocation.",
        ),
        smaller(history, wanted, math.ceil(size / wanted)),
        core_seconds=spent,
        nbytes=spilled,
    )


def smaller(history: ClusterHistory, wanted: int, parts: int) -> str:
    """Return what makes chunks of `wanted` bytes, or splits each partition into `parts`."""
    # By number: partition_size computes them all to know how large they are.
    frame = f"df = df.repartition(npartitions={parts} * df.npartitions)"
    array = f'x = x.rechunk("{wanted // _MIB}MiB")'
    if _FRAMES.search(" ".join(prefix for span in history.spans for prefix in span.tasks)):
        return f"{frame}  # where it is opened: blocksize=...\n# an array: {array}"
    return f"{array}  # where it is opened: chunks=...\n# a dataframe: {frame}"


def _larger(tiny: _Tiny, wanted: int) -> str:
    size = f"{wanted // _MIB}MiB"
    if _FRAMES.search(" ".join(tiny.span.tasks)):
        return (
            f"df = df.repartition(npartitions=max(1, df.npartitions // {tiny.factor}))\n"
            f'# better where it is opened: dd.read_parquet(path, blocksize="{size}")'
        )
    return (
        f'x = x.rechunk("{size}")\n# better where it is opened: da.from_zarr(path, chunks="{size}")'
    )


def _tiny(history: ClusterHistory, ledger: Ledger) -> _Tiny | None:
    counts: dict[str, int] = defaultdict(int)
    nbytes: dict[str, int] = defaultdict(int)
    seconds = 0.0
    for span in history.spans:
        for prefix, tasks in span.tasks.items():
            counts[prefix] += sum(tasks.states.get(state, 0) for state in _ENDED)
            nbytes[prefix] += tasks.nbytes
            seconds += tasks.seconds.get("compute", 0.0)
    ended = sum(counts.values())
    parts = ("idle: dispatch", "other", "serialise")
    overhead, share = sum(map(ledger.whole.of, parts)), ledger.whole.share(*parts)
    if ended < 1000 or overhead < WORTH or share < 0.1 or seconds / ended >= _SHORT_TASK:
        return None
    prefix = max(counts, key=counts.__getitem__)
    count = counts[prefix]
    span = max(
        (span for span in history.spans if prefix in span.tasks),
        key=lambda span: sum(span.tasks[prefix].states.values()),
    )
    threads = max((sample.nthreads for sample in history.samples), default=0) or sum(
        stay.worker.threads for job in allocations(history) for stay in job.stays
    )
    mean = seconds / ended
    return _Tiny(ended, mean, overhead, share, prefix, count, nbytes[prefix] / count, span, threads)


def _rounded(nbytes: float) -> int:
    """Return a power of two of MiB that is not more, 1 MiB at least."""
    return int(max(_MIB, 2 ** int(math.log2(max(1.0, nbytes)))))


def _room(history: ClusterHistory) -> float:
    """Return the least memory of a thread among the workers; 0 if nobody knows."""
    workers = [stay.worker for job in allocations(history) for stay in job.stays]
    return min((w.memory / w.threads for w in workers if w.memory and w.threads), default=0.0)
