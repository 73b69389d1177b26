"""What the resource manager says of our jobs: state, node, reason. One query for all of them."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from dask_site.cluster.errors import ClusterError

PENDING, RUNNING, ENDED = "pending", "running", "ended"

#: Verdict on a job that has left the queue, and of which nobody can say how it ended.
UNKNOWN = "UNKNOWN"


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
    started, ends : datetime or None
        When its allocation began, and when it ended or the manager will end it, UTC.
    expected : datetime or None
        When the manager thinks that it starts.
    restarts : int
        How often the manager has queued it again.
    """

    phase: str
    verdict: str = ""
    reason: str = ""
    node: str = ""
    started: datetime | None = None
    ends: datetime | None = None
    expected: datetime | None = None
    restarts: int = 0


class Queue(Protocol):
    """What a cluster asks a resource manager, besides to start a job."""

    #: Whether `look` can tell a job's state; otherwise only joined workers show that it runs.
    can_look: bool
    #: Least seconds between two questions.
    interval: float

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:
        """Return, by one command, the entries of the jobs that the manager knows."""

    async def verdicts(self, job_ids: Sequence[str]) -> dict[str, QueueEntry]:
        """Return, by one command, how jobs ended that `look` does not find any more."""

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs; those that ended already are passed over."""

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return two commands for the reaper: one takes job numbers, one finds jobs by name.

        The second fails if the manager could not be asked, and not because no job has the name.
        """


def queue_for(resource_manager: str, cancel_command: str) -> Queue:
    """Return the queue of a resource manager (one of the site file's names)."""
    if resource_manager == "slurm":
        return SlurmQueue()
    if resource_manager == "local":
        return LocalQueue()
    return BlindQueue(cancel_command)


async def run(
    command: Sequence[str], timeout: float = 30, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command of the resource manager and return what it printed.

    Parameters
    ----------
    command : sequence of str
        The command with its arguments.
    timeout : float
        Seconds after which it is killed.
    environment : mapping of str, optional
        Its environment; by default that of this process.

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
            env=environment,
        )
    except OSError as error:
        raise ClusterError(
            f"{command[0]}: {error.strerror}. Is this a login node of the site, and is the "
            "resource manager's software on PATH?"
        ) from None
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        raise ClusterError(f"{command[0]} did not answer in {timeout:g} s.") from None
    finally:
        # Whether it hangs or nobody wants its answer any more: it must not stay behind.
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ClusterError(err.decode(errors="replace").strip() or f"{command[0]} failed.")
    return out.decode(errors="replace")


class SlurmQueue:
    """Slurm, through squeue and, for jobs that it has forgotten, sacct."""

    can_look = True
    interval = 10.0
    # Widths, since squeue cuts what is longer than 20 characters (22.05 to 24.11).
    _FIELDS = (
        "JobArrayID:40|,State:24|,exit_code:16|,RestartCnt:12|,StartTime:24|,EndTime:24|,"
        "NodeList:120|,ReasonList:240"
    )
    _ENDED = frozenset(
        {
            *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
            *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
        }
    )
    _PENDING = frozenset(
        {
            *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
            *("RESV_DEL_HOLD", "SPECIAL_EXIT"),
        }
    )

    def __init__(self) -> None:
        self._accounts = True

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Ask squeue by job name, which also finds a job whose number got lost on the way."""
        command = ["squeue", "--me", "--array", "--noheader", "--states=all"]
        command += [f"--name={','.join(job_names)}", f"--Format={self._FIELDS}"]
        text = await run(command, environment=_plain_environment())
        return dict(self._parse(line) for line in text.splitlines() if line.strip())

    async def verdicts(self, job_ids: Sequence[str]) -> dict[str, QueueEntry]:
        """Ask the accounting; where there is none, jobs just ended."""
        if self._accounts:
            # A thousand elements of an array are one number here.
            numbers = sorted({job.partition("_")[0] for job in job_ids})
            command = ["sacct", "--allocations", "--noheader", "--parsable2"]
            command += [f"--jobs={','.join(numbers)}"]
            command += ["--format=JobID,State,ExitCode,NodeList,Start,End"]
            try:
                text = await run(command, environment=_plain_environment())
            except ClusterError as error:
                if "disabled" not in str(error):
                    raise
                self._accounts = False
            else:
                return dict(self._account(line) for line in text.splitlines() if line.strip())
        return {
            job: QueueEntry(ENDED, UNKNOWN, "the site keeps no accounts of jobs") for job in job_ids
        }

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel all in one call, elements of an array as one range."""
        if job_ids:
            await run(["scancel", "--quiet", *_ranges(job_ids)], environment=_plain_environment())

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return scancel by number and by name."""
        # scancel takes one name a call, and no patterns. It has no --me in 22.05.
        by_name = [
            shlex.join(["scancel", "--quiet", f"--user={os.getuid()}", f"--name={name}"])
            for name in job_names
        ]
        script = "\n".join(["failed=0", *(f"{one} || failed=1" for one in by_name), "exit $failed"])
        return ["scancel", "--quiet"], ["sh", "-c", script]

    def _parse(self, line: str) -> tuple[str, QueueEntry]:
        job, state, code, restarts, start, end, node, why = map(str.strip, line.split("|", 7))
        phase = self._phase(state)
        reason = why.strip("()") if why.startswith("(") else ""
        if phase == ENDED:
            reason = _telling(state, _exit(code) or reason)
        return job, QueueEntry(
            phase,
            state,
            "" if reason == "None" else reason,
            node,
            started=None if phase == PENDING else _time(start),
            ends=None if phase == PENDING else _time(end),
            expected=_time(start) if phase == PENDING else None,
            restarts=int(restarts) if restarts.isdigit() else 0,
        )

    def _account(self, line: str) -> tuple[str, QueueEntry]:
        job, state, code, node, start, end = line.split("|")
        # "CANCELLED by 1000" has the user in it.
        word, _, detail = state.partition(" ")
        reason = _telling(word, ", ".join(filter(None, [detail, _exit(code)])))
        node = "" if "None" in node else node
        return job, QueueEntry(self._phase(word), word, reason, node, _time(start), _time(end))

    def _phase(self, state: str) -> str:
        if state in self._PENDING:
            return PENDING
        # A word that is new to us must not pass for the end of a job.
        return ENDED if state in self._ENDED else RUNNING


def _plain_environment() -> dict[str, str]:
    """Return our environment without what filters or formats the answers of Slurm's commands."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))
    }
    # Seconds since 1970: a local time says nothing in the hour in which clocks are put back.
    return {**kept, "SLURM_TIME_FORMAT": "%s"}


def _time(text: str) -> datetime | None:
    """Return a time as Slurm prints it; None for N/A, None, Unknown."""
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and int(text) else None


def _exit(text: str) -> str:
    """Return how a script ended, for people: from sacct's ``3:0``, or squeue's wait status."""
    if text.isdigit():
        status = int(text)
        code, signum = status >> 8, status & 0x7F
    else:
        first, _, second = text.partition(":")
        code, signum = (int(part) if part.isdigit() else 0 for part in (first, second))
    said = [f"exit code {code}" if code else "", f"signal {signum}" if signum else ""]
    return ", ".join(filter(None, said))


def _telling(verdict: str, reason: str) -> str:
    """Return a reason that says more than its verdict, else nothing."""
    silent = {
        "FAILED": {"NonZeroExitCode"},
        "TIMEOUT": {"TimeLimit", "signal 15"},
        "CANCELLED": {"signal 9", "signal 15"},
        "OUT_OF_MEMORY": {"OutOfMemory", "signal 125"},
    }
    return "" if reason in silent.get(verdict, set()) | {"None"} else reason


def _ranges(job_ids: Iterable[str]) -> list[str]:
    """Return jobs as scancel takes them, elements of an array together: ``7 12_[0-3,9]``."""
    plain: list[str] = []
    arrays: dict[str, list[int]] = {}
    for job in job_ids:
        array, _, element = job.partition("_")
        if element.isdigit():
            arrays.setdefault(array, []).append(int(element))
        else:
            plain.append(job)
    return plain + [f"{array}_[{spans(numbers)}]" for array, numbers in arrays.items()]


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers as Slurm writes sets of them.

    Examples
    --------
    >>> spans([0, 1, 2, 9])
    '0-2,9'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class LocalQueue:
    """The machine itself: jobs are our own process groups."""

    can_look = True
    interval = 0.5

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Ask the kernel."""
        from dask_site.cluster import local

        here = os.uname().nodename
        return {job: _local_entry(local.exit_code(job), here) for job in job_ids}

    async def verdicts(self, job_ids: Sequence[str]) -> dict[str, QueueEntry]:
        """Return how jobs ended."""
        return await self.look(job_ids, [])

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
    interval = 10.0

    def __init__(self, cancel_command: str) -> None:
        self._cancel = shlex.split(cancel_command)

    async def look(self, job_ids: Sequence[str], job_names: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Know nothing."""
        return {}

    async def verdicts(self, job_ids: Sequence[str]) -> dict[str, QueueEntry]:  # noqa: ARG002  # of the protocol
        """Know nothing."""
        return {}

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel all in one call: qdel, bkill, condor_rm and oardel all take several jobs."""
        if job_ids:
            await run([*self._cancel, *job_ids])

    def cancel_commands(self, job_names: Sequence[str]) -> tuple[list[str], list[str]]:  # noqa: ARG002  # of the protocol
        """Return the cancel command by number; by name there is none."""
        return self._cancel, []
