"""The keys of one query, in few lengths: SQLAlchemy and SQLite keep each statement they met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")
_AT_ONCE = 512  # a power of two; SQLite takes at least 999 variables


def parts(values: Sequence[_T]) -> Iterator[list[_T]]:
    """Yield all values in lists for `IN`, of 1, 2, 4, 8 ... up to 512.

    The last is filled up with its last value: ten lengths, and as many statements.
    """
    for start in range(0, len(values), _AT_ONCE):
        some = list(values[start : start + _AT_ONCE])
        length = 1 << (len(some) - 1).bit_length()
        yield some + some[-1:] * (length - len(some))


def named(values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Return the names in the brackets of ``IN (...)``, and the values by name."""
    by_name = {f"key{n}": value for n, value in enumerate(values)}
    return ", ".join(f":{name}" for name in by_name), by_name
