"""A thread that writes: a file system or a service that hangs does not hang the scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from dask_site.history.ways import Ways


class Scribe:
    """Writes one batch of records after the other.

    Parameters
    ----------
    writer : Ways
        Used by this thread only.

    Attributes
    ----------
    share : float
        As `Ways.share`, as of the last batch.
    problem : Exception or None
        As `Ways.problem`, as of the last batch.
    """

    def __init__(self, writer: Ways) -> None:
        self._writer = writer
        self._batches: SimpleQueue[tuple[Sequence[dict[str, Any]], bool] | None] = SimpleQueue()
        # Not an Event: its lock may be held by what a signal handler has interrupted.
        self._busy = False
        self._written: list[int] = []
        self.share = 0.0
        self.problem: Exception | None = None
        # A daemon: the process ends though what it writes to hangs.
        threading.Thread(target=self._write, name="dask-site-history", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether the last batch is done."""
        return not self._busy

    def give(self, records: Sequence[dict[str, Any]], at_once: bool = False) -> None:
        """Have records written; only while `idle`."""
        self._busy, self._written = True, []
        self._batches.put((records, at_once))

    def wait(self, seconds: float) -> bool:
        """Wait until the last batch is done; say whether it is."""
        end = time.monotonic() + seconds
        while self._busy and time.monotonic() < end:
            time.sleep(0.002)
        return not self._busy

    def written(self) -> list[int]:
        """Return which records of the last batch are on file: their indices, once."""
        written, self._written = self._written, []
        return written

    def close(self) -> None:
        """End the thread after what it has."""
        self._batches.put(None)

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._written = self._writer.write(*batch)
                self.problem = self._writer.problem
            except Exception as error:
                self.problem = error
            self.share = self._writer.share
            self._busy = False
        self._writer.close()
