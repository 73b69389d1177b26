"""Brings the accounting of clusters' jobs up to date, a little at a time."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dask_site.history.accounting.asking import Ask, AskError, Question, Told, UnreadError
from dask_site.history.accounting.due import KEPT, Diary, Pair, names_of, number_of
from dask_site.history.accounting.sacct import elements
from dask_site.history.accounting.verdicts import over, why_told
from dask_site.history.accounting.waiting import Waiting
from dask_site.history.model import AccountedJob
from dask_site.history.store.claims import Claim
from dask_site.history.store.core import Store

logger = logging.getLogger("dask_site")
#: What is counted of users who name others' jobs as theirs (`Store.refusals`).
REFUSED = "the job of another user"

_JOBS, _NAMES = 1000, 200  # of one question
_SKEW = 300.0
# Of the manager's time we take at most one part in twenty.
_SHARE = 20
_LEAST, _LONGEST = 60.0, 1800.0


@dataclass(frozen=True)
class Refreshed:
    """What one call of `refresh` did.

    Attributes
    ----------
    asked : int
        Jobs and names that were asked for; 0 if it was not yet time, or nothing was due.
    kept : int
        Runs of jobs that are new in the store, or have changed.
    refused : int
        Jobs that are another user's.
    unknown : int
        Jobs that the manager doesn't know (yet, or no more).
    waiting : int
        Jobs that were due and are asked for later, of the clusters that were looked at.
    next : float
        When the manager may be asked again, in seconds since 1970.
    problem : str or None
        Why there was no answer; what is missing is caught up with later.
    """

    asked: int = 0
    kept: int = 0
    refused: int = 0
    unknown: int = 0
    waiting: int = 0
    next: float = 0.0
    problem: str | None = None


@dataclass
class _Pace:
    """When the manager may be asked: seldom, and more seldom when it suffers."""

    allowed: float = 0.0
    failures: int = 0
    problem: str | None = None

    def answered(self, now: float, took: float) -> None:
        self.failures, self.problem = 0, None
        self.allowed = now + took + max(_LEAST, _SHARE * took)

    def failed(self, now: float, took: float, problem: str) -> None:
        self.failures += 1
        pause = min(_LONGEST, max(_LEAST * 2 ** min(self.failures, 10), _SHARE * took))
        self.allowed, self.problem = now + took + pause, problem


@dataclass
class _Found:
    """Which runs are whose."""

    rows: dict[str, list[AccountedJob]] = field(default_factory=lambda: defaultdict(list))
    known: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)


class Accountant:
    """Asks for the jobs of the clusters in a store, and keeps the answers.

    A job is asked for until it has ended and once more afterwards; a job of which nobody knows
    anything, for a day after its cluster. What was kept stays, whatever the manager forgets.

    Parameters
    ----------
    store : Store
    ask : Ask
        Who answers.
    clock : callable
        Returns seconds; times the answers.
    """

    def __init__(self, store: Store, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._ask = ask
        self._clock = clock
        self._pace = _Pace()
        self._diary = Diary()
        self._waiting = Waiting(store)
        self._named_last = False

    def refresh(self, now: float) -> Refreshed:
        """Ask at most one question, if it is time; `now` in seconds since 1970."""
        if now < self._pace.allowed:
            return Refreshed(next=self._pace.allowed, problem=self._pace.problem)
        claims, due = self._gathered(now)
        jobs = list(_numbers(due))
        named = [claim for claim in claims if self._diary.to_name(claim, now)]
        if named and (not jobs or not self._named_last):
            return self._by_name(named, claims, now, len(jobs))
        self._named_last = False
        if not jobs:
            return Refreshed(next=self._pace.allowed)
        some = set(jobs[:_JOBS])
        asked = {(c, job) for c, job in due if number_of(job) in some}
        answer = self._answer(Question(jobs=tuple(jobs[:_JOBS])), now)
        if answer is None:
            return Refreshed(len(some), next=self._pace.allowed, problem=self._pace.problem)
        found = _belonging(answer, claims)
        done = self._keep(found, claims, now)
        unknown = {pair for pair in asked if pair not in found.known | found.refused}
        self._diary.asked(asked, found.refused, now)
        return replace(
            done,
            asked=len(some),
            unknown=len(unknown),
            waiting=len(jobs) - len(some),
            next=self._pace.allowed,
        )

    def _by_name(
        self, named: list[Claim], claims: list[Claim], now: float, waiting: int
    ) -> Refreshed:
        """Find jobs that a cluster asked for and had not written down yet when it died."""
        self._named_last = True
        of_name: dict[str, Claim] = {}
        asked: list[Claim] = []
        for claim in sorted(named, key=lambda c: c.started):
            names = names_of(claim)
            if asked and len(of_name) + len(names) > _NAMES:
                break
            asked.append(claim)
            of_name.update(dict.fromkeys(names, claim))
        since = min(claim.started for claim in asked) - _SKEW
        answer = self._answer(Question(names=tuple(of_name), since=since), now)
        if answer is None:
            return Refreshed(len(of_name), next=self._pace.allowed, problem=self._pace.problem)
        found = _Found()
        for told in answer:
            owner = of_name.get(told.name)
            if owner is None or not _at_its_time(told.job, owner):
                continue
            if told.uid != owner.owner:
                found.refused.add((owner.cluster, told.job.id))
                continue
            pool = told.name.removeprefix(f"dask-{owner.label}-")
            found.rows[owner.cluster].append(replace(told.job, pool=pool))
        done = self._keep(found, claims, now)
        self._diary.named(claim.cluster for claim in asked)
        return replace(done, asked=len(of_name), waiting=waiting, next=self._pace.allowed)

    def _gathered(self, now: float) -> tuple[list[Claim], list[Pair]]:
        """Return what is due, enough for a question, and the clusters of which something is."""
        claims: list[Claim] = []
        due: list[Pair] = []
        self._waiting.take_up(now)
        for part in self._waiting.parts():
            found = self._unsettled(part, now)
            more = self._diary.due(found, now)
            due += more
            having = {cluster for cluster, _ in more}
            claims += [c for c in found if c.cluster in having or self._diary.to_name(c, now)]
            if len(_numbers(due)) >= _JOBS or len(claims) >= _JOBS:
                break
        return claims, due

    def _unsettled(self, clusters: Collection[str], now: float) -> list[Claim]:
        found = [
            claim
            for claim in self._store.claims(math.inf, clusters)
            # One that was deleted, or that nothing is to be expected of, is not asked for again.
            if claim.seen > now - KEPT and self._diary.unsettled(claim, now)
        ]
        self._waiting.drop({*clusters} - {claim.cluster for claim in found})
        return found

    def _answer(self, question: Question, now: float) -> list[Told] | None:
        begun = self._clock()
        try:
            answer = list(self._ask(question))
        except UnreadError as error:
            self._pace.failed(now, _LONGEST, str(error))
            return None
        except AskError as error:
            if self._pace.problem is None:
                logger.warning("The accounting of jobs is caught up with later: %s", error)
            self._pace.failed(now, self._clock() - begun, str(error))
            return None
        self._pace.answered(now, self._clock() - begun)
        return answer

    def _keep(self, found: _Found, claims: Iterable[Claim], now: float) -> Refreshed:
        kept = 0
        by_cluster = {claim.cluster: claim for claim in claims}
        for cluster, rows in found.rows.items():
            claim = by_cluster[cluster]
            before = {row.run: row for row in claim.rows}
            after = dict(before)
            for row in rows:
                after[row.run] = _merged(row, before.get(row.run), now)
            changed = [row for run, row in after.items() if row != before.get(run)]
            kept += sum(_differ(row, before.get(row.run)) for row in changed)
            claim.rows = list(after.values())
            if changed:
                # The account of the first counts: not that of the session it was started from.
                ordered = sorted(after.values(), key=partial(_place, claim.own))
                pays = next((row for row in ordered if row.account), None)
                new = {row.run for row in changed}
                put = [row for row in ordered if row is pays or row.run in new]
                try:
                    self._store.put_accounting(cluster, put)
                except KeyError:
                    logger.debug("Cluster %s was deleted meanwhile", cluster)
                    continue
                why = why_told(ordered, claim.own, claim.seen) if claim.signalled else None
                if why is not None:
                    self._store.end(cluster, why, claim.seen)
        refused = self._diary.refuse(found.refused)
        for owner, n in Counter(by_cluster[cluster].owner for cluster, _ in refused).items():
            self._store.refuse(owner, REFUSED, n, now)
        return Refreshed(kept=kept, refused=len(refused))


def _place(own: str | None, row: AccountedJob) -> tuple[Any, ...]:
    """Return what puts jobs into the order of their submission, the session of their user last."""
    return own in (row.id, row.raw), row.submit or 0.0, len(row.id), row.id


def _numbers(due: Iterable[Pair]) -> dict[str, None]:
    """Return what is to be asked for, each once: elements of an array have one number."""
    return dict.fromkeys(number for _, job in due if (number := number_of(job)))


def _belonging(answer: Iterable[Told], claims: Iterable[Claim]) -> _Found:
    """Say which runs are whose; nobody has a job of another user."""
    by_job: dict[str, list[Claim]] = defaultdict(list)
    by_array: dict[str, list[tuple[str, Claim]]] = defaultdict(list)
    for claim in claims:
        for name in claim.jobs | {row.id for row in claim.rows}:
            by_job[name].append(claim)
            array, _, element = name.partition("_")
            if element.isdigit():
                by_array[array].append((name, claim))
    found = _Found()
    for told in answer:
        job = told.job
        if "_[" in job.id:
            ranges = list(elements(job.id))
            for name, claim in by_array[job.id.partition("_")[0]]:
                if any(int(name.partition("_")[2]) in some for some in ranges):
                    _put(found, claim, name, replace(job, id=name, raw=""), told.uid)
            continue
        # Workers know the first number of a job of several parts.
        names = {job.id, job.raw, job.id.partition("+")[0]} - {""}
        for name in sorted(names & by_job.keys()):
            for claim in by_job[name]:
                _put(found, claim, name, job, told.uid)
    return found


def _put(found: _Found, claim: Claim, name: str, job: AccountedJob, uid: int) -> None:
    if not _at_its_time(job, claim):
        return
    if uid != claim.owner:
        found.refused.add((claim.cluster, name))
        return
    found.known.add((claim.cluster, name))
    found.rows[claim.cluster].append(job)


def _at_its_time(job: AccountedJob, claim: Claim) -> bool:
    """Return whether a job can be of a cluster: numbers begin again at 1 some day."""
    early = job.end is not None and job.end < claim.started - _SKEW
    return not early and (job.submit is None or job.submit < claim.seen + KEPT)


def _merged(new: AccountedJob, old: AccountedJob | None, now: float) -> AccountedJob:
    """Return what is known now; steps may be forgotten before their job is."""
    if old is None:
        return replace(new, asked=now)
    kept = replace(
        new,
        pool=new.pool or old.pool,
        max_rss=old.max_rss if new.max_rss is None else new.max_rss,
        energy=old.energy if new.energy is None else new.energy,
        asked=old.asked,
    )
    # Written only if it says more, or that it was asked for once more after the end.
    return replace(kept, asked=now) if kept != old or over(new) else kept


def _differ(new: AccountedJob, old: AccountedJob | None) -> bool:
    return old is None or replace(new, asked=old.asked) != old
