"""When the jobs of a cluster waited and ran, and what was computed then, on one axis of time."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dask_site.history.allocations import allocations
from dask_site.history.model import ClusterHistory
from dask_site.history.records import UsageRecord
from dask_site.history.waits import waits
from dask_site.web import words

#: Jobs at once of a pool that are drawn one by one; of more it is drawn how many there were.
MOST_LANES = 16
#: Bars of a row; those nearest to each other are drawn as one.
MOST_BARS = 400
#: Spans that are drawn; the others are in their table.
MOST_SPANS = 16
_STEPS = 240
_BAD = ("FAIL", "TIMEOUT", "MEMORY", "CANCEL", "PREEMPT", "DEADLINE", "LOST", "BOOT")
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)


@dataclass(frozen=True)
class Bar:
    """A stretch of time: `x` and `width` in percent of the axis, `lane` from the top."""

    x: float
    width: float
    lane: int
    kind: str
    title: str
    bad: bool = False


@dataclass(frozen=True)
class Curve:
    """An amount over time, as the path of an area within 1000 by 100."""

    path: str
    kind: str


@dataclass(frozen=True)
class Row:
    """One line of the timeline.

    Attributes
    ----------
    lanes : int
        How many lie one below the other.
    note : str
        Beneath the label: what there is.
    """

    label: str
    kind: str
    note: str = ""
    bars: tuple[Bar, ...] = ()
    curves: tuple[Curve, ...] = ()
    lanes: int = 1


@dataclass(frozen=True)
class Timeline:
    """Rows on one axis.

    Attributes
    ----------
    ticks : tuple of (float, str)
        Percent, and the time since the start.
    left_out : int
        Spans that are not drawn.
    """

    start: float
    end: float
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    left_out: int = 0


class _Axis:
    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 1.0)

    def at(self, t: float) -> float:
        share = (t - self.start) / (self.end - self.start)
        return round(100 * min(max(share, 0.0), 1.0), 3)

    def bar(self, start: float, end: float, lane: int, kind: str, title: str, **more: bool) -> Bar:
        x = self.at(start)
        return Bar(x, max(round(self.at(end) - x, 3), 0.15), lane, kind, title, **more)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        length = self.end - self.start
        step = next((s for s in _TICKS if length / s <= 6), 86400 * math.ceil(length / 86400 / 6))
        count = int(length // step) + 1
        return tuple((self.at(self.start + n * step), _since(n * step)) for n in range(count))


@dataclass(frozen=True)
class _Job:
    """A job from when it was submitted to when it ended; it ran from `begun`, if ever."""

    submitted: float
    begun: float | None
    ended: float
    title: str
    bad: bool


def timeline(history: ClusterHistory) -> Timeline:
    """Return the timeline of a cluster, of bounded size however large the cluster was."""
    jobs = _jobs(history)
    everything = [job for some in jobs.values() for job in some]
    moments = [history.cluster.started, *(job.submitted for job in everything)]
    ends = [history.seen, *(job.ended for job in everything)]
    axis = _Axis(min(moments), max(ends))
    rows: list[Row] = []
    samples: dict[str | None, list[UsageRecord]] = defaultdict(list)
    for sample in history.samples:
        samples[sample.pool].append(sample)
    for pool in sorted({*jobs, *samples}, key=lambda name: name or ""):
        if pool in jobs:
            rows.append(_of_pool(axis, pool, jobs[pool]))
        # Tasks that wait for no pool in particular have samples too, and no threads.
        if len(samples[pool]) > 1 and any(sample.nthreads for sample in samples[pool]):
            rows.append(_of_cores(axis, samples[pool]))
    spans, left_out = _of_spans(axis, history)
    return Timeline(axis.start, axis.end, (*rows, *spans), axis.ticks(), left_out)


def _jobs(history: ClusterHistory) -> dict[str | None, list[_Job]]:
    found: dict[str | None, list[_Job]] = defaultdict(list)
    for held in allocations(history):
        asked = held.record.submitted if held.record else held.start
        if held.row is not None and held.row.submit is not None:
            asked = held.row.submit
        could = max(asked, (held.row.eligible or 0.0) if held.row is not None else 0.0)
        state = held.state
        title = f"{held.job or held.name or 'worker'}: {words.length(held.seconds)}"
        title += f", waited {words.length(max(0.0, held.start - could))}" if held.job else ""
        title += f", {state}" if state else ""
        bad = any(word in state.upper() for word in _BAD)
        found[held.pool].append(_Job(min(asked, held.start), held.start, held.end, title, bad))
    for wait in waits(history):
        if not wait.started:
            title = f"{wait.job or wait.name}: never started, waited {words.length(wait.seconds)}"
            title += f" ({wait.reason})" if wait.reason else ""
            found[wait.pool].append(_Job(wait.submitted, None, wait.until, title, False))
    return found


def _of_pool(axis: _Axis, pool: str | None, jobs: list[_Job]) -> Row:
    label = f"pool {words.pool(pool)}" if pool else "workers"
    note = words.plural(len(jobs), "job" if pool else "worker")
    bad = sum(job.bad for job in jobs)
    note += f", {bad} ended badly" if bad else ""
    lanes = _lanes(jobs)
    if max(lanes) >= MOST_LANES or len(jobs) > MOST_BARS:
        waiting = [(j.submitted, j.ended if j.begun is None else j.begun) for j in jobs]
        running = [(j.begun, j.ended) for j in jobs if j.begun is not None]
        both = [(job.submitted, job.ended) for job in jobs]
        most = max(_counts(axis, both))
        curves = (
            Curve(_area(_added(_counts(axis, running), _counts(axis, waiting)), most), "pending"),
            Curve(_area(_counts(axis, running), most), "running"),
        )
        return Row(label, "jobs", f"{note}, at most {words.count(most)} at once", curves=curves)
    bars = []
    for job, lane in zip(jobs, lanes, strict=True):
        until = job.ended if job.begun is None else job.begun
        if until > job.submitted:
            bars.append(axis.bar(job.submitted, until, lane, "pending", job.title))
        if job.begun is not None:
            bars.append(axis.bar(job.begun, job.ended, lane, "running", job.title, bad=job.bad))
    return Row(label, "jobs", note, tuple(bars), lanes=max(lanes) + 1)


def _lanes(jobs: list[_Job]) -> list[int]:
    """Return for each job the first lane that is free; the jobs are put in order."""
    jobs.sort(key=lambda job: (job.submitted, job.ended))
    free: list[int] = []
    taken: list[tuple[float, int]] = []
    lanes, count = [], 0
    for job in jobs:
        while taken and taken[0][0] <= job.submitted:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        heapq.heappush(taken, (job.ended, lane))
        lanes.append(lane)
    return lanes


def _counts(axis: _Axis, stretches: Iterable[tuple[float, float]]) -> list[float]:
    """Return how many stretches there are in the middle of each step of the axis."""
    step = (axis.end - axis.start) / _STEPS
    middles = [axis.start + (n + 0.5) * step for n in range(_STEPS)]
    change = [0] * (_STEPS + 1)
    for start, end in stretches:
        change[bisect_left(middles, start)] += 1
        change[bisect_left(middles, end)] -= 1
    counts, now = [], 0
    for difference in change[:-1]:
        now += difference
        counts.append(float(now))
    return counts


def _added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _area(values: Sequence[float], most: float) -> str:
    """Return steps as an area."""
    width, path = 1000 / len(values), "M0 100"
    for x, (value, following) in enumerate(pairwise([*values, -1.0])):
        if x == 0 or value != values[x - 1]:
            path += f"L{x * width:.1f} {100 - 100 * value / max(most, 1e-9):.1f}"
        if following != value:
            path += f"H{(x + 1) * width:.1f}"
    return f"{path}L1000 100Z"


def _of_cores(axis: _Axis, samples: list[UsageRecord]) -> Row:
    most = max(1.0, *(max(s.cpu, s.nthreads) for s in samples))
    curves = tuple(
        Curve(_line(axis, [(s.t, getattr(s, what)) for s in samples], most), kind)
        for what, kind in (("nthreads", "threads"), ("cpu", "cores"))
    )
    top = max(s.cpu for s in samples)
    return Row("cores busy", "cores", f"at most {top:.1f} of {most:.0f}", curves=curves)


def _line(axis: _Axis, points: list[tuple[float, float]], most: float) -> str:
    """Return an area under points, with gaps of the axis left empty."""
    each = max(1, len(points) // _STEPS)
    some = [*points[::each], points[-1]]
    path = f"M{10 * axis.at(some[0][0]):.1f} 100"
    for t, value in some:
        path += f"L{10 * axis.at(t):.1f} {100 - 100 * value / most:.1f}"
    return f"{path}V100Z"


def _of_spans(axis: _Axis, history: ClusterHistory) -> tuple[list[Row], int]:
    by_name: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    work: dict[tuple[str, ...], float] = defaultdict(float)
    for span in history.spans:
        begun = span.start or span.enqueued
        end = span.stop if span.done and span.stop else max(span.stop, begun)
        by_name[span.name].append((begun, max(begun, end)))
        work[span.name] += math.fsum(span.execute.values())
    kept = sorted(by_name, key=lambda name: -work[name])[:MOST_SPANS]
    kept.sort(key=lambda name: (min(by_name[name]), name))
    rows = []
    for name in kept:
        stretches = by_name[name]
        bars = tuple(
            axis.bar(start, end, 0, "span", f"{_named(name)}: {words.length(end - start)}")
            for start, end in _merged(sorted(stretches), (axis.end - axis.start) / MOST_BARS)
        )
        note = words.length(sum(e - s for s, e in stretches)) if len(stretches) == 1 else ""
        rows.append(Row(_named(name), "span", note or f"{len(stretches)} times", bars))
    return rows, len(by_name) - len(kept)


def _named(name: tuple[str, ...]) -> str:
    return " / ".join(map(words.name, name))


def _merged(stretches: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, end in stretches:
        if found and start - found[-1][1] <= gap and len(stretches) > MOST_BARS / 8:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _since(seconds: float) -> str:
    if seconds == 0:
        return "0"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds / unit:.0f} {name}"
    if seconds > 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds > 60 else f"{seconds:.0f} s"
