"""The jobs of a plain dask-jobqueue cluster, as its own object in this process has them.

`tests/contract/test_history_distributed.py` holds what is read here against the installed versions.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from dask_site.history.measures import clean_id
from dask_site.history.scripts import Scripts

_WALLTIME = re.compile(r"^#SBATCH (?:-t|--time=?) ?(?:(\d+)-)?(\d+):(\d+):(\d+)$", re.MULTILINE)
_MOST_GONE = 20_000


def jobs_of(cluster: Any) -> Jobs | None:
    """Return the jobs of a cluster of dask-jobqueue, None of any other."""
    loaded = sys.modules.get("dask_jobqueue.core")
    kind = getattr(loaded, "JobQueueCluster", None)
    return Jobs(cluster) if kind is not None and isinstance(cluster, kind) else None


class Jobs:
    """Call it for the jobs, those included that are gone from the cluster.

    A job counts as started while workers of it are there: the cluster itself never asks.

    Parameters
    ----------
    cluster : dask_jobqueue.JobQueueCluster
        Read only.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._known: dict[str, dict[str, Any]] = {}
        self.scripts = Scripts()

    def __call__(self) -> Iterator[dict[str, Any]]:
        """Yield them as `dask_site.history.records.JobRecord` has them."""
        self.look()
        for known in self._known.values():
            yield dict(known)

    def look(self) -> None:
        """Take note of those that came and went since the last look."""
        now = time.time()
        there = {str(ws.name) for ws in list(self._cluster.scheduler.workers.values())}
        jobs = {str(name): job for name, job in list(self._cluster.workers.items())}
        for given, job in jobs.items():
            if len(self._known) < _MOST_GONE:
                self._known.setdefault(given, self._asked(given, job, now))
        for given, known in self._known.items():
            self._look(known, jobs.get(given), given, there, now)

    def _asked(self, given: str, job: Any, now: float) -> dict[str, Any]:
        name = clean_id(given) or "job"
        self.scripts.note(job, [name])
        return {
            "name": name,
            "pool": None,
            "id": None,
            "state": "pending",
            "submitted": now,
            "started": None,
            "ended": None,
            "workers": int(job.worker_processes),
            "cores": int(job.worker_cores),
            "memory": int(job.worker_memory or 0),
            "walltime": _walltime(str(job.job_header)),
            **self.scripts.of(name),
        }

    @staticmethod
    def _look(known: dict[str, Any], job: Any, given: str, there: set[str], now: float) -> None:
        workers = range(known["workers"])
        running = given in there or any(f"{given}-{number}" in there for number in workers)
        if job is not None and job.job_id:
            known["id"] = clean_id(job.job_id)
        if running and job is not None:
            known.update(state="running", started=known["started"] or now, ended=None)
        elif known["ended"] is None and (job is None or known["started"] is not None):
            # The cluster has cancelled it, or its workers are gone.
            known.update(state="ended", ended=now)
        elif known["ended"] is None and not known["id"]:
            # A cluster has its jobs once they are submitted.
            known.update(state="failed", ended=now, reason="its submission was refused")


def _walltime(header: str) -> float | None:
    """Return the seconds that Slurm was asked for."""
    found = _WALLTIME.search(header)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
