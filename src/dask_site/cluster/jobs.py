"""From a pool to a job of the site's resource manager, by dask-jobqueue's own Job classes."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.config
import yaml

from dask_site.cluster.queue import spans
from dask_site.cluster.resources import worker_resources
from dask_site.history.scripts import Scripts
from dask_site.site import format_memory, format_walltime
from dask_site.upstream.jobs import worker_command

if TYPE_CHECKING:
    from distributed.security import Security

    from dask_site.cluster.folder import ClusterFolder
    from dask_site.site import Pool, Site

_JOB_CLASSES = {
    "slurm": ("dask_jobqueue.slurm", "SLURMJob"),
    "sge": ("dask_jobqueue.sge", "SGEJob"),
    "pbs": ("dask_jobqueue.pbs", "PBSJob"),
    "lsf": ("dask_jobqueue.lsf", "LSFJob"),
    "htcondor": ("dask_jobqueue.htcondor", "HTCondorJob"),
    "oar": ("dask_jobqueue.oar", "OARJob"),
    "local": ("dask_site.cluster.local", "LocalProcessJob"),
}

# The worker's HTTP server has no authentication, so there is none, see `dask_site.cluster.no_port`.
# Should distributed open one all the same, it answers on the loopback only.
_WORKER_ARGUMENTS = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
_RECORDED = ["--preload", "dask_site.history.job_id"]
_PRELOADS = [
    *("--preload", "dask_site.cluster.no_port"),
    *("--preload", "dask_site.cluster.gpus"),
    *("--preload", "dask_site.cluster.node"),
    *("--preload", "dask_site.faults.blackbox"),
    *("--preload-nanny", "dask_site.faults.blackbox"),
]


def job_class(resource_manager: str) -> Any:
    """Return dask-jobqueue's Job class for a resource manager (one of the site file's names)."""
    module, name = _JOB_CLASSES[resource_manager]
    with _signals_left_alone():
        return getattr(import_module(module), name)


@contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Keep an import from setting signal handlers.

    dask_jobqueue.runner sets SIGINT to `sys.exit` when it is imported (0.9.0): Ctrl-C would no
    longer be a KeyboardInterrupt, and an import outside the main thread fails.
    """
    original = signal.signal
    signal.signal = lambda *_: None
    try:
        yield
    finally:
        signal.signal = original


def job_options(site: Site, pool: Pool) -> dict[str, Any]:
    """Translate a pool into the keyword arguments of dask-jobqueue's Job class.

    Parameters
    ----------
    site : Site
        Supplies the resource manager, the default account and the prologue of every job.
    pool : Pool
        The pool that the job belongs to.

    Returns
    -------
    dict
        Arguments that are meaningful to plain dask-jobqueue as well: nothing in them depends
        on a running cluster. Memory as text with a binary prefix, walltime as the resource
        manager writes it.
    """
    options: dict[str, Any] = {
        "cores": pool.cores,
        "memory": format_memory(pool.memory),
        "processes": pool.processes,
        "interface": pool.interface,
        "local_directory": pool.scratch,
        "job_script_prologue": [*site.prologue, *pool.prologue],
        "worker_extra_args": _resource_arguments(pool),
    }
    options.update(_MANAGER_OPTIONS[site.resource_manager](site, pool))
    return options


def jobqueue_section(site: Site, pool: Pool) -> dict[str, Any]:
    """Return a whole section of dask-jobqueue's configuration for one pool.

    `SLURMCluster(config_name=...)` raises KeyError for any key that its section lacks, so the
    block that dask-jobqueue ships for the resource manager is the base.
    """
    overrides = {key.replace("_", "-"): value for key, value in job_options(site, pool).items()}
    return {**_upstream_section(site.resource_manager), **overrides}


class JobFactory:
    """Makes the jobs of one cluster.

    Parameters
    ----------
    site : Site
        The site whose resource manager and pools are used.
    scheduler_address : str
        Where the workers of the jobs connect to.
    folder : ClusterFolder
        The cluster's private folder: job scripts and output go there.
    security : distributed.Security
        File-based TLS settings; their paths (never their content) reach the job script.
    """

    def __init__(
        self, site: Site, scheduler_address: str, folder: ClusterFolder, security: Security
    ) -> None:
        self.scheduler_address = scheduler_address
        self._site = site
        self._folder = folder
        self._security = security
        base = job_class(site.resource_manager)
        #: What the jobs were submitted with, for the history; None where there is none.
        self.scripts = Scripts() if site.history.enabled else None
        self._class = type(base.__name__, (_PrivateScript, base), {"folder": folder})

    def make(self, pool: Pool, first: int, *others: int) -> Any:
        """Return a dask-jobqueue Job for `pool`, not yet submitted.

        Parameters
        ----------
        pool : Pool
            The pool that it belongs to.
        first, *others : int
            Numbers of its workers within the pool, rising: worker 3 of ``cpu`` is ``cpu-3``.
            With more than one it is an array (Slurm only); element 0 is the first worker, and
            those that lie between the numbers are left out.
        """
        if others:
            name = f"{pool.name}-$(({first}+SLURM_ARRAY_TASK_ID))"
            job = self._make(pool, name, **self._array(pool, first, others))
            job.script_name = f"{pool.name}-{first}-to-{others[-1]}.sh"
        else:
            job = self._make(pool, f"{pool.name}-{first}")
            job.script_name = f"{job.name}.sh"
        if self.scripts is not None:
            self.scripts.note(job, [f"{pool.name}-{number}" for number in (first, *others)])
        return job

    def _array(self, pool: Pool, first: int, others: tuple[int, ...]) -> dict[str, Any]:
        # dask-jobqueue names output by %J, which is a number of its own for each element.
        output = self._folder.logs / f"{job_name(self._folder.cluster_id, pool)}-%A_%a"
        return {
            "job_extra_directives": [
                *job_options(self._site, pool)["job_extra_directives"],
                f"--array={spans([0, *(number - first for number in others)])}",
                f"--output={shlex.quote(f'{output}.out')}",
                f"--error={shlex.quote(f'{output}.err')}",
            ]
        }

    def _make(self, pool: Pool, name: str, **options: Any) -> Any:
        arguments = [
            *_resource_arguments(pool),
            *_WORKER_ARGUMENTS,
            "--nanny",
            "--nworkers",
            str(pool.processes),
            *_PRELOADS,
            *(_RECORDED if self._site.history.enabled else ()),
        ]
        # A section of its own: the user's and the site's `jobqueue.slurm` are for plain
        # dask-jobqueue, and their queue must not leak into a pool that names none.
        section = f"dask-site-{self._folder.cluster_id}-{pool.name}"
        exports = [f"export {line}" for line in _environment(self._site, pool)]
        with dask.config.set({f"jobqueue.{section}": jobqueue_section(self._site, pool)}):
            return self._class(
                scheduler=self.scheduler_address,
                name=name,
                config_name=section,
                security=self._security,
                job_name=job_name(self._folder.cluster_id, pool),
                log_directory=str(self._folder.logs),
                worker_command="dask_site.cluster.worker",
                worker_extra_args=arguments,
                job_script_prologue=[*exports, *self._site.prologue, *pool.prologue],
                **_own_memory(self._site, pool),
                **options,
            )


def _own_memory(site: Site, pool: Pool) -> dict[str, str]:
    """Return all memory of a pool; the options for plain dask-jobqueue may have less."""
    memory = {"memory": format_memory(pool.memory)}
    if site.resource_manager == "slurm":
        memory["job_mem"] = f"{_mebibytes(pool.memory)}M"
    return memory


def job_name(cluster_id: str, pool: Pool) -> str:
    """Return the name that the resource manager shows for all jobs of a cluster's pool."""
    return f"dask-{cluster_id}-{pool.name}"


class _PrivateScript:
    """Writes the job script into the cluster's private folder, not into /tmp for all to read."""

    folder: ClusterFolder
    script_name: str

    def job_script(self) -> str:
        """Return the script, in which the workers take the place of the shell.

        Where Slurm follows processes by control groups, it tells only the script's own process
        that the job is about to end.
        """
        script: str = super().job_script()  # type: ignore[misc]  # the mixed-in Job
        command = worker_command(self)
        return script.replace(f"\n{command}", f"\nexec {command}")

    @contextmanager
    def job_file(self) -> Iterator[str]:
        path = self.folder.write(Path("jobs") / self.script_name, self.job_script())
        yield str(path)


def _environment(site: Site, pool: Pool) -> list[str]:
    """Return the assignments that a job needs whatever the resource manager hands on."""
    assignments = {
        "DASK_SITE_POOL": pool.name,
        "DASK_SITE_PROCESSES": str(pool.processes),
        # Read by the C library when a process starts, so too late for distributed's nanny.
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    for name in ("DASK_ROOT_CONFIG", "DASK_CONFIG"):
        if name in os.environ:
            assignments[name] = str(Path(os.environ[name]).absolute())
    if site.resource_manager == "local" and pool.gpus:
        assignments["CUDA_VISIBLE_DEVICES"] = os.environ.get(
            "CUDA_VISIBLE_DEVICES", ",".join(map(str, range(pool.gpus)))
        )
    return [f"{name}={shlex.quote(value)}" for name, value in assignments.items()]


def _resource_arguments(pool: Pool) -> list[str]:
    # Not with %g, which would round bytes.
    text = ",".join(f"{name}={_exactly(n)}" for name, n in worker_resources(pool).items())
    return ["--resources", text]


def _exactly(amount: float) -> str:
    return str(int(amount)) if float(amount).is_integer() else repr(amount)


@lru_cache
def _upstream_section(resource_manager: str) -> dict[str, Any]:
    with _signals_left_alone():
        package = resources.files("dask_jobqueue")
    text = package.joinpath("jobqueue.yaml").read_text("utf-8")
    section: dict[str, Any] = yaml.safe_load(text)["jobqueue"][resource_manager]
    return section


def _hours(walltime: timedelta | None) -> str | None:
    """Return HH:MM:SS with as many hours as it takes; SGE, PBS, OAR know no days."""
    if walltime is None:
        return None
    seconds = int(walltime.total_seconds())
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _mebibytes(memory: int) -> int:
    """Round down: of a pool that has all memory of a node, a job must not ask for more."""
    return memory // 2**20


def _slurm(site: Site, pool: Pool) -> dict[str, Any]:
    # dask-jobqueue asks for whole GiB, rounded up. Its `job_mem` would not, but also outdo the
    # `memory` that somebody gives to SLURMCluster.
    unit = 2**30 if pool.memory >= 2**30 else 2**20
    named = {
        "gres": f"gpu:{pool.gpus}" if pool.gpus else None,
        "qos": pool.qos,
        "constraint": pool.constraint,
        "reservation": pool.reservation,
    }
    return {
        "memory": format_memory(pool.memory // unit * unit),
        "queue": pool.queue,
        "account": pool.account or site.account,
        "walltime": None if pool.walltime is None else format_walltime(pool.walltime),
        "job_extra_directives": [
            *(f"--{key}={shlex.quote(value)}" for key, value in named.items() if value),
            *pool.directives,
        ],
    }


def _sge(site: Site, pool: Pool) -> dict[str, Any]:
    return {
        "queue": pool.queue,
        "project": pool.account or site.account,
        "walltime": _hours(pool.walltime),
        "job_extra_directives": [
            *([f"-l gpu={pool.gpus}"] if pool.gpus else []),
            *pool.directives,
        ],
    }


def _pbs(site: Site, pool: Pool) -> dict[str, Any]:
    chunk = f"select=1:ncpus={pool.cores}:mem={_mebibytes(pool.memory)}mb"
    return {
        "queue": pool.queue,
        "account": pool.account or site.account,
        "walltime": _hours(pool.walltime),
        "resource_spec": f"{chunk}:ngpus={pool.gpus}" if pool.gpus else chunk,
        "job_extra_directives": list(pool.directives),
    }


def _lsf(site: Site, pool: Pool) -> dict[str, Any]:
    minute = timedelta(minutes=1)
    walltime = _hours(pool.walltime and -(-pool.walltime // minute) * minute)
    return {
        "queue": pool.queue,
        "project": pool.account or site.account,
        "walltime": walltime and walltime.rpartition(":")[0],  # LSF counts whole minutes
        "ncpus": pool.cores,
        "mem": pool.memory,
        "job_extra_directives": [
            *([f'-gpu "num={pool.gpus}"'] if pool.gpus else []),
            *pool.directives,
        ],
    }


def _htcondor(_site: Site, pool: Pool) -> dict[str, Any]:
    directives = dict(line.split("=", 1) for line in pool.directives if "=" in line)
    extra = {key.strip(): value.strip() for key, value in directives.items()}
    if pool.gpus:
        extra["request_gpus"] = str(pool.gpus)
    return {"disk": "1 GiB", "job_extra_directives": extra}


def _oar(site: Site, pool: Pool) -> dict[str, Any]:
    return {
        "queue": pool.queue,
        "project": pool.account or site.account,
        "walltime": _hours(pool.walltime),
        # Which property holds a node's memory differs from site to site: say it in `directives`.
        "memory_per_core_property_name": "not_applicable",
        "job_extra_directives": list(pool.directives),
    }


def _local(_site: Site, _pool: Pool) -> dict[str, Any]:
    return {}


_MANAGER_OPTIONS = {
    "slurm": _slurm,
    "sge": _sge,
    "pbs": _pbs,
    "lsf": _lsf,
    "htcondor": _htcondor,
    "oar": _oar,
    "local": _local,
}
