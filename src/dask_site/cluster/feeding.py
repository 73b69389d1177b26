"""Root tasks that dearer workers wait for, handed to workers that are full of other work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dask_site.cluster.backlog import backlog


class Feeding:
    """Which workers may take such tasks, and how many they have of them.

    Each has room for as many as distributed gives it root tasks at once, beside whatever else it
    has: more of them at once would only fill its memory.

    Parameters
    ----------
    saturation : float
        Root tasks that a worker has at once, for each thread.
    """

    def __init__(self, saturation: float) -> None:
        self._saturation = saturation
        # Those not known to be full, so that nobody has to look at all workers each time.
        self._open: set[Any] = set()
        self._fed: dict[Any, set[Any]] = {}

    def changed(self, ws: Any) -> None:
        """Look at a worker again, as it has begun or ended something."""
        self._open.add(ws)

    def took(self, ts: Any, ws: Any) -> None:
        """Note that a worker was handed a task."""
        self._fed.setdefault(ws, set()).add(ts)

    def taker(self, allowed: Callable[[Any], bool]) -> Any:
        """Return the worker that has the least to do of those with room, or None.

        Parameters
        ----------
        allowed : callable
            Says of a worker whether it may have any. The others are forgotten until they change.
        """
        self._open = {ws for ws in self._open if allowed(ws) and self._has_room(ws)}
        return min(self._open, key=backlog, default=None)

    def _has_room(self, ws: Any) -> bool:
        fed = {ts for ts in self._fed.pop(ws, ()) if ts.processing_on is ws}
        if fed:
            self._fed[ws] = fed
        return len(fed) < math.ceil(self._saturation * int(ws.nthreads))

    def left(self, ws: Any) -> None:
        """Forget a worker."""
        self._open.discard(ws)
        self._fed.pop(ws, None)
