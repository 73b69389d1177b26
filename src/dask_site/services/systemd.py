"""What systemd wants to be told, and the sockets that it hands over."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Tell systemd something, ``READY=1``; say whether it was told. Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError:
        return False
    return True


def watchdog() -> float | None:
    """Return after how many seconds systemd gives up on a process that says nothing."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if mine and microseconds.isdigit() else None


def handed_over() -> list[socket.socket]:
    """Return the listening sockets that systemd has opened for this process (LISTEN_FDS)."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for descriptor in range(3, 3 + int(count)):
        os.set_inheritable(descriptor, False)
        one = socket.socket(fileno=descriptor)
        one.setblocking(False)
        found.append(one)
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return found
