"""The ways on which records go, and which of them is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dask_site.history.lines import Line, Lines
from dask_site.history.reading import SpoolError


class Way(Protocol):
    """A spool, or the service."""

    problem: Exception | None

    @property
    def share(self) -> float:
        """The part of its bytes that is used."""

    def put(self, lines: Sequence[Line], at_once: bool = False) -> list[int]:
        """Write lines; return the indices of those that are safe."""

    def close(self) -> None:
        """Let go of what is open."""


class Ways:
    """Writes the records of one cluster on the first of some ways that can be gone.

    What may have arrived on one goes on the next with the same numbers, so it counts once.

    Parameters
    ----------
    cluster_id : str
    ways : sequence of Way
        The first is the one that is wanted.

    Attributes
    ----------
    problem : Exception or None
        Why the last records were not written on any.
    share : float
        As `Way.share`, of the way that was gone last.
    """

    def __init__(self, cluster_id: str, ways: Sequence[Way]) -> None:
        self._lines = Lines(cluster_id)
        self._ways = ways
        self.problem: Exception | None = None
        self.share = 0.0

    def write(self, records: Sequence[dict[str, Any]], at_once: bool = False) -> list[int]:
        """Write records; return the indices of those that are safe.

        `at_once`, for the end, first tries what has worked last.
        """
        left = self._lines.of(records)
        if not left:
            return []
        ways = list(self._ways)
        if at_once:
            ways.sort(key=lambda way: way.problem is not None)
        written: list[int] = []
        for way in ways:
            done = way.put(left, at_once)
            written += done
            left = [line for line in left if line.index not in done]
            if way.problem is None:
                self.problem, self.share = None, way.share
                return sorted(written)
        problems = [str(way.problem) for way in self._ways]
        self.problem = SpoolError("; ".join(problems))
        return sorted(written)

    def close(self) -> None:
        """Let go of what is open."""
        for way in self._ways:
            way.close()
