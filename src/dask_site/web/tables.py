"""Tables: shown on a page, and given as CSV, JSON or Parquet to whoever goes on with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dask_site.calls import SourceError
from dask_site.history import sheets
from dask_site.history.files import encoded
from dask_site.history.sheets import Sheet
from dask_site.web import words

Kind = Literal[
    "name",
    "text",
    "code",
    "count",
    "hours",
    "seconds",
    "bytes",
    "share",
    "money",
    "number",
    "moment",
    "flag",
]
_NUMERIC = {"count", "hours", "seconds", "bytes", "share", "money", "number"}
FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


class NoFormat(ValueError):  # noqa: N818  # not an error of ours: of who asks
    """A format that is unknown, or that this installation can't write."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    key : str
        Its name in files; with the unit where it has one (``waited_s``).
    title : str
        Its heading on pages.
    kind : str
        What its values are; moments are seconds since 1970, shares 0 to 1.
    help : str
        What it means.
    bar : bool
        Whether a bar shows the value, a share, as well.
    """

    key: str
    title: str
    kind: Kind = "text"
    help: str = ""
    bar: bool = False

    @property
    def stored(self) -> sheets.Kind:
        """What its values are in files."""
        if self.kind == "moment":
            return "moment"
        if self.kind == "flag":
            return "flag"
        return "number" if self.numeric else "text"

    @property
    def numeric(self) -> bool:
        """Whether it is aligned at the right."""
        return self.kind in _NUMERIC

    def shown(self, value: Any) -> str:
        """Return a value as text for people."""
        if value is None:
            return words.NONE
        formats: dict[str, Callable[[Any], str]] = {
            "count": words.count,
            "hours": words.hours,
            "seconds": words.length,
            "bytes": words.size,
            "share": words.percent,
            "money": words.money,
            "moment": words.moment,
            "number": words.number,
            "flag": lambda yes: "yes" if yes else "no",
        }
        return formats.get(self.kind, words.name)(value)


@dataclass(frozen=True)
class Table:
    """Rows by column; keys that begin with ``_`` say how a row looks and are not in files.

    Attributes
    ----------
    name : str
        In the query of a page: ``?table=workers``.
    empty : str
        What to do about it if it is empty.
    page, pages, whole : int
        Which part of all rows these are.
    sort : str
        By which column, ``-`` before it for the largest first; empty for its own order.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    empty: str = "There is nothing."
    page: int = 1
    pages: int = 1
    whole: int = 0
    sort: str = ""
    cards: bool = False
    note: str = ""
    foot: Mapping[str, Any] = field(default_factory=dict)

    def column(self, key: str) -> Column | None:
        """Return a column by its key, None if there is none."""
        return next((column for column in self.columns if column.key == key), None)

    def sorted(self, by: str) -> Table:
        """Return the table by a column; as it is if there is no such column."""
        key = by.removeprefix("-")
        if self.column(key) is None:
            return self
        there = [row for row in self.rows if row.get(key) is not None]
        rest = [row for row in self.rows if row.get(key) is None]
        there.sort(key=lambda row: _order(row[key]), reverse=by.startswith("-"))
        return replace(self, rows=there + rest, sort=by)

    def part(self, page: int, size: int = 200) -> Table:
        """Return one page of the rows."""
        pages = max(1, math.ceil(len(self.rows) / size))
        page = min(max(1, page), pages)
        some = self.rows[(page - 1) * size : page * size]
        return replace(self, rows=some, page=page, pages=pages, whole=len(self.rows))

    def file(self, form: str) -> bytes:
        """Return the table as a file.

        Raises
        ------
        NoFormat
            If the format is none of `FORMATS`, or Parquet can't be written here.
        """
        if form not in FORMATS:
            raise NoFormat(f"format={form!r} is none of {', '.join(FORMATS)}")
        rows = [{column.key: row.get(column.key) for column in self.columns} for row in self.rows]
        sheet = Sheet(self.name, {column.key: column.stored for column in self.columns}, rows)
        if form == "json":
            return json.dumps({"table": self.name, "rows": sheet.plain()}).encode()
        try:
            return encoded(sheet, form)
        except SourceError as error:
            raise NoFormat(str(error)) from None


def _order(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value
