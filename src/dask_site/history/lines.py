"""The lines in which a recorder says what its cluster did, whichever way they go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from dask_site.history.reading import MOST_BYTES, VERSION

MIB = 1024 * 1024
#: Bytes that are sent to the service in one request: two of the longest lines.
MOST_SENT = 512 * 1024
_SAMPLES = frozenset({"usage", "traffic"})
_LAST = frozenset({"cluster", "end"})
# Kept of the bytes of a cluster: for all but samples, and for the end.
_RESERVE = 4
_FOR_THE_END = 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One record as it is written.

    Attributes
    ----------
    index : int
        Of the record among those that were given.
    kind : str
        As `k` of the record.
    data : bytes
        ``crc32-hex SP json LF``.
    """

    index: int
    kind: str
    data: bytes


class Lines:
    """Makes lines of the records of one cluster, each with a higher number than those before.

    Parameters
    ----------
    cluster_id : str
    """

    def __init__(self, cluster_id: str) -> None:
        self._cluster = cluster_id
        self._last = 0

    def of(self, records: Sequence[dict[str, Any]]) -> list[Line]:
        """Return records as lines, with `v`, `c` and `q`, but those longer than a line may be."""
        lines = []
        for index, record in enumerate(records):
            data = self._line(record)
            if data is not None:
                lines.append(Line(index, str(record.get("k")), data))
        return lines

    def _line(self, record: dict[str, Any]) -> bytes | None:
        self._last += 1
        full = {"v": VERSION, "c": self._cluster, "q": self._last, **record}
        try:
            text = json.dumps(full, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError):
            return None
        body = text.encode("ascii")
        line = b"%08x %b\n" % (crc32(body), body)
        return line if len(line) <= MOST_BYTES else None


def fitting(lines: Sequence[Line], left: int, most: int) -> list[Line]:
    """Return the lines for which there is room; of the bytes a part is kept for what counts most.

    Parameters
    ----------
    left, most : int
        Bytes: that are free, and in all. The last quarter is for all but samples, the last 64 KiB
        (at most half of that quarter) are for the end.
    """
    reserve = most // _RESERVE
    last = min(_FOR_THE_END, reserve // 2)
    found = []
    for line in lines:
        kept = 0 if line.kind in _LAST else reserve if line.kind in _SAMPLES else last
        if len(line.data) <= left - kept:
            left -= len(line.data)
            found.append(line)
    return found
