"""How clusters come, come back, and go."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dask_site.dashboards import doors, keys
from dask_site.dashboards.exchange import Exchange
from dask_site.dashboards.known import Known
from dask_site.dashboards.lines import Line, Lines
from dask_site.dashboards.peers import Told
from dask_site.dashboards.registry import Cluster, RefusedError

logger = logging.getLogger("dask_site")
#: Seconds for which a cluster that says nothing is kept: a broker or a network may come back.
PATIENCE = 45.0


class Clusters:
    """Takes in the schedulers of this broker, and lets them go."""

    def __init__(self, known: Known, lines: Lines, exchange: Exchange) -> None:
        self._known = known
        self._lines = lines
        self._exchange = exchange

    def register(
        self, uid: int, about: Mapping[str, Any], line: Line
    ) -> tuple[dict[str, Any], socket.socket | None]:
        """Take in a scheduler on this node.

        Parameters
        ----------
        about : mapping
            ``name``, ``kind``, ``pools``; ``id`` of one that comes back after this process or its
            own connection ended.
        line : callable
            By which the scheduler is told what to cut.

        Returns
        -------
        dict
            What to answer.
        socket or None
            On which it shall listen, unless it does already.
        """
        self._known.barred.check(uid)
        again = self._back(uid, about.get("id"), "")
        if again is not None and (self._known.places.doors / f"{again.id}.sock").is_socket():
            self._lines.put(again.id, line)
            self._known.registry.change(again.id, lost=0.0)
            return self._told(again), None
        cluster = again or self._known.registry.new(uid, about)
        try:
            listener = doors.door(self._known.places.doors / f"{cluster.id}.sock")
        except OSError:
            self._known.registry.drop(cluster.id)
            raise
        self._lines.put(cluster.id, line)
        logger.info("%s registered %s", self._known.accounts.name(uid), cluster.id)
        return self._told(cluster), listener

    def register_job(
        self, uid: int, about: Mapping[str, Any], ip: str, line: Line
    ) -> dict[str, Any]:
        """Take in a scheduler on another node, at the address from which it calls.

        Only nginx connects there, and sends nothing to whoever lacks the certificate that is
        returned here.

        Raises
        ------
        RefusedError
            If the port or the address is none of a compute node's, or the request for a certificate
            is not right.
        """
        self._known.barred.check(uid)
        address = doors.address(ip, about.get("port"))
        asked = about.get("request")
        again = self._back(uid, about.get("id"), address) or self._adopted(uid, about, address)
        cluster = again or self._known.registry.new(uid, about, address)
        try:
            certificate = keys.certify(self._known.places, str(asked), doors.certified(cluster.id))
        except ValueError as error:
            if again is None:
                self._known.registry.drop(cluster.id)
            raise RefusedError(str(error)) from None
        self._lines.put(cluster.id, line)
        since = max(self._known.clock(), cluster.since + 0.001)  # later, whatever other clocks say
        cluster = self._known.registry.change(cluster.id, lost=0.0, address=address, since=since)
        logger.info("%s registered %s at %s", self._known.accounts.name(uid), cluster.id, address)
        proxies = (self._known.places.public / "proxies.pem").read_text()
        return {**self._told(cluster), "certificate": certificate, "proxies": proxies}

    def _back(self, uid: int, name: Any, address: str) -> Cluster | None:
        cluster = self._known.registry.own.get(name) if isinstance(name, str) else None
        if cluster is None or cluster.uid != uid or bool(cluster.address) != bool(address):
            return None
        return cluster

    def _adopted(self, uid: int, about: Mapping[str, Any], address: str) -> Cluster | None:
        """Take over a job's cluster from a login node that is down."""
        name = about.get("id")
        cluster = self._known.registry.others.get(name) if isinstance(name, str) else None
        if cluster is None or cluster.uid != uid or not cluster.address:
            return None
        mine = replace(cluster, host=self._known.places.host, address=address, lost=0.0)
        self._known.registry.adopt(mine)
        return mine

    def _told(self, cluster: Cluster) -> dict[str, Any]:
        self._exchange.changed()
        now = self._known.clock()
        # What ended while nobody could tell the scheduler is not among these.
        keep = [
            self._known.sessions.view(session.id, cluster.id)
            for session in self._known.sessions.all()
            if self._known.sessions.get(session.id) and cluster.may_look(session.uid, now)
        ]
        url = self._known.places.page(cluster.id)
        return {"id": cluster.id, "url": url, "keep": keep}

    def lost(self, name: str, line: Line) -> None:
        """Note that nothing is heard any more of a cluster, unless it has come back already."""
        if self._lines.is_of(name, line):
            self._lines.drop(name)
            if name in self._known.registry.own:
                self._known.registry.change(name, lost=self._known.clock())
                self._exchange.changed()

    def forget(self, name: str) -> None:
        """Forget a cluster that has ended."""
        cluster = self._known.registry.drop(name)
        self._lines.drop(name)
        if cluster is not None:
            with contextlib.suppress(OSError):
                (self._known.places.doors / f"{name}.sock").unlink()
            logger.info("%s is gone", cluster.id)
            self._exchange.changed()

    def restore(self, clusters: Iterable[Cluster]) -> None:
        """Take over the clusters of before this broker was started anew, and their sockets."""
        self._known.registry.restore(clusters)
        known = {f"{name}.sock" for name in self._known.registry.own}
        with contextlib.suppress(OSError):
            for path in self._known.places.doors.iterdir():
                if path.name not in known:
                    path.unlink()

    def heard(self, told: list[Told], now: float) -> None:
        """Take in the clusters that others tell of; let go what has gone over to one of them."""
        mine = set(self._known.registry.own)
        # A job's cluster outlives the login node that knew it; one on a node that is down does not.
        self._known.registry.heard(
            c for one in told for c in one.clusters if one.is_there(now) or c.address
        )
        for name in mine - set(self._known.registry.own):
            logger.info("%s is another login node's now", name)
            self._lines.drop(name)
            self._exchange.changed()

    def forget_silent(self) -> None:
        """Forget the clusters of which nothing has been heard for too long."""
        for cluster in self._known.registry.silent(PATIENCE):
            self.forget(cluster.id)
