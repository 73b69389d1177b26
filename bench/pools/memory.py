"""5 % of the tasks need more memory than their worker has: do all end, and how soon?

Against dask-jobqueue's SLURMCluster on the pool cpu, where these tasks and whatever ran beside them
end in KilledWorker, and against what its user does then: a second cluster on the large pool, and
there once more all that failed. Ordinary tasks sleep; the large ones fill their memory.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from measure import ended, forget_waits, middle, note, ours, stock, tell

LARGE = 1500 << 20


def part(i, size, seconds):
    time.sleep(seconds)
    block = bytearray(size)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return i


def submitted(client, numbers, given):
    every = round(100 / given.percent)
    sizes = [LARGE if i % every == 3 else 1 << 20 for i in numbers]
    return client.map(part, list(numbers), sizes, seconds=given.seconds, pure=False)


def with_ours(given):
    begun = time.monotonic()
    with ours(pools=["cpu", "highmem"]) as (cluster, client, _):
        cluster.adapt(cpu=(given.workers, given.workers))
        futures = submitted(client, range(given.tasks), given)
        ended(futures)
        took = time.monotonic() - begun
        states = Counter(future.status for future in futures)
        deaths = len(cluster.scheduler.judge.events)
    return took, dict(states), deaths


def by_hand(given):
    begun = time.monotonic()
    with stock("cpu") as (cluster, client, _):
        # Jobs that die are replaced then, which they are not after `scale`.
        cluster.adapt(minimum_jobs=given.workers, maximum_jobs=given.workers)
        futures = submitted(client, range(given.tasks), given)
        ended(futures)
        again = [i for i, future in enumerate(futures) if future.status == "error"]
        kinds = Counter(type(futures[i].exception()).__name__ for i in again)
        first = time.monotonic() - begun
        note(f"stock: {first:.1f} s, failed {len(again)} {dict(kinds)}")
        with stock("highmem") as (large, other, _):
            large.adapt(maximum_jobs=2)
            futures = submitted(other, again, given)
            ended(futures)
            took = time.monotonic() - begun
            assert all(future.status == "finished" for future in futures)
    return took, first, dict(kinds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--percent", type=float, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2)
    given = parser.parse_args()
    forget_waits()
    mine, theirs = [], []
    for _ in range(given.pairs):
        mine.append(with_ours(given))
        note("ours:", mine[-1])
        theirs.append(by_hand(given))
        note("by hand:", theirs[-1])
    tell(
        "memory",
        ours=[f"{took:.1f} s: {states}, {deaths} workers died" for took, states, deaths in mine],
        stock=[f"{first:.1f} s: failed {kinds}" for _, first, kinds in theirs],
        stock_and_once_more_by_hand=[f"{took:.1f} s" for took, *_ in theirs],
        ratio=middle(a[0] / b[0] for a, b in zip(mine, theirs, strict=True)),
    )


if __name__ == "__main__":
    main()
