"""How much a worker has to do, as the scheduler knows it."""

from __future__ import annotations

from typing import Any

# What it has beyond its threads so that there is no gap is not more than it can do.
_NO_GAP = 3


def backlog(ws: Any) -> float:
    """Return the tasks of a worker for each of its threads, without those that gave theirs up."""
    return float((len(ws.processing) - len(ws.long_running)) / ws.nthreads)


def has_too_much(ws: Any) -> bool:
    """Say whether tasks wait on a worker that others could have."""
    return backlog(ws) > _NO_GAP
