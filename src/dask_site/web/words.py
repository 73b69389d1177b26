"""Numbers, times and names as text for people."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from dask.utils import format_bytes

from dask_site.history.tables import clean, duration

NONE = "\u2013"


def hours(value: float | None) -> str:
    """Return hours with as many decimals as matter: ``1,234``, ``12.34``, ``0.034``."""
    if value is None:
        return NONE
    size = abs(value)
    if 0 < size < 0.00005:
        return "<0.0001" if value > 0 else ">-0.0001"
    steps = ((1000, 0), (100, 1), (0.1, 2), (0.01, 3))
    digits = next((digits for least, digits in steps if size >= least), 4 if size else 2)
    return f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """Return a share of 1 as percents."""
    if share is None:
        return NONE
    if 0 < abs(share) < 0.0005:
        return "<0.1 %" if share > 0 else ">-0.1 %"
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Return any number, in a few digits."""
    return "<0.001" if 0 < value < 0.0005 else f"{value:,.3g}"


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return NONE if value is None else f"{value:,.0f}"


def length(seconds: float | None) -> str:
    """Return a duration; of short ones ms."""
    if seconds is None:
        return NONE
    if 0 < seconds < 0.0005:
        return "<1 ms"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    return duration(seconds)


def size(value: float | None) -> str:
    """Return bytes with a binary prefix."""
    return NONE if value is None else format_bytes(int(value))


def money(value: float | None) -> str:
    """Return an amount of the site's currency."""
    if value is None:
        return NONE
    return "<0.01" if 0 < value < 0.005 else f"{value:,.2f}"


def moment(t: float | None) -> str:
    """Return a time of day, UTC."""
    return NONE if not t else datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M")


def iso(t: float | None) -> str:
    """Return a moment as machines read it; empty for none."""
    return "" if not t else datetime.fromtimestamp(t, UTC).isoformat(timespec="seconds")


def name(value: object) -> str:
    """Return a name that a user gave as one line in which nothing is invisible."""
    return NONE if value is None or value == "" else clean(str(value))


def pool(value: str | None) -> str:
    """Return the name of a pool."""
    return clean(value) if value else "(no pool)"


def plural(number: float, noun: str, many: str | None = None) -> str:
    """Return a count with its noun: ``1 task``, ``1,234 tasks``."""
    return f"{number:,.0f} {noun if number == 1 else many or noun + 's'}"


def joined(parts: list[str]) -> str:
    """Return parts of a sentence: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def finite(value: float) -> float:
    """Return a number that JSON can say."""
    return value if math.isfinite(value) else 0.0
