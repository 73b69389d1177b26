"""Sends a recorder's lines to the history service: by its socket where it runs, else by munge."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dask_site.calls import Calls, ServiceError, SourceError, Where
from dask_site.history.lines import MIB, MOST_SENT, Line, fitting
from dask_site.history.reading import SpoolError

_SECONDS, _AT_THE_END = 10.0, 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Sender:
    """Sends the lines of one cluster. No error gets out of `put`.

    The service keeps them as files like those of a spool. What it may have got without our knowing
    is sent again, for the same place of the same file, before anything else: so it is there once.

    Parameters
    ----------
    state : path
        The service's folder, in which it says where it is.
    cluster_id : str
        The first part of the files' names.
    most_bytes : int
        Of this cluster; see `fitting`.
    rotate : int
        A file that has reached so many bytes is followed by another.

    Attributes
    ----------
    problem : Exception or None
        Why the last lines were not taken.
    """

    def __init__(
        self,
        state: Path,
        cluster_id: str,
        most_bytes: int = 32 * MIB,
        rotate: int = 8 * MIB,
    ) -> None:
        self._state = state
        self._cluster = cluster_id
        self._most = most_bytes
        self._rotate = rotate
        self.problem: Exception | None = None
        self._number = self._at = self._used = 0
        self._unsure = b""
        self._pause, self._not_before = 0.0, 0.0

    @property
    def share(self) -> float:
        """The part of its bytes that this cluster has used."""
        return self._used / self._most

    def put(self, lines: Sequence[Line], at_once: bool = False) -> list[int]:
        """Send lines; return the indices of those that the service has on disk.

        After a problem nothing is tried for a while, which grows from 5 s to 5 min. `at_once` does
        not wait for that, and not for long for an answer.
        """
        now = time.monotonic()
        if not lines or (now < self._not_before and not at_once):
            return []
        sent: list[int] = []
        try:
            room = self._with_room(lines)
            seconds = _AT_THE_END if at_once else _SECONDS
            calls = Calls(Where.read(self._state), seconds=seconds)
            if self._unsure:
                self._send(calls, self._unsure)
            for some in _parts(room):
                if self._at >= self._rotate:
                    self._begin_another()
                self._send(calls, b"".join(line.data for line in some))
                sent += [line.index for line in some]
        except (SourceError, SpoolError, OSError) as error:
            self.problem = error
            self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
            self._not_before = time.monotonic() + self._pause
        else:
            self.problem, self._pause = None, 0.0
        return sent

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _with_room(self, lines: Sequence[Line]) -> list[Line]:
        found = fitting(lines, self._most - self._used, self._most)
        if not found:
            raise SpoolError(f"{self._used} of {self._most} bytes of this cluster have been sent")
        return found

    def _send(self, calls: Calls, data: bytes) -> None:
        try:
            self._call(calls, data)
        except ServiceError as error:
            if error.status != 409:
                raise
            # It has something else there, or less than it had.
            self._begin_another()
            self._call(calls, data)

    def _call(self, calls: Calls, data: bytes) -> None:
        name = f"{self._cluster}.{self._number}.spool"
        self._unsure = data
        try:
            calls("POST", ("records",), {"file": name, "at": self._at}, data)
        except ServiceError as error:
            if error.status < 500:
                self._unsure = b""  # nothing of it was taken
            raise
        self._unsure = b""
        self._at += len(data)
        self._used += len(data)

    def _begin_another(self) -> None:
        self._number, self._at = self._number + 1, 0


def _parts(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield lines in parts that are sent at once."""
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and size + len(line.data) > MOST_SENT:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line.data)
    if part:
        yield part
