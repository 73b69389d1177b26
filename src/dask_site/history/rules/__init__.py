"""The rules of advice: each looks for one waste, and is silent without evidence of it."""

from __future__ import annotations

from dataclasses import dataclass

from dask.utils import format_bytes

from dask_site.history.tables import duration

#: Core-seconds below which nothing is worth a word.
WORTH = 60.0


@dataclass(frozen=True)
class Advice:
    """A waste that was measured, and what to do about it.

    Texts may hold names that users gave: show them as text only.

    Attributes
    ----------
    title : str
        What is wrong, in one line.
    evidence : tuple of str
        What was measured, a sentence each.
    paste : str
        The setting or the code.
    core_seconds : float
        What it would have saved, at most.
    nbytes : float
        Bytes that need not have been held or written.
    seconds : float
        Seconds of waiting.
    rule : str
        The rule's name.
    """

    title: str
    evidence: tuple[str, ...]
    paste: str
    core_seconds: float = 0.0
    nbytes: float = 0.0
    seconds: float = 0.0
    rule: str = ""

    @property
    def saving(self) -> str:
        """What it would have saved, at most, as text; empty where that is not known."""
        parts = []
        if self.core_seconds:
            parts.append(core_hours(self.core_seconds))
        if self.seconds:
            parts.append(f"{duration(self.seconds)} of waiting")
        if self.nbytes:
            parts.append(format_bytes(int(self.nbytes)))
        return ", ".join(parts)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{share:.0%}"


def core_hours(seconds: float) -> str:
    """Return core-seconds as text."""
    hours = seconds / 3600
    return "<0.01 core-h" if 0 < hours < 0.005 else f"{hours:,.2f} core-h"
