"""One question at a time to the resource manager, about all jobs of a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.pace import Pace
from dask_site.cluster.queue import ENDED, UNKNOWN, Queue, QueueEntry

logger = logging.getLogger("dask_site")

_ACCOUNTING_TRIES = 3


class Inquiry:
    """Asks the queue and, for jobs that it has forgotten, the accounting; never both at once.

    Parameters
    ----------
    queue : Queue
        Answers for the resource manager.
    job_names : list of str
        The names under which the resource manager shows this cluster's jobs.
    pace : Pace
        When it may be asked.
    """

    def __init__(self, queue: Queue, job_names: list[str], pace: Pace) -> None:
        self.pace = pace
        #: How often the queue has answered.
        self.answers = 0
        self._queue = queue
        self._job_names = job_names
        self._lost: dict[str, int] = {}
        self._asked_accounting = False
        self._silent_since: float | None = None

    async def ask(
        self, job_ids: Collection[str], leaving: Collection[str] = ()
    ) -> dict[str, QueueEntry]:
        """Run one command and return what it tells, also of jobs that weren't asked for.

        Parameters
        ----------
        job_ids : collection of str
            The jobs that the manager was given, and that have not ended as far as is known.
        leaving : collection of str
            Those of which it is enough to know that they are gone.

        Returns
        -------
        dict of QueueEntry
            By job; empty if there was no answer.
        """
        lost = [job for job in self._lost if job in job_ids and job not in leaving]
        self._asked_accounting = bool(lost) and not self._asked_accounting
        if self._asked_accounting:
            return await self._accounting(lost)
        try:
            with self.pace.question():
                entries = await self._queue.look(list(job_ids), self._job_names)
        except ClusterError as error:
            self._unanswered(error)
            return {}
        self._answered()
        missing = set(job_ids) - entries.keys()
        # The answer was whole, so these are gone. How they ended is for the accounting to say.
        self._lost = {job: self._lost.get(job, 0) for job in missing.difference(leaving)}
        return entries | {job: _unknown() for job in missing.intersection(leaving)}

    async def _accounting(self, lost: Iterable[str]) -> dict[str, QueueEntry]:
        found: dict[str, QueueEntry] = {}
        try:
            with self.pace.question():
                found = await self._queue.verdicts(list(lost))
        except ClusterError as error:
            logger.debug("The accounting does not answer: %s", error)
        told = {}
        for job in lost:
            self._lost[job] += 1
            entry = found.get(job)
            if entry is not None and entry.phase == ENDED:
                told[job] = entry
            elif self._lost[job] >= _ACCOUNTING_TRIES:
                told[job] = _unknown()
        return told

    def _unanswered(self, error: ClusterError) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            logger.warning(
                "The resource manager does not answer. What runs goes on; trying on, ever more "
                "seldom. It said: %s",
                error,
            )

    def _answered(self) -> None:
        self.answers += 1
        if self._silent_since is not None:
            silent = time.monotonic() - self._silent_since
            logger.warning("The resource manager answers again, after %.0f s.", silent)
        self._silent_since = None


def _unknown() -> QueueEntry:
    return QueueEntry(ENDED, UNKNOWN, "the resource manager does not know the job any more")
