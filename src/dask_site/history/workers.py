"""Workers that come and go, and what their threads do: run tasks, or wait, and for what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dask_site.cluster.resources import GPU, pool_of_resource
from dask_site.history.measures import (
    clean,
    clean_id,
    new_events,
    said_closing,
    threads_added,
    usual_seconds,
)
from dask_site.history.spans import Change

BUSY = "busy"
NO_WORK, STARVED, TRANSFER, PAUSED, DISPATCH = (
    "no work",
    "starved",
    "transfer",
    "paused",
    "dispatch",
)
# Seconds after which a worker that only went on working is written again.
_REFRESH = 300.0
# Kept of those that have left and could not be written yet.
_MOST_GONE = 10_000


class _Worker:
    """A worker process. `state` outlives its leaving, with what its last heartbeat said."""

    def __init__(self, state: Any, started: float, threads: int) -> None:
        self.state = state
        self.started = self.counted = started
        self.threads = threads
        resources = getattr(state, "resources", {})
        self.pool = next(filter(None, map(pool_of_resource, resources)), None)
        self.gpus = min(10_000, int(resources.get(GPU, 0)))
        self.seen = started
        self.ended: float | None = None
        self.expected = True
        self.lost_tasks = 0
        self.lost_seconds = 0.0
        self.again_tasks = 0
        self.again_seconds = 0.0
        self.busy = 0.0
        self.doing: dict[str, int] = {}
        self.sent = 0.0

    def record(self) -> dict[str, Any]:
        state = self.state
        pool = self.pool
        job = state.extra.get("job") if state is not None else None
        return {
            "k": "worker",
            "id": self.id,
            "name": clean(state.name if state is not None else self.id, 200, self.id),
            "started": self.started,
            "seen": max(self.started, self.seen if self.ended is None else self.ended),
            "threads": min(100_000, max(0, self.threads)),
            "memory": int(state.memory_limit or 0) if state is not None else 0,
            "gpus": self.gpus,
            "host": clean(state.host, 255) if state is not None else "",
            "pool": clean(pool, 200) if pool else None,
            "job": clean_id(job) if job else None,
            "ended": self.ended,
            "expected": self.expected,
            "lost_tasks": self.lost_tasks,
            "lost_seconds": round(self.lost_seconds, 3),
            "again_tasks": self.again_tasks,
            "again_seconds": round(self.again_seconds, 3),
            "busy": round(self.busy, 3),
        }

    @property
    def id(self) -> str:
        made_up = f"gone-{self.started:.6f}"
        return (clean_id(self.state.server_id) if self.state is not None else None) or made_up


class Workers:
    """The workers of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Read only.
    now : float
        Seconds since 1970.
    """

    def __init__(self, scheduler: Any, now: float) -> None:
        self._scheduler = scheduler
        self._live: dict[str, _Worker] = {}
        self._gone: list[_Worker] = []
        self._last_event: Any = None
        self._begun = now
        self._work = False
        #: Thread-seconds by pool and what they went into.
        self.threads: dict[str | None, dict[str, float]] = {}
        self.peaks: dict[str | None, int] = {}
        self._sent: dict[str | None, tuple[float, Any]] = {}

    @property
    def count(self) -> int:
        """How many workers there are, as of the last sample."""
        return len(self._live)

    def sample(self, now: float) -> None:
        """Add what the threads have done since the last time, as the last heartbeats show it."""
        scheduler = self._scheduler
        self._work = bool(
            scheduler.queued
            or scheduler.unrunnable
            or any(ws.processing for ws in list(scheduler.workers.values()))
        )
        joined = self._events()
        present = {ws.server_id: ws for ws in list(scheduler.workers.values())}
        for name, ws in present.items():
            if name not in self._live:
                started = min(now, joined.get(ws.address, now))
                self._live[name] = _Worker(ws, started, ws.nthreads)
        for name in [name for name in self._live if name not in present]:
            self._end(name, now)
        for worker in self._live.values():
            worker.doing = self._doing(worker.state)
            worker.seen = worker.state.last_seen
            used = (worker.state.metrics or {}).get("memory", 0)
            self.peaks[worker.pool] = max(self.peaks.get(worker.pool, 0), int(used))
            self._add(worker, now)

    def _events(self) -> dict[str, float]:
        """Go through what has happened; return when those joined that may still be there."""
        joined: dict[str, float] = {}
        for event in new_events(self._scheduler, self._last_event):
            self._last_event = event
            when, message = event
            if not isinstance(message, dict) or when < self._begun - 1:
                continue
            address = message.get("worker")
            if message.get("action") == "add-worker" and isinstance(address, str):
                joined[address] = when
            elif message.get("action") == "remove-worker" and isinstance(address, str):
                self._removed(address, when, message, joined.pop(address, None))
        return joined

    def _removed(
        self, address: str, when: float, message: dict[str, Any], joined: float | None
    ) -> None:
        names = [name for name, w in self._live.items() if w.state.address == address]
        if joined is not None:
            # Came and left since the last time: nothing but this is known of it.
            worker = _Worker(None, joined, threads_added(self._scheduler, joined))
            self._live[worker.id] = worker
            names = [worker.id]
        for name in names[:1]:
            self._end(name, when, message)

    def _end(self, name: str, when: float, message: dict[str, Any] | None = None) -> None:
        worker = self._live.pop(name)
        worker.ended = max(worker.started, when)
        if message is not None:
            lost = message.get("processing-tasks") or ()
            # What is told to close by its own nanny says so, but distributed expects only what
            # the scheduler has closed. A job that is ended by its walltime says so too.
            in_order = not lost and said_closing(self._scheduler, worker.state)
            worker.expected = bool(message.get("expected")) or in_order
            if not worker.expected:
                worker.lost_tasks = len(lost)
                worker.lost_seconds = _run_for(worker.state, set(lost), worker.ended)
                gone = message.get("lost-computed-tasks") or ()
                worker.again_tasks = len(gone)
                worker.again_seconds = usual_seconds(self._scheduler, gone)
        self._add(worker, worker.ended)
        self._gone = [*self._gone[-_MOST_GONE:], worker]

    def _add(self, worker: _Worker, now: float) -> None:
        seconds = now - worker.counted
        if seconds <= 0:
            return
        worker.counted = now
        doing = worker.doing or {STARVED if self._work else NO_WORK: worker.threads}
        worker.busy += doing.get(BUSY, 0) * seconds
        sums = self.threads.setdefault(worker.pool, {})
        for word, threads in doing.items():
            if threads:
                sums[word] = sums.get(word, 0.0) + threads * seconds

    def _doing(self, ws: Any) -> dict[str, int]:
        """Return how many of a worker's threads do what."""
        counts = (ws.metrics or {}).get("task_counts") or {}
        running = counts.get("executing", 0) + counts.get("long-running", 0)
        busy = min(ws.nthreads, running)
        doing = {BUSY: busy}
        idle = ws.nthreads - busy
        if not idle:
            return doing
        if ws.status.name == "paused":
            return {**doing, PAUSED: idle}
        if not self._work:
            return {**doing, NO_WORK: idle}
        doing[TRANSFER] = min(idle, counts.get("waiting", 0))
        idle -= doing[TRANSFER]
        begun = running + counts.get("waiting", 0)
        doing[DISPATCH] = min(idle, max(0, len(ws.processing) - begun))
        doing[STARVED] = idle - doing[DISPATCH]
        return doing

    # -- records ---------------------------------------------------------------------------

    def changes(self, now: float, final: bool = False) -> Iterator[Change]:
        """Yield the workers that are new, have left, or worked on for a while."""
        for worker in list(self._gone):
            yield Change(worker.record(), self._forgetter(worker))
        for worker in list(self._live.values()):
            if final or now - worker.sent > _REFRESH:
                yield Change(worker.record(), _setter(worker, now))

    def usage(self, now: float, every: float) -> Iterator[Change]:
        """Yield what each pool does, where that is news or `every` seconds have passed."""
        scheduler = self._scheduler
        pools: dict[str | None, list[_Worker]] = {pool: [] for pool in self.threads}
        for worker in self._live.values():
            pools.setdefault(worker.pool, []).append(worker)
        waiting = len(scheduler.queued) + len(scheduler.unrunnable)
        if waiting:
            # They wait for no pool in particular.
            pools.setdefault(None, [])
        for pool, workers in pools.items():
            record = self._usage(pool, workers, waiting if pool is None else 0)
            parts = ("workers", "nthreads", "processing", "queued")
            news = tuple(record[part] for part in parts)
            busy = record["threads"].get(BUSY, 0.0)
            when, before = self._sent.get(pool, (0.0, None))
            if before != (news, busy) or now - when >= every:
                yield Change(record, self._usage_written(pool, now, (news, busy)))

    def _forgetter(self, worker: _Worker) -> Callable[[], None]:
        def written() -> None:
            if worker in self._gone:
                self._gone.remove(worker)

        return written

    def _usage_written(self, pool: str | None, now: float, news: Any) -> Callable[[], None]:
        def written() -> None:
            self._sent[pool] = (now, news)

        return written

    def _usage(self, pool: str | None, workers: list[_Worker], queued: int) -> dict[str, Any]:
        metrics = [worker.state.metrics or {} for worker in workers]
        spilled = sum(int((m.get("spilled_bytes") or {}).get("disk", 0)) for m in metrics)
        return {
            "k": "usage",
            "pool": clean(pool, 200) if pool else None,
            "threads": {w: round(s, 3) for w, s in self.threads.get(pool, {}).items()},
            "workers": len(workers),
            "nthreads": sum(worker.threads for worker in workers),
            "processing": sum(len(worker.state.processing) for worker in workers),
            "queued": queued,
            "memory": sum(int(m.get("memory", 0)) for m in metrics),
            "spilled": max(0, spilled),
            "peak": self.peaks.get(pool, 0),
            "cpu": round(max(0.0, sum(m.get("cpu", 0) for m in metrics)) / 100, 3),
            "limit": sum(int(worker.state.memory_limit or 0) for worker in workers),
        }


def _setter(worker: _Worker, now: float) -> Callable[[], None]:
    def written() -> None:
        worker.sent = now

    return written


def _run_for(state: Any, keys: set[Any], ended: float) -> float:
    """Return how long tasks had run that a worker did not finish: thread-seconds."""
    if state is None:
        return 0.0
    since = max(0.0, ended - state.last_seen)
    running = list(state.executing.items())
    return float(sum(duration + since for ts, duration in running if ts.key in keys))
