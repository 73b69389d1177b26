"""`import dask_site`, and with its public names, against `import distributed`; in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

CASES = {
    "distributed": "import distributed",
    "dask_site": "import dask_site",
    "dask_site, Cluster and pool": "from dask_site import Cluster, pool",
}


def main() -> None:
    runs = 15
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, code in CASES.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[name].append(time.perf_counter() - begun)
    base = statistics.median(times["distributed"])
    for name, row in times.items():
        middle = statistics.median(row)
        print(
            f"{name:30} {middle:6.3f} s  ratio {middle / base:5.2f}"
            f"  (from {min(row):.3f} to {max(row):.3f} s, {runs} runs)"
        )


if __name__ == "__main__":
    main()
