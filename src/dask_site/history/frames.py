"""The history of your clusters as pandas DataFrames.

Moments are in UTC and know it, durations are timedeltas, and all other quantities have their unit
in the name of the column: ``memory_bytes``, ``core_seconds``.
"""

from __future__ import annotations

import html
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dask_site.history import sheets
from dask_site.history.source import Found, Source, SourceError, find
from dask_site.history.titles import title

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from dask_site.history.books import Books

_TYPES = {"text": "object", "number": "float64", "whole": "Int64", "flag": "boolean"}


def clusters(
    *,
    user: str | None = None,
    account: str | None = None,
    days: float | None = None,
    most: int = 100,
) -> pd.DataFrame:
    """Return your clusters, those heard of last first.

    Parameters
    ----------
    user, account : str, optional
        Others' clusters, for those who may see them.
    days : float, optional
        Only those that were there in so many last days.
    most : int
        At most so many.

    Returns
    -------
    DataFrame
        A row for each cluster, by its id: `name`, `kind`, `owner_name`, `account`, `program`;
        `started`, `seen`, `ended` (UTC); `how` it ended, `state`; `tasks`, `errors`;
        `core_seconds` allocated, `cpu_core_seconds` of them in which tasks computed; `cost` in
        the site's currency.

    Raises
    ------
    SourceError
        If the service refuses, or the spool can't be read.
    """
    import time

    from dask_site.people import name_of as me

    since = None if days is None else time.time() - days * 86400
    whose = user or (None if account else me())
    found = _source().clusters(user=whose, account=account, since=since, most=most)
    return _frame(sheets.clusters(found)).set_index("id")


def cluster(name: str = "-") -> RecordedCluster:
    """Return one cluster.

    Parameters
    ----------
    name : str
        Its id or the first characters of it, at least 4; ``-`` for the one heard of last.

    Raises
    ------
    SourceError
        If there is none, or several ids begin so.
    """
    return RecordedCluster(_source().cluster(name))


def where(by: str = "pool", days: int = 30) -> pd.DataFrame:
    """Return where your core-hours went.

    Parameters
    ----------
    by : str
        ``user``, ``account``, ``pool``, ``week``, ``day`` or ``span``.
    days : int
        So many last ones, UTC.

    Returns
    -------
    DataFrame
        A row for each, by its name: `core_hours`, a column for each part of them (``cpu``,
        ``idle: no work``, ... ``unexplained``) in core-hours, which add up to it. Besides
        `done_again_hours`, about how many of them were done again as results left with their
        workers; `cost`, in the site's currency; `gpu_hours` and `gib_hours`. Of spans only what
        their tasks did.
    """
    from dask_site.history.totals import totals
    from dask_site.people import name_of as me

    pandas = _pandas()
    rows = {}
    for each in totals(_source(), by, days, me()):
        row = {"core_hours": each.books.allocated / 3600}
        row |= {part: seconds / 3600 for part, seconds, _ in each.books.rows()}
        costs = each.costs
        if by != "span":
            row |= {"done_again_hours": each.books.again / 3600, "cost": costs.money}
            row |= {"gpu_hours": costs.gpu_hours, "gib_hours": costs.gib_hours}
        rows[each.name] = row
    frame: pd.DataFrame = pandas.DataFrame.from_dict(rows, orient="index", dtype="float64")
    return frame.rename_axis(by)


def diff(a: str, b: str = "-") -> pd.DataFrame:
    """Compare two clusters.

    Parameters
    ----------
    a, b : str
        As `cluster` takes them: the one before and the one after.

    Returns
    -------
    DataFrame
        Rows by `what` and `name`: ``whole`` (names have their unit), ``parts`` of the ledger in
        core-seconds, ``lasted`` in seconds and ``worked`` in core-seconds of spans, what got slower
        most first. Columns `before`, `after`, `change`.
    """
    from dask_site.history.comparing import diff as compare

    pandas = _pandas()
    source = _source()
    found = compare(source.cluster(a), source.cluster(b))
    rows = [
        {"what": what, **pair.to_dict()}
        for what in ("whole", "parts", "lasted", "worked")
        for pair in getattr(found, what)
    ]
    frame: pd.DataFrame = pandas.DataFrame(
        rows, columns=["what", "name", "before", "after", "change"]
    )
    frame = frame.astype(dict.fromkeys(["before", "after", "change"], "float64"))
    frame.attrs.update(before=found.before, after=found.after)
    return frame.set_index(["what", "name"])


class RecordedCluster:
    """One cluster, as of when it was asked for.

    Parameters
    ----------
    found : Found
        What a source gave.
    """

    def __init__(self, found: Found) -> None:
        self._found = found

    @property
    def id(self) -> str:
        """Its id."""
        return self._found.id

    @property
    def name(self) -> str:
        """Its name, or the program or the kind of cluster where it has none."""
        record = self._found.history.cluster
        return title(record.name, record.program, record.kind)

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """Where the core-hours went: 17 rows by part, the last is ``unexplained``.

        Columns: `core_seconds`, which add up to what was allocated (`attrs["allocated"]`), and
        `share`, 0 to 1. In a notebook it shows as a bar.
        """
        books = self._books
        columns: dict[str, sheets.Kind] = {
            "part": "text",
            "core_seconds": "number",
            "share": "number",
        }
        plain = _frame(sheets.Sheet("ledger", columns, sheets.parts(books))).set_index("part")
        from dask_site.history.notebook import LedgerFrame

        frame = LedgerFrame(plain)
        frame.attrs["allocated"] = books.allocated
        return frame

    @property
    def pools(self) -> pd.DataFrame:
        """The ledger by pool: `pool`, `part`, `core_seconds`, `share` of the pool's allocation."""
        return self._sheet("ledger")

    @property
    def spans(self) -> pd.DataFrame:
        """A row for each span: when and how long, its tasks, core-seconds by what they did."""
        return self._sheet("spans")

    @property
    def workers(self) -> pd.DataFrame:
        """A row for each worker process: where, from when to when, busy and lost time."""
        return self._sheet("workers")

    @property
    def jobs(self) -> pd.DataFrame:
        """A row for each submission, those that never started included: waited, ran, state."""
        return self._sheet("jobs")

    @property
    def samples(self) -> pd.DataFrame:
        """A row for each pool and moment: workers, tasks, memory; thread-seconds so far."""
        return self._sheet("samples")

    @property
    def errors(self) -> pd.DataFrame:
        """A row for each kind of error, the most frequent first."""
        return self._sheet("errors")

    @property
    def scripts(self) -> pd.DataFrame:
        """A row for each script that jobs were submitted with.

        In its text ``@arguments@`` stands for what is a job's own: its `arguments` in `jobs`.
        """
        return self._sheet("scripts").set_index("script")

    @property
    def cost(self) -> pd.DataFrame:
        """A row for each pool: core-, GPU- and GiB-hours, billing units times hours, money, J.

        `unpriced_core_hours` have no rate; `energy_j` is of the jobs for which it was measured.
        """
        return self._sheet("cost").set_index("pool")

    @property
    def advice(self) -> pd.DataFrame:
        """A row for each waste that was found, the largest first: evidence, setting, saving."""
        return self._sheet("advice")

    def _sheet(self, name: str) -> pd.DataFrame:
        frame = self._frames.get(name)
        if frame is None:
            frame = self._frames[name] = _frame(sheets.sheet(self._found, name))
        return frame.copy()

    @cached_property
    def _frames(self) -> dict[str, pd.DataFrame]:
        return {}

    @cached_property
    def _books(self) -> Books:
        from dask_site.history.ledger import close_books

        return close_books(self._found.history).whole

    def __repr__(self) -> str:
        hours = self._books.allocated / 3600
        return f"<{type(self).__name__} {self.id} {self.name!r}: {hours:.3f} core-hours>"

    def _repr_html_(self) -> str:
        books = self._books
        head = (
            f"<b>{html.escape(self.name)}</b> {html.escape(self.id[:8])}: "
            f"{books.allocated / 3600:.3f} core-hours"
        )
        from dask_site.history.notebook import ledger_html

        parts = {row["part"]: row["core_seconds"] for row in sheets.parts(books)}
        return f"<div><p>{head}</p>{ledger_html(parts)}</div>"


def _frame(sheet: sheets.Sheet) -> pd.DataFrame:
    pandas = _pandas()
    frame: pd.DataFrame = pandas.DataFrame(
        {
            column: _series(pandas, [row[column] for row in sheet.rows], kind)
            for column, kind in sheet.columns.items()
        }
    )
    return frame


def _series(pandas: Any, values: Sequence[Any], kind: sheets.Kind) -> Any:
    if kind in {"moment", "seconds"}:
        numbers = pandas.Series(values, dtype="float64")
        # What a user wrote into his records may be beyond what pandas holds.
        if kind == "moment":
            found = pandas.to_datetime(numbers, unit="s", utc=True, errors="coerce")
        else:
            found = pandas.to_timedelta(numbers, unit="s", errors="coerce")
        return found.dt.as_unit("us")
    return pandas.Series(values, dtype=_TYPES[kind])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise SourceError(
            "DataFrames need pandas, which is not installed here: pip install pandas, or use "
            "`dask-site history export --format csv` or json"
        ) from None
    return pandas


def _source() -> Source:
    return find(lambda text: warnings.warn(text, stacklevel=4))
