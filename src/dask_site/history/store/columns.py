"""Books and costs as columns of whole numbers, so that sums don't depend on their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dask_site.history import books
from dask_site.history.books import Books, Costs

#: Columns for the parts of an allocation, in core-milliseconds, by the words of `books.PARTS`.
PARTS = {part: re.sub(r"\W+", "_", part) for part in books.PARTS}
#: Columns for costs, by the fields of `Costs`, and how many of their units are one of the field:
#: GPU-ms, MiB-s, millionths of the currency, core-ms, billing units times ms, J, core-ms.
COSTS = {
    "gpu_hours": ("gpu", 3_600_000),
    "gib_hours": ("memory", 3600 * 1024),
    "money": ("money", 1_000_000),
    "unpriced": ("unpriced", 3_600_000),
    "billing": ("billing", 3_600_000),
    "energy": ("energy", 1),
    "metered": ("metered", 3_600_000),
}
SUMS = ("allocated", *PARTS.values(), "again", *(column for column, _ in COSTS.values()))
# 100,000 cores for a day: a million such rows can be added up.
_MOST = 100_000 * 86_400_000


def to_columns(done: Books, costs: Costs) -> tuple[int, ...]:
    """Return the values of `SUMS`."""
    values = [done.allocated, *(done.of(part) for part in PARTS), done.again]
    values = [1000 * seconds for seconds in values]
    values += [(getattr(costs, name) or 0.0) * unit for name, (_, unit) in COSTS.items()]
    return tuple(round(min(max(0.0, value), _MOST)) for value in values)


def from_columns(values: Sequence[float]) -> tuple[Books, Costs]:
    """Return the books and costs of values of `SUMS`. What nobody counted is None."""
    named = dict(zip(SUMS, map(float, values), strict=True))
    allocated = named["allocated"]
    parts = {part: named[column] / 1000 for part, column in PARTS.items()}
    found = {name: named[column] / unit for name, (column, unit) in COSTS.items()}
    known: dict[str, Any] = {
        **found,
        "billing": found["billing"] or None,
        "energy": found["energy"] if found["metered"] else None,
    }
    costs = Costs(core_hours=allocated / 3_600_000, **known)
    return Books(allocated / 1000, parts, named["again"] / 1000), costs
