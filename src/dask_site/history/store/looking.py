"""Questions of a site's overview: what is held and not used, which errors many have, lost work.

As `listing`, each is plain SQL that is asked through an `Ask`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask_site.history.store.keys import named, parts
from dask_site.history.store.listing import Ask

#: Spans of which sums by name are made; the latest count.
MOST_SPANS = 20_000
#: Seconds for which what runs has to be without a task to count as unused.
UNUSED_AFTER = 600.0


@dataclass(frozen=True)
class Unused:
    """A pool of a cluster that runs, in which no thread has had a task for a while.

    Attributes
    ----------
    pool : str
        Empty for workers without one.
    idle : float
        Thread-seconds without a task, since the cluster started.
    """

    cluster: str
    name: str | None
    program: str
    kind: str
    owner: str
    account: str
    pool: str
    started: float
    seen: float
    workers: int
    threads: int
    idle: float


@dataclass(frozen=True)
class SharedError:
    """An exception, and how many users had it."""

    exception: str
    prefix: str
    users: int
    clusters: int
    count: int
    last: float


@dataclass(frozen=True)
class SpanSum:
    """What the spans of one name took: thread-seconds by the words of span records."""

    name: tuple[str, ...]
    spans: int
    tasks: int
    execute: dict[str, float]


_UNUSED = (
    "SELECT c.id, c.name, c.program, c.kind, o.name, c.account, u.pool, c.started, c.seen,"
    " u.workers, u.nthreads, u.total - u.busy FROM clusters c JOIN owners o ON o.uid = c.owner"
    " JOIN usage u ON u.cluster = c.no LEFT JOIN ends e ON e.cluster = c.no"
    " WHERE c.latest >= :since AND e.cluster IS NULL AND u.nthreads > 0 AND u.processing = 0"
    " AND u.queued = 0"
    # The pool was there and has not been busy since, and had nothing in between.
    " AND EXISTS (SELECT 1 FROM samples s WHERE s.cluster = c.no AND s.pool = u.pool"
    "  AND s.t <= u.t - :idle AND s.nthreads > 0 AND coalesce(s.busy, 0) >= u.busy - 0.01)"
    " AND NOT EXISTS (SELECT 1 FROM samples s WHERE s.cluster = c.no AND s.pool = u.pool"
    "  AND s.t > u.t - :idle AND s.processing + s.queued > 0)"
    "{} ORDER BY u.total - u.busy DESC LIMIT :most"
)
_ERRORS = (
    "SELECT x.exception, min(x.prefix), count(DISTINCT c.owner), count(DISTINCT c.no),"
    " sum(x.count + 0.0), max(c.latest) FROM clusters c JOIN errors x ON x.cluster = c.no"
    " WHERE c.latest >= :since{} GROUP BY x.exception"
    " ORDER BY count(DISTINCT c.owner) DESC, sum(x.count + 0.0) DESC LIMIT :most"
)
_OWNERS = "SELECT uid, name FROM owners WHERE uid IN ({})"
_SPANS = (
    "SELECT s.name, s.total, s.execute FROM clusters c JOIN spans s ON s.cluster = c.no"
    " WHERE c.latest >= :since{} ORDER BY c.latest DESC LIMIT :most"
)


def unused(ask: Ask, since: float, account: str | None = None, most: int = 50) -> list[Unused]:
    """Return what runs and is not used, the most idle first, of clusters heard of since.

    A pool counts that has had no task for `UNUSED_AFTER` at least.
    """
    sql, values = _of(_UNUSED, since, most, account=account)
    rows = ask(sql, {**values, "idle": UNUSED_AFTER})
    return [Unused(*row) for row in rows]


def shared_errors(
    ask: Ask, since: float, account: str | None = None, most: int = 20
) -> list[SharedError]:
    """Return exceptions of clusters heard of since, those that most users had first."""
    rows = ask(*_of(_ERRORS, since, most, account=account))
    # What PostgreSQL adds up comes as a Decimal.
    return [
        SharedError(exception, prefix, users, clusters, int(count), last)
        for exception, prefix, users, clusters, count, last in rows
    ]


def span_sums(
    ask: Ask, since: float, owner: int | None = None, account: str | None = None
) -> list[SpanSum]:
    """Return what spans took, by name, the longest first; of at most `MOST_SPANS` spans."""
    execute: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, total, words in ask(*_of(_SPANS, since, MOST_SPANS, owner=owner, account=account)):
        counts[name][0] += 1
        counts[name][1] += total
        for word, seconds in json.loads(words).items():
            execute[name][word] += seconds
    found = [
        SpanSum(tuple(json.loads(name)), spans, tasks, dict(execute[name]))
        for name, (spans, tasks) in counts.items()
    ]
    return sorted(found, key=lambda one: -sum(one.execute.values()))


def owner_names(ask: Ask, uids: Sequence[int]) -> dict[int, str]:
    """Return the names of users as the records' files had them."""
    found: dict[int, str] = {}
    for some in parts(uids):
        names, values = named(some)
        found.update((int(uid), str(name)) for uid, name in ask(_OWNERS.format(names), values))
    return found


def _of(sql: str, since: float, most: int, **only: Any) -> tuple[str, dict[str, Any]]:
    asked = {name: value for name, value in only.items() if value is not None}
    tests = "".join(f" AND c.{name} = :{name}" for name in asked)
    return sql.format(tests), {"since": since, "most": most, **asked}
