"""Sockets that many may call, none of whom can keep the others from it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from dask_site.identity import peer_of
from dask_site.whole import make_folder

#: Of one request, and of a connection on which nothing comes: bytes and seconds.
LIMITS: dict[str, Any] = {
    "max_body_size": 1024 * 1024,
    "max_header_size": 32 * 1024,
    "max_buffer_size": 2 * 1024 * 1024,
    "idle_connection_timeout": 30.0,
    "body_timeout": 20.0,
}
#: How many may wait to be taken: after a restart of a proxy all its pages call at once, and who
#: finds no place on a Unix socket is turned away. The kernel's own bound is as high by default.
BACKLOG = 4096
_MOST, _MOST_EACH, _MOST_FOR_OTHERS = 500, 64, 400
_USER_TIMEOUT = 30_000  # ms in which nothing of an answer was received


class Server(HTTPServer):
    """A server with as many connections as it can bear: in all, and of each user or address.

    Parameters
    ----------
    for_others : callable, optional
        Says of a caller whether he passes on what many ask, as a proxy does: he may have more.
    """

    _open: dict[IOStream, Any]

    def initialize(
        self, *args: Any, for_others: Callable[[Any], bool] | None = None, **more: Any
    ) -> None:
        """See tornado."""
        super().initialize(*args, **more)
        self._for_others = for_others or (lambda _: False)
        self._open = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """See tornado."""
        self._open = {one: who for one, who in self._open.items() if not one.closed()}
        who = _caller(stream, address)
        most = _MOST_FOR_OTHERS if self._for_others(who) else _MOST_EACH
        if len(self._open) >= _MOST or Counter(self._open.values())[who] >= most:
            stream.close()
            return
        if stream.socket.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        self._open[stream] = who
        super().handle_stream(stream, address)


def unix_socket(path: Path, mode: int = 0o666) -> socket.socket:
    """Return a listening socket that everybody on this machine may call, or whom `mode` lets.

    Raises
    ------
    OSError
        If something else is in its place, or the folder can't be used.
    """
    make_folder(path.parent)
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(f"{path} is no socket: remove it, or name another")
    if _answers(path):
        raise OSError("another process listens there: stop it first")
    # What was left by a process that was killed goes, and nobody finds it half made.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        listener.bind(str(beside))
        beside.chmod(mode)
        listener.listen(BACKLOG)
        beside.replace(path)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    return listener


def _answers(path: Path) -> bool:
    """Return whether somebody listens on a socket, from whom it must not be taken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:
            return True  # he has many callers already
        except OSError:
            return False
        return True


def _caller(stream: IOStream, address: Any) -> Any:
    if stream.socket.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            return peer_of(stream.socket).uid
    return address[0] if isinstance(address, tuple) and address else None
