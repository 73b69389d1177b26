"""A pipeline over three pools: does it end, and how many worker-hours does it take?

Block by block on cpu, then on gpu, and all blocks together on highmem. The peer is dask-jobqueue's
SLURMCluster with `adapt`, the needs in `dask.annotate(resources=...)`. The tasks sleep.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import dask
from distributed import wait
from measure import forget_waits, jobs_since, note, ours, stock, tell, worker_seconds

from dask_site import needs


def step(x, seconds):
    time.sleep(seconds)
    return x


def infer(x, seconds):
    time.sleep(seconds)
    return x


def whole(parts, seconds):
    time.sleep(seconds)
    return len(parts)


def pipeline(blocks, place):
    first = [dask.delayed(step, pure=False)(i, 1.0) for i in range(blocks)]
    second = place(gpu=1)(infer, first, 1.0)
    return place(memory="2GiB")(whole, [second], 15.0)[0]


def by_needs(**need):
    def made(function, blocks, seconds):
        return [dask.delayed(needs(**need)(function), pure=False)(b, seconds) for b in blocks]

    return made


def by_annotation(**need):
    names = {"gpu": ("GPU", 1), "memory": ("MEMORY", 2 << 30)}
    resources = dict(names[name] for name in need)

    def made(function, blocks, seconds):
        with dask.annotate(resources=resources):
            return [dask.delayed(function, pure=False)(b, seconds) for b in blocks]

    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=120)
    parser.add_argument("--limit", type=float, default=240, help="seconds for the peer (240)")
    given = parser.parse_args()
    forget_waits()
    begun = time.time()
    with ours() as (cluster, client, busy):
        cluster.adapt()
        future = client.compute(pipeline(given.blocks, by_needs))
        assert future.result() == given.blocks
        took, work = time.time() - begun, busy.total
        note(cluster.jobs)
    jobs = jobs_since(begun)
    hours = worker_seconds(jobs, gpu=2)
    note(f"ours: {took:.1f} s, work {dict(busy.seconds)}, workers {hours} s: {jobs}")

    begun = time.time()
    with stock("cpu") as (cluster, client, busy):
        cluster.adapt(maximum_jobs=6)
        future = client.compute(pipeline(given.blocks, by_annotation))
        try:
            wait(future, timeout=given.limit)
            ended = f"in {time.time() - begun:.1f} s"
        except TimeoutError:
            states = Counter(ts.state for ts in cluster.scheduler.tasks.values())
            ended = f"not within {given.limit:g} s; tasks: {dict(states)}"
        peer_work = busy.total
        # Closing a client would wait for its future.
        future.cancel()
    peer_hours = worker_seconds(jobs_since(begun), gpu=2)
    tell(
        "three-pool pipeline",
        ours=f"ended in {took:.1f} s",
        stock=f"ended {ended}",
        work=f"{work:.0f} s",
        worker_seconds=hours,
        worker_seconds_by_work=round(hours / work, 2),
        stock_worker_seconds=peer_hours,
        stock_work=f"{peer_work:.0f} s",
    )


if __name__ == "__main__":
    main()
