"""1,000 jobs of one cluster: how often is the manager asked, and what does a look take?

The resource manager is simulated: scripts on PATH stand for sbatch, squeue, sacct and scancel, and
all workers live in one process of their own. Local, without containers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from measure import note, tell, until

SBATCH = """#!/bin/sh
date "+%s.%N sbatch" >> $FAKE/calls
exec 9>$FAKE/lock; flock 9
n=$(($(cat $FAKE/number) + 1)); echo $n > $FAKE/number
for script; do :; done
cp "$script" $FAKE/$n.part && mv $FAKE/$n.part $FAKE/$n.sh
echo "Submitted batch job $n"
"""
SQUEUE = """#!/bin/sh
date "+%s.%N squeue" >> $FAKE/calls
cat $FAKE/table
"""
SACCT = """#!/bin/sh
date "+%s.%N sacct" >> $FAKE/calls
"""
SCANCEL = """#!/bin/sh
date "+%s.%N scancel" >> $FAKE/calls
: > $FAKE/table; touch $FAKE/cancelled
"""
SITE = {
    "schema": 1,
    "name": "Simulated",
    "resource_manager": "slurm",
    "default_pool": "cpu",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB", "walltime": "1h", "backlog": 1000}},
}


def manager(folder):
    """Put the scripts of a resource manager into a folder."""
    scripts = {"sbatch": SBATCH, "squeue": SQUEUE, "sacct": SACCT, "scancel": SCANCEL}
    for name, text in scripts.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
    (folder / "number").write_text("100\n")
    (folder / "table").touch()


# -- the nodes ---------------------------------------------------------------------------------


async def farm(folder, at_once=20):
    """Start a worker for each job, all in this process, until the jobs are cancelled."""
    import dask

    dask.config.set(
        {
            "distributed.worker.http.routes": [],
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.profile.enabled": False,
            # Each worker would look after itself so many times a second: one CPU for 500 of them.
            "distributed.admin.tick.interval": "1h",
            "distributed.admin.tick.cycle": "1h",
            "distributed.admin.system-monitor.interval": "1h",
            "distributed.logging.distributed": "warning",
        }
    )
    known, workers, rows = set(), [], {}
    while not (folder / "cancelled").exists():
        new = sorted(set(folder.glob("*.sh")) - known)
        known.update(new)
        jobs = [job for script in new for job in jobs_in(script)]
        rows |= {number: row(number, "PENDING", "", "(Priority)") for number, *_ in jobs}
        show(folder, rows)
        for some in (jobs[n : n + at_once] for n in range(0, len(jobs), at_once)):
            for number, *_ in some:
                rows[number] = row(number, "RUNNING", f"n{number.replace('_', '-')}", "None")
            show(folder, rows)
            workers += await asyncio.gather(*(worker(*job[1:]) for job in some))
        await asyncio.sleep(0.2)


def jobs_in(script):
    text = script.read_text()
    line = next(line for line in text.splitlines() if "dask_site.cluster.worker" in line)
    words = shlex.split(line, posix=True)
    told = dict(itertools.pairwise(words))
    array = re.search(r"--array=(\S+)", text)
    elements = [""]
    if array:
        first, _, last = array.group(1).partition("-")
        elements = [f"_{n}" for n in range(int(first), int(last or first) + 1)]
    address = next(word for word in words if word.startswith("tls://"))
    base = re.search(r"--name \S*?([a-z]+)-(?:\$\(\()?(\d+)", line)
    for element in elements:
        name = f"{base.group(1)}-{int(base.group(2)) + int(element.lstrip('_') or 0)}"
        yield f"{script.stem}{element}", address, name, told


def row(number, state, node, why):
    now = int(time.time())
    return f"{number}|{state}|0|0|{now}|{now + 3600}|{node}|{why}"


def show(folder, rows):
    beside = folder / "table.part"
    beside.write_text("".join(f"{text}\n" for text in rows.values()))
    if not (folder / "cancelled").exists():
        beside.replace(folder / "table")


async def worker(address, name, told):
    from distributed import Worker
    from distributed.security import Security

    offered = dict(pair.split("=") for pair in told["--resources"].split(","))
    return await Worker(
        address,
        name=name,
        nthreads=1,
        memory_limit=2**30,
        dashboard=False,
        resources={key: float(value) for key, value in offered.items()},
        local_directory=str(Path(os.environ["FAKE"]) / "scratch"),
        security=Security(
            tls_ca_file=told["--tls-ca-file"],
            tls_worker_cert=told["--tls-cert"],
            tls_worker_key=told["--tls-key"],
            require_encryption=True,
        ),
    )


# -- the cluster -------------------------------------------------------------------------------


def nothing(_):
    return None


def state_of(process):
    children = process.children()
    return {
        "threads": threading.active_count(),
        "children": len(children),
        "descriptors": process.num_fds(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--single", action="store_true", help="a submission for each job")
    parser.add_argument("--farm", type=Path)
    given = parser.parse_args()
    if given.farm:
        asyncio.run(farm(given.farm))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manager(folder)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        os.environ["FAKE"] = name
        os.environ["HOME"] = name
        with (folder / "farm.log").open("w") as log:
            nodes = subprocess.Popen(
                [sys.executable, __file__, "--farm", name], stdout=log, stderr=log
            )
        try:
            run(given, folder)
        finally:
            nodes.kill()
            nodes.wait()
            note((folder / "farm.log").read_text()[-2000:])


def run(given, folder):
    from distributed import wait

    from dask_site import Cluster

    SITE["pools"]["cpu"]["submit"] = "single" if given.single else "array"
    process = psutil.Process()
    opened = time.time()
    with Cluster(SITE) as cluster, cluster.get_client() as client:
        before = state_of(process)
        controller, ticks = cluster._controller, []
        tick = controller.tick

        def timed():
            begun = time.thread_time()
            tick()
            ticks.append((time.thread_time() - begun) * 1e3)

        controller.tick = timed
        cluster.adapt(cpu=(given.jobs, given.jobs), backlog=given.jobs)

        def joined():
            return sum(len(job.workers) for job in cluster.jobs)

        assert until(lambda: joined() == given.jobs, 900), joined()
        there = time.time() - opened
        note(f"{given.jobs} jobs and workers are there after {there:.0f} s")
        joining, ticks[:] = list(ticks), []
        futures = client.map(nothing, range(given.tasks), pure=False)
        wait(futures)
        time.sleep(25)
        during = state_of(process)
        closing = time.time()
    rows = [line.split() for line in (folder / "calls").read_text().splitlines()]
    calls = [(float(at), which) for at, which in rows]
    asked = [at for at, which in calls if which in {"squeue", "sacct"} and at < closing]
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    tell(
        f"{given.jobs} jobs, simulated manager",
        all_workers_there_after=f"{there:.1f} s",
        questions_while_open=f"{len(asked)} in {closing - opened:.0f} s",
        least_time_between_two=f"{min(gaps):.1f} s" if gaps else "-",
        submissions=sum(which == "sbatch" for _, which in calls),
        calls_while_closing=sum(at >= closing for at, _ in calls),
        tick_while_joining=f"median {statistics.median(joining):.1f} ms, most {max(joining):.1f}",
        tick_with_work=f"median {statistics.median(ticks):.1f} ms, most {max(ticks):.1f} ms",
        before_the_jobs=before,
        with_the_jobs=during,
    )


if __name__ == "__main__":
    main()
