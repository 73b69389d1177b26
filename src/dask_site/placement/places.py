"""What users write to say where work goes, turned into Dask's resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_site.cluster.errors import unknown_pool
from dask_site.cluster.resources import GPU, MEMORY, pool_of_resource
from dask_site.placement.matching import Matcher
from dask_site.placement.needs import Need, needs

_WAYS = 'a pool\'s name, needs(...), a mapping such as {"gpu": 1}, or None to take it back'
# Dask's resources, and the words of `needs` for them.
_WORDS = {GPU: "gpu", MEMORY: "memory"}


def resources_by_pattern(
    places: Mapping[str, Any], matcher: Matcher
) -> dict[str, dict[str, float] | None]:
    """Return Dask's resources for each pattern of names, or None.

    Parameters
    ----------
    places : dict
        From patterns of names of work (``"mean_agg*"``) to a pool's name, `needs(...)`, a mapping
        with the same words (``{"gpu": 1}``), or None.
    matcher : Matcher
        Knows the pools and what they offer.

    Raises
    ------
    ValueError
        For a pool that isn't there, with the nearest one; NeedError for more than any pool has.
    TypeError
        For what is none of these.
    """
    if not isinstance(places, Mapping):
        raise TypeError(
            f'{places!r} is no mapping from names of work, such as {{"mean_agg*": "highmem"}}.'
        )
    found: dict[str, dict[str, float] | None] = {}
    for pattern, value in places.items():
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(f"{pattern!r} is no name of work, such as 'mean_agg*'.")
        need = _need(pattern, value)
        if need is None:
            found[pattern] = None
            continue
        if need.pool is not None and need.pool not in matcher.pools:
            raise unknown_pool(need.pool, matcher.pools, matcher.site_name)
        found[pattern] = need.resources()
        matcher.check(need.resources(), f"Work named {pattern!r}")
    return found


def _need(pattern: str, value: Any) -> Need | None:
    if value is None or isinstance(value, Need):
        return value
    if isinstance(value, needs):
        return value.need
    if isinstance(value, str):
        return needs(pool=value).need
    if isinstance(value, Mapping):
        return _from_mapping(pattern, value)
    raise TypeError(f"Work named {pattern!r}: {value!r} is no place. Write {_WAYS}.")


def _from_mapping(pattern: str, value: Mapping[Any, Any]) -> Need:
    words: dict[Any, Any] = {}
    for key, amount in value.items():
        pool = pool_of_resource(key) if isinstance(key, str) else None
        if pool is not None:
            words["pool"] = pool
        else:
            words[_WORDS.get(key, key)] = amount
    unknown = [key for key in words if key not in {"gpu", "memory", "pool"}]
    if unknown:
        raise TypeError(
            f"Work named {pattern!r}: {unknown[0]!r} is nothing that workers have. Write "
            "gpu, memory or pool."
        )
    return needs(**words).need
