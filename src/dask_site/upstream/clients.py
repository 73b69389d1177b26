"""The clients of this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distributed import Client


def clients_of(address: str) -> Iterator[Any]:
    """Yield the clients that are connected to a scheduler."""
    for client in list(Client._instances):
        if getattr(client.scheduler, "address", None) == address:
            yield client
