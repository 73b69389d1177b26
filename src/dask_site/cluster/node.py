"""Worker preload: tell the scheduler the name of the node, so that nobody has to ask for it."""

from __future__ import annotations

import os
from typing import Any


def node_name() -> str:
    """Return the name of this node: the resource manager's, else its own."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def dask_setup(worker: Any) -> None:
    """Run in the worker process before it registers (Dask's preload interface).

    The scheduler finds the name as ``WorkerState.extra["node"]``.
    """
    worker.startup_information["node"] = lambda _: node_name()
