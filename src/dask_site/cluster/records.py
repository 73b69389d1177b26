"""The jobs of a cluster and the tables that show them."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SUBMITTING = "submitting"
PENDING = "pending"
STARTING = "starting"
RUNNING = "running"
CLOSING = "closing"
ENDED = "ended"
FAILED = "failed"

#: States of a job that is, or may still become, part of the cluster.
LIVE = frozenset({SUBMITTING, PENDING, STARTING, RUNNING})


@dataclass
class JobRecord:
    """One job that a cluster asked for.

    Attributes
    ----------
    name : str
        Name of its worker within the cluster, such as ``gpu-0``.
    pool : str
        Pool it belongs to.
    processes : int
        Workers that it brings.
    job_id : str
        The resource manager's number; empty until it was submitted.
    state : str
        ``submitting``, ``pending`` (in the queue), ``starting`` (runs, not all workers joined),
        ``running``, ``closing``, ``ended`` or ``failed``.
    node : str
        Where it runs or ran.
    reason : str
        Why it is pending, or how it ended, in the resource manager's words.
    since : datetime
        When it entered its state, UTC.
    verdict : str
        The resource manager's own word for how it ended, such as COMPLETED or TIMEOUT; empty until
        then, and for a submission that was refused.
    submitted, started, finished : datetime or None
        When the manager took it, when its allocation began and ended, UTC. After it was queued
        again, `started` is that of the new run, None until that begins.
    joined_at : datetime or None
        When its first worker joined, in the run that is now or was last.
    expected_start : datetime or None
        When the manager thinks that it starts; None where it has not said.
    workers, joins : dict
        Address to name of the workers that are there, and address to the time of joining, UTC, also
        of those that have left.
    walltime : timedelta or None
        How long it may run.
    computed : bool
        Whether its workers ever finished a task.
    counts : bool
        Whether its end counts as a failure of its pool.
    time_up : bool
        Whether it is ended by us because its walltime is nearly over.
    deadline : datetime or None
        When the manager ends it; None until it has started, and where nothing limits it.
    over : bool
        Whether what it ran is over, though the manager has not let go of its node yet.
    """

    name: str
    pool: str
    processes: int = 1
    job_id: str = ""
    state: str = SUBMITTING
    node: str = ""
    reason: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    verdict: str = ""
    submitted: datetime | None = field(default=None, repr=False)
    expected_start: datetime | None = field(default=None, repr=False)
    started: datetime | None = field(default=None, repr=False)
    joined_at: datetime | None = field(default=None, repr=False)
    finished: datetime | None = field(default=None, repr=False)
    walltime: timedelta | None = field(default=None, repr=False)
    deadline: datetime | None = field(default=None, repr=False)
    computed: bool = field(default=False, repr=False)
    counts: bool = field(default=False, repr=False)
    time_up: bool = field(default=False, repr=False)
    over: bool = field(default=False, repr=False)
    restarts: int = field(default=0, repr=False)
    spent: float = field(default=0.0, repr=False)
    workers: dict[str, str] = field(default_factory=dict, repr=False)
    joins: dict[str, datetime] = field(default_factory=dict, repr=False)
    warned: str = field(default="", repr=False)
    advice: str = field(default="", repr=False)

    def enter(self, state: str, reason: str = "") -> None:
        """Change the state and note when."""
        now = datetime.now(UTC)
        if state != self.state:
            self.since = now
            # When its allocation began and ended, as seen from here.
            if state in {STARTING, RUNNING} and self.started is None:
                self.starts(now)
            if state in {ENDED, FAILED} and self.finished is None:
                self.finished = now
        self.state, self.reason = state, reason

    def starts(self, when: datetime, until: datetime | None = None) -> None:
        """Note when its allocation began and, where the manager says, when it will end it."""
        self.started, self.expected_start = when, None
        self.deadline = until
        if until is None and self.walltime is not None:
            self.deadline = when + self.walltime

    def queued_again(self) -> None:
        """Begin anew: the manager took it off its node and put it back into the queue."""
        self.spent = self.seconds
        self.withdraw()
        self.restarts += 1

    def withdraw(self) -> None:
        """Take back that it runs."""
        self.node = ""
        self.started = self.joined_at = self.deadline = None

    def goes_by(self, name: str) -> bool:
        """Say whether `name` is this job's name or number, or the name or address of its worker."""
        return name in {self.name, self.job_id, *self.workers, *self.workers.values()}

    @property
    def live(self) -> bool:
        """Whether it is, or may still become, part of the cluster."""
        return self.state in LIVE

    @property
    def joined(self) -> bool:
        """Whether a worker of it ever joined, in the run that is now or was last."""
        return self.joined_at is not None

    @property
    def seconds(self) -> float:
        """How long it has run, or ran, as far as this process saw it; all its runs together."""
        if self.started is None:
            return self.spent
        now = self.finished or datetime.now(UTC)
        return self.spent + max(0.0, (now - self.started).total_seconds())

    def __str__(self) -> str:
        number = f"job {self.job_id}" if self.job_id else "a job"
        return f"pool {self.pool!r}, {number}{f' on {self.node}' if self.node else ''}"


def sentence(text: str) -> str:
    """Return text with its first letter large; the rest, names of nodes for one, stays."""
    return text[:1].upper() + text[1:]


class Table(Sequence[Any]):
    """Rows of one dataclass, shown as an aligned table in a terminal and as HTML in a notebook.

    Parameters
    ----------
    rows : sequence
        What the table holds; indexing and iterating give these objects.
    columns : dict
        Heading to a function from a row to its text. A heading that ends in a space is
        right-aligned.
    """

    def __init__(self, rows: Sequence[Any], columns: dict[str, Callable[[Any], str]]) -> None:
        self._rows = list(rows)
        self._columns = columns

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as plain dictionaries, for machines."""
        return [asdict(row) for row in self._rows]

    def __repr__(self) -> str:
        cells = [[heading.strip() for heading in self._columns]]
        cells += [[column(row) for column in self._columns.values()] for row in self._rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self._columns))]
        right = [heading.endswith(" ") for heading in self._columns]
        return "\n".join(
            "  ".join(
                text.rjust(width) if to_right else text.ljust(width)
                for text, width, to_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        )

    def _repr_html_(self) -> str:
        def line(tag: str, texts: Iterable[str]) -> str:
            sides = ("right" if heading.endswith(" ") else "left" for heading in self._columns)
            cells = (
                f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag}>'
                for side, text in zip(sides, texts, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        head = line("th", (heading.strip() for heading in self._columns))
        body = "".join(
            line("td", (column(row) for column in self._columns.values())) for row in self._rows
        )
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def job_table(records: Sequence[JobRecord]) -> Table:
    """Return the table of a cluster's jobs."""
    return Table(
        records,
        {
            "job": lambda r: r.job_id or "-",
            "pool": lambda r: r.pool,
            "node": lambda r: r.node or "-",
            "state": lambda r: r.state,
            "since": lambda r: r.since.strftime("%Y-%m-%d %H:%M:%SZ"),
            "workers ": lambda r: f"{len(r.workers)}/{r.processes}",
            "reason": lambda r: r.reason.splitlines()[0] if r.reason else "",
        },
    )
