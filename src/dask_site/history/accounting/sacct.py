"""Slurm's accounting, through sacct."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from dask_site.history.accounting.asking import AskError, Question, Told
from dask_site.history.model import AccountedJob

# No comment, and no name unless it was asked for by itself: users write into these what they
# like, lines that look like other jobs too.
_FIELDS = (
    *("JobIDRaw", "JobID", "UID", "User", "Account", "Submit", "Eligible", "Start", "End"),
    *("State", "Reason", "ExitCode", "NodeList", "AllocTRES", "TotalCPU", "MaxRSS"),
    "ConsumedEnergyRaw",
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_SIZE = re.compile(r"([0-9.]+)([KMGTPE]?)[nc]?")
_DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_MOST_ANSWERED = 512 * 2**20


class Sacct:
    """Asks sacct.

    Parameters
    ----------
    command : sequence of str
        How sacct is called.
    timeout : float
        Seconds after which it is killed.
    """

    def __init__(self, command: Sequence[str] = ("sacct",), timeout: float = 60.0) -> None:
        self._command = list(command)
        self._timeout = timeout

    def __call__(self, question: Question) -> Sequence[Told]:
        """Return what Slurm's accounting says."""
        fields = [*_FIELDS, "JobName"] if question.names else list(_FIELDS)
        command = [*self._command, "--allusers", "--duplicates", "--noheader", "--parsable2"]
        command += ["--noconvert", f"--format={','.join(fields)}"]
        if question.names:
            since = datetime.fromtimestamp(max(0.0, question.since), UTC)
            command += [f"--name={','.join(question.names)}"]
            command += [f"--starttime={since:%Y-%m-%dT%H:%M:%S}", "--endtime=now"]
        else:
            command += [f"--jobs={','.join(question.jobs)}"]
        return parse(self._run(command), named=bool(question.names))

    def _run(self, command: list[str]) -> str:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AskError(
                f"{self._command[0]} did not answer in {self._timeout:g} s: is slurmdbd busy?"
            ) from None
        except OSError as error:
            raise AskError(
                f"{self._command[0]}: {error.strerror}: the history service runs where Slurm's "
                "commands are on PATH"
            ) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise AskError(said[-1][:500] if said else f"{self._command[0]} failed")
        if len(done.stdout) > _MOST_ANSWERED:
            raise AskError(f"{self._command[0]} answered with more than {_MOST_ANSWERED} bytes")
        return done.stdout.decode(errors="replace")


def parse(text: str, *, named: bool = False) -> list[Told]:
    """Return the runs of jobs that sacct tells; what their steps used is theirs.

    Lines that are none of sacct's are passed over.

    Parameters
    ----------
    named : bool
        Whether the job's name is the last field.
    """
    width = len(_FIELDS)
    found: list[Told] = []
    latest: dict[str, int] = {}
    for line in text.splitlines():
        values = line.split("|", width)
        if len(values) != width + named:
            continue
        row = dict(zip(_FIELDS, values, strict=False))
        number, dot, _ = row["JobIDRaw"].partition(".")
        if not dot:
            told = _told(row, values[-1] if named else "")
            if told is not None:
                latest[number] = len(found)
                found.append(told)
        elif number in latest:
            # With duplicates, a run's steps come before the next run.
            at = latest[number]
            found[at] = replace(found[at], job=_with_step(found[at].job, row))
    return found


def elements(job: str) -> Iterable[range]:
    """Return the elements of an array that one row stands for: ``12_[3-5,9%2]``.

    Examples
    --------
    >>> [list(some) for some in elements("12_[3-5,9%2]")]
    [[3, 4, 5], [9]]
    """
    _, _, listed = job.partition("_[")
    for part in listed.rstrip("]").partition("%")[0].split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,9}))?", part)
        if match is not None:
            first, last, step = match.groups()
            yield range(int(first), int(last or first) + 1, max(1, int(step or 1)))


def _told(row: Mapping[str, str], name: str) -> Told | None:
    submit = _time(row["Submit"])
    if not re.match(r"\d+", row["JobID"]) or not row["UID"].isdigit() or submit is None:
        return None
    uid = int(row["UID"])
    given = dict(part.partition("=")[::2] for part in row["AllocTRES"].split(",") if "=" in part)
    state, _, by = row["State"].partition(" ")
    cores = _whole(given.get("cpu", ""))
    # One that never started may have a start, that of its end, but it has no cores.
    start = _time(row["Start"]) if cores else None
    end = _time(row["End"])
    nodes = row["NodeList"]
    job = AccountedJob(
        id=row["JobID"],
        raw=row["JobIDRaw"],
        user=row["User"],
        account=row["Account"],
        submit=submit,
        eligible=_time(row["Eligible"]),
        start=start,
        end=end if end is None or start is None else max(start, end),
        state=state,
        reason=_reason(row["Reason"], by, uid),
        exit_code=row["ExitCode"],
        nodes="" if nodes == "None assigned" else nodes,
        cores=cores,
        gpus=_gpus(given),
        memory=_size(given.get("mem", "")) or 0,
        cpu_seconds=_duration(row["TotalCPU"]) if end is not None and start is not None else None,
        max_rss=None,
        energy=_energy(row["ConsumedEnergyRaw"]),
        billing=_amount(given["billing"]) if "billing" in given else None,
    )
    return Told(job, uid, name)


def _with_step(job: AccountedJob, row: Mapping[str, str]) -> AccountedJob:
    used = _size(row["MaxRSS"])
    energy = _energy(row["ConsumedEnergyRaw"])
    if used:
        job = replace(job, max_rss=max(used, job.max_rss or 0))
    # The job's own includes it, where the job has one.
    return replace(job, energy=energy) if energy and job.energy is None else job


def _reason(text: str, by: str, uid: int) -> str:
    """Return why it waits or waited last; of one that was cancelled, who did it."""
    if by.startswith("by "):
        who = by.removeprefix("by ")
        return "cancelled by its user" if who == str(uid) else f"cancelled by user {who}"
    return "" if text == "None" else text


def _gpus(given: Mapping[str, str]) -> int:
    if "gres/gpu" in given:
        return _whole(given["gres/gpu"])
    # Where only GPUs by type are accounted for.
    return sum(_whole(n) for name, n in given.items() if name.startswith("gres/gpu:"))


def _time(text: str) -> float | None:
    """Return a time; None for Unknown, None, N/A."""
    return float(text) if text.isdigit() and 0 < len(text) < 12 and int(text) else None


def _whole(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 16 else 0


def _amount(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _size(text: str) -> int | None:
    """Return bytes: of ``1024M``, ``1.50G``, ``181817344``."""
    match = _SIZE.fullmatch(text)
    value = _amount(match[1]) if match is not None else None
    return None if match is None or value is None else int(value * 1024 ** _UNITS[match[2]])


def _duration(text: str) -> float | None:
    """Return seconds: of ``1-02:03:04``, ``02:03:04``, ``03:04.567``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _energy(text: str) -> float | None:
    # 0 is what sites without meters have, and 2**64 - 2 what nodes without one say.
    value = _amount(text)
    return value if value and value < 2**62 else None


def _environment() -> dict[str, str]:
    """Return our environment without what filters or formats Slurm's answers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SACCT_", "SLURM_")) or name == "SLURM_CONF"
    }
    # Seconds since 1970, and lists of elements in full.
    times = {"TZ": "UTC", "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    return {**kept, **times}
