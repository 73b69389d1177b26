"""The ledger: what became of the core-seconds that were allocated."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import (
    IN_TASKS,
    PARTS,
    UNEXPLAINED,
    Beside,
    Books,
    Ledger,
    SpanBooks,
)
from dask_site.history.model import ClusterHistory
from dask_site.history.records import BUSY, IDLE, SpanRecord
from dask_site.history.waits import waits

__all__ = [
    "IN_TASKS",
    "PARTS",
    "UNEXPLAINED",
    "Beside",
    "Books",
    "Ledger",
    "SpanBooks",
    "close_books",
]
_WORDS = {
    "thread-cpu": "cpu",
    "thread-noncpu": "non-cpu",
    "serialize": "serialise",
    "deserialize": "serialise",
    "compress": "serialise",
    "decompress": "serialise",
    "disk-read": "disk",
    "disk-write": "disk",
    "failed": "failed",
    "cancelled": "failed",
}


def close_books(history: ClusterHistory) -> Ledger:
    """Say what became of all core-seconds that a cluster was allocated.

    Tasks measure what they do by span, not by pool: that is split over the pools by the time for
    which their threads were busy. So a pool's ``cpu`` is an estimate, the cluster's is not. Idle
    time was sampled by pool. Where a worker has more threads than cores, a thread-second counts
    as a part of a core-second.

    What does not fit (sampling, clocks, measures of tasks that overlap) is in
    `Books.unexplained`, whatever its sign; all parts are at least zero. The books of a cluster
    that still runs are those of when it was last heard of.
    """
    pools = _pools(history)
    metered = _metered(history.spans)
    weights = _weights(pools)
    unfinished = _unfinished(history, pools, math.fsum(metered.values()))
    if history.elsewhere:
        weights = _fitting(weights, pools, math.fsum(metered.values()) + unfinished)
    books = {}
    for name, pool in pools.items():
        # Tasks are measured in thread-seconds; of these several may share a core.
        in_tasks = weights[name] * pool.cores_per_thread
        parts = {part: seconds * in_tasks for part, seconds in metered.items()}
        parts["unfinished"] = unfinished * in_tasks
        own = math.fsum(metered.values()) * weights[name]
        for cause, seconds in pool.idle(own, fitting=bool(history.elsewhere)).items():
            parts[f"idle: {cause}"] = seconds * pool.cores_per_thread
        parts["lost"] = pool.lost * pool.cores_per_thread
        parts["start and stop"], parts["no thread"] = pool.vacant, pool.spare
        every = {part: parts.get(part, 0.0) for part in PARTS}
        books[name] = Books(pool.allocated, every, pool.again * pool.cores_per_thread)
    share = math.fsum(weights[name] * pool.cores_per_thread for name, pool in pools.items())
    sources: dict[str, float] = defaultdict(float)
    for pool in pools.values():
        for job in pool.jobs:
            sources[job.source] += job.core_seconds
    spans = [
        SpanBooks(s.name, {p: n * share for p, n in _metered([s]).items()}, s.id)
        for s in history.spans
    ]
    whole = sum(books.values(), Books())
    return Ledger(whole, books, tuple(spans), dict(sources), _beside(history), 1, share)


class _Pool:
    """The allocations of one pool, and what its threads were sampled to do."""

    def __init__(self, jobs: list[Allocation], sampled: Mapping[str, float] | None) -> None:
        self.jobs = jobs
        self.allocated = math.fsum(job.core_seconds for job in jobs)
        self.vacant = math.fsum(job.vacant for job in jobs)
        self.spare = math.fsum(job.spare for job in jobs)
        self.thread_seconds = math.fsum(job.thread_seconds for job in jobs)
        threaded = math.fsum(job.threaded for job in jobs)
        self.cores_per_thread = threaded / self.thread_seconds if self.thread_seconds else 1.0
        stays = [stay for job in jobs for stay in job.stays]
        self.lost = math.fsum(min(s.worker.lost_seconds, s.thread_seconds) for s in stays)
        # What a worker had computed it computed while it was there.
        self.again = math.fsum(min(s.worker.again_seconds, s.thread_seconds) for s in stays)
        self._sampled = sampled
        if sampled is None:
            self.busy = math.fsum(min(s.worker.busy, s.thread_seconds) for s in stays)
        else:
            self.busy = sampled.get(BUSY, 0.0)

    def idle(self, in_tasks: float, *, fitting: bool) -> dict[str, float]:
        """Return idle thread-seconds by cause; without samples all that was not in tasks.

        `fitting`: not more than what tasks have left of the time of the threads.
        """
        if self._sampled is None:
            used = max(self.busy, in_tasks + self.lost)
            return {"unknown": max(0.0, self.thread_seconds - used)}
        found: dict[str, float] = defaultdict(float)
        for word, seconds in self._sampled.items():
            if word != BUSY:
                found[word if word in IDLE else "unknown"] += seconds
        whole, room = (
            math.fsum(found.values()),
            max(0.0, self.thread_seconds - in_tasks - self.lost),
        )
        if fitting and whole > room:
            return {word: seconds * room / whole for word, seconds in found.items()}
        return found


def _pools(history: ClusterHistory) -> dict[str | None, _Pool]:
    jobs: dict[str | None, list[Allocation]] = defaultdict(list)
    for job in allocations(history):
        jobs[job.pool].append(job)
    sampled = {usage.pool: usage.threads for usage in history.usage}
    # Spans without a worker that anybody noted: what they used shows as unexplained.
    names = sorted({*jobs, *sampled} or {None}, key=lambda name: name or "")
    return {name: _Pool(jobs.get(name, []), sampled.get(name)) for name in names}


def _weights(pools: Mapping[str | None, _Pool]) -> dict[str | None, float]:
    """Return each pool's share in the time of tasks: that for which it was busy and not lost."""
    for measure in ("busy", "thread_seconds", "allocated"):
        times = {name: max(0.0, getattr(p, measure) - p.lost) for name, p in pools.items()}
        total = math.fsum(times.values())
        if total:
            return {name: time / total for name, time in times.items()}
    return dict.fromkeys(pools, 1.0 / len(pools))


def _fitting(
    weights: Mapping[str | None, float], pools: Mapping[str | None, _Pool], in_tasks: float
) -> dict[str | None, float]:
    """Return weights by which tasks took no longer than threads were there.

    While their job is another cluster's, what they do is part of what that one has.
    """
    if not in_tasks:
        return dict(weights)
    room = {name: max(0.0, pool.thread_seconds - pool.lost) for name, pool in pools.items()}
    return {name: min(weight, room[name] / in_tasks) for name, weight in weights.items()}


def _metered(spans: Iterable[SpanRecord]) -> dict[str, float]:
    """Return thread-seconds of tasks by part."""
    found = dict.fromkeys(IN_TASKS, 0.0)
    for span in spans:
        for word, seconds in span.execute.items():
            found[_part(word)] += seconds
    return found


def _part(word: str) -> str:
    if word in _WORDS:
        return _WORDS[word]
    # Shuffles measure their own: p2p-get-output-cpu, p2p-shard-partition-noncpu.
    if word.endswith("-noncpu"):
        return "non-cpu"
    return "cpu" if word.endswith("-cpu") else "other"


def _unfinished(
    history: ClusterHistory, pools: Mapping[str | None, _Pool], metered: float
) -> float:
    """Return thread-seconds of tasks that had not ended: these measure nothing until they do.

    At most what threads were busy beyond what was measured, and as long as the tasks can have run.
    """
    most = math.fsum(
        tasks.states.get("processing", 0) * max(0.0, history.seen - (span.start or span.enqueued))
        for span in history.spans
        for tasks in span.tasks.values()
    )
    busy = math.fsum(pool.busy - pool.lost for pool in pools.values())
    return max(0.0, min(most, busy - metered))


def _beside(history: ClusterHistory) -> Beside:
    queue = waits(history)
    seconds = history.traffic.seconds if history.traffic else {}
    sizes = history.traffic.sizes if history.traffic else {}
    return Beside(
        jobs=len(queue),
        never_started=sum(not wait.started for wait in queue),
        waited=math.fsum(wait.seconds for wait in queue),
        network_seconds=_received(seconds),
        network_bytes=_received(sizes),
        spill_seconds=_spilled(seconds),
        spill_bytes=_spilled(sizes),
    )


def _received(amounts: Mapping[str, float]) -> float:
    # Not the sender's: they are the same transfers.
    return math.fsum(n for k, n in amounts.items() if k.startswith("gather-dep") and "network" in k)


def _spilled(amounts: Mapping[str, float]) -> float:
    return math.fsum(n for k, n in amounts.items() if "disk-read" in k or "disk-write" in k)
