"""What recording costs the scheduler: its share of the thread's time, and the bytes it writes.

    python bench/history/recorder.py [--tasks 100000] [--spans 20] [--held 10000]

One scheduler, with the recorder on, runs no-op tasks in batches. The recorder counts the CPU time
that it takes of the scheduler's thread; the kernel counts that of the whole thread, in the same
run. Then it holds many finished spans and times single rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import dask
from dask.base import tokenize
from distributed import Client, LocalCluster, wait

from dask_site.history.naming import span
from dask_site.history.recorder import recorder_of
from dask_site.history.spool import read_spool


def noop(x):
    return x


def thread_seconds(cluster):
    async def now():
        return time.thread_time()

    return cluster.sync(now)


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def counted(folder):
    """Return how many tasks the spool accounts for."""
    spans = {}
    for path in sorted(folder.iterdir()):
        spans |= {r.id: r for r, _ in read_spool(path) if r.k == "span"}
    return sum(sum(t.states.values()) for each in spans.values() for t in each.tasks.values())


def run(tasks, spans):
    folder = Path(tempfile.mkdtemp()) / "spool"
    settings = {
        "distributed.scheduler.preload": ["dask_site.history.preload"],
        "dask-site.history.spool": str(folder),
    }
    each = tasks // spans
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        recorder = recorder_of(cluster.scheduler)
        begun, thread, own = time.monotonic(), thread_seconds(cluster), recorder.seconds
        for number in range(spans):
            with span(f"part {number}"):
                wait(client.map(noop, range(number * each, (number + 1) * each)))
        thread, own = thread_seconds(cluster) - thread, recorder.seconds - own
        wall = time.monotonic() - begun
    return {
        "tasks": tasks,
        "accounted": counted(folder),
        "wall_s": round(wall, 1),
        "scheduler_thread_s": round(thread, 2),
        "recorder_s": round(own, 4),
        "share_percent": round(100 * own / thread, 3),
        "spool_bytes": size(folder),
    }


def hold(spans):
    """Time rounds while very many spans are held that have finished."""
    folder = Path(tempfile.mkdtemp()) / "spool"
    settings = {
        "distributed.scheduler.preload": ["dask_site.history.preload"],
        "dask-site.history.spool": str(folder),
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = []
        for number in range(spans):
            with span(f"held {number}"):
                key = (f"noop-{tokenize(number)}", 0)
                futures.append(client.submit(noop, number, key=key))
        wait(futures)
        recorder = recorder_of(cluster.scheduler)
        rounds = []
        end = time.monotonic() + 75
        while time.monotonic() < end:
            before = recorder.seconds
            time.sleep(1)
            rounds.append(recorder.seconds - before)
        client.submit(noop, -1).result()
        late = rounds[-25:]
    return {
        "spans_held": spans,
        "ms_each_second_while_settling": round(1e3 * statistics.mean(rounds[:30]), 2),
        "ms_each_second_settled": round(1e3 * statistics.mean(late), 2),
        "ms_most_in_one_second": round(1e3 * max(rounds), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--spans", type=int, default=20)
    parser.add_argument("--held", type=int, default=10_000)
    args = parser.parse_args()
    print(json.dumps(run(1000, 1)), flush=True)
    print(json.dumps(run(args.tasks, args.spans)), flush=True)
    if args.held:
        print(json.dumps(hold(args.held)), flush=True)
