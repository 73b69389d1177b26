"""How long each pool's jobs take from submission until their workers are there."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from dask_site.cluster.records import JobRecord

_KEPT = 20
_UNKNOWN = 30.0


class Waits:
    """Measured waits by pool, kept between clusters in a file of the user's.

    Parameters
    ----------
    path : Path
        The file. That it can't be read or written is no error: waits are measured again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._seen: set[str] = set()
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            for pool, values in json.loads(path.read_text("utf-8")).items():
                self._seconds[str(pool)].extend(float(v) for v in values if 0 <= v < 1e7)

    def observe(self, records: Iterable[JobRecord]) -> None:
        """Take over the waits of jobs whose workers have joined."""
        for record in records:
            if record.name in self._seen or not record.joined or record.joined_at is None:
                continue
            if record.submitted is None:
                continue
            self._seen.add(record.name)
            wait = (record.joined_at - record.submitted).total_seconds()
            self._seconds[record.pool].append(max(0.0, wait))

    def expected(self, pool: str, coming: Iterable[JobRecord] = ()) -> float:
        """Return how many seconds a job of the pool would take that is submitted now.

        The median of those that were measured, or of the other pools' if there are none; at
        least the age of the jobs that still wait.
        """
        measured = self._seconds.get(pool)
        if not measured:
            measured = deque(s for values in self._seconds.values() for s in values)
        usual = statistics.median(measured) if measured else _UNKNOWN
        now = datetime.now(UTC)
        ages = [(now - r.submitted).total_seconds() for r in coming if r.submitted and not r.joined]
        return max([usual, *ages])

    def measured(self, pool: str) -> bool:
        """Say whether a job of this pool was ever seen to join."""
        return bool(self._seconds.get(pool))

    def save(self) -> None:
        """Write the file beside the old one, then put it in its place."""
        if not self._seen:
            return
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        text = json.dumps({p: [round(s, 2) for s in v] for p, v in self._seconds.items() if v})
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
