"""The ledger and tables of the history as text for terminals."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from dask_site.history.books import UNEXPLAINED, Books

#: Of each part: a letter for terminals without block characters, and an ANSI colour.
_LOOKS: dict[str, tuple[str, str, int]] = {
    "cpu": ("█", "#", 32),
    "non-cpu": ("▓", "n", 33),
    "serialise": ("▒", "s", 36),
    "disk": ("▒", "d", 36),
    "other": ("▒", "o", 36),
    "failed": ("x", "x", 31),
    "unfinished": ("▓", "u", 34),
    "idle: no work": ("░", ".", 90),
    "idle: starved": ("░", ",", 90),
    "idle: transfer": ("░", "t", 90),
    "idle: paused": ("░", "p", 90),
    "idle: dispatch": ("░", ":", 90),
    "idle: unknown": ("░", "-", 90),
    "start and stop": ("·", "w", 35),
    "lost": ("x", "l", 31),
    "no thread": ("·", "_", 35),
    UNEXPLAINED: ("?", "?", 31),
}
_RESET = "\x1b[0m"


def clean(text: str) -> str:
    """Return text in which nothing acts on a terminal, in one line.

    Control characters, those that turn the direction of writing, and other invisible ones are
    shown as escapes: names are the users', and a name may hold any.
    """
    return "".join(
        c if unicodedata.category(c)[0] not in "CZ" or c == " " else _escaped(c) for c in text
    )


def multiline(text: str) -> str:
    """Return text of several lines in which nothing acts on a terminal."""
    return "\n".join(map(clean, text.expandtabs().split("\n")))


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_unicode(stream: IO[str]) -> bool:
    """Say whether a stream takes block characters."""
    try:
        "█▓▒░·".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(books: Books, width: int = 60, *, unicode: bool = True, colour: bool = False) -> str:
    """Return the books as one line of `width` characters; empty if nothing was allocated.

    Every part has as many characters as its share, rounded so that they add up. A rest that is
    negative can't be drawn: the parts then share the line among them.

    Parameters
    ----------
    width : int
        Characters.
    unicode : bool
        False for letters only, for terminals that are not UTF-8.
    colour : bool
        Whether to add ANSI colours.
    """
    shown = [(part, seconds) for part, seconds, _ in books.rows() if seconds > 0]
    if width < 1 or not shown or not books.allocated:
        return ""
    total = math.fsum(seconds for _, seconds in shown)
    counts = apportioned([seconds / total for _, seconds in shown], width)
    line = ""
    for (part, _), count in zip(shown, counts, strict=True):
        block, letter, code = _LOOKS[part]
        piece = (block if unicode else letter) * count
        line += f"\x1b[{code}m{piece}{_RESET}" if colour and piece else piece
    return line


# Core-seconds from which on hundredths of a core-hour say enough.
_MANY = 3600.0


def ledger_table(books: Books, *, unicode: bool = True, everything: bool = False) -> str:
    """Return the parts of an allocation as a table: sign in the bar, percent, core-hours.

    The percentages are rounded so that they add up to 100.0.

    Parameters
    ----------
    everything : bool
        Whether to list the parts that are zero as well; what is unexplained always is.
    """
    rows = books.rows()
    tenths = apportioned([share for _, _, share in rows], 1000) if books.allocated else None
    digits = 2 if books.allocated >= _MANY else 4
    cells = []
    for i, (part, seconds, _) in enumerate(rows):
        if seconds or everything or part == UNEXPLAINED:
            percent = f"{tenths[i] / 10:.1f} %" if tenths else "-"
            sign = _LOOKS[part][0 if unicode else 1]
            cells.append([sign, part, percent, f"{seconds / 3600:.{digits}f}"])
    total = "100.0 %" if tenths else "-"
    cells.append(["", "allocated", total, f"{books.allocated / 3600:.{digits}f}"])
    return table(["", "part", "share ", "core-h "], cells)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None = None) -> str:
    """Return rows as aligned columns, all texts cleaned.

    Parameters
    ----------
    headings : sequence of str
        One that ends in a space is right-aligned, as its column.
    rows : iterable of sequences
        As many values each as there are headings; None is ``-``.
    width : int, optional
        Of the terminal: the widest columns are cut so that no line is longer.

    Raises
    ------
    ValueError
        If a row has another number of values.
    """
    cells = [[clean(h.strip()) for h in headings]]
    cells += [["-" if value is None else clean(str(value)) for value in row] for row in rows]
    if any(len(row) != len(headings) for row in cells):
        raise ValueError(f"each row of this table has {len(headings)} values: {list(headings)}")
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        _narrow(widths, width - 2 * (len(widths) - 1))
    right = [heading.endswith(" ") for heading in headings]
    return "\n".join(
        "  ".join(map(_fitted, row, widths, right)).rstrip() for row in cells
    )  # fmt: skip


def listing(
    items: Iterable[Any], columns: dict[str, Callable[[Any], Any]], width: int | None = None
) -> str:
    """Return things of one kind as a table, by heading and what a column shows of each."""
    return table(
        list(columns), [[show(item) for show in columns.values()] for item in items], width
    )


def duration(seconds: float) -> str:
    """Return a duration in two units at most: ``45s``, ``12m05s``, ``3h20m``, ``2d04h``."""
    if seconds < 59.5:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def apportioned(shares: Sequence[float], whole: int) -> list[int]:
    """Return whole numbers in proportion to shares that add up to 1, and that add up to `whole`."""
    exact = [share * whole for share in shares]
    found = [math.floor(n) for n in exact]
    largest = sorted(range(len(exact)), key=lambda i: found[i] - exact[i])
    for i in largest[: whole - sum(found)]:
        found[i] += 1
    return found


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _narrow(widths: list[int], available: int) -> None:
    """Make the widest columns narrower until all fit, none less than four characters."""
    while sum(widths) > available and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1


def _fitted(text: str, width: int, to_right: bool) -> str:
    if _columns(text) > width:
        while _columns(text) > width - 1:
            text = text[:-1]
        text += "~"
    space = " " * (width - _columns(text))
    return space + text if to_right else text + space
