"""What browsers see where nobody is logged in, or nothing is."""

from __future__ import annotations

from typing import Any

from dask_site.history.service.api import Open
from dask_site.history.service.requests import Handler, Nothing
from dask_site.web.handlers import Page


class _Either(Page):
    """Says what was wrong as a page to browsers, and as JSON to programs."""

    def write_error(self, status_code: int, **more: Any) -> None:
        """See `Handler`."""
        accepted = self.request.headers.get("Accept", "")
        api = self.request.path.startswith("/api/")
        said = Handler if api or "text/html" not in accepted.lower() else Page
        said.write_error(self, status_code, **more)


class OpenPage(_Either, Open):
    """Lets a browser in; tells who comes too late how to get another link."""


class NothingPage(_Either, Nothing):
    """Answers for what isn't there."""
