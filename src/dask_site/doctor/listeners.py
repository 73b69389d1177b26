"""Which programs listen on which TCP ports, by what the kernel says in ``/proc``."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTENS = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Listener:
    """A TCP socket that takes connections.

    Attributes
    ----------
    address : str
        IPv4 or IPv6; ``0.0.0.0`` and ``::`` are all addresses of this machine.
    uid : int
        User number of who opened it.
    pid : int or None
        Of a process that has it; None where that can't be seen.
    command : tuple of str
        Arguments of that process; empty where they can't be seen.
    """

    address: str
    port: int
    uid: int
    pid: int | None = None
    command: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it: all of its users."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)

    @property
    def place(self) -> str:
        """Address and port as people write them."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @property
    def program(self) -> str:
        """What runs, in a few words."""
        if not self.command:
            return "a program" if self.pid is None else f"process {self.pid}"
        words = [Path(self.command[0]).name, *self.command[1:3]]
        return " ".join(word if len(word) <= 60 else f"...{word[-57:]}" for word in words)


def listeners(uid: int | None = None, proc: Path = Path("/proc")) -> list[Listener]:
    """Return what listens on this machine, in this network namespace, by port.

    Parameters
    ----------
    uid : int, optional
        Only what this user has opened.
    proc : path
        Where the kernel says so; proc(5).
    """
    found = [
        (address, port, owner, inode)
        for table in ("tcp", "tcp6")
        for address, port, owner, inode in _sockets(proc / "net" / table)
        if uid is None or owner == uid
    ]
    holders = _holders({inode for *_, inode in found}, proc)
    rows = []
    for address, port, owner, inode in found:
        pid = holders.get(inode)
        rows.append(Listener(address, port, owner, pid, command_of(pid, proc) if pid else ()))
    return sorted(rows, key=lambda row: (row.port, row.address))


def command_of(pid: int, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Return the arguments of a process as everybody can read them, none if it is gone."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ()
    return tuple(word.decode(errors="replace") for word in words if word)


def _sockets(table: Path) -> Iterator[tuple[str, int, int, str]]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # no IPv6
        return
    for line in lines:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENS:
            address, _, port = words[1].partition(":")
            yield _address(address), int(port, 16), int(words[7]), words[9]


def _address(digits: str) -> str:
    # Words of 32 bits in the order of the machine's bytes.
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _holders(inodes: set[str], proc: Path) -> dict[str, int]:
    """Return a process that has each socket, of those whose files can be seen."""
    found: dict[str, int] = {}
    # The first that has it opened it; the others are its children.
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        with suppress(OSError):
            for one in (proc / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    match = _SOCKET.fullmatch(str(one.readlink()))
                    if match and match[1] in inodes:
                        found.setdefault(match[1], pid)
    return found
