"""What a TCP port answers to a stranger: somebody without certificate, cookie or token."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

#: Seconds that a port may take for each answer.
PATIENCE = 3.0
# A Dask port speaks first; a web server waits.
_FIRST_WORD = 0.5
_HELLO = (b"compression", b"pickle-protocol")
_MOST = 65536


class Speech(StrEnum):
    """What a port speaks."""

    DASK = "Dask's protocol"
    HTTP = "HTTP"
    OTHER = "something else"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Answer:
    """How a port met a stranger.

    Attributes
    ----------
    tls : bool
        Whether it speaks TLS.
    wants_certificate : bool
        Whether it turned the stranger away, as he has no certificate.
    dashboard : bool
        Whether it showed a page of a Dask dashboard.
    jupyter : str
        Version of the Jupyter server that it is; empty if it is none.
    files : bool
        Whether that Jupyter server showed files: it runs code for anybody.
    """

    speech: Speech
    tls: bool = False
    wants_certificate: bool = False
    dashboard: bool = False
    jupyter: str = ""
    files: bool = False


def probe(address: str, port: int) -> Answer:
    """Ask a port as a stranger would.

    Only looks: what is sent are a greeting of TLS and requests for pages.
    """
    place = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), port)  # noqa: S104  # listens to none
    try:
        with closing(socket.create_connection(place, PATIENCE)) as plain:
            said = _first_words(plain)
    except OSError:
        return Answer(Speech.NOTHING)
    if said:
        is_dask = any(word in said for word in _HELLO)
        return Answer(Speech.DASK if is_dask else Speech.OTHER)
    answer = _by_tls(place)
    return answer if answer is not None else _by_http(place, None)


def _first_words(connection: socket.socket) -> bytes:
    return _heard(connection, _FIRST_WORD, lambda said: any(word in said for word in _HELLO))


def _heard(
    connection: socket.socket, seconds: float, enough: Callable[[bytes], bool] | None = None
) -> bytes:
    """Return what comes in so many seconds in all, however slowly it comes.

    Raises
    ------
    OSError
        If the connection broke before anything came; what came until then counts.
    """
    said, until = b"", time.monotonic() + seconds
    try:
        while len(said) < _MOST and not (enough and enough(said)):
            left = until - time.monotonic()
            if left <= 0:
                break
            connection.settimeout(left)
            more = connection.recv(_MOST)
            if not more:
                break
            said += more
    except TimeoutError:
        pass
    except OSError:
        if not said:
            raise
    return said


def _stranger() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _by_tls(place: tuple[str, int]) -> Answer | None:
    """Return what a port that speaks TLS answers, None if it doesn't."""
    try:
        with (
            closing(socket.create_connection(place, PATIENCE)) as plain,
            _stranger().wrap_socket(plain) as connection,
        ):
            try:
                said = _first_words(connection)
            except ssl.SSLError as error:
                # With TLS 1.3 the server turns away only after the handshake.
                return _turned_away(error)
            except OSError:
                said = b""
            if said:
                is_dask = any(word in said for word in _HELLO)
                return Answer(Speech.DASK if is_dask else Speech.OTHER, tls=True)
    except ssl.SSLError as error:
        return _turned_away(error)
    except OSError:
        return None
    answer = _by_http(place, _stranger())
    return replace(answer, tls=True)


def _turned_away(error: ssl.SSLError) -> Answer | None:
    reason = (error.reason or str(error)).upper()
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return Answer(Speech.OTHER, tls=True, wants_certificate=True)
    return None


def _by_http(place: tuple[str, int], context: ssl.SSLContext | None) -> Answer:
    if _page(place, context, "/")[0] == 0:
        return Answer(Speech.OTHER)
    status, body = _page(place, context, "/info/main/workers.html")
    if status == 200 and b"orker" in body:
        return Answer(Speech.HTTP, dashboard=True)
    status, body = _page(place, context, "/api")
    version = ""
    if status == 200:
        with suppress(ValueError, AttributeError):
            version = str(json.loads(body).get("version", ""))
    files = bool(version) and _page(place, context, "/api/contents")[0] == 200
    return Answer(Speech.HTTP, jupyter=version, files=files)


def _page(place: tuple[str, int], context: ssl.SSLContext | None, path: str) -> tuple[int, bytes]:
    """Return status and body of a page; status 0 where that isn't HTTP."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost:{place[1]}\r\nConnection: close\r\n\r\n"
    said = b""
    try:
        with closing(socket.create_connection(place, PATIENCE)) as plain:
            connection = plain if context is None else context.wrap_socket(plain)
            with closing(connection):
                connection.sendall(head.encode())
                said = _heard(connection, PATIENCE)
    except OSError:
        pass
    first, _, rest = said.partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return 0, b""
    return int(words[1]), rest.partition(b"\r\n\r\n")[2]
