"""Records what one scheduler does, a little at a time."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Literal

import dask
import distributed
from tornado.ioloop import PeriodicCallback

from dask_site import __version__
from dask_site.history import endings
from dask_site.history.errors import Errors, Traffic
from dask_site.history.job_id import job_id
from dask_site.history.jobqueue import Jobs, jobs_of
from dask_site.history.lines import MIB
from dask_site.history.measures import clean, clean_id, cluster_of
from dask_site.history.pace import SLOWEST, pace
from dask_site.history.scribe import Scribe
from dask_site.history.scripts import Scripts
from dask_site.history.spans import Change, Spans
from dask_site.history.spool import SpoolWriter
from dask_site.history.ways import Way, Ways
from dask_site.history.workers import Workers
from dask_site.people import name_of

logger = logging.getLogger("dask_site")

# A little less, as rounds are this far apart themselves in the end.
_STILL = 0.8 * SLOWEST
# Of the scheduler's thread that one round may take, and those from which on it is dear.
_BUDGET = 0.010
_DEAR = 0.020
_MOST_FAILURES = 5
_MOST_JOBS = 20_000
_PATIENCE = 2.0
# Seconds from a signal to the end that counts as the answer to it.
_ANSWERS = 60
_recorders: weakref.WeakKeyDictionary[Any, Recorder] = weakref.WeakKeyDictionary()


def recorder_of(scheduler: Any) -> Recorder | None:
    """Return the recorder of a scheduler, None if it is not recorded."""
    return _recorders.get(scheduler)


class Recorder:
    """Records one scheduler, which must run in this process.

    It looks at what distributed keeps anyway, at intervals, so tasks pay nothing for it. No error
    gets out of it: the computation goes on, with one warning.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Started, or about to be.
    folder : path
        The user's spool folder.
    cluster_id : str, optional
        By default the scheduler's own id.
    interval : float
        Seconds from one record to the next at first; up to 30 s while nothing happens, and in an
        old cluster (see `dask_site.history.pace`).
    jobs : callable, optional
        Returns the cluster's jobs: for each a mapping with the fields of
        `dask_site.history.records.JobRecord` apart from those of all records. By default those of
        the cluster in this process, if it is one of dask-jobqueue.
    most_bytes, folder_bytes : int
        See `SpoolWriter`.
    service : path, optional
        Folder of the history service, to which records are sent where the spool can't be written.
    first : str
        ``http``: they are sent to the service, and written to the spool where that fails.

    Attributes
    ----------
    cluster_id : str
        What its records are filed under.
    seconds : float
        Of the scheduler's thread that it has taken.
    scripts : Scripts
        To which the jobs refer.
    label : str
        See `dask_site.history.records.ClusterRecord`.
    """

    def __init__(
        self,
        scheduler: Any,
        folder: str | os.PathLike[str],
        *,
        cluster_id: str | None = None,
        interval: float = 5.0,
        jobs: Callable[[], Iterable[dict[str, Any]]] | None = None,
        most_bytes: int = 32 * MIB,
        folder_bytes: int = 512 * MIB,
        service: Path | None = None,
        first: Literal["spool", "http"] = "spool",
    ) -> None:
        self._scheduler = scheduler
        self.cluster_id = cluster_id or clean_id(str(scheduler.id).partition("-")[2]) or ""
        self.interval = max(0.05, float(interval))
        self.jobs = jobs
        self.scripts = Scripts()
        self.label = ""
        self.seconds = 0.0
        spool = SpoolWriter(folder, self.cluster_id, most_bytes, folder_bytes=folder_bytes)
        ways: list[Way] = [spool]
        if service is not None:
            from dask_site.history.sending import Sender

            ways.insert(0 if first == "http" else 1, Sender(service, self.cluster_id, most_bytes))
        self._scribe = Scribe(Ways(self.cluster_id, ways))
        self._started = time.time()
        self._begun = self._given_at = time.monotonic()
        self._workers = Workers(scheduler, self._started)
        self._spans = Spans(scheduler)
        self._errors = Errors(scheduler)
        self._traffic = Traffic(scheduler)
        self._sent_cluster: dict[str, Any] | None = None
        self._sent_jobs: dict[str, dict[str, Any]] = {}
        self._sent_scripts: set[str] = set()
        self._given: list[Change] = []
        self._mark: Any = None
        self._next_sample = self._next_write = self._next_look = 0.0
        self._failures = 0
        self._warned = False
        self._signal: tuple[str, float] | None = None
        self._how: str | None = None
        self._ended = False
        self._lock = threading.RLock()
        self._clock: PeriodicCallback | None = None

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; call it in the scheduler's event loop."""
        _recorders[self._scheduler] = self
        endings.watch(self)
        self._clock = PeriodicCallback(self._beat, 1000 * min(1.0, self.interval))
        self._clock.start()
        self._beat()

    def closing(self) -> None:
        """Note what work there is before workers, and results with them, go."""
        if self._lock.acquire(timeout=_PATIENCE):
            try:
                with suppress(Exception):
                    self._spans.hold(time.time())
            finally:
                self._lock.release()

    def stop(self, how: str = "closed") -> None:
        """Write what is left and the end; waits at most 2 s for it."""
        endings.forget(self)
        if self._clock is not None:
            self._clock.stop()
        with suppress(Exception):
            self._finish(self._how or self._cause(how))
            self._errors.close()
        self._ended = True
        self._scribe.close()
        if _recorders.get(self._scheduler) is self:
            del _recorders[self._scheduler]

    def process_ends(self, how: str) -> None:
        """Write the end from wherever this is called; if the cluster still closes, once more."""
        if not self._ended:
            self._how = self._cause(how)
            self._finish(self._how)

    def signalled(self, how: str) -> None:
        """Write what there is: a signal came, and what the program makes of it is its own."""
        if not self._ended:
            self._signal = (how, time.time())
            self._finish(None)

    def _cause(self, how: str) -> str:
        """Return the signal to which the program answered by ending, if there was one lately."""
        if self._signal is not None and time.time() - self._signal[1] < _ANSWERS:
            return self._signal[0]
        return how

    def _finish(self, how: str | None) -> None:
        # Not without the lock: the thread of the scheduler may be in the middle of it.
        if not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            self._scribe.wait(_PATIENCE)
            changes: list[Change] = []
            for source in self._sources(time.time(), final=True):
                # From another thread than the scheduler's, what is read may change meanwhile.
                with suppress(Exception):
                    changes.extend(source)
            if how is not None:
                changes.append(Change({"k": "end", "how": clean(how, 200, "exit")}, _nothing))
            if self._scribe.idle:
                self._give(changes, at_once=True)
                self._scribe.wait(_PATIENCE)
        finally:
            self._lock.release()

    # -- the rounds ------------------------------------------------------------------------

    def _beat(self) -> None:
        if self._how is not None or self._ended or not self._lock.acquire(blocking=False):
            return
        begun, at = time.thread_time(), time.monotonic()
        try:
            self._round(at)
        except Exception:
            self._failed()
        finally:
            spent = time.thread_time() - begun
            self.seconds += spent
            if spent > _DEAR:
                self._next_write = at + min(SLOWEST, max(self.interval, 1000 * spent))
            self._lock.release()

    def _round(self, at: float) -> None:
        if at < self._next_sample:
            return
        now = time.time()
        self._workers.sample(now)
        # No oftener than workers tell what they do: see distributed's heartbeat_interval.
        count = self._workers.count
        rest = 1.0 if count <= 50 else 2.0 if count <= 200 else 5.0
        # The clock's rounds are never quite on time.
        self._next_sample = at + 0.9 * min(rest, self.interval)
        if isinstance(self.jobs, Jobs) and at >= self._next_look:
            # Nobody else remembers one that is cancelled before the next record.
            self._next_look = at + 0.9 * self.interval
            self.jobs.look()
        if at < self._next_write or not self._scribe.idle:
            return
        rest = pace(self.interval, at - self._begun) * (1 + 5 * self._scribe.share)
        self._next_write = at + 0.9 * min(rest, max(SLOWEST, 6 * self.interval))
        self._confirm()
        changes = [change for source in self._sources(now) for change in source]
        if not changes and at - self._given_at > _STILL:
            changes = [Change(self._describe(), _nothing)]  # it is there
        if changes:
            self._given_at = at
            self._give(changes)

    def _sources(self, now: float, final: bool = False) -> Iterator[Iterable[Change]]:
        """Yield what there is to write, what is needed most first."""
        mark = (self._scheduler.transition_counter, self._workers.count)
        every = 0.0 if final else self.interval if mark != self._mark else _STILL
        self._mark = mark
        if final:
            self._confirm(warn=False)
            with suppress(Exception):
                self._workers.sample(now)
        yield self._cluster()
        yield self._spans.changes(now, None if final else _BUDGET)
        yield self._errors.changes()
        yield self._workers.changes(now, final)
        yield self._jobs()
        yield self._workers.usage(now, every)
        yield self._traffic.changes()

    def _give(self, changes: list[Change], at_once: bool = False) -> None:
        now = time.time()
        self._given = changes
        self._scribe.give([{"t": now, **change.record} for change in changes], at_once)

    def _confirm(self, warn: bool = True) -> None:
        """Take note of what is on file by now."""
        given, self._given = self._given, []
        for index in self._scribe.written() if given else ():
            given[index].written()
        problem = self._scribe.problem
        if problem is not None and warn and not self._warned:
            self._warned = True
            logger.warning(
                "The history of this cluster is not complete: %s. The computation is not affected. "
                "dask-site.history.spool in Dask's configuration names the folder, "
                "dask-site.history.enabled=false records nothing.",
                problem,
            )

    def _failed(self) -> None:
        self._failures += 1
        if self._failures == 1:
            logger.warning(
                "Recording the history of this cluster failed; the computation is not affected.",
                exc_info=True,
            )
        if self._failures >= _MOST_FAILURES and self._clock is not None:
            self._clock.stop()

    # -- the cluster and its jobs ----------------------------------------------------------

    def _cluster(self) -> Iterator[Change]:
        record = self._describe()
        if record != self._sent_cluster:
            yield Change(record, lambda: setattr(self, "_sent_cluster", record))

    def _describe(self) -> dict[str, Any]:
        cluster = cluster_of(self._scheduler)
        name = getattr(cluster, "name", None)
        job = job_id()
        site = dask.config.get("dask_site.name", None)
        return {
            "k": "cluster",
            "started": self._started,
            "kind": type(cluster).__name__ if cluster is not None else "scheduler",
            "name": clean(name, 200) if name else None,
            "user": clean(name_of(), 200),
            "host": clean(socket.gethostname(), 255),
            "pid": os.getpid(),
            "site": clean(site, 200) if site else None,
            "job": clean_id(job) if job else None,
            "program": clean(PurePath(sys.argv[0] if sys.argv else "").name, 200),
            "versions": {
                "python": platform.python_version(),
                "dask": clean(dask.__version__, 100),
                "distributed": clean(distributed.__version__, 100),
                "dask_site": __version__,
            },
            "interval": self.interval,
            "dashboard": self._dashboard(),
            "label": self.label,
        }

    def _dashboard(self) -> str | None:
        service = self._scheduler.services.get("dashboard")
        with suppress(Exception):
            host = self._scheduler.address.split("://")[-1].rsplit(":", 1)[0]
            link = distributed.utils.format_dashboard_link(host, service.port)
            return clean(link, 500) or None
        return None

    def _jobs(self) -> Iterator[Change]:
        if self.jobs is None:
            found = jobs_of(cluster_of(self._scheduler))
            if found is None:
                return
            self.jobs, self.scripts = found, found.scripts
        for number, values in enumerate(self.jobs()):
            if number >= _MOST_JOBS:
                break
            record = {"k": "job", **values}
            name = str(record.get("name"))
            if record != self._sent_jobs.get(name):
                yield Change(record, self._job_written(name, record))
        for name, text in list(self.scripts.texts.items()):
            if name not in self._sent_scripts:
                yield Change({"k": "script", "id": name, "text": text}, self._script_written(name))

    def _script_written(self, name: str) -> Callable[[], None]:
        return lambda: self._sent_scripts.add(name)

    def _job_written(self, name: str, record: dict[str, Any]) -> Callable[[], None]:
        def written() -> None:
            self._sent_jobs[name] = record

        return written


def _nothing() -> None:
    pass
