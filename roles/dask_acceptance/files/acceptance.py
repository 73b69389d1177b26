"""Start one real job in every pool, run a task there, and report: a table and JUnit XML.

What a user does, done as a user: nothing here is privileged. Pools are tried at the same time, and
one that does not work stops none of the others.
"""

import argparse
import os
import socket
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET


@dataclass
class Trial:
    """One pool and what came out of it."""

    pool: str
    gpus: int = 0
    job: str = "-"
    node: str = "-"
    joined: float | None = None
    seconds: float = 0.0
    problem: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, text: str) -> "Trial":
        """Read ``pool`` or ``pool:gpus``."""
        pool, _, gpus = text.partition(":")
        return cls(pool, int(gpus or 0))


def of_the_site() -> list[Trial]:
    """Return all pools of the site whose release this is."""
    from dask_site import Site

    return [Trial(name, pool.gpus) for name, pool in Site.find().pools.items()]


def look_around() -> dict[str, Any]:
    """Tell where this runs; a task."""
    from distributed import get_worker

    return {
        "host": socket.gethostname(),
        "worker": get_worker().address,
        "release": os.environ.get("DASK_SITE_RELEASE", ""),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "python": sys.executable,
    }


def check_release(wanted: str) -> None:
    """End the script unless this is the release that is to be tried."""
    here = os.environ.get("DASK_SITE_RELEASE", "")
    if wanted and here != wanted:
        sys.exit(f"release {wanted} is to be tried, and what was loaded is {here or 'none'}")


def judge(trial: Trial, release: str) -> str:
    """Say what is wrong with the answer of a pool; empty when nothing is."""
    seen = trial.details
    if not seen["worker"].startswith("tls://"):
        return f"the worker listens on {seen['worker']} and not over TLS"
    if release and seen["release"] != release:
        return f"the worker runs release {seen['release'] or 'none'} and the login node {release}"
    if trial.gpus and not seen["gpus"]:
        return "the pool has GPUs, but CUDA_VISIBLE_DEVICES is empty in its job"
    return ""


def try_pool(cluster: Any, client: Any, trial: Trial, timeout: float) -> None:
    """Wait for the worker of a pool and run a task there."""
    from dask_site import pool

    began = time.monotonic()
    try:
        cluster.wait_for_workers(timeout=timeout, **{trial.pool: 1})
        trial.joined = time.monotonic() - began
        with pool(trial.pool):
            future = client.submit(look_around, pure=False)
        trial.details = future.result(timeout=max(30.0, timeout - trial.joined))
        trial.node = trial.details["host"]
        trial.problem = judge(trial, os.environ.get("DASK_SITE_RELEASE", ""))
    except Exception as error:  # one pool must not stop the others
        trial.problem = f"{type(error).__name__}: {error}".strip().rstrip(":")
    trial.seconds = time.monotonic() - began
    add_job(cluster, trial)


def add_job(cluster: Any, trial: Trial) -> None:
    """Add what the resource manager says about the pool's job."""
    jobs = [job for job in cluster.jobs if job.pool == trial.pool]
    if jobs:
        trial.job = str(jobs[-1].job_id)
        trial.node = jobs[-1].node or trial.node
        if trial.problem and trial.job not in trial.problem:
            state = f"{jobs[-1].state} {jobs[-1].reason or ''}".strip()
            trial.problem += f" (job {trial.job}: {state})"
    elif trial.problem:
        trial.problem += " (no job was submitted)"


def run(trials: list[Trial], timeout: float) -> None:
    """Try every pool at the same time, in one cluster."""
    from dask_site import Cluster

    names = [trial.pool for trial in trials]
    try:
        with Cluster(pools=names) as cluster:
            address = cluster.scheduler_address
            if not address.startswith("tls://"):
                raise RuntimeError(f"the scheduler listens on {address} and not over TLS")
            client = cluster.get_client()
            cluster.scale(**dict.fromkeys(names, 1))
            with ThreadPoolExecutor(len(trials)) as threads:
                list(threads.map(lambda trial: try_pool(cluster, client, trial, timeout), trials))
            client.close()
    except Exception as error:
        traceback.print_exc()
        for trial in trials:
            # a trial that ended well stays so: what failed then is the end of the cluster
            if not trial.details:
                trial.problem = trial.problem or f"{type(error).__name__}: {error}"


def table(trials: list[Trial]) -> str:
    """Return the result for a reader."""
    rows = [("pool", "job", "node", "joined after", "result")]
    for trial in trials:
        joined = "-" if trial.joined is None else f"{trial.joined:.1f} s"
        gpus = f", GPUs {trial.details['gpus']}" if trial.details.get("gpus") else ""
        rows.append((trial.pool, trial.job, trial.node, joined, trial.problem or f"ok{gpus}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(c.ljust(width) for c, width in line).rstrip() for line in lines)


def junit(trials: list[Trial], site: str) -> ET.ElementTree:
    """Return the result for a machine."""
    failures = sum(bool(trial.problem) for trial in trials)
    suite = ET.Element(
        "testsuite",
        name=f"dask-site acceptance, {site}",
        tests=str(len(trials)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=f"{max((trial.seconds for trial in trials), default=0):.3f}",
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
        hostname=socket.gethostname(),
    )
    for trial in trials:
        case = ET.SubElement(suite, "testcase", classname="dask_acceptance", name=trial.pool)
        case.set("time", f"{trial.seconds:.3f}")
        if trial.problem:
            ET.SubElement(case, "failure", message=trial.problem)
        told = {"job": trial.job, "node": trial.node, **trial.details}
        said = ET.SubElement(case, "system-out")
        said.text = "\n".join(f"{key}: {value}" for key, value in told.items())
    suites = ET.Element("testsuites")
    suites.append(suite)
    tree = ET.ElementTree(suites)
    ET.indent(tree)
    return tree


def main() -> int:
    """Try the pools; 1 when one does not work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pools", nargs="*", metavar="POOL[:GPUS]", type=Trial.named, help="all of the site if none"
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a pool")
    parser.add_argument("--report", type=Path, help="write JUnit XML here")
    parser.add_argument("--site", default="site")
    parser.add_argument("--release", default="", help="the release that this has to be")
    arguments = parser.parse_args()
    check_release(arguments.release)

    trials: list[Trial] = arguments.pools or of_the_site()
    run(trials, arguments.timeout)
    print(table(trials))
    if arguments.report:
        tree = junit(trials, arguments.site)
        tree.write(arguments.report, encoding="utf-8", xml_declaration=True)
    failed = [trial for trial in trials if trial.problem]
    if failed:
        names = ", ".join(trial.pool for trial in failed)
        print(f"pools that do not work: {names}", file=sys.stderr)
        for trial in failed:
            print(f"  {trial.pool}: {trial.problem}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
