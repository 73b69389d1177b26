"""The pages of the history: made on the server, readable without any script."""

from __future__ import annotations

from typing import Any


def routes() -> list[Any]:
    """Return tornado's rules for the pages; their handlers need the service's context."""
    from dask_site.web.doors import NothingPage, OpenPage
    from dask_site.web.handlers import rules

    # What is nowhere else is nothing, so that comes last.
    return [*rules(), (r"/open/([A-Za-z0-9_-]{20,100})", OpenPage), (r".*", NothingPage)]
