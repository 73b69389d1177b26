"""What the writer does all the time: collect, account, end what fell silent, and let go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy.exc import OperationalError

from dask_site.history.accounting import Accountant, asker, verdict
from dask_site.history.bookkeeper import Bookkeeper
from dask_site.history.collector import Collector, Pass
from dask_site.history.service.context import Context

logger = logging.getLogger("dask_site")
_COLLECT, _REAP, _ACCOUNT, _PRUNE = 5.0, 60.0, 60.0, 3600.0
_LONGEST_PAUSE = 300.0
_SILENT_AFTER = 900.0
# For so long after a cluster fell silent the manager may still say how it ended.
_VERDICT_WITHIN = 3600.0
_MOST_PENDING, _AT_ONCE = 10_000, 100


@dataclass(frozen=True)
class _Step:
    """What is done again and again; `do` says whether there is more to do at once."""

    name: str
    first: float
    every: float
    do: Callable[[], bool]
    thread: ThreadPoolExecutor


class Loops:
    """The writer's work, one step after the other in one thread; accounts and books in others.

    Parameters
    ----------
    context : Context
        With an open store.
    collect_every : float
        Seconds.
    """

    def __init__(self, context: Context, collect_every: float = _COLLECT) -> None:
        self._context = context
        self._store = context.store
        self._progress = context.progress
        self._collector = Collector(
            self._store, [context.settings.spool], received=context.settings.inbox
        )
        site = context.site
        is_read = site.resource_manager == "slurm"
        self._accountant = Accountant(self._store, asker(site)) if is_read else None
        self._bookkeeper = Bookkeeper(self._store, lambda: context.tariff)
        self._every = collect_every
        # The spools must not wait for a resource manager that is slow, nor for large books.
        self._writing, self._accounting, self._bookkeeping = (
            ThreadPoolExecutor(1, thread_name_prefix=f"dask-site-{name}")
            for name in ("writer", "accounts", "books")
        )
        self._tasks: list[asyncio.Task[None]] = []
        # Silent clusters without a verdict, and since when; whether the store knows of more.
        self._pending: dict[str, float] = {}
        self._more_pending = True

    def start(self) -> None:
        """Begin, in the running event loop."""
        every = self._every
        for step in (
            _Step("collect", 0.0, every, self._collect, self._writing),
            _Step("account", every, _ACCOUNT, self._account, self._accounting),
            _Step("reap", 2 * every, _REAP, self._reap, self._writing),
            _Step("close the books", every, every, self._close_books, self._bookkeeping),
            _Step("prune", _REAP, _PRUNE, self._prune, self._writing),
        ):
            self._tasks.append(asyncio.create_task(self._run(step)))

    async def stop(self) -> None:
        """Let the step that is being done come to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for thread in (self._writing, self._accounting, self._bookkeeping):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    async def _run(self, step: _Step) -> None:
        loop, pause = asyncio.get_running_loop(), step.every
        await asyncio.sleep(step.first)
        while True:
            more = False
            try:
                more = await loop.run_in_executor(step.thread, step.do)
            except Exception as error:
                pause = min(max(2 * pause, step.every), max(_LONGEST_PAUSE, step.every))
                self._failed(step.name, error)
            else:
                pause = step.every
                self._mended(step.name)
            await asyncio.sleep(0 if more else pause)

    def _failed(self, name: str, error: Exception) -> None:
        kind = type(error).__name__
        if isinstance(error, OperationalError):  # locked, read-only, disk full; SQL tells nobody
            error = _ProblemError(str(error.orig))
        before = self._progress.problems.get(name, "")
        self._progress.problems[name] = f"{kind}: {error}"[:500]
        self._progress.counts["problems"] += 1
        if before.partition(":")[0] != kind:
            # Once of each kind, until it is mended.
            known = isinstance(error, _ProblemError | OSError)
            logger.warning("Could not %s, trying again: %s", name, error, exc_info=not known)

    def _mended(self, name: str) -> None:
        if self._progress.problems.pop(name, None):
            logger.warning("It goes on: %s", name)

    # -- steps, each in its thread -----------------------------------------------------------

    def _collect(self) -> bool:
        done = self._collector.collect()
        self._count(done)
        if done.problem is not None:
            raise _ProblemError(done.problem)
        return done.more

    def _count(self, done: Pass) -> None:
        progress, now = self._progress, time.time()
        progress.collected = now
        if done.problem is None and not done.more:
            progress.caught_up = now
        for name, count in {
            "passes": 1,
            "files": done.files,
            "deleted": done.deleted,
            "bad": done.bad,
            "records": done.taken.applied,
        }.items():
            progress.counts[name] += count
        progress.refused.update(done.taken.refused)
        new = done.skipped.keys() - progress.skipped.keys()
        if new:
            logger.warning("Passed over in the spools: %s", "; ".join(sorted(new)))
        progress.skipped = done.skipped

    def _account(self) -> bool:
        if self._accountant is None:
            return False  # nobody reads it, so all clusters of days would wait for it
        done = self._accountant.refresh(time.time())
        if done.problem is not None:
            raise _ProblemError(done.problem)
        return False

    def _close_books(self) -> bool:
        return self._bookkeeper.close(time.time())

    def _reap(self) -> bool:
        now, pending = time.time(), self._pending
        if self._more_pending:
            # What a writer before this one left without a verdict.
            for name in self._store.silenced(_MOST_PENDING):
                pending.setdefault(name, now)
        # What was closed before it failed is told by the store alone.
        self._more_pending = True
        silent = self._collector.silent(now, _SILENT_AFTER)
        self._more_pending = False
        self._progress.counts["silent"] += len(silent)
        for name in silent[: max(0, _MOST_PENDING - len(pending))]:
            pending.setdefault(name, now)
        for name in list(pending)[:_AT_ONCE]:
            # Behind the others, also where the store fails now.
            pending[name] = since = pending.pop(name)
            if self._judged(name, now - since < _VERDICT_WITHIN):
                del pending[name]
        return False

    def _judged(self, name: str, early: bool) -> bool:
        """Write down how a silent cluster ended; say whether nothing more is to come."""
        try:
            history = self._store.load(name)
        except KeyError:
            return True  # forgotten meanwhile
        if history.end is None or history.end.how != "silent":
            return True  # it goes on, or has said itself how it ended
        how = verdict(history.accounting, history.cluster.job)
        if how is None and early and self._accountant is not None:
            return False
        self._store.end(name, how or "lost", history.seen)
        return True

    def _prune(self) -> bool:
        pruned = self._store.prune(self._context.settings.retention)
        self._progress.counts["pruned"] += pruned
        return pruned > 0  # the other steps come in between


class _ProblemError(Exception):
    """The store took nothing more; the message says why."""
