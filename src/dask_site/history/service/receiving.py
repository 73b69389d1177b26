"""What schedulers send instead of writing it to a spool."""

from __future__ import annotations

import logging

from dask_site.history.lines import MOST_SENT
from dask_site.history.service.api import ApiHandler
from dask_site.history.service.inbox import InboxError, cluster_of
from dask_site.history.service.requests import Handler, RefusedError

logger = logging.getLogger("dask_site")
_RETRY = {"Retry-After": "30"}  # seconds


class Records(ApiHandler):
    """Takes lines of a recorder, as they would stand in a spool; they are the caller's."""

    async def post(self) -> None:
        """Answer with how far the file has got, once that is on disk."""
        context, uid, lines = self.context, self.viewer.uid, self.request.body
        if not self.by_system:
            raise RefusedError(403, "Records come from schedulers, by munge or the Unix socket.")
        if not context.rate.take(uid):
            why = "You have sent records too often: send more of them at a time, and less often."
            raise RefusedError(429, why, _RETRY)
        if len(lines) > MOST_SENT:
            why = f"These are {len(lines)} bytes: send at most {MOST_SENT} at a time."
            raise RefusedError(413, why)
        name, at = self.get_query_argument("file", ""), self.whole("at", 0, 0, 10**9 - 1)
        try:
            owner = await self.aside(context.store.owner_of, cluster_of(name))
            if owner not in (None, uid):
                raise RefusedError(403, "The cluster that the file is named by is another's.")
            got = await self._in(context.receiving, uid, context.inbox.take, uid, name, at, lines)
        except InboxError as error:
            if error.at is not None:
                self.answer({"error": str(error), "at": error.at}, error.status)
                return
            headers = _RETRY if error.status == 429 else {}
            raise RefusedError(error.status, str(error), headers) from None
        except OSError as error:
            logger.warning("What schedulers send can't be written: %s", error)
            why = f"What is sent can't be written here now ({error.strerror}): try again soon."
            raise RefusedError(503, why) from error
        self.answer({"at": got})


def rules() -> list[tuple[str, type[Handler]]]:
    """Return the paths and their handlers."""
    return [(r"/api/v1/records", Records)]
