"""Judges what was lost with a worker: waits for what is known of its death, then acts on it."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from dask_site.cluster.records import CLOSING, ENDED, JobRecord
from dask_site.cluster.resources import MEMORY as MEMORY_RESOURCE
from dask_site.cluster.resources import pool_of
from dask_site.faults import ruling, story
from dask_site.faults.blackbox import TOPIC
from dask_site.faults.errors import TaskCrashed, TaskOutOfMemory
from dask_site.faults.evidence import (
    CRASH,
    MEMORY,
    PARDON,
    TIME_UP,
    UNKNOWN,
    Evidence,
    Finding,
    of_report,
    of_verdict,
)
from dask_site.faults.ruling import Court, Ordeal, Place, Ruling, Suspect

if TYPE_CHECKING:
    from dask_site.site import Site

logger = logging.getLogger("dask_site")

# Seconds: nannies tell within one; the resource manager is asked every ten.
_NANNY_TELLS = 2.0
_MANAGER_TELLS = 20.0
# Evidence may come before its worker is missed, and long after.
_EARLY_KEPT = 60.0
_LATE_TAKEN = 300.0
_DEADLINE_MARGIN = timedelta(seconds=5)
_MANY_WARNINGS = 10
_WARNINGS_SECONDS = 60.0


@dataclass(frozen=True)
class FaultEvent:
    """One worker's death, and what followed.

    Attributes
    ----------
    time : datetime
        When it was judged, UTC.
    cause : str
        memory, crash, pardon or unknown.
    worker, pool, node : str
        Where.
    keys : tuple
        The tasks that it was executing, or may have been.
    did : str
        What became of them.
    how : str
        How the worker died, for people.
    """

    time: datetime
    cause: str
    worker: str
    pool: str
    node: str
    keys: tuple[Any, ...]
    did: str
    how: str = ""


@dataclass
class _Case:
    """One lost worker whose tasks are not all judged."""

    address: str
    place: Place
    record: JobRecord | None
    last_worker: Any
    keys: frozenset[Any]
    held: dict[Any, None]
    suspects: tuple[Any, ...]
    evidence: Evidence
    cause: str = ""
    unsure: bool = False
    closed_at: float = 0.0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Judge(SchedulerPlugin):
    """Finds out why workers died, and decides what their tasks do next.

    All tasks of a lost worker are held. Its nanny usually tells within a second what it was
    executing and how it died: the other tasks go on at once, and the executing ones by the cause.
    Where no nanny tells, the resource manager's word is waited for.

    Parameters
    ----------
    site : Site
        The pools, and the order in which tasks move on that ran out of memory.
    scheduler : PoolScheduler
        Holds, restricts, lets go and fails tasks.
    job_of : callable
        Worker address to the JobRecord of its job, or None.

    Attributes
    ----------
    events : deque of FaultEvent
        The last thousand, oldest first.
    """

    name = "dask-site-judge"

    def __init__(
        self, site: Site, scheduler: Any, job_of: Callable[[str], JobRecord | None]
    ) -> None:
        self.events: deque[FaultEvent] = deque(maxlen=1000)
        self._site = site
        self._scheduler = scheduler
        self._job_of = job_of
        self._court = Court(site, self._finished)
        self._open: dict[str, _Case] = {}
        self._closed: deque[_Case] = deque(maxlen=1000)
        self._early: dict[str, tuple[float, Evidence]] = {}
        self._verdicts: dict[str, tuple[float, Finding]] = {}
        self._explained: set[str] = set()
        self._ordeals: dict[Any, tuple[weakref.ref[Any], Ordeal]] = {}
        self._warned_at: deque[float] = deque(maxlen=_MANY_WARNINGS)
        self._stopped = False

    # -- what others ask ---------------------------------------------------------------------

    def need_of_prefix(self, prefix: str) -> int | None:
        """Return the bytes that tasks of a prefix are known to need; None if that is not known."""
        return self._court.need_of_prefix(prefix)

    def hungry(self) -> dict[str, int]:
        """Return the prefixes whose tasks are known to need memory, and how many bytes."""
        return self._court.hungry()

    @property
    def waiting(self) -> set[Any]:
        """The keys that are held until more is known."""
        return {key for case in self._open.values() for key in case.held}

    def troubles(self) -> dict[Any, str]:
        """Return what keeps tasks from ending that have not, by key."""
        return {
            key: ordeal.trouble
            for key, (ref, ordeal) in self._ordeals.items()
            if ordeal.trouble and ref() is not None and not self._is_done(key)
        }

    def stop(self) -> None:
        """Judge no more; call it before the workers are told to close."""
        self._stopped = True
        for case in self._open.values():
            _cancel(case.timers)
        self._open.clear()

    async def close(self) -> None:
        """Stop with the scheduler."""
        self.stop()

    # -- what happens ------------------------------------------------------------------------

    def worker_lost(self, ws: Any) -> None:
        """Hold the tasks of a worker that is gone, before distributed takes them off it.

        Parameters
        ----------
        ws : distributed.scheduler.WorkerState
            With its tasks still in `processing`.
        """
        if self._stopped:
            return
        record = self._job_of(ws.address)
        case = self._case(ws, record)
        pardon = _settled(record)
        if pardon is None and case.evidence.final and case.evidence.finding.cause == PARDON:
            pardon = case.evidence.finding
        if pardon is not None and not self._cut_off_before(case, pardon):
            self._pardoned(case, pardon)
            return
        self._scheduler.hold(case.held)
        self._open[case.address] = case
        loop = asyncio.get_running_loop()
        if pardon is not None:
            case.timers = [loop.call_later(0, self._decide, [case], pardon)]
            return
        # Not at once: what can be done to a task can be done when it is off the worker.
        at_once = case.evidence.final or self._verdict(record) is not None
        case.timers = [
            loop.call_later(0 if at_once else _NANNY_TELLS, self._look, case),
            loop.call_later(_MANAGER_TELLS, self._give_up_waiting, case),
        ]

    def worker_retired(self, ws: Any) -> None:
        """Note which tasks a worker did not finish that is taken away since its time is over."""
        record = self._job_of(ws.address)
        if record is not None and record.time_up:
            self.worker_lost(ws)

    def _cut_off_before(self, case: _Case, finding: Finding) -> bool:
        """Say whether a task is cut off here by a walltime, and has been before."""
        if finding != TIME_UP:
            return False
        self._suspect(case)
        known = (self._ordeals.get(key) for key in case.suspects)
        return any(entry is not None and entry[1].cut_off for entry in known)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take what nannies and workers say of a worker's end (distributed's plugin interface)."""
        if topic == TOPIC:
            self._tell(msg["worker"], of_report(msg))
        elif topic == "worker-restart-memory":
            self._tell(msg["worker"], Evidence(nanny_kill=True, peak=int(msg["rss"])))
        elif isinstance(msg, dict) and msg.get("action") == "closing-worker":
            self._tell(topic, Evidence(closing=str(msg.get("reason") or "closing")))

    def job_ended(self, record: JobRecord, verdict: str, reason: str = "") -> None:
        """Take the resource manager's word for how a job ended, or why it was queued again."""
        if self._stopped:
            return
        finding = of_verdict(verdict, reason)
        now = time.monotonic()
        self._verdicts = {k: v for k, v in self._verdicts.items() if now - v[0] < _EARLY_KEPT}
        self._verdicts[record.name] = (now, finding)
        cases = [case for case in self._open.values() if case.record is record]
        late = [c for c in self._closed if c.record is record and now - c.closed_at < _LATE_TAKEN]
        if finding.cause == MEMORY and record.name in self._explained:
            # The manager says so of a whole job because of one worker, whose nanny has told.
            finding = of_verdict("CANCELLED")
        self._decide(cases, finding)
        self._remember([c for c in late if c.cause not in {MEMORY, CRASH}], finding)

    # -- evidence ----------------------------------------------------------------------------

    def _tell(self, address: str | None, evidence: Evidence) -> None:
        if self._stopped or not address:
            return
        case = self._open.get(address)
        if case is not None:
            case.evidence += evidence
            if case.evidence.final:
                self._look(case)
            return
        late = next((c for c in self._closed if c.address == address), None)
        if late is not None:
            late.evidence += evidence
            if evidence.final and late.cause not in {MEMORY, CRASH}:
                self._suspect(late)
                self._remember([late], late.evidence.finding)
            return
        now = time.monotonic()
        self._early = {k: v for k, v in self._early.items() if now - v[0] < _EARLY_KEPT}
        before = self._early.get(address, (0.0, Evidence()))[1]
        self._early[address] = (now, before + evidence)

    def _case(self, ws: Any, record: JobRecord | None) -> _Case:
        pool = record.pool if record is not None else pool_of(ws.resources) or ""
        memory = int(ws.resources.get(MEMORY_RESOURCE, 0)) or int(ws.memory_limit or 0)
        node = (record.node if record is not None else "") or str(ws.host)
        _, evidence = self._early.pop(ws.address, (0.0, Evidence()))
        return _Case(
            address=ws.address,
            place=Place(str(ws.name), pool, node, memory),
            record=record,
            last_worker=ws.clean(),
            keys=frozenset(ts.key for ts in ws.processing),
            held=dict.fromkeys(ts.key for ts in ws.processing),
            suspects=_by_guess(ws),
            evidence=evidence,
        )

    def _verdict(self, record: JobRecord | None) -> Finding | None:
        if record is None or record.name not in self._verdicts:
            return None
        at, finding = self._verdicts[record.name]
        return finding if time.monotonic() - at < _EARLY_KEPT else None

    def _suspect(self, case: _Case) -> None:
        """Take over what the worker was executing, where its nanny knows that."""
        evidence = case.evidence
        if evidence.error:
            case.suspects = tuple(case.keys)  # it may have failed to read any of them
            return
        if evidence.executing is None:
            return
        exact = tuple(key for key in evidence.executing if key in case.keys)
        # Something else ran than we may judge, such as a task that was cancelled meanwhile.
        case.unsure = not evidence.complete or len(exact) != max(1, len(evidence.executing))
        if not evidence.complete:
            case.suspects = tuple(dict.fromkeys((*exact, *case.suspects)))
        elif evidence.executing:
            case.suspects = exact
        elif evidence.finding.cause not in {MEMORY, CRASH}:
            case.suspects = ()
        # Else it died of what it did for those that were to be next, such as fetching their inputs.

    def _look(self, case: _Case) -> None:
        """Decide if the evidence is enough, else let those go that are hardly suspect."""
        if self._open.get(case.address) is case:
            with self._letting_go([case]):
                self._inquire(case)

    def _inquire(self, case: _Case) -> None:
        self._suspect(case)
        if case.evidence.final or case.evidence.nanny_kill:
            self._decide([case], case.evidence.finding)
            return
        verdict = self._verdict(case.record)
        if verdict is not None:
            self._decide([case], verdict)
            return
        bystanders = [key for key in case.held if key not in case.suspects]
        for key in bystanders:
            del case.held[key]
        self._release(bystanders)
        if not case.suspects:
            self._decide([case], Finding(UNKNOWN, "is gone"))

    @contextmanager
    def _letting_go(self, cases: list[_Case]) -> Iterator[None]:
        """Let the tasks go on whatever goes wrong here: held, they would wait for ever."""
        try:
            yield
        except Exception:
            logger.warning("Judging a lost worker went wrong; its tasks go on.", exc_info=True)
            for case in cases:
                _cancel(case.timers)
                self._open.pop(case.address, None)
                self._scheduler.let_go(case.held)

    def _give_up_waiting(self, case: _Case) -> None:
        if self._open.get(case.address) is case:
            self._decide([case], Finding(UNKNOWN, "is gone, and nothing says why"))

    # -- decisions ---------------------------------------------------------------------------

    def _decide(self, cases: list[_Case], finding: Finding) -> None:
        """Rule on the suspects of one worker, or of several workers of one job."""
        with self._letting_go(cases):
            self._settle(cases, finding)

    def _settle(self, cases: list[_Case], finding: Finding) -> None:
        suspects = {case.address: self._suspects_of(case) for case in cases}
        together = sum(map(len, suspects.values()))
        for case in cases:
            mine = suspects[case.address]
            _cancel(case.timers)
            self._open.pop(case.address, None)
            if finding.cause != PARDON:
                self._tell_of(case, finding, mine, together)
            rulings = self._rule(case, finding, mine, together)
            self._carry_out(case, finding, rulings)
            self._close(case, finding, rulings)

    def _tell_of(
        self, case: _Case, finding: Finding, suspects: list[Suspect], together: int
    ) -> None:
        for suspect in suspects:
            line = story.line(case.place, finding, case.evidence.peak, together - 1)
            suspect.ordeal.tell(line)

    def _rule(
        self, case: _Case, finding: Finding, suspects: list[Suspect], together: int
    ) -> list[Ruling]:
        if not suspects:
            return []
        sole = together == 1 and not case.unsure
        if finding.cause == MEMORY:
            return self._court.memory(suspects, case.place, case.evidence.peak, sole=sole)
        if finding.cause == CRASH:
            return self._court.crash(suspects, case.place, sole=sole)
        if finding == TIME_UP:
            return self._court.time_up(suspects, case.place)
        if finding.cause == PARDON:
            return [Ruling(suspect.key, ruling.AGAIN) for suspect in suspects]
        return self._court.unknown(suspects)

    def _suspects_of(self, case: _Case) -> list[Suspect]:
        tasks = self._scheduler.tasks
        found = []
        for key in case.suspects:
            ts = tasks.get(key)
            if ts is not None:
                found.append(
                    Suspect(
                        key,
                        ts.prefix.name,
                        dict(ts.resource_restrictions or {}),
                        self._ordeal(ts),
                        not (ts.worker_restrictions or ts.host_restrictions),
                    )
                )
        return found

    def _ordeal(self, ts: Any) -> Ordeal:
        ref, ordeal = self._ordeals.get(ts.key, (None, None))
        if ordeal is None or ref is None or ref() is not ts:
            ordeal = Ordeal()
            self._ordeals[ts.key] = (weakref.ref(ts, partial(self._forget, ts.key)), ordeal)
        return ordeal

    def _forget(self, key: Any, ref: weakref.ref[Any]) -> None:
        if self._ordeals.get(key, (None,))[0] is ref:
            del self._ordeals[key]

    def _carry_out(self, case: _Case, finding: Finding, rulings: list[Ruling]) -> None:
        for one in rulings:
            if one.resources is not None:
                self._restrict(one.key, one.resources)
            # One that went on before this was known is left to itself: it fails the next time.
            if one.do in {ruling.CRASHED, ruling.TOO_LARGE} and one.key in case.held:
                del case.held[one.key]
                self._scheduler.fail(one.key, self._error(case, one))
        others = len(set(case.held) - {one.key for one in rulings})
        self._release(case.held)
        peak = case.evidence.peak if finding.cause == MEMORY else 0
        text = story.warning(case.place, finding, peak, rulings, others, self._court)
        if finding.cause == PARDON:
            logger.info(text)
            self._tell_of_walltimes(case, rulings)
        else:
            self._warn(text)

    def _tell_of_walltimes(self, case: _Case, rulings: list[Ruling]) -> None:
        """Warn of tasks that are longer than a walltime: once, and when they move."""
        for one in rulings:
            ts = self._scheduler.tasks.get(one.key)
            ordeal = self._ordeal(ts) if ts is not None else Ordeal()
            if ordeal.cut_off < ruling.CUT_OFF:
                continue
            text = story.cut_off(one.key, ordeal, case.place, one.pool, self._site)
            ordeal.trouble = text
            if one.do == ruling.LONGER or ordeal.cut_off == ruling.CUT_OFF:
                self._warn(text)

    def _restrict(self, key: Any, resources: dict[str, float]) -> None:
        ts = self._scheduler.tasks.get(key)
        if ts is None:
            return
        done = self._scheduler.restrict(key, resources)
        self._ordeal(ts).pending = None if done is not False else resources

    def _release(self, keys: Iterable[Any]) -> None:
        """Let tasks go on, with what was found out about them since they last began."""
        keys = list(keys)
        for key in keys:
            if key in self._ordeals and (ts := self._scheduler.tasks.get(key)) is not None:
                pending = self._ordeal(ts).pending
                if pending is not None:
                    self._restrict(key, pending)
        self._scheduler.let_go(keys)

    def _error(self, case: _Case, one: Ruling) -> TaskCrashed:
        ordeal = self._ordeal(self._scheduler.tasks[one.key])
        if one.do == ruling.TOO_LARGE:
            text = story.too_large(one.key, ordeal, self._site, self._court.largest)
            return TaskOutOfMemory(one.key, case.last_worker, len(ordeal.story), text)
        text = story.crashed(one.key, ordeal, case.evidence.error)
        return TaskCrashed(one.key, case.last_worker, len(ordeal.story), text)

    def _pardoned(self, case: _Case, finding: Finding) -> None:
        self._suspect(case)
        case.held.clear()
        rulings = self._rule(case, finding, self._suspects_of(case), 0)
        logger.info(story.warning(case.place, finding, 0, rulings, 0, self._court))
        self._close(case, finding, rulings)

    def _close(self, case: _Case, finding: Finding, rulings: list[Ruling]) -> None:
        case.held.clear()
        case.cause = finding.cause
        if finding.cause == MEMORY and case.record is not None:
            self._explained.add(case.record.name)
        if finding.cause in {MEMORY, CRASH}:
            case.keys = frozenset()
        now = case.closed_at = time.monotonic()
        while self._closed and now - self._closed[0].closed_at > _LATE_TAKEN:
            self._closed.popleft()
        self._closed.append(case)
        self._event(case, finding, rulings)

    def _event(self, case: _Case, finding: Finding, rulings: list[Ruling]) -> None:
        place = case.place
        self.events.append(
            FaultEvent(
                time=datetime.now(UTC),
                cause=finding.cause,
                worker=place.worker,
                pool=place.pool,
                node=place.node,
                keys=tuple(one.key for one in rulings),
                did=story.did(rulings),
                how=finding.how,
            )
        )

    def _remember(self, cases: list[_Case], finding: Finding) -> None:
        """Take evidence that comes when the tasks are on their way again.

        Those that wait somewhere are restricted now; for the others it waits until they are lost
        again, if ever.
        """
        if finding.cause == UNKNOWN:
            return
        suspects = {case.address: self._suspects_of(case) for case in cases}
        together = sum(map(len, suspects.values()))
        for case in cases:
            before, case.cause = case.cause, finding.cause
            if finding.cause == MEMORY and case.record is not None:
                self._explained.add(case.record.name)
            if finding.cause == PARDON and before == UNKNOWN:
                for suspect in suspects[case.address]:
                    suspect.ordeal.losses -= 1
            if finding.cause not in {MEMORY, CRASH}:
                continue
            mine = [s for s in suspects[case.address] if not self._is_done(s.key)]
            if before == PARDON:
                self._tell_of(case, finding, mine, together)
            rulings = self._rule(case, finding, mine, together)
            for one in rulings:
                if one.resources is not None:
                    self._restrict(one.key, one.resources)
            self._event(case, finding, rulings)

    # -- small questions ---------------------------------------------------------------------

    def _finished(self, prefix: str) -> int:
        known = self._scheduler.task_prefixes.get(prefix)
        return known.state_counts["memory"] if known is not None else 0

    def _is_done(self, key: Any) -> bool:
        return self._scheduler.tasks[key].state in {"memory", "erred", "forgotten"}

    def _warn(self, text: str) -> None:
        now = time.monotonic()
        full = len(self._warned_at) == _MANY_WARNINGS
        if full and now - self._warned_at[0] < _WARNINGS_SECONDS:
            logger.info(text)
            return
        self._warned_at.append(now)
        last = len(self._warned_at) == _MANY_WARNINGS
        if last and now - self._warned_at[0] < _WARNINGS_SECONDS:
            text += " Others in this minute are not told one by one."
        logger.warning(text)


def _settled(record: JobRecord | None) -> Finding | None:
    """Return why a worker's end needs no inquiry: we wanted it, or its time was over."""
    if record is None:
        return None
    if record.time_up:
        return TIME_UP
    if record.state == CLOSING or (record.state == ENDED and record.verdict != "OUT_OF_MEMORY"):
        return Finding(PARDON, "is gone: its job was given back")
    if record.deadline is not None and datetime.now(UTC) >= record.deadline - _DEADLINE_MARGIN:
        return TIME_UP
    return None


def _by_guess(ws: Any) -> tuple[Any, ...]:
    """Return the keys that a worker was probably executing, by its last heartbeat and priority."""
    seen = dict.fromkeys(
        [ts for ts in ws.processing if ts in ws.executing or ts in ws.long_running]
    )
    room = max(0, ws.nthreads - len(seen))
    if room:
        rest = sorted((ts for ts in ws.processing if ts not in seen), key=lambda ts: ts.priority)
        seen |= dict.fromkeys(rest[:room])
    return tuple(ts.key for ts in seen)


def _cancel(timers: Iterable[asyncio.TimerHandle]) -> None:
    for timer in timers:
        timer.cancel()
