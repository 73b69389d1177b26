"""Pools grow by what is wanted for a while, not by what one look seems to show."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

_LOOKS = 3


class Growth:
    """Damps the growth of the pools of one cluster.

    Thousands of tasks that nobody has timed look like hours of work until the first of them has
    run, and jobs that are asked for in between have to be cancelled again. The first worker comes
    at once: it is what times them. Not so in a pool for what is too much for cheaper ones.

    Parameters
    ----------
    pools : iterable of str
    """

    def __init__(self, pools: Iterable[str]) -> None:
        self._wanted: dict[str, deque[int]] = {name: deque(maxlen=_LOOKS) for name in pools}

    def lasting(self, pool: str, wanted: int, there: int, least: int, first: bool) -> int:
        """Return how many workers a pool shall have.

        Parameters
        ----------
        pool : str
        wanted : int
            What this look wants.
        there : int
            What the pool has, jobs on their way included.
        least : int
            What it has at once, whatever was wanted before.
        first : bool
            Whether it is the cheapest for some of the work.
        """
        looks = self._wanted[pool]
        looks.append(wanted)
        if wanted <= there:
            return wanted
        sustained = min(looks) if len(looks) == _LOOKS else 0
        return max(sustained, there, least, int(first))
