"""Where the site's history is, whose pages have the same login."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dask_site.calls import ServiceDownError, Where

if TYPE_CHECKING:
    from dask_site.site import Site


@dataclass(frozen=True)
class Past:
    """The history service of a site.

    Attributes
    ----------
    socket : Path
        On which it listens, on each node on which it runs.
    state : Path
        Folder in which its writer says where it is.
    """

    socket: Path
    state: Path

    @classmethod
    def of_site(cls, site: Site) -> Past | None:
        """Return that of a site, None where it keeps no history."""
        history = site.history
        if not history.enabled:
            return None
        return cls(_path(history.socket), _path(history.state))

    def writer(self) -> str:
        """Return the name of the node whose service writes, empty where nobody says it."""
        try:
            return Where.read(self.state).host
        except ServiceDownError:
            return ""


def _path(named: str) -> Path:
    return Path(os.path.expandvars(named)).expanduser()
