"""The ways to a scheduler: a socket on this node, or an address on another."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from pathlib import Path

from dask_site.dashboards.registry import RefusedError


def door(path: Path) -> socket.socket:
    """Return a socket that listens where nginx alone gets in.

    Raises
    ------
    OSError
        If it can't be made.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
        # The folder is of nginx's group, and gives it to what is made there.
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return listener


def certified(name: str) -> str:
    """Return what a dashboard in a job proves to be; no browser and no node has such a name."""
    return f"{name}.clusters.dask-site.invalid"


def address(ip: str, port: object) -> str:
    """Return where nginx reaches a scheduler that calls from another node.

    Raises
    ------
    RefusedError
        If the port is none that users have, or no other node has the address.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 1024 <= port <= 65535:
        raise RefusedError("port must be a number from 1024 to 65535")
    try:
        found = ipaddress.ip_address(ip)
    except ValueError:
        raise RefusedError("nobody can say from where this comes", 403) from None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    ):  # nginx would ask this node itself, or what is no scheduler
        raise RefusedError(
            f"{found} is no address by which a login node reaches a compute node: call from one "
            "that it can reach; on the login node itself, its socket is there for that",
            403,
        )
    return f"[{found}]:{port}" if found.version == 6 else f"{found}:{port}"
