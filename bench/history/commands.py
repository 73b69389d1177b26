"""How long commands of the history take from a cold start, beside Python's own.

Usage: python bench/history/commands.py [--times 20]

Records three small clusters into a spool folder, then runs each command so often and prints the
least, the median and the greatest wall time in seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
from distributed import Client, LocalCluster, wait

from dask_site import span

COMMANDS = (["ls"], ["show"], ["where", "--by", "span"], ["ls", "--help"])


def record(spool, number):
    settings = {
        "distributed.scheduler.preload": ["dask_site.history.preload"],
        "dask-site.history.spool": spool,
    }
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "silence_logs": 50}
    with (
        dask.config.set(settings),
        LocalCluster(**options, dashboard_address=":0", name=f"bench-{number}") as cluster,
        Client(cluster) as client,
        span("work"),
    ):
        wait(client.map(abs, range(1000)))


def timed(command, times):
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begun)
    return f"{min(found):.3f}  {statistics.median(found):.3f}  {max(found):.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        spool = str(Path(folder) / "spool")
        for number in range(3):
            record(spool, number)
        print("least  median  most   command")
        print(timed([sys.executable, "-c", "pass"], times), " python -c pass")
        script = str(Path(sys.executable).with_name("dask-site"))
        for command in COMMANDS:
            own = [] if "--help" in command else ["--spool", spool]
            shown = " ".join(["dask-site", "history", *command])
            print(timed([script, "history", *command, *own], times), "", shown)


if __name__ == "__main__":
    main()
