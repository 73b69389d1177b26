"""Reads spool files, which were written by users, who may have written anything."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from dask_site.history.records import Record

# As in `records`, which takes ten times as long to import as all that writing needs.
VERSION = 1
MOST_BYTES = 256 * 1024
# Digits of a number: 2**53 has 16.
_MOST_DIGITS = 40
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class SpoolError(Exception):
    """A spool folder or file that is not used; the message says which, why and the mend."""


class Reading:
    """The good lines of a spool file, from an offset on.

    Iterating yields ``(record, offset)``, where the offset is that of the line after the record:
    reading from there goes on where this one stopped.

    Attributes
    ----------
    bad : int
        Complete lines that were passed over: torn, forged or beyond the bounds.
    offset : int
        Of the first byte that was not consumed, after good lines and bad ones.
    why : str
        What was wrong with the last bad line.
    """

    def __init__(self, descriptor: int, offset: int, close: bool) -> None:
        self.offset = offset
        self.bad = 0
        self.why = ""
        self._descriptor = descriptor
        self._close = close

    def __iter__(self) -> Iterator[tuple[Record, int]]:
        try:
            for line in self._whole_lines():
                record = self._parsed(line)
                if record is not None:
                    yield record, self.offset
        finally:
            if self._close:
                os.close(self._descriptor)

    def _whole_lines(self) -> Iterator[bytes | None]:
        """Yield lines without LF, None for one that is too long; `offset` is behind each."""
        rest, position, skipping = b"", self.offset, False
        while chunk := os.pread(self._descriptor, MOST_BYTES, position):
            begin = 0
            while (end := chunk.find(b"\n", begin)) >= 0:
                line = rest + chunk[begin:end]
                self.offset = position + end + 1
                yield None if skipping or len(line) >= MOST_BYTES else line
                rest, skipping, begin = b"", False, end + 1
            position += len(chunk)
            rest = b"" if skipping else rest + chunk[begin:]
            if len(rest) >= MOST_BYTES:
                rest, skipping = b"", True
        if skipping:
            # Not looked at again: what follows it in a line that has no end is a bad line too.
            self.offset = position
            self._refuse("longer than a line may be")

    def _parsed(self, line: bytes | None) -> Record | None:
        from dask_site.history.records import parse

        if line is None:
            self._refuse("longer than a line may be")
            return None
        try:
            return parse(checked(line))
        except (ValueError, RecursionError) as error:
            self._refuse(str(error))
        return None

    def _refuse(self, why: str) -> None:
        self.bad += 1
        self.why = why[:500]


def read_spool(source: str | os.PathLike[str] | int, offset: int = 0) -> Reading:
    """Read the records of a spool file. What stands in it never raises.

    Parameters
    ----------
    source : path or int
        The file, or a descriptor of it, which stays open.
    offset : int
        Where to begin: 0, or an offset of an earlier `Reading`.

    Returns
    -------
    Reading
        Iterate over it, once.

    Raises
    ------
    SpoolError
        If it is a link, a fifo or anything but a regular file with one name.
    OSError
        If it isn't there or can't be opened.
    """
    mine = not isinstance(source, int)
    if isinstance(source, int):
        descriptor = source
    else:
        # Not blocking: a fifo without a writer would never open.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            descriptor = os.open(source, flags)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise SpoolError(f"{os.fspath(source)} is no regular file: not read") from None
            raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        if mine:
            os.close(descriptor)
        what = "has several names" if stat.S_ISREG(status.st_mode) else "is no regular file"
        where = f"descriptor {source}" if isinstance(source, int) else os.fspath(source)
        raise SpoolError(f"{where} {what}: not read")
    return Reading(descriptor, offset, close=mine)


def checked(line: bytes) -> dict[str, Any]:
    """Return what a line says, without its LF.

    Raises
    ------
    ValueError, RecursionError
        If it is not as we write it.
    """
    if len(line) < 10 or line[8:9] != b" " or line[:8] != b"%08x" % crc32(line[9:]):
        raise ValueError("the checksum is not that of the line")
    values = json.loads(
        line[9:].decode("utf-8"),
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_int=_integer,
    )
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    if b"\\u" in line:
        text = json.dumps(values, ensure_ascii=False)
        text.encode("utf-8")  # refuses half a surrogate pair, which no store takes
        if _NUL.search(text):
            raise ValueError("a NUL in a text")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)
