"""From nothing to two workers that are ready: dask-site against plain dask-jobqueue.

Run on a login node with the module loaded; both sides alternate in one run, on the same pool and
the same partition, and each run is a process of its own, as a user's script is. The peer is
SLURMCluster with the configuration that the site installed, and with TLS as well, since that is
what dask-site does: see `--plain` for the peer without TLS.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

OURS = """
import time
begun = time.perf_counter()
from dask_site import Cluster
if __name__ == "__main__":
    imported = time.perf_counter()
    with Cluster(pools=["cpu"]) as cluster:
        up = time.perf_counter()
        cluster.scale(cpu=2)
        cluster.wait_for_workers()
        ready = time.perf_counter()
        print("TIMES", imported - begun, up - begun, ready - begun)
"""
PEER = """
import time
begun = time.perf_counter()
from dask_jobqueue import SLURMCluster
if __name__ == "__main__":
    imported = time.perf_counter()
    with SLURMCluster(
        config_name="cpu", interface="eth0", {security} silence_logs="error",
        scheduler_options=dict(dashboard_address="127.0.0.1:0"), log_directory="bench-logs",
    ) as cluster:
        up = time.perf_counter()
        cluster.scale(jobs=2)
        cluster.wait_for_workers(2)
        ready = time.perf_counter()
        print("TIMES", imported - begun, up - begun, ready - begun)
"""


def measure(code: str) -> tuple[float, float, float]:
    """Return seconds until imported, until the scheduler is up, until both workers are ready."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("TIMES"):
            imported, up, ready = map(float, line.split()[1:])
            return imported, up, ready
    raise SystemExit(f"a run failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="runs of each side (7)")
    parser.add_argument("--plain", action="store_true", help="the peer without TLS")
    parser.add_argument("--json", action="store_true", help="figures for machines")
    arguments = parser.parse_args()
    security = "" if arguments.plain else 'security=True, protocol="tls://", '
    sides = {"dask-site": OURS, "dask-jobqueue": PEER.format(security=security)}
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
    for run in range(arguments.runs + 1):
        for name, code in sides.items():
            found = measure(code)
            if run:  # the first of each only warms the caches
                times[name].append(found)
                print(f"{name}: {found[2]:.2f} s", file=sys.stderr, flush=True)
            time.sleep(1)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in times.items()
    }
    ratios = [a[2] / b[2] for a, b in zip(*times.values(), strict=True)]
    if arguments.json:
        print(json.dumps({"times": times, "medians": medians, "ratios": ratios}))
        return
    print(f"{'':15}{'imported':>10}{'scheduler':>11}{'2 workers':>11}")
    for name, row in medians.items():
        print(f"{name:15}" + "".join(f"{value:>9.2f} s" for value in row))
    print(
        f"ratio of the time to two workers, run by run: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs"
    )


if __name__ == "__main__":
    main()
