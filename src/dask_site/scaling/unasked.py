"""Workers with work that nobody asks for any more: cheaper ones could do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dask_site.cluster.records import JobRecord

# So many looks in a row: what is asked for changes from one to the next.
_LOOKS = 3


class Unasked:
    """Finds the jobs that a pool has beyond its target.

    Those that are idle are given back. The others shall become it, where a cheaper pool has
    workers: a job of a dear one that gets ordinary tasks would stay as long as there are any.

    Parameters
    ----------
    cost_of_losing : callable
        Sorts jobs, those first that can be spared first.
    """

    def __init__(self, cost_of_losing: Callable[[JobRecord], Any]) -> None:
        self._cost = cost_of_losing
        self._looks: dict[str, int] = {}

    def among(self, staying: Mapping[str, tuple[int, list[JobRecord]]]) -> list[str]:
        """Return the addresses of their workers.

        Parameters
        ----------
        staying : dict of str to (int, list of JobRecord)
            Of each pool: how many jobs it shall have, and those that are not about to end anyway.
        """
        looks: dict[str, int] = {}
        unasked: list[str] = []
        for wanted, jobs in staying.values():
            there = [job for job in jobs if job.workers]
            # One that rests goes on: what it has gets less, and it will be idle the sooner.
            order = sorted(there, key=lambda job: (-self._looks.get(job.name, 0), self._cost(job)))
            for job in order[: max(0, len(there) - wanted)]:
                looks[job.name] = min(self._looks.get(job.name, 0) + 1, _LOOKS)
                if looks[job.name] == _LOOKS:
                    unasked += job.workers
        self._looks = looks
        return unasked
