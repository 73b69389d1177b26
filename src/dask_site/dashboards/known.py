"""What a broker knows, on which all its parts work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dask_site.dashboards.accounts import Accounts
from dask_site.dashboards.locks import Barred
from dask_site.dashboards.places import Places
from dask_site.dashboards.registry import Registry
from dask_site.dashboards.sessions import Sessions


@dataclass(frozen=True)
class Known:
    """What the parts of a broker share.

    Attributes
    ----------
    places : Places
    clock : callable
        Seconds since 1970, about the same for all brokers.
    registry : Registry
    sessions : Sessions
    accounts : Accounts
    barred : Barred
    """

    places: Places
    clock: Callable[[], float]
    registry: Registry
    sessions: Sessions
    accounts: Accounts
    barred: Barred
