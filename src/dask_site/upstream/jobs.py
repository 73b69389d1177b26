"""What dask-jobqueue's jobs know and don't tell."""

from typing import Any


def worker_command(job: Any) -> str:
    """Return the line of a job script of dask-jobqueue that starts its workers."""
    return str(job._command_template)
