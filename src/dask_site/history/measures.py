"""What the recorder reads of distributed that no other documents, and only here.

`tests/contract/test_history_distributed.py` holds it against the installed version.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any

from dask.sizeof import sizeof

from dask_site.upstream.clusters import spec_clusters
from dask_site.upstream.spans import own_code, own_metrics

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_NOT_ID = re.compile(r"[^A-Za-z0-9._:@+-]+")
_CLASS = re.compile(r"([A-Za-z_][\w.]*)\(")


def clean(text: object, most: int, instead: str = "") -> str:
    """Return a text of one line and at most `most` characters that every store takes."""
    one_line = _CONTROL.sub(" ", str(text).encode("utf-8", "replace").decode("utf-8"))[:most]
    return one_line.strip() or instead


def clean_id(text: object) -> str | None:
    """Return a text as an id of the records, None if nothing is left of it."""
    return _NOT_ID.sub("_", str(text)).strip("_")[:128] or None


# -- spans ----------------------------------------------------------------------------------


def spans_of(scheduler: Any) -> dict[str, Any]:
    """Return all spans by id, in the order in which they came; none ever leaves."""
    extension = scheduler.extensions.get("spans")
    spans: dict[str, Any] = extension.spans if extension is not None else {}
    return spans


def ends_of(prefix: Any) -> int:
    """Return how often tasks of a prefix have come to a result or an error."""
    counts = prefix.state_counts
    return int(counts.get("memory", 0)) + int(counts.get("erred", 0))


def metrics_mark(span: Any) -> tuple[int, float]:
    """Return a value that differs when workers have told more of a span."""
    metrics = own_metrics(span)
    return len(metrics), sum(metrics.values())


def span_metrics(span: Any) -> Iterator[tuple[str, str, float]]:
    """Yield activity, unit and value of what the span's own tasks did on workers' threads."""
    for key, value in list(own_metrics(span).items()):
        # ("execute", prefix, activity, unit). What shuffles do in the background ("p2p") is no
        # thread's time.
        if len(key) == 4 and key[0] == "execute":
            yield clean(key[2], 100, "other"), str(key[3]), value


def submitting_line(span: Any) -> str | None:
    """Return where the span's first tasks were submitted, as ``script.py:12: y = x.compute()``.

    None unless the client sends it (``distributed.diagnostics.computations.nframes``).
    """
    for frames in own_code(span):
        if frames:
            frame = frames[-1]
            lines = str(frame.code).splitlines()
            number = max(0, int(frame.lineno_relative))
            line = lines[number] if number < len(lines) else ""
            name = PurePath(str(frame.filename)).name
            return clean(f"{name}:{frame.lineno_frame}: {line.strip()}", 500)
    return None


def definitions(scheduler: Any, most: int = 10) -> Iterator[tuple[str, Any, Any, int]]:
    """Yield span, task group, key and bytes of the definition of a few tasks, its data included.

    They are some of the newest 200 times `most`, and those that workers have had longest, at most
    `most` of each: a task that is done has no definition any more.
    """
    newest = islice(reversed(scheduler.tasks.values()), 0, 200 * most, 200)
    having = islice((ws for ws in scheduler.workers.values() if ws.processing), most)
    for ts in [*newest, *(next(iter(ws.processing)) for ws in having)]:
        span = ts.group.span_id if ts.run_spec is not None and ts.group is not None else None
        if span is not None:
            yield span, ts.group, ts.key, sizeof(ts.run_spec)


def keys_in(scheduler: Any, group: Any, keys: Collection[Any]) -> int:
    """Return how many of some keys are those of tasks of a group, as long as these are there."""
    found = (scheduler.tasks.get(key) for key in keys)
    return sum(ts is not None and ts.group is group for ts in found)


# -- workers --------------------------------------------------------------------------------


def new_events(scheduler: Any, last: Any) -> list[tuple[float, dict[str, Any]]]:
    """Return the events of the topic ``all`` since event `last`, oldest first."""
    events = scheduler.get_events("all")
    found: list[tuple[float, dict[str, Any]]] = []
    for event in reversed(events):
        if event is last:
            break
        found.append(event)
    found.reverse()
    return found


def threads_added(scheduler: Any, moment: float) -> int:
    """Return how many threads the worker brought that joined at a moment."""
    before = 0
    for when, total in list(scheduler.total_nthreads_history):
        if when >= moment:
            return int(max(0, total - before))
        before = total
    return 0


def usual_seconds(scheduler: Any, keys: Collection[Any]) -> float:
    """Return about how many thread-seconds some tasks take, by their prefixes."""
    found = (scheduler.tasks.get(key) for key in keys)
    # Negative where none of the prefix has been measured.
    return float(sum(max(0.0, ts.prefix.duration_average) for ts in found if ts is not None))


def said_closing(scheduler: Any, state: Any) -> bool:
    """Return whether a worker that has left had said that it closes."""
    if state is None:
        return False
    for _, message in reversed(scheduler.get_events(state.address)):
        if message.get("action") == "worker-status-change":
            return str(message.get("status")) in {"closing", "closing_gracefully", "closed"}
        if message.get("action") == "add-worker":
            break
    return False


def traffic_keys(scheduler: Any, start: int) -> tuple[int, list[tuple[Any, ...]]]:
    """Return how many metrics there are, and those of the network and of spilling from `start`."""
    metrics = scheduler.cumulative_worker_metrics
    if len(metrics) == start:
        return start, []
    # There are several for each prefix of each span, in the order in which they came.
    names = [
        key
        for key in islice(list(metrics), start, None)
        if isinstance(key, tuple)
        and len(key) >= 3
        and key[0] in {"get-data", "gather-dep", "memory-monitor"}
    ]
    return len(metrics), names


# -- errors ---------------------------------------------------------------------------------


class Failures(deque[Any]):
    """Takes the place of the scheduler's list of failed tasks, of which it keeps the last 100 only.

    It tells each to `note` as it comes. Costs nothing for tasks that don't fail.
    """

    def __init__(self, before: deque[Any], note: Callable[[Any], None]) -> None:
        super().__init__(before, before.maxlen)
        self._note = note

    def appendleft(self, failed: Any) -> None:
        """Add a failed task."""
        super().appendleft(failed)
        self._note(failed)


def watch_failures(scheduler: Any, note: Callable[[Any], None]) -> Callable[[], None]:
    """Have `note` called with each failed task from now on; return what ends it."""
    before = scheduler.erred_tasks
    scheduler.erred_tasks = watching = Failures(before, note)

    def end() -> None:
        if scheduler.erred_tasks is watching:
            scheduler.erred_tasks = deque(watching, watching.maxlen)

    return end


def own_failure(scheduler: Any, failed: Any) -> tuple[str, str, str, str | None] | None:
    """Return prefix, exception, message and span of a task that failed by itself.

    None for one that failed because another did.
    """
    ts = scheduler.tasks.get(failed.key)
    if ts is None or ts.exception_blame not in {None, ts}:
        return None
    text = failed.exception_text or ""
    match = _CLASS.match(text)
    # distributed gives no text where workers died.
    name = match[1] if match else (text[:100] or "KilledWorker")
    group = ts.group
    span = group.span_id if group is not None else None
    return ts.prefix.name, name, text, span


# -- the cluster ----------------------------------------------------------------------------


def cluster_of(scheduler: Any) -> Any | None:
    """Return the cluster object in this process whose scheduler this is, None if there is none."""
    home = sys.modules.get("dask_site.cluster.core")
    for cluster in (*spec_clusters(), *(home.open_clusters() if home is not None else ())):
        if getattr(cluster, "scheduler", None) is scheduler:
            return cluster
    return None
