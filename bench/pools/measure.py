"""What the benchmarks of pools share: both sides, and what they are measured by."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from dask.utils import key_split
from distributed import Client, SchedulerPlugin

from dask_site import Cluster, Site


def site(**pools):
    """Return the site of this machine with some values of its pools changed."""
    found = Site.find().to_mapping()
    for name, values in pools.items():
        found["pools"][name].update(values)
    return found


class Busy(SchedulerPlugin):
    """Counts the tasks that were computed, and the seconds of computing, by prefix of the key."""

    name = "bench-busy"

    def __init__(self):
        self.tasks = 0
        self.seconds = Counter()

    def transition(self, key, start, finish, *_, startstops=(), **__):
        if start == "processing" and finish == "memory":
            self.tasks += 1
            for span in startstops or ():
                if span["action"] == "compute":
                    self.seconds[key_split(key)] += span["stop"] - span["start"]

    @property
    def total(self):
        return sum(self.seconds.values())


@contextlib.contextmanager
def ours(given=None, **options):
    """Yield one of our clusters, a client and what counts."""
    with Cluster(given, **options) as cluster, cluster.get_client() as client:
        busy = Busy()
        cluster.sync(_add, cluster.scheduler, busy)
        yield cluster, client, busy


@contextlib.contextmanager
def stock(pool="cpu", **options):
    """Yield a SLURMCluster of dask-jobqueue on one pool of the site, a client and what counts."""
    from dask_jobqueue import SLURMCluster

    with (
        SLURMCluster(
            config_name=pool,
            interface="eth0",
            security=True,
            protocol="tls://",
            silence_logs="critical",
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            log_directory="bench-logs",
            **options,
        ) as cluster,
        Client(cluster) as client,
    ):
        busy = Busy()
        cluster.sync(_add, cluster.scheduler, busy)
        yield cluster, client, busy


async def _add(scheduler, plugin):
    scheduler.add_plugin(plugin)


def until(condition, seconds=120):
    """Wait until something holds, and say whether it came to that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.1)
    return condition()


def have(cluster, workers):
    """Wait until that many workers are there."""
    assert until(lambda: len(cluster.scheduler.workers) >= workers), repr(cluster)


def ended(futures, seconds=1200):
    """Wait until futures have results or errors, also those whose results got lost on the way."""
    end = time.monotonic() + seconds
    while any(future.status in {"pending", "lost"} for future in futures):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def jobs_since(begun):
    """Return what Slurm accounted for this user since a time: a row for each job that ran."""
    me = subprocess.check_output(["id", "-un"], text=True).strip()
    assert until(lambda: not subprocess.check_output(["squeue", "-h", "-u", me]).strip())
    fields = ["JobID", "Partition", "State", "Submit", "Start", "End", "AllocCPUS", "AllocTRES"]
    day = time.strftime("%FT%T", time.localtime(begun - 60))
    rows = []

    def all_ended():
        table = subprocess.check_output(
            ["sacct", "-X", "-n", "-P", "-S", day, "-u", me, "-o", ",".join(fields)],
            text=True,
            env={"PATH": "/usr/bin:/bin", "SLURM_TIME_FORMAT": "%s"},
        )
        rows[:] = [dict(zip(fields, line.split("|"), strict=True)) for line in table.splitlines()]
        return all(row["End"].isdigit() for row in rows)

    time.sleep(2)  # until the last is known to the accounts at all
    assert until(all_ended)
    return [
        {
            "pool": row["Partition"],
            "state": row["State"].split()[0],
            "seconds": int(row["End"]) - int(row["Start"]),
            "cores": int(row["AllocCPUS"]),
            "gpus": int(row["AllocTRES"].partition("gres/gpu=")[2].split(",")[0] or 0),
        }
        for row in rows
        if int(row["Submit"]) >= int(begun) and row["Start"].isdigit()
    ]


def worker_seconds(jobs, **workers):
    """Return how long all workers were allocated; `workers` says how many a job of a pool has."""
    return sum(job["seconds"] * workers.get(job["pool"], 1) for job in jobs)


def forget_waits():
    """Forget the waits of the queue that earlier clusters of this user have measured."""
    Path("~/.dask-site/waits.json").expanduser().unlink(missing_ok=True)
    shutil.rmtree("bench-logs", ignore_errors=True)


def middle(values):
    """Return median and range as text."""
    values = list(values)
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{statistics.median(values):.2f} (from {low:.2f} to {high:.2f}, {len(values)} pairs)"


def note(*words):
    """Say on stderr how it goes."""
    print(time.strftime("%T"), *words, file=sys.stderr, flush=True)


def tell(name, **figures):
    """Print the figures of one benchmark, a line each, and as one line for machines."""
    print(f"== {name}")
    for key, value in figures.items():
        print(f"   {key.replace('_', ' ')}: {value}")
    print("FIGURES " + json.dumps({name: figures}), flush=True)
