"""A pipeline with a barrier, cpu before and gpu after it: is the queue's wait hidden?

Each side is the same cluster and the same controller; only `look_ahead` changes from run to run. A
first short run has taught durations and waits to both. The wait is a real one of Slurm: jobs of
the pool may begin 15 s after their submission. The tasks sleep: what is measured is waiting.
"""

from __future__ import annotations

import argparse
import time

import dask
from measure import forget_waits, have, middle, note, ours, site, tell, until

from dask_site import needs

CPUS = 2


def read(i, seconds):
    time.sleep(seconds)
    return i


def gathered(parts):
    return len(parts)


@needs(gpu=1)
def infer(whole, i, seconds):
    time.sleep(seconds)
    return whole + i


def pipeline(before, after, seconds=1.0):
    """Return work of `before` seconds on the pool cpu, then of `after` seconds on both GPUs."""
    parts = [
        dask.delayed(read, pure=False)(i, seconds) for i in range(round(before * CPUS / seconds))
    ]
    whole = dask.delayed(gathered, pure=False)(parts)
    count = round(after * 2 / seconds)
    return [dask.delayed(infer, pure=False)(whole, i, seconds) for i in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--wait", type=int, default=15, help="seconds that a GPU job waits (15)")
    parser.add_argument("--before", type=float, default=18, help="seconds of work before (18)")
    parser.add_argument("--after", type=float, default=2, help="seconds of work after it (2)")
    given = parser.parse_args()
    forget_waits()
    times = {True: [], False: []}
    slow = site(gpu={"directives": [f"--begin=now+{given.wait}"]})
    with ours(slow, pools=["cpu", "gpu"]) as (cluster, client, _):
        cluster.adapt(cpu=(CPUS, CPUS), gpu=(0, 2), idle="2 s")
        have(cluster, CPUS)

        def no_gpu_job():
            return not any(job.pool == "gpu" and job.live for job in cluster.jobs)

        def run(before, after):
            begun = time.monotonic()
            client.gather(client.compute(pipeline(before, after)))
            took = time.monotonic() - begun
            assert until(no_gpu_job), cluster.jobs
            time.sleep(1)
            return took

        note(f"the run that teaches: {run(2, 1):.1f} s")
        waited = cluster._waits.expected("gpu")
        for pair in range(given.pairs):
            for ahead in (False, True) if pair % 2 else (True, False):
                cluster._controller.prospects.look_ahead = ahead
                took = run(given.before, given.after)
                times[ahead].append(took)
                note(f"look_ahead={ahead}: {took:.1f} s")
    tell(
        "barrier pipeline",
        looking_ahead=" ".join(f"{t:.1f}" for t in times[True]) + " s",
        reactive=" ".join(f"{t:.1f}" for t in times[False]) + " s",
        queue_wait=f"{waited:.1f} s",
        work_before_and_after=f"{given.before:g} s, {given.after:g} s",
        ratio=middle(a / b for a, b in zip(times[True], times[False], strict=True)),
    )


if __name__ == "__main__":
    main()
