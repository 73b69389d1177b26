"""What is known of a worker's death, and what follows from it. Nothing here knows a cluster."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MEMORY = "memory"
CRASH = "crash"
PARDON = "pardon"
UNKNOWN = "unknown"

# Signals that come from outside: a process hardly ever sends them to itself.
_OUTSIDE = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGXCPU,
    }
)
# Killed or aborted with so much of its limit in use, a worker died of its memory.
_NEARLY_ALL = 0.9
_LOST_EXIT_CODE = 255  # of distributed: nobody could read the real one
_PARDONED = {
    "TIMEOUT": "its job reached the walltime",
    "DEADLINE": "its job reached the deadline",
    "PREEMPTED": "its job was preempted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed",
    "CANCELLED": "its job was cancelled",
    "SUSPENDED": "its job was suspended",
    "REQUEUED": "its job was taken off its node and queued again",
    "COMPLETED": "its job had ended",
}


@dataclass(frozen=True)
class Finding:
    """Why a worker died.

    Attributes
    ----------
    cause : str
        MEMORY, CRASH, PARDON or UNKNOWN.
    how : str
        For people, after "Worker cpu-0": "ran out of memory (...)", "died of signal 11 (SIGSEGV)".
    """

    cause: str
    how: str


#: Of a job that was at the end of its time.
TIME_UP = Finding(PARDON, f"is gone: {_PARDONED['TIMEOUT']}")


@dataclass(frozen=True)
class Evidence:
    """What a worker's nanny, or the worker itself, said of its end.

    Attributes
    ----------
    exit_code : int or None
        Of the worker's process; negative: by that signal. None until it has ended.
    executing : tuple of keys or None
        What it executed at the end; None if that is not known.
    complete : bool
        Whether `executing` is all.
    closing : str
        Why it was closing by itself or on demand; empty if it was not.
    error : str
        What it failed to read of what its scheduler sent, and so gave up; empty if it did not.
    oom_kill, nanny_kill : bool
        Whether the kernel or the nanny killed it for its memory.
    peak, limit : int
        Bytes: the most that it was seen to hold, and what it may hold; 0 if not known.
    """

    exit_code: int | None = None
    executing: tuple[Any, ...] | None = None
    complete: bool = False
    closing: str = ""
    error: str = ""
    oom_kill: bool = False
    nanny_kill: bool = False
    peak: int = 0
    limit: int = 0

    def __add__(self, other: Evidence) -> Evidence:
        """Return what both say together."""
        ended = other if other.exit_code is not None else self
        return replace(
            ended,
            closing=self.closing or other.closing,
            error=self.error or other.error,
            oom_kill=self.oom_kill or other.oom_kill,
            nanny_kill=self.nanny_kill or other.nanny_kill,
            peak=max(self.peak, other.peak),
            limit=max(self.limit, other.limit),
        )

    @property
    def final(self) -> bool:
        """Whether a cause follows from it without more."""
        return self.exit_code is not None or (bool(self.closing) and not self.nanny_kill)

    @property
    def finding(self) -> Finding:
        """Return why the worker died, as far as this tells."""
        if self.nanny_kill or self.oom_kill:
            by = "its nanny" if self.nanny_kill else "the kernel"
            return Finding(MEMORY, f"ran out of memory and was killed by {by}")
        if self.error:
            return Finding(CRASH, f"gave up on what it was sent ({self.error})")
        if self.closing:
            cause = UNKNOWN if "fail-hard" in self.closing else PARDON
            return Finding(cause, "was told to end" if cause == PARDON else "gave up on an error")
        if self.exit_code is None:
            return Finding(UNKNOWN, "is gone")
        return self._of_exit(self.exit_code)

    def _of_exit(self, code: int) -> Finding:
        full = 0 < _NEARLY_ALL * self.limit <= self.peak
        if full and -code in {signal.SIGKILL, signal.SIGABRT}:
            return Finding(MEMORY, f"ran out of memory and died of {exit_words(code)}")
        if -code in _OUTSIDE:
            return Finding(UNKNOWN, f"was killed from outside by {exit_words(code)}")
        if code == _LOST_EXIT_CODE:
            return Finding(UNKNOWN, "ended in a way that nobody saw")
        return Finding(CRASH, f"{'ended with' if code >= 0 else 'died of'} {exit_words(code)}")


def of_report(report: Mapping[str, Any]) -> Evidence:
    """Return what a black box reports, as `NannyBox.report` and `NannyBox.farewell` make it."""
    if report["how"] != "exit":
        return Evidence(closing=str(report["how"]), error=str(report.get("error", "")))
    return Evidence(
        exit_code=int(report["exit_code"]),
        executing=tuple(report["executing"]),
        complete=bool(report["complete"]),
        closing="closing" if report["closing"] else "",
        error=str(report["error"]),
        oom_kill=bool(report["oom_kill"]),
        nanny_kill=bool(report["nanny_kill"]),
        peak=int(report["peak"]),
        limit=int(report["limit"]),
    )


def of_verdict(verdict: str, reason: str = "") -> Finding:
    """Return what the resource manager's word for a job's end means for its workers.

    Parameters
    ----------
    verdict : str
        Such as OUT_OF_MEMORY, TIMEOUT or FAILED.
    reason : str
        Its details, such as "exit code 1" or "signal 9".
    """
    if verdict == "OUT_OF_MEMORY":
        return Finding(MEMORY, "ran out of memory, says the resource manager")
    if verdict in _PARDONED:
        return Finding(PARDON, f"is gone: {_PARDONED[verdict]}")
    if verdict != "FAILED" or _from_outside(reason):
        how = f"{verdict}{f' ({reason})' if reason else ''}"
        return Finding(UNKNOWN, f"is gone: its job ended as {how}")
    return Finding(CRASH, f"is gone: its job failed ({reason or 'no reason given'})")


def _from_outside(reason: str) -> bool:
    signals = {int(number) for number in re.findall(r"\bsignal (\d+)", reason)}
    # Shells show a signal as an exit code above 128.
    codes = {int(number) - 128 for number in re.findall(r"\bexit code (\d+)", reason)}
    return bool((signals | codes) & _OUTSIDE)


def exit_words(code: int) -> str:
    """Return an exit code for people: ``exit code 3``, ``signal 11 (SIGSEGV)``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
