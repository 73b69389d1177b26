"""Where things are: names for browsers, folders of the broker, sockets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_site.services.hostname import hostname

if TYPE_CHECKING:  # each process of each cluster imports this module, and needs no site file
    from dask_site.site import Site

#: A cluster's label in the DNS: made by the broker alone, so nobody can choose or guess one.
ID = re.compile(r"[a-z][a-z0-9]{15}")
#: The label of the history's pages, in place of a cluster's; too short to be one.
HISTORY = "history"
RUN = Path("/run/dask-dashboards")
_HTTPS = 443


@dataclass(frozen=True)
class Places:
    """Of one site, on this node.

    Attributes
    ----------
    domain : str
        The name by which browsers reach the login nodes.
    port : int
        Of the proxy.
    state : Path
        Folder that all login nodes share.
    run : Path
        Folder of this node's sockets.
    host : str
        By which other nodes reach this one.
    paths : bool
        Whether clusters have paths below the domain, not names in front of it.
    """

    domain: str
    port: int
    state: Path
    run: Path = RUN
    host: str = ""
    paths: bool = False

    @classmethod
    def of_site(cls, site: Site, run: Path = RUN) -> Places:
        """Return the places of a site.

        Raises
        ------
        SiteError
            If what the site file says can't serve.
        """
        from dask_site.sitefile.problems import single

        dashboards = site.dashboards
        if not dashboards.enabled or dashboards.domain is None:
            key, why = ("enabled", "is not true") if dashboards.domain else ("domain", "is missing")
            raise single(
                site.name,
                f"dask_site.dashboards.{key}",
                why,
                "write dashboards: {enabled: true, domain: dask.example.org}",
            )
        return cls.of_config(site.dashboards.model_dump(), run)

    @classmethod
    def of_config(cls, values: dict[str, Any], run: Path = RUN) -> Places:
        """Return the places that a release's configuration says, which has been checked."""
        return cls(
            domain=str(values["domain"]),
            port=int(values.get("port") or _HTTPS),
            state=Path(os.path.expandvars(str(values["state"]))),
            run=run,
            host=hostname(),
            paths=bool(values.get("paths")),
        )

    def origin(self, cluster: str = "") -> str:
        """Return the origin of a cluster's dashboard, or of the pages before them all."""
        name = f"{cluster}.{self.domain}" if cluster and not self.paths else self.domain
        return f"https://{name}{self._suffix}"

    def upstream(self, cluster: str) -> str:
        """Return what the server of a cluster's dashboard is told that it is called, with port.

        It is the same below paths: nginx says the origin by it, too.
        """
        return f"{cluster}.{self.domain}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f":{self.port}" if self.port != _HTTPS else ""

    def page(self, cluster: str, path: str = "/status") -> str:
        """Return the address of a page of a cluster's dashboard."""
        return self.origin(cluster) + (f"/c/{cluster}" if self.paths else "") + path

    @property
    def control(self) -> Path:
        """Socket for this node's users."""
        return self.run / "control.sock"

    @property
    def http(self) -> Path:
        """Socket for nginx, which alone can reach it."""
        return self.run / "proxy" / "broker.sock"

    @property
    def doors(self) -> Path:
        """Folder of the sockets on which schedulers of this node listen."""
        return self.run / "clusters"

    @property
    def secret(self) -> Path:
        """Folder for the broker alone."""
        return self.state / "secret"

    @property
    def proxy(self) -> Path:
        """Folder of the keys that nginx reads."""
        return self.state / "proxy"

    @property
    def public(self) -> Path:
        """Folder that everybody reads: where the brokers are, and whose keys they have."""
        return self.state / "public"
