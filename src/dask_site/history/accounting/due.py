"""Which jobs are to be asked for, and when."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from dask_site.history.accounting.verdicts import over
from dask_site.history.model import AccountedJob
from dask_site.history.store.claims import Claim

_DAY = 86400.0
#: Seconds after a cluster was last heard of until nothing more is asked about it: longer than
#: slurmdbd is down.
KEPT = 8 * _DAY
#: Seconds after its end when a job is asked for once more: energy and steps come late.
_AFTER = 300.0
_SOON, _SELDOM = 60.0, 900.0
_SLOWER = 0.1

# More than are asked for within the longest time from one question for a job to the next.
_REMEMBERED = 20_000

_NUMBER = re.compile(r"(\d{1,10})(?:_\d{1,9}|\+\d{1,4})?")
_POOL = re.compile(r"[A-Za-z0-9._-]{1,64}")

Pair = tuple[str, str]
_K = TypeVar("_K")
_V = TypeVar("_V")


def number_of(job: str) -> str | None:
    """Return the number that is asked for, None of what isn't Slurm's."""
    match = _NUMBER.fullmatch(job)
    return None if match is None else match[1]


def names_of(claim: Claim) -> list[str]:
    """Return the names of the jobs of a cluster with pools; none of other clusters."""
    if not claim.label:
        return []
    return [f"dask-{claim.label}-{pool}" for pool in sorted(claim.pools) if _POOL.fullmatch(pool)]


class Diary:
    """Remembers when jobs were asked for, the last some thousands of them.

    Whatever is forgotten, in time or as this process ends, is only asked for once more than needed:
    what matters is in the store.
    """

    def __init__(self) -> None:
        self._asked: dict[Pair, float] = {}
        self._dropped: dict[Pair, None] = {}
        self._named: dict[str, None] = {}

    def due(self, claims: Iterable[Claim], now: float) -> list[Pair]:
        """Return what is due, longest first, in turns: nobody waits for another's many jobs."""
        found = [
            (when, claim.owner, (claim.cluster, job))
            for claim in claims
            for job, rows, settled in self._jobs(claim, now)
            if not settled and (when := self._when(claim, job, rows)) <= now
        ]
        turns: Counter[int] = Counter()
        ordered = []
        for when, owner, pair in sorted(found):
            turns[owner] += 1
            ordered.append((turns[owner], when, pair))
        return [pair for _, _, pair in sorted(ordered)]

    def _when(self, claim: Claim, job: str, rows: Sequence[AccountedJob]) -> float:
        asked = self._asked.get((claim.cluster, job))
        if asked is None:
            return 0.0
        if rows and all(map(over, rows)):
            last = max(row.end or 0.0 for row in rows)
            return max(asked + _SOON, last + _AFTER)
        if rows and claim.ended:
            # Its jobs are about to end, or have: somebody waits for what became of them.
            return asked + _SOON
        since = max((row.submit or 0.0 for row in rows), default=claim.started)
        return asked + min(_SELDOM, max(_SOON, _SLOWER * (asked - since)))

    def asked(self, pairs: Iterable[Pair], refused: Iterable[Pair], now: float) -> None:
        """Note that there was an answer; it may not have said anything of a job."""
        self.refuse(refused)
        _remember(self._asked, dict.fromkeys(pairs, now))

    def refuse(self, pairs: Iterable[Pair]) -> set[Pair]:
        """Don't ask for some jobs again; return those that are new."""
        new = set(pairs) - self._dropped.keys()
        _remember(self._dropped, dict.fromkeys(new))
        return new

    def to_name(self, claim: Claim, now: float) -> bool:
        """Return whether jobs are to be looked for by name: once, when a cluster is over."""
        return claim.ended and claim.seen < now - _SOON and self._nameable(claim, now)

    def named(self, clusters: Iterable[str]) -> None:
        """Note that jobs were looked for by name."""
        _remember(self._named, dict.fromkeys(clusters))

    def unsettled(self, claim: Claim, now: float) -> bool:
        """Return whether something is still to be asked of a cluster."""
        if not claim.ended or self._nameable(claim, now):
            return True
        return any(not settled for *_, settled in self._jobs(claim, now))

    def _nameable(self, claim: Claim, now: float) -> bool:
        recent = claim.seen > now - _DAY and claim.cluster not in self._named
        return recent and bool(names_of(claim))

    def _jobs(self, claim: Claim, now: float) -> Iterator[tuple[str, Sequence[AccountedJob], bool]]:
        """Yield the jobs, what is known of each, and whether there is nothing more to learn."""
        known = {name for row in claim.rows for name in (row.id, row.raw)}
        rows_of = _by_name(claim.rows)
        for job in claim.jobs | {row.id for row in claim.rows if row.raw not in claim.jobs}:
            rows = rows_of.get(job, ())
            if (claim.cluster, job) in self._dropped or number_of(job) is None:
                yield job, rows, True
            elif job in known:
                yield job, rows, _settled(rows, now)
            else:
                # A day after its cluster nobody will have heard of it any more.
                late = claim.seen < now - _DAY and (claim.cluster, job) in self._asked
                yield job, rows, late


def _remember(notes: dict[_K, _V], new: Mapping[_K, _V]) -> None:
    """Add what is new behind all others, and forget the oldest where they are too many."""
    for key in new:
        notes.pop(key, None)
    notes.update(new)
    for key in list(islice(notes, max(0, len(notes) - _REMEMBERED))):
        del notes[key]


def _by_name(rows: Iterable[AccountedJob]) -> Mapping[str, list[AccountedJob]]:
    found: dict[str, list[AccountedJob]] = defaultdict(list)
    for row in rows:
        for name in {row.id, row.raw, row.id.partition("+")[0]}:
            found[name].append(row)
    return found


def _settled(rows: Sequence[AccountedJob], now: float) -> bool:
    last = max(rows, key=lambda row: row.submit or 0.0)
    if last.state == "REQUEUED" and (last.end or now) > now - _DAY:
        return False
    return all(over(row) and row.asked >= (row.end or 0.0) + _AFTER for row in rows)
