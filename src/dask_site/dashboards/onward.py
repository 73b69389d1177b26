"""Where browsers may be sent on to: pages of ours, and no other."""

from __future__ import annotations

import re

from dask_site.dashboards.places import HISTORY, ID

_PATH = r"/(?!/)[A-Za-z0-9/_.-]{0,200}"
_TICKET = re.compile(rf"/ticket\?cluster=(?:{HISTORY}|{ID.pattern})&path={_PATH}")


def is_path(path: str) -> bool:
    """Say whether it is a path that a browser can be sent on to at the same origin."""
    return re.fullmatch(_PATH, path) is not None


def first_page(name: str) -> str:
    """Return the first page of a cluster's dashboard, or of the history."""
    return "/" if name == HISTORY else "/status"


def ticket(name: str, path: str) -> str:
    """Return the path that leads whoever is logged in to a page of a cluster or the history."""
    return f"/ticket?cluster={name}&path={path}"


def after_login(given: str) -> str:
    """Return where a link leads after the login: what it says, or else to the list."""
    return given if _TICKET.fullmatch(given) else "/"
