"""Worker preload: tells the scheduler in which job of the resource manager the worker runs."""

from __future__ import annotations

import os
from typing import Any

# JOB_ID is Grid Engine's; the name is so general that others come first.
_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "JOB_ID")


def job_id() -> str | None:
    """Return the resource manager's id of the job that this process runs in, None outside one."""
    return next(filter(None, map(os.environ.get, _VARIABLES)), None)


def dask_setup(worker: Any) -> None:
    """Run in the worker process before it registers (Dask's preload interface).

    The scheduler finds the id as ``WorkerState.extra["job"]``.
    """
    worker.startup_information["job"] = lambda _: job_id()
