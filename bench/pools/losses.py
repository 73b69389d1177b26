"""10,000 tasks while workers, nodes and jobs are lost: how many fail, how many run twice?

This runs on a login node; `lose.py` starts it from outside, where nodes can be taken away.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from measure import ended, have, jobs_since, note, ours, site, stock

WALLTIME = "00:01:00"


def counted(i, file, seconds):
    # One byte for each attempt; appending is atomic.
    with open(file, "ab", buffering=0) as attempts:  # noqa: PTH123  # as fast as can be
        attempts.write(b"+")
    time.sleep(seconds)
    return i


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["ours", "stock"])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.12)
    parser.add_argument("--limit", type=float, default=600)
    parser.add_argument("--workers", type=int, default=6)
    given = parser.parse_args()
    handle, name = tempfile.mkstemp(dir=Path.home(), prefix="attempts-")
    os.close(handle)
    started = time.time()
    if given.side == "ours":
        side = ours(site(cpu={"walltime": WALLTIME}), pools=["cpu"])
    else:
        side = stock("cpu", walltime=WALLTIME)
    with side as (cluster, client, busy):
        if given.side == "ours":
            cluster.adapt(cpu=(given.workers, given.workers))
        else:
            cluster.adapt(minimum_jobs=given.workers, maximum_jobs=given.workers)
        have(cluster, given.workers)
        begun = time.monotonic()
        futures = client.map(
            counted, range(given.tasks), file=name, seconds=given.seconds, pure=False
        )
        print("READY", flush=True)
        if not ended(futures, given.limit):
            note("not within the limit")
        took = time.monotonic() - begun
        states = Counter(future.status for future in futures)
        why = Counter(type(f.exception()).__name__ for f in futures if f.status == "error")
        events = getattr(getattr(cluster.scheduler, "judge", None), "events", ())
        causes = Counter(event.cause for event in events)
        work = busy.total
    attempts = Path(name).stat().st_size
    Path(name).unlink()
    ends = Counter(job["state"] for job in jobs_since(started))
    figures = {
        "seconds": round(took, 1),
        "tasks": dict(states),
        "errors": dict(why),
        "computed_again": round(attempts / given.tasks - 1, 3),
        "work": round(work, 1),
        "jobs": dict(ends),
        "judged": dict(causes),
    }
    print("RESULT " + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
