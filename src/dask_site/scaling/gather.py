"""Work for a pool without workers gathers until it is worth the start of a job."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Gathering:
    """Lets work that comes drop by drop gather, while its pool has no worker.

    A worker that is asked for at the first drop waits for most of its time, or is given back and
    asked for again. Nothing is gained by waiting where the work is there already, comes all at
    once (behind a barrier), or where no more comes.

    Parameters
    ----------
    clock : callable, optional
        Seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def goes_on(self, pool: str, ready: float, spread: float, lead: float, patience: float) -> bool:
        """Say whether to go on waiting.

        Parameters
        ----------
        pool : str
            It has no job yet.
        ready : float
            Seconds that the work takes which could run there now.
        spread : float
            Seconds over which more becomes ready.
        lead : float
            Seconds that a job of the pool takes to come.
        patience : float
            Seconds that the first may wait for more.
        """
        if ready >= lead or spread <= lead:
            self._since.pop(pool, None)
            return False
        if not ready:
            return True
        since = self._since.setdefault(pool, self._clock())
        if self._clock() - since < patience:
            return True
        del self._since[pool]
        return False
