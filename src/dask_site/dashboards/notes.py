"""What is written down of what root and users do about who gets in."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from dask_site.dashboards.accounts import Accounts
from dask_site.dashboards.registry import Cluster, RefusedError
from dask_site.services.access import Viewer
from dask_site.services.audit import AuditLog

logger = logging.getLogger("dask_site")


class Notes:
    """The audit log of a broker."""

    def __init__(self, audit: AuditLog, accounts: Accounts) -> None:
        self.audit = audit
        self._accounts = accounts

    async def of_root(self, what: str, **more: Any) -> None:
        """Note what root does.

        Raises
        ------
        RefusedError
            503 if it can't be written, and would let somebody in.
        """
        await self._note(Viewer("root", 0), what, **more)

    async def of_owner(self, cluster: Cluster, what: str, **more: Any) -> None:
        """Note what becomes of a cluster, by its owner.

        Raises
        ------
        RefusedError
            As `of_root` does.
        """
        viewer = Viewer(await self._accounts.named(cluster.uid), cluster.uid)
        await self._note(viewer, what, cluster=cluster.id, name=cluster.name, **more)

    async def _note(self, viewer: Viewer, what: str, **more: Any) -> None:
        try:
            await asyncio.to_thread(self.audit.note, viewer, what, **more)
        except OSError as error:
            logger.warning("The audit log can't be written: %s", error)
            if what in {"share", "unlock"}:  # what lets nobody in is done all the same
                done = "shared" if what == "share" else "unlocked"
                why = f"The audit log can't be written: nothing is {done}"
                raise RefusedError(why, 503) from None
