"""Tables of the history as files: CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dask_site.calls import SourceError
from dask_site.history.sheets import Sheet, whole_text
from dask_site.history.tables import clean
from dask_site.whole import write_whole

FORMATS = ("csv", "json", "parquet")
# A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def encoded(sheet: Sheet, form: str) -> bytes:
    """Return a table as the content of a file.

    In text, durations are under a name that ends in ``_seconds`` and moments are in UTC. In CSV a
    text that a spreadsheet would take for a formula has an apostrophe before it, and what acts on
    a terminal is shown as an escape.

    Raises
    ------
    SourceError
        If Parquet is asked for and this installation can't write it.
    """
    if form == "json":
        return (json.dumps(sheet.plain(), indent=1) + "\n").encode()
    if form == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, sheet.headings, lineterminator="\n")
        writer.writeheader()
        for row in sheet.plain():
            writer.writerow({heading: _cell(value) for heading, value in row.items()})
        return text.getvalue().encode()
    return _parquet(sheet)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = "\n".join(map(clean, value.split("\n")))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _parquet(sheet: Sheet) -> bytes:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise SourceError(
            "Parquet needs pyarrow, which is not installed here: pip install pyarrow, or use "
            "--format csv"
        ) from None
    kinds = {
        "text": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "flag": pa.bool_(),
        "moment": pa.timestamp("ms", tz="UTC"),
        "seconds": pa.duration("us"),
    }
    names = list(sheet.columns)
    arrays = []
    for name, kind in sheet.columns.items():
        scale = {"moment": 1e3, "seconds": 1e6}.get(kind)
        values: list[Any] = [row[name] for row in sheet.rows]
        if scale is not None:
            values = [None if value is None else _fitting(value * scale) for value in values]
        elif kind == "number":
            values = [None if value is None else float(value) for value in values]
        elif kind == "text":
            values = [None if value is None else whole_text(value) for value in values]
        arrays.append(pa.array(values, type=kinds[kind]))
    sink = io.BytesIO()
    parquet.write_table(pa.table(arrays, names=names), sink)
    return sink.getvalue()


def _fitting(value: float) -> int:
    """Return a whole number of 64 bits: a user may have written any walltime into his records."""
    return round(min(max(value, -(2.0**62)), 2.0**62))


def write(path: Path, content: bytes) -> None:
    """Write a file beside its place, and put it there whole.

    Raises
    ------
    SourceError
        If it can't be written.
    """
    try:
        write_whole(path, content, _mode(path))
    except OSError as error:
        raise SourceError(f"{path} can't be written: {error.strerror or error}") from None


def _mode(path: Path) -> int:
    """Return the mode of the file that is there; else for the user only, as it is a record."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    return 0o600
