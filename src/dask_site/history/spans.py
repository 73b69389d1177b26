"""What has changed in spans, found without looking at all of them each time."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from dask_site.history.measures import (
    clean,
    clean_id,
    definitions,
    ends_of,
    keys_in,
    metrics_mark,
    span_metrics,
    spans_of,
    submitting_line,
)
from dask_site.upstream.spans import groups_mark

# Seconds after the last change for which a finished span is looked at each time: workers tell what
# their threads did a few heartbeats late.
_SETTLES = 30.0
# Finished ones that are looked at each time, in turn: more work may be submitted to a span as long
# as its block is open, and what died with a worker is computed again.
_IN_TURN = 2000
_MOST_PREFIXES = 300
# Seconds that may go into the size of definitions each time.
_MEASURING = 0.002
_MOST_AMOUNTS = 90
# Groups of which a few keys are kept, and how many.
_MOST_TRACED, _MOST_KEYS = 10_000, 4
_MOST_LEVELS = 20
_LONGEST_RECORD = 200_000
OTHERS = "(others)"
AGAIN = "compute again"
DROPPED = "dropped"
_DONE = frozenset({"memory", "erred", "released", "forgotten"})


class Change(NamedTuple):
    """A record to be written, and what to call once it is on file."""

    record: dict[str, Any]
    written: Callable[[], None]


class _Prefix:
    __slots__ = ("kin", "nbytes", "seconds", "states")

    def __init__(self, kin: Any = None) -> None:
        self.kin = kin
        self.states: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.nbytes = 0

    def add(self, states: Any, seconds: Any, nbytes: int) -> None:
        for state, count in states.items():
            if count:
                self.states[state] = self.states.get(state, 0) + count
        for action, amount in seconds.items():
            self.seconds[action] = self.seconds.get(action, 0.0) + amount
        self.nbytes += nbytes

    def drop(self) -> None:
        """Tell tasks that nobody wanted any more before they ran from those that did.

        Too few where other spans have tasks of the same prefix, or some ran twice.
        """
        if self.kin is None:
            return
        ended = sum(self.states.get(state, 0) for state in ("memory", "released", "forgotten"))
        ran = ends_of(self.kin) - self.states.get("erred", 0)
        unrun = min(ended - ran, self.states.get("forgotten", 0))
        if unrun > 0:
            self.states["forgotten"] -= unrun
            self.states[DROPPED] = self.states.get(DROPPED, 0) + unrun

    @property
    def weight(self) -> float:
        return sum(self.seconds.values()) + 1e-6 * sum(self.states.values())

    def values(self) -> dict[str, Any]:
        seconds = _bounded(self.seconds)
        return {"states": self.states, "seconds": seconds, "nbytes": max(0, int(self.nbytes))}


class _Watched:
    """A span, with the groups of it that can't change any more added up."""

    __slots__ = (
        "changed",
        "code",
        "counted",
        "definitions",
        "done",
        "final",
        "held",
        "largest",
        "mark",
        "sent",
        "span",
        "start",
        "stop",
        "sums",
    )

    def __init__(self, span: Any, now: float) -> None:
        self.span = span
        self.changed = now
        self.mark: Any = None
        self.sent: Any = None
        self.final: set[Any] = set()
        self.sums: dict[str, _Prefix] = {}
        self.start = self.stop = 0.0
        self.done = False
        self.code: str | None = None
        # Of each prefix: the states of its tasks when the cluster began to close.
        self.held: dict[str, dict[str, int]] = {}
        # Of each task group: how many tasks it had when definitions of some were looked at.
        self.counted: dict[str, int] = {}
        self.definitions = self.largest = 0.0

    def define(self, group: Any, sizes: list[int]) -> None:
        """Note the bytes of the definitions of some tasks of a group."""
        before = self.counted.get(group.name, 0)
        if before or len(self.counted) < _MOST_PREFIXES:
            self.counted[group.name] = count = max(before, sum(group.states.values()))
            self.definitions += (count - before) * sum(sizes) / len(sizes)
            self.largest = max(self.largest, *sizes)

    def live(self) -> set[Any]:
        groups: set[Any] = self.span.groups
        return groups - self.final if self.final else groups

    def look(self) -> Any:
        # Not the groups alone: that of the threads' time comes later, with heartbeats.
        return (
            len(self.span.groups),
            groups_mark(self.live()),
            metrics_mark(self.span),
            self.largest,
        )


class Spans:
    """The spans of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Its spans extension is read.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._known = 0
        self._active: dict[str, _Watched] = {}
        self._settled: deque[_Watched] = deque()
        # By name: the first group that was seen of it, and a few of its keys.
        self._traced: dict[str, tuple[Any, set[Any]]] = {}
        # Of groups that came later under the name of another: the share of its keys in them.
        self._again: dict[Any, float] = {}

    def _trace(self, group: Any, key: Any) -> None:
        # Only collections name a group by what it computes.
        if isinstance(key, tuple) and (
            group.name in self._traced or len(self._traced) < _MOST_TRACED
        ):
            first, keys = self._traced.setdefault(group.name, (group, set()))
            if first is group and len(keys) < _MOST_KEYS:
                keys.add(key)

    def _computed_again(self, group: Any) -> float:
        """Return about which share of a group's tasks had been computed before and let go.

        A group of which all tasks were let go is another when they come again, under one name; so
        is one of other parts of the same collection, which has none of the keys.
        """
        first, keys = self._traced.get(group.name, (group, ()))
        if first is group:
            return 0.0
        share = max(self._again.get(group, 0.0), keys_in(self._scheduler, group, keys) / len(keys))
        if share:
            self._again[group] = share
        return share

    def _measure(self) -> None:
        """Look how large the definitions of a few tasks are: they stand for those that are new."""
        end = time.perf_counter() + _MEASURING
        seen: dict[Any, list[int]] = {}
        with suppress(Exception):  # what stands in them is the user's
            for span, group, key, nbytes in definitions(self._scheduler):
                self._trace(group, key)
                if span in self._active:
                    seen.setdefault(group, []).append(nbytes)
                if time.perf_counter() > end:
                    break
        for group, sizes in seen.items():
            self._active[group.span_id].define(group, sizes)

    def changes(self, now: float, budget: float | None) -> Iterator[Change]:
        """Yield the spans that have changed since they were last written.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        budget : float or None
            Seconds that it may take; what is left over comes first the next time. None for all.
        """
        self._take_new(now)
        self._measure()
        end = None if budget is None else time.perf_counter() + budget
        for number in range(len(self._active)):
            if end is not None and number % 16 == 0 and time.perf_counter() > end:
                return
            name = next(iter(self._active))
            watched = self._active[name] = self._active.pop(name)
            mark = watched.look()
            if mark != watched.mark:
                watched.mark, watched.changed = mark, now
            if watched.mark != watched.sent:
                yield self._change(watched)
            elif watched.done and now - watched.changed > _SETTLES:
                self._settled.append(self._active.pop(name))
        turns = len(self._settled) if end is None else min(len(self._settled), _IN_TURN)
        for number in range(turns):
            if end is not None and number % 64 == 0 and time.perf_counter() > end:
                return
            watched = self._settled.popleft()
            mark = watched.look()
            if mark == watched.mark:
                self._settled.append(watched)
            else:
                watched.mark, watched.changed = mark, now
                self._active[watched.span.id] = watched
                yield self._change(watched)

    def hold(self, now: float) -> None:
        """Keep the states of all tasks as they are.

        With the workers their results go, and what somebody holds to the end would seem to wait.
        """
        self._take_new(now)
        for watched in (*self._active.values(), *self._settled):
            tasks = _record(watched, self._computed_again)["tasks"]
            watched.held = {name: values["states"] for name, values in tasks.items()}

    def _take_new(self, now: float) -> None:
        spans = spans_of(self._scheduler)
        if len(spans) != self._known:
            for name, span in islice(list(spans.items()), self._known, None):
                self._active[name] = _Watched(span, now)
            self._known = len(spans)

    def _change(self, watched: _Watched) -> Change:
        mark = watched.mark

        def written() -> None:
            watched.sent = mark

        return Change(_record(watched, self._computed_again), written)


def _record(watched: _Watched, again: Callable[[Any], float]) -> dict[str, Any]:
    span = watched.span
    prefixes = {name: _copy(prefix) for name, prefix in watched.sums.items()}
    done = True
    for group in list(watched.live()):
        name = clean(group.prefix.name, 200, "(unnamed)")
        seconds = group.all_durations
        if (share := again(group)) and "compute" in seconds:
            seconds = {**seconds, AGAIN: share * seconds["compute"]}
        known = prefixes.setdefault(name, _Prefix(group.prefix))
        known.add(group.states, seconds, group.nbytes_total)
        if group.start and (not watched.start or group.start < watched.start):
            watched.start = group.start
        watched.stop = max(watched.stop, group.stop)
        there = [state for state, count in group.states.items() if count]
        done = done and _DONE.issuperset(there)
        if there == ["forgotten"]:
            # distributed has let go of it; what comes under its name is another group.
            watched.final.add(group)
            final = watched.sums.setdefault(name, _Prefix(group.prefix))
            final.add(group.states, seconds, group.nbytes_total)
    for name in prefixes.keys() & watched.held.keys():
        prefixes[name].states = dict(watched.held[name])
    for prefix in prefixes.values():
        prefix.drop()
    watched.done = done
    watched.code = watched.code or submitting_line(span)
    metrics = _metrics(span)
    if watched.largest:
        metrics["sizes"] |= {
            "definitions": _amount(watched.definitions),
            "largest definition": _amount(watched.largest),
        }
    return _bounded_record(
        {
            "k": "span",
            "id": clean_id(span.id) or "_",
            "name": _levels(span.name),
            "parent": clean_id(span.parent.id) if span.parent is not None else None,
            "enqueued": max(0.0, span.enqueued),
            "start": max(0.0, watched.start),
            "stop": max(0.0, watched.stop),
            "done": done,
            "code": watched.code,
            **metrics,
        },
        prefixes,
    )


def _bounded_record(record: dict[str, Any], prefixes: dict[str, _Prefix]) -> dict[str, Any]:
    most = _MOST_PREFIXES
    while True:
        kept = _largest(prefixes, most)
        record["tasks"] = {name: prefix.values() for name, prefix in kept.items()}
        if most < 20 or len(kept) < 100 or len(json.dumps(record)) < _LONGEST_RECORD:
            return record
        most //= 2


def _largest(prefixes: dict[str, _Prefix], most: int) -> dict[str, _Prefix]:
    if len(prefixes) <= most:
        return prefixes
    ordered = sorted(prefixes, key=lambda name: prefixes[name].weight, reverse=True)
    kept = {name: prefixes[name] for name in ordered[: most - 1]}
    others = _copy(kept.pop(OTHERS)) if OTHERS in kept else _Prefix()
    for name in ordered[most - 1 :]:
        prefix = prefixes[name]
        others.add(prefix.states, prefix.seconds, prefix.nbytes)
    return {**kept, OTHERS: others}


def _copy(prefix: _Prefix) -> _Prefix:
    copied = _Prefix(prefix.kin)
    copied.add(prefix.states, prefix.seconds, prefix.nbytes)
    return copied


def _levels(name: tuple[object, ...]) -> list[str]:
    levels = [clean(level, 200, "(unnamed)") for level in name] or ["(unnamed)"]
    if len(levels) > _MOST_LEVELS:
        levels = [*levels[: _MOST_LEVELS - 1], levels[-1]]
    return levels


def _metrics(span: Any) -> dict[str, dict[str, float]]:
    seconds: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for activity, unit, value in span_metrics(span):
        into = {"seconds": seconds, "bytes": sizes}.get(unit)
        if into is not None:
            into[activity] = into.get(activity, 0.0) + value
    return {"execute": _bounded(seconds), "sizes": _bounded(sizes)}


def _bounded(amounts: dict[str, float]) -> dict[str, float]:
    # Users may measure under as many names as they like.
    if len(amounts) > _MOST_AMOUNTS:
        ordered = sorted(amounts, key=lambda name: amounts[name], reverse=True)
        rest = sum(amounts[name] for name in ordered[_MOST_AMOUNTS:])
        amounts = {name: amounts[name] for name in ordered[:_MOST_AMOUNTS]}
        amounts["other"] = amounts.get("other", 0.0) + rest
    return {clean(name, 100, "other"): _amount(value) for name, value in amounts.items()}


def _amount(value: float) -> float:
    # Rounding in distributed makes some of them negative.
    return round(float(value), 6) if 0 <= value < 1e18 else 0.0
