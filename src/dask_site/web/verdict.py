"""Did it finish; if not, why: a cluster's end in one sentence."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from dask_site.history.allocations import allocations
from dask_site.history.model import ClusterHistory
from dask_site.history.pace import patience
from dask_site.web import words

_WAITING = ("waiting", "no-worker", "queued", "processing", "dropped")
_DONE = ("memory", "released", "forgotten")
_ENDS = {
    "SIGTERM": "it was told to end (SIGTERM): scancel, a walltime, or a system going down",
    "SIGHUP": "its terminal or ssh connection went away (SIGHUP)",
    "SIGINT": "it was interrupted (SIGINT)",
    "SIGKILL": "it was killed (SIGKILL)",
    "TIMEOUT": "the walltime of its job ended (TIMEOUT)",
    "DEADLINE": "its job had to end by a deadline (DEADLINE)",
    "CANCELLED": "its job was cancelled (CANCELLED)",
    "PREEMPTED": "its job had to make room for another (PREEMPTED)",
    "OUT_OF_MEMORY": "its job was killed as it used too much memory (OUT_OF_MEMORY)",
    "NODE_FAIL": "its node failed (NODE_FAIL)",
    "BOOT_FAIL": "its node did not start (BOOT_FAIL)",
    "FAILED": "its job failed (FAILED)",
    "exit": "its program ended without closing it",
    "silent": "nothing was heard of it any more, and nobody noted why: a crash, a kill or a dead "
    "node are likely",
    "lost": "nothing was heard of it any more, and its resource manager doesn't know why",
}


@dataclass(frozen=True)
class Verdict:
    """How a cluster ended.

    Attributes
    ----------
    mood : str
        ``good``, ``poor``: it ended, with work undone or failed; ``bad``; ``live``.
    word : str
        In one or two words.
    sentence : str
        The answer.
    """

    mood: Literal["good", "poor", "bad", "live"]
    word: str
    sentence: str


@dataclass(frozen=True)
class Counts:
    """Tasks: that ended, that failed, that had not ended."""

    done: int
    failed: int
    undone: int

    @property
    def whole(self) -> int:
        """All of them."""
        return self.done + self.failed + self.undone


def counts(history: ClusterHistory) -> Counts:
    """Return the tasks of a cluster by what became of them."""
    states: Counter[str] = Counter()
    for span in history.spans:
        for tasks in span.tasks.values():
            states.update(tasks.states)
    undone = sum(states[state] for state in _WAITING)
    done = sum(states[state] for state in _DONE)
    # Those that nobody wants any more are forgotten, failed or not; their errors stay.
    released = max(0, sum(error.count for error in history.errors) - states["erred"])
    released = min(released, done)
    return Counts(done - released, states["erred"] + released, undone)


def verdict(history: ClusterHistory, now: float | None = None) -> Verdict:
    """Say how a cluster ended, or how far it has got."""
    tasks = counts(history)
    end = history.end
    if end is None:
        return _running(history, tasks, time.time() if now is None else now)
    lasted = words.length(max(0.0, max(history.seen, 0.0) - history.cluster.started))
    if end.how != "closed":
        why = _ENDS.get(end.how, f"{words.name(end.how)}")
        undone = f"; {_are(tasks.undone)} undone" if tasks.undone else "; no task was left undone"
        undone += _killed(history)
        word = "fell silent" if end.how in ("silent", "lost") else "was ended"
        sentence = f"It did not end by itself: after {lasted} {why}{undone}."
        return Verdict("bad" if tasks.undone else "poor", word, sentence)
    killed = _killed(history)
    if tasks.failed:
        first = history.errors[0] if history.errors else None
        most = ""
        if first is not None:
            most = f", most often with {words.name(first.exception)} in {words.name(first.prefix)}"
        sentence = (
            f"It ended in order after {lasted}, but {words.plural(tasks.failed, 'task')} of "
            f"{words.count(tasks.whole)} failed{most}{_also(tasks.undone)}."
        )
        return Verdict("poor", "ended with failures", sentence)
    if tasks.undone:
        sentence = f"It was closed after {lasted} with {_are(tasks.undone)} still undone{killed}."
        return Verdict("poor", "closed early", sentence)
    if not tasks.whole:
        return Verdict(
            "poor", "no work", f"It was closed after {lasted}; no task was submitted to it{killed}."
        )
    every = "its task is" if tasks.whole == 1 else f"all {words.count(tasks.whole)} tasks are"
    return Verdict("good", "finished", f"It finished: {every} done, in {lasted}{killed}.")


def _running(history: ClusterHistory, tasks: Counts, now: float) -> Verdict:
    workers = sum(usage.workers for usage in history.usage)
    age = words.length(max(0.0, now - history.cluster.started))
    heard = now - history.seen
    done = f"{words.count(tasks.done)} of {words.plural(tasks.whole, 'task')}"
    failed = f", {words.count(tasks.failed)} failed" if tasks.failed else ""
    if heard > patience(history.cluster.interval):
        age = words.length(max(0.0, history.seen - history.cluster.started))
        sentence = (
            f"Nothing was heard of it for {words.length(heard)}: its program was killed or hangs, "
            f"or can't write here. Until then, after {age}, {done} were done{failed}"
            f"{_killed(history)}."
        )
        return Verdict("poor", "not heard of", sentence)
    told = f"It has run for {age} with {words.plural(workers, 'worker')} now; {done} are done"
    return Verdict("live", "running", f"{told}{failed}.")


def _are(undone: int) -> str:
    return words.plural(undone, "task")


def _also(undone: int) -> str:
    return f", and {_are(undone)} stayed undone" if undone else ""


def _killed(history: ClusterHistory) -> str:
    """Return what else went wrong: workers that did not end as they should."""
    lost = sum(worker.ended is not None and not worker.expected for worker in history.workers)
    states = Counter(
        job.state.upper()
        for job in allocations(history)
        if job.state and (not lost or any(not stay.worker.expected for stay in job.stays))
    )
    good = ("COMPLETED", "ENDED", "RUNNING", "COMPLETING", "PENDING")
    bad = {s: n for s, n in states.items() if not s.startswith(good)}
    why = ", ".join(f"{n} {words.name(state)}" for state, n in bad.items())
    if lost:
        return f"; {words.plural(lost, 'worker')} died on the way" + (f" ({why})" if why else "")
    # A scheduler that is gone as well tells of no worker that died.
    return f"; of its jobs {why}" if why and history.end is None else ""
