"""Who may come in, and by which way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, replace

from dask_site.dashboards import doors
from dask_site.dashboards.exchange import Exchange
from dask_site.dashboards.known import Known
from dask_site.dashboards.past import Past
from dask_site.dashboards.peers import Told
from dask_site.dashboards.places import HISTORY, ID
from dask_site.dashboards.registry import Cluster


@dataclass(frozen=True)
class Asked:
    """A request for a dashboard or the history, as nginx has it.

    Texts are as the browser sent them, but for `cluster`, which nginx takes from the name that was
    called: a cluster's id, or `history`.
    """

    cluster: str
    cookie: str = ""
    origin: str = ""
    site: str = ""
    mode: str = ""
    dest: str = ""
    upgrade: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether nginx may pass a request on, and where to.

    Attributes
    ----------
    status : int
        204, 401 (log in), 403, or 503 where it can't be known.
    upstream : str
        For ``proxy_pass``.
    name : str
        Which the certificate there has to have.
    host : str
        For the Host header.
    view : str
        By which the scheduler knows the connections of the session.
    user : str
        For the history alone: the number of the user, who has none of its own sessions.
    """

    status: int
    upstream: str = ""
    name: str = ""
    host: str = ""
    view: str = ""
    user: str = ""


class Gate:
    """Decides about requests for dashboards, and for the history.

    Parameters
    ----------
    known : Known
    exchange : Exchange
    past : Past, optional
        The site's history, where it keeps one; it needs a name of its own, as clusters do.
    """

    def __init__(self, known: Known, exchange: Exchange, past: Past | None = None) -> None:
        self._known = known
        self._exchange = exchange
        self._past = None if known.places.paths else past
        self._writer = ""
        self._addresses: dict[str, str] = {}

    def decide(self, asked: Asked) -> Verdict:
        """Decide about a request for a dashboard, or for the history.

        A dashboard that isn't there is not told apart from one that is another's.
        """
        known = asked.cluster == HISTORY or ID.fullmatch(asked.cluster)
        if not known or not self._is_own_page(asked):
            return Verdict(403)
        if self._exchange.is_stale():
            return Verdict(503)
        if self._known.places.paths:  # all clusters are at the origin of the login pages
            session = self._known.sessions.of(asked.cookie)
        else:
            session = self._known.sessions.at(asked.cookie, asked.cluster)
        if session is None:
            return Verdict(401)
        if asked.cluster == HISTORY:
            way = self._way_to_history()
            allowed = way is not None and self.reaches(session.uid, HISTORY)
            return replace(way, user=str(session.uid)) if way and allowed else Verdict(403)
        cluster = self.visible(session.uid, asked.cluster)
        if cluster is None:
            return Verdict(403)
        view = self._known.sessions.view(session.id, cluster.id)
        return replace(self._way_to(cluster), view=view)

    def _is_own_page(self, asked: Asked) -> bool:
        """Refuse what pages of other origins have the browser ask for.

        Cookies go along, as all clusters have the same site; what comes back they can't read, but
        a WebSocket they could.
        """
        own = self._known.places.origin(asked.cluster)
        if asked.upgrade:
            return asked.origin == own
        if asked.origin and asked.origin != own:
            return False
        if asked.site in {"", "same-origin", "none"}:
            return True
        return asked.mode == "navigate" and asked.dest == "document"

    def visible(self, uid: int, name: str) -> Cluster | None:
        """Return a cluster, if a user may look at it."""
        cluster, is_barred = self._known.registry.get(name), self._known.barred.is_barred
        if cluster is None or is_barred(uid) or is_barred(cluster.uid):
            return None
        if self._known.places.paths and cluster.uid != uid:
            return None
        return cluster if cluster.may_look(uid, self._known.clock()) else None

    def reaches(self, uid: int, name: str) -> bool:
        """Return whether a user may go to a cluster's dashboard, or to the history."""
        if name == HISTORY:
            return self._past is not None and not self._known.barred.is_barred(uid)
        return ID.fullmatch(name) is not None and self.visible(uid, name) is not None

    @property
    def history_url(self) -> str:
        """Where browsers reach the history; empty where no service of it is known."""
        there = self._past is not None and (self._writer or self._past.socket.exists())
        return f"{self._known.places.origin(HISTORY)}/" if there else ""

    def _way_to_history(self) -> Verdict | None:
        places, past = self._known.places, self._past
        if past is None:
            return None
        address = self._addresses.get(self._writer)
        if address is None or self._writer == places.host:
            # Of a standby's own words users learn more than of a refusal here.
            host = places.origin(HISTORY).removeprefix("https://")
            return Verdict(204, f"http://unix:{past.socket}:", "-", host)
        return Verdict(204, f"https://{address}:{places.port}", self._writer, self._writer)

    def _way_to(self, cluster: Cluster) -> Verdict:
        places, host = self._known.places, self._known.places.upstream(cluster.id)
        if cluster.address:
            return Verdict(204, f"https://{cluster.address}", doors.certified(cluster.id), host)
        if cluster.host == places.host:
            return Verdict(204, f"http://unix:{places.doors}/{cluster.id}.sock:", "-", host)
        address = self._addresses.get(cluster.host)
        if address is None:
            return Verdict(403)
        return Verdict(204, f"https://{address}:{places.port}", cluster.host, cluster.host)

    async def heard(self, there: list[Told]) -> None:
        """Find the ways to the nodes of the brokers that are there, and to the history."""
        await self._find(there)
        if self._past is not None:
            self._writer = await asyncio.to_thread(self._past.writer)

    async def _find(self, there: list[Told]) -> None:
        for one in there:
            if one.host not in self._addresses:
                with contextlib.suppress(OSError):
                    found = await asyncio.to_thread(socket.getaddrinfo, one.host, None)
                    ip = str(found[0][4][0])
                    self._addresses[one.host] = f"[{ip}]" if ":" in ip else ip
