"""The rates of all times: in the store, and beside it for releases that look for them there."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from dask_site.history.costs import Tariff
from dask_site.history.store.core import Store
from dask_site.history.store.failures import StoreError
from dask_site.site import Site
from dask_site.whole import write_whole

logger = logging.getLogger("dask_site")


def rates(store: Store, path: Path, site: Site, now: float | None = None) -> tuple[Tariff, bool]:
    """Return the rates of all times; those of the site file hold from now on if they are new.

    Parameters
    ----------
    path : Path
        What older releases keep them in; those of a copy of the store that is older than the file
        are completed from it.

    Returns
    -------
    tariff : Tariff
    whole : bool
        Whether those of the site file are among them; not as long as the clock is behind the last
        change.

    Raises
    ------
    StoreError
        If there are none in the store, and those in the file can't be read.
    """
    moment = time.time() if now is None else now
    kept = store.tariff()
    known = _together(kept, _beside(path, bool(kept.dated)))
    whole = True
    if not known.dated:
        known = Tariff.of_site(site)
    else:
        try:
            known = known.with_site(site, moment)
        except ValueError as error:
            whole = False
            logger.warning(
                "The rates of the site file don't hold yet: the clock of this node is behind the "
                "last change of rates (%s)",
                error,
            )
    if known != kept:
        store.keep_tariff(known)
    text = (json.dumps(known.to_list(), indent=1) + "\n").encode()
    if not path.exists() or path.read_bytes() != text:
        write_whole(path, text, 0o640)
    return known, whole


def _beside(path: Path, dispensable: bool) -> Tariff:
    try:
        return Tariff.from_list(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Tariff()
    except ValueError as error:
        if not dispensable:
            raise StoreError(f"{path}: {error}; put back a copy, or remove it") from None
        logger.warning("%s is written anew from the store: %s", path, error)
        return Tariff()


def _together(kept: Tariff, beside: Tariff) -> Tariff:
    """Return the rates of both; of a moment that both have those of the store."""
    dated = {**dict(beside.dated), **dict(kept.dated)}
    return Tariff(tuple(sorted(dated.items(), key=lambda item: item[0])))
