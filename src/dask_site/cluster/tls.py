"""TLS that survives OpenSSL's left-over errors.

CPython's ssl module does not empty OpenSSL's error queue of the thread before it reads or writes
(https://github.com/python/cpython/issues/148594). Since OpenSSL 3.4 a peer that hangs up leaves an
error there more often (https://github.com/python/cpython/issues/127257), and the next operation on
any other connection of the thread then fails with "Broken pipe", though that connection is sound.
A Dask scheduler serves all its connections in one thread: with Python 3.13 and OpenSSL 3.5 (Debian
13) one leaving connection takes clients and workers along.
"""

from __future__ import annotations

import ctypes
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from distributed.security import Security

AFFECTED = ssl.OPENSSL_VERSION_INFO >= (3, 4)


@lru_cache
def clear_errors() -> Callable[[], Any]:
    """Return the function that empties the queue of the OpenSSL that `ssl` uses.

    Where Python has OpenSSL built in and hides it, a function that does nothing.
    """
    try:
        import _ssl

        library = ctypes.PyDLL(getattr(_ssl, "__file__", None))
        function = library.ERR_clear_error
    except (ImportError, OSError, AttributeError):
        return lambda: None
    function.argtypes = []
    function.restype = None
    return function


class CleanSocket(ssl.SSLSocket):
    """An SSL socket that begins every operation with an empty error queue."""

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """See `ssl.SSLSocket.do_handshake`."""
        clear_errors()()
        super().do_handshake(*args, **kwargs)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """See `ssl.SSLSocket.recv_into`."""
        clear_errors()()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        """See `ssl.SSLSocket.send`."""
        clear_errors()()
        return super().send(*args, **kwargs)


class CleanSecurity(Security):
    """distributed's TLS settings, with contexts that make clean sockets."""

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """See `distributed.Security.get_connection_args`."""
        return _with_clean_sockets(super().get_connection_args(role))

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """See `distributed.Security.get_listen_args`."""
        return _with_clean_sockets(super().get_listen_args(role))


def use_clean_sockets() -> None:
    """Make every SSL context of this process give clean sockets; for processes that are ours."""
    if AFFECTED:
        ssl.SSLContext.sslsocket_class = CleanSocket


def _with_clean_sockets(arguments: dict[str, Any]) -> dict[str, Any]:
    context = arguments.get("ssl_context")
    if AFFECTED and context is not None:
        context.sslsocket_class = CleanSocket
    return arguments
