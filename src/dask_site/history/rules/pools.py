"""Rules on what was asked of the resource manager, and what of it was used."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

from dask.utils import format_bytes

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import Ledger
from dask_site.history.model import ClusterHistory
from dask_site.history.records import UsageRecord
from dask_site.history.rules import WORTH, Advice, core_hours, percent, settings
from dask_site.history.rules.cutting import large_chunks, smaller
from dask_site.history.tables import duration
from dask_site.history.waits import waits

_GIB = 2**30
_NEAR = 0.9


def unused_memory(history: ClusterHistory, _ledger: Ledger) -> Advice | None:
    """Find a pool whose workers never used most of their memory."""
    best: Advice | None = None
    for usage in history.usage:
        jobs = [job for job in allocations(history) if job.pool == usage.pool and job.stays]
        limit = _limit(history, usage.pool)
        if not jobs or limit < 4 * _GIB or usage.threads.get("busy", 0.0) < WORTH:
            continue
        each = max(job.planned for job in jobs)
        used = max([usage.peak, *((job.row.max_rss or 0) // each for job in jobs if job.row)])
        if not 0 < used < 0.4 * limit:
            continue
        needed = max(1, math.ceil(1.5 * used / _GIB)) * _GIB
        freed = (limit - needed) * max(
            usage.workers, len({s.worker.name for j in jobs for s in j.stays})
        )
        found = Advice(
            f"Pool {usage.pool or '(none)'} holds more memory than its tasks use",
            (
                f"No worker used more than {format_bytes(used)} of its {format_bytes(limit)} "
                f"({percent(used / limit)}).",
                f"Half as much again would be {format_bytes(needed)} for each worker.",
            ),
            settings.memory(history, usage.pool, needed // _GIB),
            nbytes=freed,
        )
        if best is None or found.nbytes > best.nbytes:
            best = found
    return best


def full_memory(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Workers that were nearly out of memory, wrote results to disk, or paused."""
    usage = max(history.usage, key=lambda u: _pressure(history, u), default=None)
    spent = ledger.whole.of("disk") + ledger.whole.of("idle: paused")
    share = ledger.whole.share("disk", "idle: paused")
    if usage is None:
        return None
    pressure = _pressure(history, usage)
    spilled = max((s.spilled for s in history.samples), default=0)
    slow = spent >= WORTH and share >= 0.02 and (spilled > 0 or pressure >= 0.7)
    if (not slow and pressure < _NEAR) or large_chunks(history, ledger) is not None:
        return None
    limit = _limit(history, usage.pool)
    return Advice(
        "Workers ran short of memory",
        (
            f"A worker of pool {usage.pool or '(none)'} used {format_bytes(usage.peak)} of "
            f"{format_bytes(limit)} ({percent(pressure)}); at most {format_bytes(spilled)} of a "
            "pool were on disk.",
            f"Spilling in tasks and pausing took {core_hours(spent)}, {percent(share)} of the "
            "allocation.",
        ),
        "# smaller chunks, or more memory for each:\n" + _less_or_more(history, usage.pool),
        core_seconds=spent,
        nbytes=max(spilled, ledger.beside.spill_bytes),
    )


def long_walltime(history: ClusterHistory, _ledger: Ledger) -> Advice | None:
    """Jobs that asked for much more time than they took, and had to wait."""
    queue = [wait for wait in waits(history) if wait.name and wait.started]
    best: Advice | None = None
    for pool, jobs in _ended(history).items():
        walltime = max(job.record.walltime or 0.0 for job in jobs if job.record)
        longest = max(job.seconds for job in jobs)
        waited = [wait.seconds for wait in queue if wait.pool == pool]
        wait = statistics.fmean(waited) if waited else 0.0
        if walltime < 4 * longest or walltime - longest < 1800 or wait < WORTH:
            continue
        needed = max(600, math.ceil(1.5 * longest / 600) * 600)
        found = Advice(
            f"Jobs of pool {pool} ask for much more time than they take",
            (
                f"{len(jobs)} jobs asked for {duration(walltime)}; the longest took "
                f"{duration(longest)} ({percent(longest / walltime)}).",
                f"They waited {duration(wait)} each: shorter jobs fit into more gaps.",
            ),
            settings.walltime(history, pool, needed),
            seconds=math.fsum(waited),
        )
        if best is None or found.seconds > best.seconds:
            best = found
    return best


def short_walltime(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Jobs that were ended by their walltime, with tasks in them."""
    hit = [
        job
        for job in allocations(history)
        if "TIMEOUT" in job.state.upper() and any(s.worker.lost_tasks for s in job.stays)
    ]
    stays = [stay for job in hit for stay in job.stays if stay.worker.lost_tasks]
    lost = math.fsum(min(s.worker.lost_seconds, s.thread_seconds) for s in stays)
    if lost < WORTH:
        return None
    pool = hit[0].pool
    longest = max(job.seconds for job in hit)
    return Advice(
        "The walltime ended jobs in the middle of their tasks",
        (
            f"{len(hit)} {'job' if len(hit) == 1 else 'jobs'} ran into it after "
            f"{duration(longest)}, with "
            f"{sum(s.worker.lost_tasks for s in stays)} tasks unfinished.",
            f"These tasks had run for {core_hours(lost)}.",
        ),
        settings.walltime(history, pool, 2 * round(longest)),
        core_seconds=min(lost, ledger.whole.of("lost")),
    )


def long_queue(history: ClusterHistory, _ledger: Ledger) -> Advice | None:
    """More time in the queue without a single worker than with one."""
    queue = waits(history)
    held = [(job.start, job.end) for job in allocations(history)]
    working = _covered(held)
    alone = _covered([*held, *((w.submitted, w.until) for w in queue)]) - working
    if alone < 120 or alone < working:
        return None
    longest = max(queue, key=lambda wait: wait.seconds)
    started = sum(wait.started for wait in queue)
    why = f" ({longest.reason})" if longest.reason else ""
    return Advice(
        "The queue took longer than the work",
        (
            f"For {duration(alone)} jobs were in the queue and none ran; for {duration(working)} "
            "there was one at least.",
            f"{started} of {len(queue)} jobs started; the longest wait was "
            f"{duration(longest.seconds)}, in pool {longest.pool or '(none)'}{why}.",
        ),
        "# one cluster for all steps of a program; smaller or shorter jobs start sooner\n"
        + settings.walltime(history, longest.pool, 3600),
        seconds=alone,
    )


def _less_or_more(history: ClusterHistory, pool: str | None) -> str:
    text = smaller(history, 64 * 2**20, 2)
    largest = max((w for w in history.workers if w.pool == pool), key=lambda w: w.memory)
    if pool is None and history.cluster.kind != "Cluster":
        return f"{text}\n# {settings.more_memory(history, largest)}"
    return f'{text}\n# with pool("highmem"): ...'


def _limit(history: ClusterHistory, pool: str | None) -> int:
    """Return the memory of the largest worker of a pool."""
    return max((w.memory for w in history.workers if w.pool == pool), default=0)


def _pressure(history: ClusterHistory, usage: UsageRecord) -> float:
    """Return the most that a worker used of its memory: 0 to 1 and above."""
    limit = _limit(history, usage.pool)
    return usage.peak / limit if limit else 0.0


def _ended(history: ClusterHistory) -> dict[str | None, list[Allocation]]:
    """Return the jobs that have ended and of which the walltime is known, by pool."""
    found: dict[str | None, list[Allocation]] = defaultdict(list)
    for job in allocations(history):
        ended = (job.row and job.row.end) or (job.record and job.record.ended)
        if ended and job.record is not None and job.record.walltime and job.stays:
            found[job.pool].append(job)
    return found


def _covered(stretches: list[tuple[float, float]]) -> float:
    """Return the length of the union of stretches of time."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(stretches):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
