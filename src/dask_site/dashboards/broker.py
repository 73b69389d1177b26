"""What the broker knows and decides; how it is asked stands in `control` and `web`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dask_site.dashboards import keys
from dask_site.dashboards.accounts import Accounts
from dask_site.dashboards.clusters import Clusters
from dask_site.dashboards.exchange import Exchange
from dask_site.dashboards.gate import Gate
from dask_site.dashboards.known import Known
from dask_site.dashboards.lines import Lines
from dask_site.dashboards.locks import Barred, Locks
from dask_site.dashboards.logins import Logins
from dask_site.dashboards.notes import Notes
from dask_site.dashboards.past import Past
from dask_site.dashboards.peers import Told
from dask_site.dashboards.places import Places
from dask_site.dashboards.registry import Registry
from dask_site.dashboards.sessions import Sessions
from dask_site.dashboards.shares import Shares
from dask_site.services.audit import AuditLog
from dask_site.services.buckets import Buckets

_LOOK = 30.0
# Questions of a user: all of his schedulers come at once after a restart.
_RATE, _BURST = 20.0, 300


class Broker:
    """One login node's part of all brokers of a site.

    Parameters
    ----------
    places : Places
    seconds : float
        How long a login lasts.
    past : Past, optional
        The site's history, where it keeps one; it needs a name of its own, as clusters do.
    """

    def __init__(
        self,
        places: Places,
        seconds: float,
        clock: Callable[[], float] = time.time,
        past: Past | None = None,
    ) -> None:
        self.places = places
        self.registry = Registry(places.host, clock)
        self.sessions = Sessions(keys.hmac_key(places), seconds, clock)
        self.accounts = Accounts()
        self.barred = Barred(Locks(places.secret), self.accounts)
        self.questions = Buckets(_RATE, _BURST)
        known = Known(places, clock, self.registry, self.sessions, self.accounts, self.barred)
        self.exchange = Exchange(known, self._take_in)
        self.notes = Notes(AuditLog(places.secret / "audit"), self.accounts)
        self.lines = Lines(known)
        self.gate = Gate(known, self.exchange, past)
        self.logins = Logins(known, self.gate, self.lines, self.exchange, self.notes)
        self.clusters = Clusters(known, self.lines, self.exchange)
        self.shares = Shares(known, self.lines, self.exchange, self.notes)
        self._clock = clock

    def restore(self) -> None:
        """Take over what this broker knew before it was started anew.

        It holds from when the others are heard.

        Raises
        ------
        OSError
            If it can't be read.
        """
        told = self.exchange.before()
        if told is not None:
            self.sessions.restore(told.sessions, told.closed)
            self.clusters.restore(told.clusters)

    async def run(self) -> None:
        """Do what has to be done again and again, until cancelled."""
        await asyncio.gather(self.exchange.run(), self._looks())

    async def _take_in(self, told: list[Told], locked: frozenset[int]) -> None:
        now = self._clock()
        await self.gate.heard([one for one in told if one.is_there(now)])
        self.clusters.heard(told, now)
        self.barred.heard(locked)
        self.logins.heard(told)
        self.clusters.forget_silent()
        await self.shares.end(now)

    async def _looks(self) -> None:
        while True:
            uids = {s.uid for s in self.sessions.all()}
            uids |= {c.uid for c in self.registry.own.values()}
            uids |= {uid for c in self.registry.own.values() for uid in c.shares}
            await self.accounts.look(uids)
            await self.accounts.change(_LOOK)
