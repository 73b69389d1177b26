"""Closes the books of clusters as they change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dask_site.history.costs import Tariff
from dask_site.history.daily import DayBooks, by_day

if TYPE_CHECKING:
    from dask_site.history.store.bookkeeping import Due
    from dask_site.history.store.core import Store

logger = logging.getLogger("dask_site")
#: Seconds since the last time: of clusters that run, and that have ended.
EVERY, AGAIN = 60.0, 5.0
# Written at once: seconds of work, clusters.
_WORK, _AT_ONCE = 0.5, 50


class Bookkeeper:
    """Keeps the sums of a store up to date with its clusters.

    Parameters
    ----------
    store : Store
    tariff : callable
        Returns the rates that hold.
    """

    def __init__(self, store: Store, tariff: Callable[[], Tariff]) -> None:
        self._store = store
        self._tariff = tariff

    def close(self, now: float) -> bool:
        """Close the books of some clusters; return whether more are due.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        """
        due = self._store.due(now, EVERY, AGAIN)
        closed: list[tuple[Due, list[DayBooks] | None]] = []
        until = time.monotonic() + _WORK
        for one in due[:_AT_ONCE]:
            closed.append((one, self._books(one)))
            if time.monotonic() > until:
                break
        if closed:
            self._store.close_books(closed, now)
        return len(closed) < len(due)

    def _books(self, one: Due) -> list[DayBooks] | None:
        try:
            history = self._store.load(one.cluster)
        except KeyError:
            return None  # forgotten meanwhile
        try:
            return by_day(history, self._tariff())
        except Exception:
            # Whatever a user wrote must not keep the books of all others open.
            logger.warning("The books of cluster %s can't be closed", one.cluster, exc_info=True)
            return None
