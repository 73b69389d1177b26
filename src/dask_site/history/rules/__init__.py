"""The rules of advice: each looks for one waste, and is silent without evidence of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

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


def pool_setting(pool: str | None, setting: str, value: str) -> str:
    """Return what a user writes to change a pool."""
    path = "# ~/.config/dask/site.yaml"
    # A worker's pool is what its user made it: quoted, it can't be anything but a name.
    name = pool if pool and re.fullmatch(r"[a-z][a-z0-9_-]*", pool) else json.dumps(pool or "cpu")
    return f"{path}\ndask_site:\n  pools:\n    {name}:\n      {setting}: {value}"


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{share:.0%}"


def core_hours(seconds: float) -> str:
    """Return core-seconds as text."""
    return f"{seconds / 3600:.2f} core-h"
