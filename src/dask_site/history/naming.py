"""Named parts of a computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import distributed

# As in `records`.
_LONGEST = 200
_DEEPEST = 20


@contextmanager
def span(name: str, *tags: str) -> Iterator[str]:
    """Name the computations that are submitted within a block: ``with span("regrid"):``.

    The history shows what each named part cost. Spans within spans are parts of them; `tags` name
    such inner parts at once, so ``span("regrid", "2024")`` is ``span("2024")`` within
    ``span("regrid")``. The name goes with the tasks when they are submitted (``compute``,
    ``persist``, ``submit``, ``map``), so these have to be in the block. distributed keeps a group
    of tasks in one span, so what ``submit`` makes of the same function in two blocks at once
    counts in the first.

    Parameters
    ----------
    name : str
        At most 200 characters on one line.
    *tags : str
        Further names, each of a part of the one before.

    Yields
    ------
    str
        The span's id.

    Raises
    ------
    TypeError
        If a name is no text.
    ValueError
        If a name is empty, too long or of several lines, or spans are nested too deep.

    Examples
    --------
    >>> with span("regrid"):  # doctest: +SKIP
    ...     y = x.map_blocks(regrid).persist()
    """
    import dask

    names = (name, *tags)
    for each in names:
        _check(each)
    around = (dask.get_annotations().get("span") or {}).get("name", ())
    if len(around) + len(names) > _DEEPEST:
        raise ValueError(
            f"span({names[-1]!r}) would be {len(around) + len(names)} levels deep; at most "
            f"{_DEEPEST} are kept: give parts that are alike the same name side by side instead"
        )
    with distributed.span(*names) as span_id:
        yield span_id


def _check(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a span must be a text, not {name!r} ({type(name).__name__}): "
            f'write span("{name}")'
        )
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST:
        shown = name if len(name) <= 50 else f"{name[:50]}..."
        raise ValueError(
            f"{shown!r} can't name a span: use 1 to {_LONGEST} printable characters on one line"
        )
