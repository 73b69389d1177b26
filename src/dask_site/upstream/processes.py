"""The processes of workers: how a nanny sees them end, and what they are forked from."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import distributed.utils


def between_end(nanny: Any, wrap: Callable[[Callable[[int], None]], Callable[[int], None]]) -> None:
    """Put something between a nanny and the end of its worker's process, by exit code."""
    nanny._on_worker_exit_sync = wrap(nanny._on_worker_exit_sync)


def ended_for_memory(nanny: Any) -> int:
    """Return the process that a nanny ended last as it took too much memory; none: 0 or -1."""
    return int(nanny.memory_manager._last_terminated_pid)


def use_fork_server(address: str, alive: int, pid: int) -> None:
    """Have `multiprocessing` ask a fork server that is there already for new processes."""
    server: Any = forkserver._forkserver
    server._forkserver_address = address
    server._forkserver_alive_fd = alive
    server._forkserver_pid = pid
    # Otherwise distributed imports NumPy and pandas here, to have its own fork server load them.
    distributed.utils._forkserver_preload_set = True
