"""The resource manager of a machine that has none: a job is a process group."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from dask_jobqueue.local import LocalJob

# Every job that this process started: they are its children, and asking for their state reaps them.
_processes: dict[str, subprocess.Popen[bytes]] = {}


class LocalProcessJob(LocalJob):
    """A dask-jobqueue Job that runs its script with bash, in a process group of its own.

    dask-jobqueue's LocalJob blocks until the worker has registered, and hides its output.
    """

    cancel_command: ClassVar[str] = "kill -TERM --"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shebang = "#!/usr/bin/env bash"

    async def start(self) -> None:
        """Start the script; `job_id` is the number of its process group."""
        with self.job_file() as script:
            log = Path(self.log_directory) / f"{self.job_name}-{self.name}.out"
            with log.open("wb") as output:
                process = await asyncio.to_thread(_start, script, output.fileno())
        self.job_id = str(process.pid)
        log.rename(log.with_name(f"{self.job_name}-{self.job_id}.out"))
        _processes[self.job_id] = process

    async def close(self) -> None:
        """End the job."""
        kill([self.job_id])


def _start(script: str, output: int) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C is for the user's program, which then ends its jobs.
    return subprocess.Popen(
        ["bash", script],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def exit_code(job_id: str) -> int | None:
    """Return how a job ended (negative: by that signal), None while it runs."""
    process = _processes.get(job_id)
    return process.poll() if process is not None else 0


def kill(job_ids: list[str], signum: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to whole jobs; those that ended already are passed over."""
    for job_id in job_ids:
        if exit_code(job_id) is None:
            with suppress(ProcessLookupError):
                os.killpg(int(job_id), signum)
