"""How long each pool's jobs take from submission until their workers are there."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from dask_site.cluster.records import JobRecord
from dask_site.whole import write_whole

_KEPT = 20
#: Where nothing was measured: of a queue, and of processes on this machine.
QUEUE, PROCESSES = 30.0, 3.0
_LONGEST = 1e7


class Waits:
    """Measured waits by pool, kept between clusters in a file of the user's.

    Parameters
    ----------
    path : Path
        The file, for all sites of the user. That it can't be read or written is no error: waits
        are measured again.
    site : str
        Name of the site that the pools are of.
    unknown : float
        Seconds that count as long as nothing was measured.
    """

    def __init__(self, path: Path, site: str, unknown: float = QUEUE) -> None:
        self._unknown = unknown
        self._path = path
        self._site = site
        self._new: dict[str, list[float]] = {}
        self._seen: set[str] = set()
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        for pool, values in _read(path).get(site, {}).items():
            self._seconds[pool].extend(values)

    def observe(self, records: Iterable[JobRecord]) -> None:
        """Take over the waits of jobs whose workers have joined."""
        for record in records:
            if record.name in self._seen or record.joined_at is None or record.submitted is None:
                continue
            self._seen.add(record.name)
            wait = max(0.0, (record.joined_at - record.submitted).total_seconds())
            self._seconds[record.pool].append(wait)
            self._new.setdefault(record.pool, []).append(round(wait, 2))

    def expected(self, pool: str, coming: Iterable[JobRecord] = ()) -> float:
        """Return how many seconds a job of the pool would take that is submitted now.

        The median of those that were measured, or of the other pools' if there are none; at
        least the age of the jobs that still wait.
        """
        measured = self._seconds.get(pool)
        if not measured:
            measured = deque(s for values in self._seconds.values() for s in values)
        usual = statistics.median(measured) if measured else self._unknown
        now = datetime.now(UTC)
        ages = [(now - r.submitted).total_seconds() for r in coming if r.submitted and not r.joined]
        return max([usual, *ages])

    def save(self) -> None:
        """Add what was measured here to the file, beside which it is written anew."""
        if not self._new:
            return
        # Read again: another cluster may have ended meanwhile.
        sites = _read(self._path)
        pools = sites.setdefault(self._site, {})
        for pool, values in self._new.items():
            pools[pool] = [*pools.get(pool, []), *values][-_KEPT:]
        self._new = {}
        with contextlib.suppress(OSError):  # what was measured is a help, not a need
            write_whole(self._path, json.dumps(sites).encode(), 0o600)


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    """Return the waits of a file by site and pool; what is broken in it counts as not there."""
    try:
        return {
            str(site): {
                str(pool): [float(v) for v in values if 0 <= v < _LONGEST]
                for pool, values in pools.items()
            }
            for site, pools in json.loads(path.read_text("utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
