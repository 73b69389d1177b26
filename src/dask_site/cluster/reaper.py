"""Ends a cluster's jobs when the process that owns them is gone, however it went.

A small process beside the owner, fed through its standard input. SIGKILL, a closed notebook, a
lost ssh session: its input ends, and it cancels what was submitted and deletes the keys. Run as a
script, so that it starts without importing anything but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any


class Reaper:
    """The owner's end of it.

    Parameters
    ----------
    folder : str
        The cluster's private folder; deleted when the owner is gone.
    cancel : sequence of str
        Command that cancels the jobs whose numbers are appended.
    cancel_by_name : sequence of str
        Command that cancels all jobs of the cluster, also one that was just being submitted;
        empty where the resource manager can't.
    """

    def __init__(self, folder: str, cancel: Sequence[str], cancel_by_name: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._send(folder=folder, cancel=list(cancel), by_name=list(cancel_by_name))

    def watch(self, job_id: str) -> None:
        """Cancel this job too when the owner is gone."""
        self._send(job=job_id)

    def forget(self, job_id: str) -> None:
        """Leave this job alone: it ended."""
        self._send(ended=job_id)

    def dismiss(self) -> None:
        """End the reaper; the owner has cleaned up."""
        self._send(dismissed=True)
        self.take_over()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    def take_over(self) -> None:
        """Leave to the reaper what the owner could not end; it goes on for some minutes."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _send(self, **message: Any) -> None:
        if self._process.stdin is not None:
            # A reaper that was killed must not stop the computation.
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()


def main(stream: IO[bytes]) -> None:
    """Read messages until the owner dismisses us or is gone; in the latter case clean up."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    owner = os.getppid()
    jobs: set[str] = set()
    plan: dict[str, Any] = {}
    buffered = b""
    while True:
        # A child that the owner forked holds our input open: so look at the parent as well.
        if not select.select([stream], [], [], 1)[0]:
            if os.getppid() != owner:
                break
            continue
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            break
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("dismissed"):
                return
            plan.update({k: v for k, v in message.items() if k not in {"job", "ended"}})
            if "job" in message:
                jobs.add(message["job"])
            jobs.discard(message.get("ended", ""))
    _clean_up(plan, jobs)


def _clean_up(plan: dict[str, Any], jobs: set[str]) -> None:
    # Several rounds: a submission may still be under way, jobs still write into the folder, and
    # the resource manager may be away for a while.
    for pause in (0, 1, 3, 10, 30, 60):
        time.sleep(pause)
        # A job that ended by itself makes some managers return an error; a name that no job has
        # any more does not.
        done = _cancel([*plan["cancel"], *sorted(jobs)] if jobs else []) is not None
        done = _cancel(plan["by_name"]) == 0 and done
        shutil.rmtree(plan["folder"], ignore_errors=True)
        if done and pause and not Path(plan["folder"]).exists():
            return


def _cancel(command: list[str]) -> int | None:
    """Run a command, if there is one, and return its exit status; None if it did not end."""
    if not command:
        return 0
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode
    return None


if __name__ == "__main__":
    main(sys.stdin.buffer)
