"""What a user writes to change a cluster, by what started it."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta

from dask_site.history.allocations import allocations
from dask_site.history.model import ClusterHistory
from dask_site.history.records import WorkerRecord
from dask_site.sitefile.units import format_walltime

_OWN, _LOCAL = "Cluster", "LocalCluster"
#: Those of dask-jobqueue: a job has so many cores and so much memory, split among processes.
_QUEUES = frozenset(
    f"{name}Cluster" for name in ("HTCondor", "LSF", "Moab", "OAR", "PBS", "SGE", "SLURM")
)
_MORE = "  # beside what else you give it"
_WORKER = "dask worker tcp://SCHEDULER:8786"


def memory(history: ClusterHistory, pool: str | None, gib: int) -> str:
    """Return what gives a worker so many GiB."""
    kind = history.cluster.kind
    if pool is not None or kind == _OWN:
        jobs = [job for job in allocations(history) if job.pool == pool and job.stays]
        each = max((job.planned for job in jobs), default=1)
        return pool_setting(pool, "memory", f"{gib * each}GiB")
    if kind in _QUEUES:
        return f'cluster = {kind}(memory="{gib * _workers_of_a_job(history)}GiB"){_MORE}'
    if kind == _LOCAL:
        return f'cluster = LocalCluster(memory_limit="{gib}GiB"){_MORE}'
    return f"{_WORKER} --memory-limit {gib}GiB"


def more_memory(history: ClusterHistory, worker: WorkerRecord) -> str:
    """Return what gives tasks twice the memory of a worker."""
    if worker.pool is not None or history.cluster.kind == _OWN:
        return 'with pool("highmem"):  # or needs(memory="64GiB") for the function\n    ...'
    return memory(history, None, max(1, math.ceil(2 * worker.memory / 2**30)))


def processes(history: ClusterHistory, pool: str | None, threads: int) -> str:
    """Return what makes a process of each thread of a worker that has so many."""
    kind = history.cluster.kind
    if pool is not None or kind == _OWN:
        return pool_setting(pool, "processes", str(threads))
    if kind in _QUEUES:
        cores = threads * _workers_of_a_job(history)
        return f"cluster = {kind}(cores={cores}, processes={cores}){_MORE}"
    if kind == _LOCAL:
        workers = threads * len(
            {stay.worker.name for j in allocations(history) for stay in j.stays}
        )
        return (
            f"cluster = LocalCluster(processes=True, n_workers={workers}, threads_per_worker=1)"
            f"{_MORE}"
        )
    return f"{_WORKER} --nworkers {threads} --nthreads 1"


def walltime(history: ClusterHistory, pool: str | None, seconds: float) -> str:
    """Return what lets a job run for so long."""
    kind, text = history.cluster.kind, format_walltime(timedelta(seconds=round(seconds)))
    if pool is not None or kind == _OWN:
        return pool_setting(pool, "walltime", f'"{text}"')
    if kind in _QUEUES:
        return f'cluster = {kind}(walltime="{text}"){_MORE}'
    return f"#SBATCH --time={text}  # of the job in which its workers run"


def fewer_workers(history: ClusterHistory) -> str:
    """Return what lets fewer workers do the work, for longer."""
    if history.cluster.kind in {_OWN, _LOCAL, *_QUEUES}:
        most = "" if history.cluster.kind == _OWN else f"maximum={_workers(history)}, "
        return f'cluster.adapt({most}target_duration="5 minutes")'
    return "# start fewer workers, with fewer threads: dask worker --nworkers, --nthreads"


def idle_workers(history: ClusterHistory) -> str:
    """Return what gives workers back that nobody needs."""
    kind = history.cluster.kind
    if kind == _OWN:
        return (
            'cluster.adapt(idle="30 s")  # gives idle jobs back; or: with Cluster() as cluster: ...'
        )
    if kind == _LOCAL or kind in _QUEUES:
        return (
            f"cluster.adapt(minimum=0, maximum={_workers(history)})  # gives idle workers back\n"
            f"# or: with {kind}(...) as cluster: ..."
        )
    return (
        "client.shutdown()  # when the work is done; or have it end by itself:\n"
        '# dask scheduler --idle-timeout "10 minutes"'
    )


def pool_setting(pool: str | None, setting: str, value: str) -> str:
    """Return what a user writes to change a pool."""
    path = "# ~/.config/dask/site.yaml"
    # A worker's pool is what its user made it: quoted, it can't be anything but a name.
    name = pool if pool and re.fullmatch(r"[a-z][a-z0-9_-]*", pool) else json.dumps(pool or "cpu")
    return f"{path}\ndask_site:\n  pools:\n    {name}:\n      {setting}: {value}"


def _workers_of_a_job(history: ClusterHistory) -> int:
    """Return how many workers a job brings: those that report one number."""
    names: dict[str, set[str]] = {}
    for worker in history.workers:
        if worker.job:
            names.setdefault(worker.job, set()).add(worker.name)
    return max(map(len, names.values()), default=1)


def _workers(history: ClusterHistory) -> int:
    """Return how many workers there were at once, at most."""
    seen = max((sample.workers for sample in history.samples), default=0)
    return max(1, seen or len({worker.name for worker in history.workers}))
