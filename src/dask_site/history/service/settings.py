"""What the site file says about the service, as paths and numbers."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from dask_site.dashboards.places import HISTORY, Places
from dask_site.history.service.proxied import ACCOUNT, Proxy
from dask_site.history.store.core import Store
from dask_site.history.store.journals import Journal, journal_for
from dask_site.history.store.upkeep import Retention
from dask_site.services.hostname import hostname
from dask_site.site import Site
from dask_site.sitefile.problems import show, single

_USER = ("$USER", "${USER}")


@dataclass(frozen=True)
class Settings:
    """Of one process of the service.

    Attributes
    ----------
    state : Path
        Folder that all nodes share which may become the writer.
    store : str
        URL of the store.
    spool : Path
        Folder that holds the users' spool folders.
    socket : Path
        Unix socket, of this node.
    host : str
        By which other nodes reach this one.
    port : int
        With TLS.
    names : frozenset of str
        By which browsers may call this service; lower case.
    certificate, key : Path
        Of TLS; made where both are missing and in the folder `state`.
    made : bool
        Whether those two may be made.
    metrics_from : tuple of networks
        Whose addresses may read the metrics without being known.
    proxy : Proxy or None
        Behind which browsers see the pages with the login of dashboards, where the site has those.
    journal : str
        Of SQLite; ``auto``: what the file system of `state` allows.
    """

    state: Path
    store: str
    spool: Path
    socket: Path
    host: str
    port: int
    names: frozenset[str]
    admins: tuple[str, ...]
    coordinators: dict[str, list[str]]
    retention: Retention
    certificate: Path
    key: Path
    made: bool
    metrics_from: tuple[IPv4Network | IPv6Network, ...]
    proxy: Proxy | None = None
    journal: Literal["auto", "wal", "delete"] = "auto"

    @property
    def where(self) -> Path:
        """The file that says which node is the writer, and how to reach it."""
        return self.state / "where.json"

    @property
    def inbox(self) -> Path:
        """The folder of what schedulers sent."""
        return self.state / "inbox"

    def opened(self, *, migrate: bool = True) -> Store:
        """Open the store; see `Store`."""
        return Store(self.store, journal=self.journal_used, migrate=migrate)

    @property
    def journal_used(self) -> Journal:
        """The journal of a store in a file."""
        return journal_for(self.state)[0] if self.journal == "auto" else self.journal

    @property
    def in_file(self) -> bool:
        """Whether the store is a file, which the writer alone opens."""
        return self.store.startswith("sqlite")

    @classmethod
    def of_site(cls, site: Site, proxy_user: str = ACCOUNT) -> Settings:
        """Return the settings for this node.

        Parameters
        ----------
        proxy_user : str
            Account of the dashboards' proxy.

        Raises
        ------
        SiteError
            If what the site file says can't serve: a path is missing or not absolute.
        """
        history = site.history
        state = _absolute(site, "state", history.state)
        host = hostname()
        node = host.partition(".")[0]
        own = (history.certificate, history.key)
        if (own[0] is None) != (own[1] is None):
            missing = "certificate" if own[0] is None else "key"
            raise single(
                site.name,
                f"dask_site.history.{missing}",
                "is missing, though the other one is there",
                "name the certificate and its key, or neither: then they are made",
            )
        names = {host, socket.gethostname(), node, "localhost", "127.0.0.1", "::1", *history.hosts}
        store = f"sqlite:///{state}/history.db" if history.store == "sqlite" else history.store
        return cls(
            state=state,
            store=store,
            spool=_spool(site),
            socket=_absolute(site, "socket", history.socket),
            host=host,
            port=history.port,
            names=frozenset(name.lower().rstrip(".") for name in names if name),
            admins=tuple(history.admins),
            coordinators={a: list(people) for a, people in history.coordinators.items()},
            retention=Retention(
                samples=history.retention.samples.total_seconds(),
                clusters=history.retention.clusters.total_seconds(),
            ),
            certificate=_path(site, "certificate", own[0], state / f"{host}.pem"),
            key=_path(site, "key", own[1], state / f"{host}.key"),
            made=own[0] is None,
            metrics_from=tuple(ip_network(each, strict=False) for each in history.metrics_from),
            proxy=_proxy(site, proxy_user),
            journal=history.journal,
        )


def _proxy(site: Site, account: str) -> Proxy | None:
    if not site.dashboards.enabled:
        return None
    places = Places.of_site(site)
    if places.paths:  # the history would need a name of its own
        return Proxy("", "", places.origin())
    return Proxy(account, places.origin(HISTORY), places.origin())


def _spool(site: Site) -> Path:
    """Return the folder above the users' folders."""
    named = site.history.spool.rstrip("/")
    parent, _, last = named.rpartition("/")
    if last not in _USER:
        raise single(
            site.name,
            "dask_site.history.spool",
            f"{show(named)} is not where a service finds the folders of all users",
            "write a folder of this machine that ends with /$USER: /var/spool/dask-site/$USER",
            value=named,
        )
    return _absolute(site, "spool", parent or "/")


def _path(site: Site, key: str, named: str | None, otherwise: Path) -> Path:
    return otherwise if named is None else _absolute(site, key, named)


def _absolute(site: Site, key: str, named: str) -> Path:
    path = Path(os.path.expandvars(named)).expanduser()
    if not path.is_absolute() or "$" in str(path):
        raise single(
            site.name,
            f"dask_site.history.{key}",
            f"{show(named)} becomes {show(str(path))} here, which is not an absolute path",
            "write an absolute path",
            value=named,
        )
    return path
