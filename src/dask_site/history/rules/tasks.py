"""Rules on how the work was cut and what tasks did."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict

from dask.utils import format_bytes

from dask_site.history.allocations import Stay, allocations
from dask_site.history.books import Ledger
from dask_site.history.model import ClusterHistory
from dask_site.history.records import IDLE
from dask_site.history.rules import WORTH, Advice, core_hours, percent, settings
from dask_site.history.rules.cutting import smaller
from dask_site.history.tables import duration

_MIB = 2**20
#: The program of a notebook's kernel.
_KERNELS = frozenset({"ipykernel_launcher.py", "colab_kernel_launcher.py"})


def few_tasks(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """More workers than there was work for at once."""
    starved, share = ledger.whole.of("idle: starved"), ledger.whole.share("idle: starved")
    if starved < WORTH or share < 0.15 or straggler(history, ledger) is not None:
        return None
    busy = math.fsum(usage.threads.get("busy", 0.0) for usage in history.usage)
    idle = math.fsum(usage.threads.get("starved", 0.0) for usage in history.usage)
    return Advice(
        "There were fewer tasks than threads",
        (
            f"Threads waited for others to finish for {core_hours(starved)}, "
            f"{percent(share)} of the allocation.",
            f"While there was work, it kept {percent(busy / (busy + idle))} of the threads busy.",
        ),
        f"# fewer workers for longer; or smaller chunks\n{settings.fewer_workers(history)}",
        core_seconds=starved,
    )


def no_work(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Workers that were held while nobody had submitted anything."""
    idle, share = ledger.whole.of("idle: no work"), ledger.whole.share("idle: no work")
    if idle < WORTH or share < 0.2:
        return None
    pool = max(ledger.pools, key=lambda name: ledger.pools[name].of("idle: no work"))
    program = history.cluster.program or "an unnamed program"
    notebook = program in _KERNELS
    longest, workers = _quiet(history, pool)
    told = ""
    if longest:
        told = (
            f" The longest stretch was {duration(longest)}, with {_some(workers, 'worker')} held."
        )
    return Advice(
        "Workers were held behind a notebook that gave them nothing to do"
        if notebook
        else "Workers were held while nothing was submitted",
        (
            f"Nothing was submitted for {core_hours(idle)}, {percent(share)} of the allocation; "
            f"most of it in pool {pool or '(none)'}.{told}",
            f"It is a {history.cluster.kind} of "
            f"{'the kernel of a notebook' if notebook else program}.",
        ),
        settings.idle_workers(history),
        core_seconds=idle,
    )


def _quiet(history: ClusterHistory, pool: str | None) -> tuple[float, int]:
    """Return the longest stretch without work, in seconds, and the workers held then, at most."""
    samples = [sample for sample in history.samples if sample.pool == pool]
    best, stretch = (0.0, 0), (0.0, 0)
    for before, after in itertools.pairwise(samples):
        moved = {
            word: after.threads.get(word, 0.0) - before.threads.get(word, 0.0)
            for word in {*before.threads, *after.threads}
        }
        idle = moved.pop(IDLE[0], 0.0)
        # A worker's last heartbeat is a little older than what the scheduler knows.
        if idle > 0 and math.fsum(moved.values()) < 0.01 * idle:
            stretch = stretch[0] + after.t - before.t, max(stretch[1], before.workers)
        else:
            stretch = 0.0, 0
        best = max(best, stretch)
    return best


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def straggler(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """One worker that worked on while the others had nothing left to do."""
    stays: dict[str | None, list[Stay]] = defaultdict(list)
    for job in allocations(history):
        for stay in job.stays:
            if stay.thread_seconds:
                stays[job.pool].append(stay)
    for pool, there in stays.items():
        books = ledger.pools[pool]
        starved = books.of("idle: starved")
        if len(there) < 4 or starved < WORTH or books.share("idle: starved") < 0.1:
            continue
        shares = sorted(
            (min(1.0, s.worker.busy / s.thread_seconds), i) for i, s in enumerate(there)
        )
        (_, last), (second, _) = shares[-1], shares[-2]
        usual = statistics.median(share for share, _ in shares[:-1])
        top = shares[-1][0]
        if top < 0.8 or top < 2 * usual or top < 1.5 * second:
            continue
        worker = there[last].worker
        return Advice(
            "One worker worked on while the others waited for it",
            (
                f"{worker.name} on {worker.host or 'an unnamed node'} was busy for "
                f"{percent(top)} of its time, the others of pool {pool or '(none)'} for "
                f"{percent(usual)} (median of {len(there) - 1}).",
                f"They waited for {core_hours(starved)}.",
            ),
            "# split what is largest, so that it doesn't end last:\n"
            + smaller(history, 64 * _MIB, 2),
            core_seconds=starved,
        )
    return None


def gil(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Many threads of one process that take turns: one core's worth of computing for each.

    Waiting for input and output keeps less than a core busy, so it is told apart.
    """
    stays = [stay for job in allocations(history) for stay in job.stays if stay.thread_seconds]
    if not stays or min(stay.worker.threads for stay in stays) < 4:
        return None
    cpu, waiting = ledger.whole.of("cpu"), ledger.whole.of("non-cpu")
    if waiting < WORTH or waiting < cpu or ledger.whole.share("non-cpu") < 0.15:
        return None
    there = math.fsum(stay.seconds for stay in stays)
    threads = math.fsum(stay.thread_seconds for stay in stays) / there
    active = ledger.whole.allocated - ledger.whole.of("idle: no work")
    occupied = min(1.0, (cpu + waiting) / active) if active > 0 else 0.0
    cores = cpu / (cpu + waiting) * threads * occupied
    if not 0.6 <= cores <= 1.4:
        return None
    worker = max(stays, key=lambda stay: stay.thread_seconds).worker
    return Advice(
        "Threads of a worker wait for each other: use processes",
        (
            f"In tasks, {percent(waiting / (cpu + waiting))} of the time was not spent computing "
            f"({core_hours(waiting)}).",
            f"Workers with {threads:.0f} threads kept {cores:.1f} cores busy each: as with "
            "Python's global lock, one at a time.",
        ),
        settings.processes(history, worker.pool, worker.threads),
        core_seconds=waiting,
    )


def serialising(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Packing and unpacking that took a good part of the time."""
    spent, share = ledger.whole.of("serialise"), ledger.whole.share("serialise")
    in_tasks = math.fsum(span.total for span in ledger.spans)
    if spent < WORTH or share < 0.1 or spent < 0.2 * in_tasks:
        return None
    worst = max(ledger.spans, key=lambda span: span.parts.get("serialise", 0.0))
    moved = math.fsum(
        n for s in history.spans for word, n in s.sizes.items() if word.endswith("serialize")
    )
    told = (f"{format_bytes(moved)} were packed or unpacked.",) if moved else ()
    return Advice(
        "Packing and unpacking data takes a good part of the time",
        (
            f"{core_hours(spent)}, {percent(share)} of the allocation; most of it in "
            f"{' / '.join(worst.name)!r}.",
            *told,
        ),
        "big = client.scatter(big, broadcast=True)  # once, not with every task\n"
        "# and arrays or Arrow columns rather than lists, dicts or objects",
        core_seconds=spent,
    )


def same_error(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Many tasks that failed in one way."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for error in history.errors:
        counts[error.prefix, error.exception] += error.count
    if not counts:
        return None
    prefix, exception = most = max(counts, key=counts.__getitem__)
    count, whole = counts[most], sum(counts.values())
    if count < 10:
        return None
    message = next(e.message for e in history.errors if (e.prefix, e.exception) == most)
    failed = ledger.whole.of("failed")
    return Advice(
        "The same error, again and again",
        (
            f"{count} tasks {prefix!r} failed with {exception}: {message[:200]}",
            f"Tasks that failed or were cancelled took {core_hours(failed)}; of all errors "
            f"{percent(count / whole)} are this one.",
        ),
        "future = client.submit(function, items[0])  # one of them first\n"
        "client.recreate_error_locally(future)",
        core_seconds=failed * count / whole,
    )


def lost_work(history: ClusterHistory, ledger: Ledger) -> Advice | None:
    """Work that ended with its worker, other than by the walltime, and was done again."""
    stays = [
        (stay, job.state.upper())
        for job in allocations(history)
        for stay in job.stays
        if stay.worker.lost_tasks + stay.worker.again_tasks
        and not stay.worker.expected
        and "TIMEOUT" not in job.state.upper()
    ]
    running = math.fsum(min(s.worker.lost_seconds, s.thread_seconds) for s, _ in stays)
    again = math.fsum(min(s.worker.again_seconds, s.thread_seconds) for s, _ in stays)
    seconds = running + again
    share = seconds / ledger.whole.allocated if ledger.whole.allocated else 0.0
    if seconds < WORTH or share < 0.01:
        return None
    memory = sum("MEMORY" in state for _, state in stays)
    paste = "x = x.persist()  # or write it: x.to_zarr(...), so that less is done again"
    if memory:
        paste = settings.more_memory(history, stays[0][0].worker)
    shortest = min(stay.seconds for stay, _ in stays)
    return Advice(
        "Workers were killed, and their tasks done again",
        (
            f"{len(stays)} workers ended with {sum(s.worker.lost_tasks for s, _ in stays)} tasks "
            f"unfinished, the first after {duration(shortest)}; {memory} of them out of memory.",
            f"These tasks had run for {core_hours(running)}. "
            f"{sum(s.worker.again_tasks for s, _ in stays)} results left with these workers, which "
            f"had taken about {core_hours(again)}.",
        ),
        paste,
        core_seconds=min(seconds, ledger.whole.of("lost") + ledger.whole.again),
    )
