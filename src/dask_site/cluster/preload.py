"""Preload for any kind of cluster: keys and scratch of its owner's own, sound TLS, no open port."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from dask_site.cluster import scratch

scratch.check()  # before anything else is imported: it may be from there

from distributed.core import Status  # noqa: E402

from dask_site import own_keys  # noqa: E402
from dask_site.cluster.errors import ClusterError  # noqa: E402
from dask_site.cluster.tls import use_clean_sockets  # noqa: E402
from dask_site.dashboards import asking, serving  # noqa: E402

own_keys.check()  # before anything listens; who makes the process hears of it
use_clean_sockets()
serving.refuse_plain()
_closing: set[asyncio.Future[None]] = set()  # or nobody would hold them
_places = asking.places()
if _places is not None:
    serving.install(_places)


def dask_setup(node: Any) -> None:
    """Close a node whose scratch is another's: what is raised here distributed only logs."""
    used = getattr(node, "local_directory", None)
    try:
        scratch.check_folder(Path(used or "/"))
    except ClusterError as error:
        logging.getLogger("dask_site").error("%s", error)
        _closing.add(asyncio.ensure_future(_close(node)))


async def _close(node: Any) -> None:
    while node.status == Status.init:  # it can't be closed before it has started
        await asyncio.sleep(0.05)
    await node.close()
