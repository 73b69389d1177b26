"""What the resource manager says of our jobs: state, node, reason. One query for all of them."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dask_site.cluster.errors import ClusterError

PENDING, RUNNING, ENDED = "pending", "running", "ended"


@dataclass(frozen=True)
class QueueEntry:
    """One job as its resource manager sees it.

    Attributes
    ----------
    phase : str
        PENDING, RUNNING or ENDED.
    verdict : str
        The manager's own word for the state, such as COMPLETED, TIMEOUT, NODE_FAIL.
    reason : str
        Why it is pending, or how it ended, in the manager's own words.
    node : str
        Where it runs or ran.
    """

    phase: str
    verdict: str = ""
    reason: str = ""
    node: str = ""


class Queue(Protocol):
    """What a cluster asks a resource manager, besides to start a job."""

    #: Whether `look` can tell a job's state; otherwise only joined workers show that it runs.
    can_look: bool

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:
        """Return the entries of the jobs that the manager knows."""

    async def verdict(self, job_id: str) -> QueueEntry | None:
        """Return how one job ended, where that takes a question of its own."""

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs; those that ended already are passed over."""

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return two commands for the reaper: one takes job numbers, one finds jobs by name."""


def queue_for(resource_manager: str, cancel_command: str) -> Queue:
    """Return the queue of a resource manager (one of the site file's names)."""
    if resource_manager == "slurm":
        return SlurmQueue()
    if resource_manager == "local":
        return LocalQueue()
    return BlindQueue(cancel_command)


async def run(command: Sequence[str], timeout: float = 30) -> str:
    """Run a command of the resource manager and return what it printed.

    Raises
    ------
    ClusterError
        With the command's own words, if it fails, is not there, or does not answer in `timeout`
        seconds.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ClusterError(
            f"{command[0]}: {error.strerror}. Is this a login node of the site, and is the "
            "resource manager's software on PATH?"
        ) from None
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ClusterError(f"{command[0]} did not answer in {timeout:g} s.") from None
    if process.returncode:
        raise ClusterError(err.decode(errors="replace").strip() or f"{command[0]} failed.")
    return out.decode(errors="replace")


class SlurmQueue:
    """Slurm, through squeue and, for jobs that it has forgotten, sacct."""

    can_look = True
    _FORMAT = "%i|%T|%R|%N"
    _PENDING = frozenset(
        {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
    )
    _RUNNING = frozenset(
        {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
    )

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:
        """Ask squeue by job name, which also finds a job whose number got lost on the way."""
        text = await run(
            [
                "squeue",
                "--me",
                "--noheader",
                "--states=all",
                f"--name={','.join(job_names)}",
                f"--format={self._FORMAT}",
            ]
        )
        entries = dict(self._parse(line) for line in text.splitlines() if line.strip())
        for job_id in set(job_ids) - entries.keys():
            found = await self.verdict(job_id)
            entries[job_id] = found or QueueEntry(ENDED, "UNKNOWN", "Slurm does not know the job")
        return entries

    async def verdict(self, job_id: str) -> QueueEntry | None:
        """Ask the accounting how a job ended; None where there is no accounting."""
        command = ["sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode,NodeList"]
        try:
            lines = (await run(command)).splitlines()
        except ClusterError:
            return None
        if not lines:
            return None
        state, exit_code, node = lines[-1].split("|")
        # "CANCELLED by 1000" has the user in it.
        word, _, detail = state.partition(" ")
        code, _, signum = exit_code.partition(":")
        words = [detail, f"exit code {code}" if code != "0" else "", f"signal {signum}"]
        reason = ", ".join(w for w in words[: 3 if signum not in {"", "0"} else 2] if w)
        return QueueEntry(self._phase(word), word, reason, "" if "None" in node else node)

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel all in one call."""
        if job_ids:
            await run(["scancel", "--quiet", *job_ids])

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return scancel by number and by name."""
        # scancel takes one name a call, and no patterns. It has no --me in 22.05.
        by_name = "; ".join(
            shlex.join(["scancel", "--quiet", f"--user={os.getuid()}", f"--name={name}"])
            for name in job_names
        )
        return ["scancel", "--quiet"], ["sh", "-c", by_name]

    def _parse(self, line: str) -> tuple[str, QueueEntry]:
        job_id, state, reason, node = line.split("|", 3)
        phase = self._phase(state)
        shown = reason.strip("()") if phase == PENDING else ""
        return job_id, QueueEntry(phase, state, "" if shown == "None" else shown, node)

    def _phase(self, state: str) -> str:
        if state in self._PENDING:
            return PENDING
        return RUNNING if state in self._RUNNING else ENDED


class LocalQueue:
    """The machine itself: jobs are our own process groups."""

    can_look = True

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Ask the kernel."""
        from dask_site.cluster import local

        here = os.uname().nodename
        return {job: _local_entry(local.exit_code(job), here) for job in job_ids}

    async def verdict(self, job_id: str) -> QueueEntry | None:
        """Return how a job ended."""
        return (await self.look([job_id], []))[job_id]

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Ask the jobs to end, and make those end that have not in two seconds."""
        from dask_site.cluster import local

        local.kill(list(job_ids))
        for _ in range(20):
            if all(local.exit_code(job) is not None for job in job_ids):
                return
            await asyncio.sleep(0.1)
        local.kill(list(job_ids), signal.SIGKILL)

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:  # noqa: ARG002  # of the protocol
        """Return a kill by process group."""
        return ["sh", "-c", 'for j; do kill -TERM -- "-$j"; done', "sh"], []


def _local_entry(code: int | None, node: str) -> QueueEntry:
    if code is None:
        return QueueEntry(RUNNING, "RUNNING", "", node)
    if code == 0:
        return QueueEntry(ENDED, "COMPLETED", "", node)
    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
    return QueueEntry(ENDED, "FAILED", reason, node)


class BlindQueue:
    """A resource manager that is only asked to start and cancel jobs (SGE, PBS, LSF, ...)."""

    can_look = False

    def __init__(self, cancel_command: str) -> None:
        self._cancel = shlex.split(cancel_command)

    async def look(self, job_ids: Iterable[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Know nothing."""
        return {}

    async def verdict(self, job_id: str) -> QueueEntry | None:  # noqa: ARG002  # of the protocol
        """Know nothing."""
        return None

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel all in one call: qdel, bkill, condor_rm and oardel all take several jobs."""
        if job_ids:
            await run([*self._cancel, *job_ids])

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:  # noqa: ARG002  # of the protocol
        """Return the cancel command by number; by name there is none."""
        return self._cancel, []
