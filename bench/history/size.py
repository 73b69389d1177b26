"""How many bytes a cluster takes: in the spool of its user, and in the store.

    python bench/history/size.py [--tasks 1000 1000000] [--seconds 900]

Each cluster runs so many no-op tasks in 20 spans, or as many of them as it can in the time that is
given. What it wrote is taken into a store a hundred times over, as of a hundred clusters, since a
file of a database grows by pages.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import dask
from distributed import Client, LocalCluster, wait

from dask_site.history.naming import span
from dask_site.history.spool import read_spool
from dask_site.history.store import Store

SPANS, BATCH, CLONES = 20, 5000, 100


def noop(x):
    return x


def spooled(folder: Path, tasks: int, seconds: float) -> tuple[int, float]:
    """Run a cluster that records; return how many tasks it ran, and in how many seconds."""
    settings = {
        "distributed.scheduler.preload": ["dask_site.history.preload"],
        "dask-site.history.spool": str(folder),
    }
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "silence_logs": 50}
    done, begun = 0, time.monotonic()
    with (
        dask.config.set(settings),
        LocalCluster(**options, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        for part in range(SPANS):
            last = tasks * (part + 1) // SPANS
            with span(f"part {part}"):
                while done < last and time.monotonic() - begun < seconds:
                    end = min(last, done + BATCH)
                    wait(client.map(noop, range(done, end)))
                    done = end
    return done, time.monotonic() - begun


def stored(folder: Path, file: Path) -> float:
    """Return the bytes of a store that one cluster takes."""
    records = [r for path in sorted(folder.iterdir()) for r, _ in read_spool(path)]
    url = f"sqlite:///{file}"
    with Store(url) as store:
        store.ingest(1, [r.model_copy(update={"c": "first"}) for r in records])
    before = file.stat().st_size
    with Store(url) as store:
        for n in range(CLONES):
            store.ingest(1, [r.model_copy(update={"c": f"clone-{n}"}) for r in records])
    return (file.stat().st_size - before) / CLONES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=900, help="for each cluster, at most")
    arguments = parser.parse_args()
    for tasks in arguments.tasks:
        with tempfile.TemporaryDirectory() as name:
            spool = Path(name) / "spool"
            done, seconds = spooled(spool, tasks, arguments.seconds)
            size = sum(path.stat().st_size for path in spool.iterdir())
            found = {
                "asked": tasks,
                "tasks": done,
                "seconds": round(seconds, 1),
                "spool_bytes": size,
                "store_bytes": round(stored(spool, Path(name) / "history.db")),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
