"""What the arguments of `Cluster` mean; each refuses what means nothing, by name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dask.utils import parse_timedelta

from dask_site.cluster.errors import unknown_pool
from dask_site.site import Site


def site_from(
    site: Site | str | os.PathLike[str] | Mapping[str, Any] | None,
    pools: Sequence[str] | None,
    account: str | None,
) -> Site:
    """Return the site that is meant, with the pools and the account that are wanted of it."""
    if site is None:
        found = Site.find()
    elif isinstance(site, Site):
        found = site
    elif isinstance(site, Mapping):
        found = Site.from_mapping(site)
    elif isinstance(site, str | os.PathLike):
        found = Site.load(Path(site))
    else:
        raise TypeError(
            f"Cluster({site!r}): a site file's path, a mapping or a Site; workers are asked for by "
            "cluster.scale(...)"
        )
    for name in pools or ():
        if name not in found.pools:
            raise unknown_pool(name, found.pools, found.name)
    if pools is not None:
        found = found.with_pools(list(pools))
    if account is not None:
        found = Site.from_mapping(
            {**found.to_mapping(), "account": account}, "Cluster(account=...)"
        )
    if found.resource_manager == "local":
        import psutil

        found = found.scaled_to_machine(os.cpu_count() or 1, psutil.virtual_memory().total)
    return found


def port_from(given: Any) -> int:
    """Return a port; 0 is any free one."""
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 65536:
        raise ValueError(f"Cluster(port={given!r}): a number from 0 (any free port) to 65535.")
    return given


def seconds_from(name: str, given: Any) -> float | None:
    """Return a duration that `adapt` was given, in seconds."""
    if given is None:
        return None
    try:
        # Dask knows "minutes" and "m", but not what people write.
        short = re.compile(r"(?<=[\d\s])mins?\s*$")
        words = short.sub("minutes", given) if isinstance(given, str) else given
        seconds = float(parse_timedelta(words))
    except (AttributeError, KeyError, TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise ValueError(f'adapt({name}={given!r}): a time such as "2 min" or 120.')
    return seconds


def level_from(given: str) -> str:
    """Return a level of the logging module, in small letters."""
    levels = ("debug", "info", "warning", "error", "critical")
    if str(given).lower() not in levels:
        raise ValueError(f"Cluster(silence_logs={given!r}): one of {', '.join(levels)}.")
    return str(given).lower()
