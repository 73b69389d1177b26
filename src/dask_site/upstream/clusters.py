"""What a cluster of distributed begins and ends with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from distributed.deploy.cluster import Cluster as DaskCluster


class HookedCluster(DaskCluster):
    """A cluster whose start and end are for the subclass to say."""

    async def _start(self) -> None:
        await self._begin()

    async def _close(self) -> None:
        await self._end()

    async def _begin(self) -> None:
        await super()._start()

    async def _end(self) -> None:
        await super()._close()

    def _run_loop(self) -> None:
        """Have an event loop in a thread, unless the cluster is asynchronous."""
        self._loop_runner.start()

    def _end_loop(self) -> None:
        self._loop_runner.stop()


def spec_clusters() -> Iterator[Any]:
    """Yield the clusters of this process that are of distributed's own kind, LocalCluster too."""
    loaded = sys.modules.get("distributed.deploy.spec")
    yield from list(loaded.SpecCluster._instances if loaded is not None else ())
