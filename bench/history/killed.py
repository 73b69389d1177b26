"""What is lost of a cluster whose scheduler is killed with SIGKILL, again and again.

    python bench/history/killed.py [--times 20] [--interval 1]

Each time a process with scheduler, worker and client runs tasks of 5 ms and says what is done every
20 ms. It is killed at another moment; then its spool is read and its books are closed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dask_site.history.ledger import UNEXPLAINED, close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.spool import read_spool

PROGRAM = """
import json, sys, time
import dask
from distributed import Client, LocalCluster

def work(x):
    time.sleep(0.005)
    return x

if __name__ == "__main__":
    dask.config.set(json.loads(sys.argv[1]))
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                           dashboard_address=":0", silence_logs=50)
    client = Client(cluster)
    futures = client.map(work, range(20_000))
    tasks = cluster.scheduler.tasks
    while True:
        states = [task.state for task in list(tasks.values())]
        print(time.time(), states.count("memory"), flush=True)
        time.sleep(0.02)
"""


def killed(after: float, interval: int) -> dict:
    """Run and kill one; return what it had done and what its spool says."""
    with tempfile.TemporaryDirectory() as name:
        spool = Path(name) / "spool"
        program = Path(name) / "program.py"
        program.write_text(PROGRAM)
        settings = {
            "distributed.scheduler.preload": ["dask_site.history.preload"],
            "dask-site.history.spool": str(spool),
            "dask-site.history.interval": interval,
        }
        process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lines, end = [], 0.0
        while not end or time.monotonic() < end:
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended by itself"
            if not end and not lines[-1].endswith(" 0\n"):
                end = time.monotonic() + after
        process.kill()
        death = time.time()
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        said = [line.split() for line in lines if line.endswith("\n")]
        counted = [(float(when), int(done)) for when, done in said]
        (path,) = spool.iterdir()
        reading = read_spool(path)
        records = [record for record, _ in reading]
        history = ClusterHistory.from_records("me", records)
        recorded = sum(t.states.get("memory", 0) for s in history.spans for t in s.tasks.values())
        torn = path.stat().st_size - reading.offset
        books = close_books(history).whole
    return {
        "done": counted[-1][1],
        "recorded": recorded,
        "lost": death - max(record.t for record in records),
        "bad": reading.bad,
        "torn": torn,
        "allocated": books.allocated,
        "unexplained": books.share(UNEXPLAINED),
        "least": min(books.parts.values()),
        "ended": history.end is not None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--interval", type=int, default=1)
    arguments = parser.parse_args()
    found = []
    print("run   done  recorded  lost s  bad lines  torn bytes  core-s  unexplained")
    for turn in range(arguments.times):
        # Moments that are spread over the tick.
        after = 2.0 + arguments.interval * ((0.37 * turn) % 1.0)
        one = killed(after, arguments.interval)
        found.append(one)
        print(
            "{:3}  {done:5}  {recorded:8}  {lost:6.2f}  {bad:9}  {torn:10}  {allocated:6.2f}"
            "  {unexplained:11.1%}".format(turn + 1, **one),
            flush=True,
        )
        assert not one["ended"] and one["least"] >= 0.0
    most = max(one["lost"] for one in found)
    tick = "less than" if most < arguments.interval else "NOT less than"
    print(f"lost at most {most:.2f} s, {tick} a tick of {arguments.interval:g} s")
    tasks = [one["done"] - one["recorded"] for one in found]
    print(f"tasks lost: {min(tasks)} to {max(tasks)}")
    worst = max(abs(one["unexplained"]) for one in found)
    print(f"bad lines {sum(one['bad'] for one in found)}; at most {worst:.1%} unexplained")


if __name__ == "__main__":
    main()
