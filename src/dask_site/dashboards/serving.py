"""The dashboard of a scheduler behind the proxy: it listens where nobody else gets in.

On a login node the broker hands over a socket that nginx alone can reach; in a job it is TLS that
takes the proxies' certificate only. What of distributed is replaced for that, is replaced here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import dask
from distributed.http.routing import RoutingApplication
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream

from dask_site.calls import Calls, ServiceDownError, SourceError, Where
from dask_site.dashboards import asking
from dask_site.dashboards.asking import DashboardError
from dask_site.dashboards.places import Places

logger = logging.getLogger("dask_site")
_VIEW = "X-Dask-View"
_BY_MACHINES = ("/health", "/metrics")
_FIRST_SECONDS = 2.0
_AGAIN, _LONGEST_AGAIN = 1.0, 10.0
_WAIT = 40.0
_MOST_LINE = 64 * 1024


def install(where: Places) -> None:
    """Have the schedulers of this process serve behind the proxy, and its workers not at all.

    Instead of `distributed.node.ServerNode.start_http_server`, which opens a port for everybody.
    """
    from distributed import Scheduler

    def start_http_server(self: Any, routes: Any, *_: Any, **__: Any) -> None:
        start(where, self, routes)

    Scheduler.start_http_server = start_http_server
    close_workers()


def close_workers() -> None:
    """Have the workers of this process open no port for HTTP."""
    from distributed import Worker

    Worker.start_http_server = _closed


def refuse_plain() -> None:
    """Refuse what listens without TLS though encryption is required.

    Jupyter in a scheduler has a port of its own, and distributed's WebSockets don't look at
    ``distributed.comm.require-encryption``.
    """
    from distributed import Scheduler
    from distributed.comm.registry import backends

    if dask.config.get("distributed.comm.require-encryption"):
        backends.pop("ws", None)

    Scheduler.jupyter = property(_has_jupyter, _no_jupyter)


def _has_jupyter(_: Any) -> bool:
    return False


def _no_jupyter(_: Any, wanted: bool) -> None:
    if wanted:
        raise ValueError(
            "A scheduler can't start Jupyter here (--jupyter, jupyter=True): everybody on this "
            "node could run code as you through its port. Start Jupyter on its own, and connect a "
            "Client from there"
        )


def start(where: Places, node: Any, routes: Any) -> None:
    """Serve a scheduler's dashboard behind the proxy, as soon as the broker knows of it.

    Instead of `distributed.node.ServerNode.start_http_server`. A scheduler may say as attribute
    ``about`` what the broker is told, or False where it has no dashboard; as ``pages`` a
    coroutine function of itself that makes its pages, when somebody asks for the first.
    """
    node.http_application = RoutingApplication(routes)
    server = PrivateServer(node.http_application)
    if getattr(node, "pages", None) is not None:
        server.first = partial(node.pages, node)
    node.http_server = server
    about = getattr(node, "about", None)
    if about is False:
        return

    def reached(name: str) -> None:
        server.address, server.port = "", name
        node.services["dashboard"] = server

    said = {**(about or _about(node)), "node": os.uname().nodename}
    server.link = Link(where, server, said, reached)
    server.link.begin()


def _closed(self: Any, routes: Any, *_: Any, **__: Any) -> None:
    self.http_application = RoutingApplication(routes)
    self.http_server = PrivateServer(self.http_application)


def _about(node: Any) -> dict[str, Any]:
    script = Path(sys.argv[0] if sys.argv else "").name or "python"
    return {"name": f"{script} {os.getpid()}", "kind": type(node).__name__}


class PrivateServer(HTTPServer):
    """A server that listens on what it is given, and can end what a session has open."""

    link: Link | None
    address: str
    port: Any
    #: Awaited before the first request is answered; it must not make others wait for it.
    first: Callable[[], Awaitable[None]] | None

    def initialize(self, *args: Any, **more: Any) -> None:
        """See tornado."""
        super().initialize(*args, **more)
        self.link = None
        self.first = None
        self._making: asyncio.Future[None] | None = None
        self.address, self.port = "", None
        self._views: dict[str, weakref.WeakSet[IOStream]] = {}

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        """See tornado."""
        delegate = super().start_request(server_conn, request_conn)
        return _Seen(delegate, partial(self._seen, request_conn))

    def _seen(
        self, connection: Any, start_line: Any, headers: HTTPHeaders
    ) -> asyncio.Future[None] | None:
        """Note whose connection it is; return what has to be awaited before its answer."""
        view = headers.get(_VIEW)
        stream = getattr(connection, "stream", None)
        if view and headers.get("Upgrade") and stream is not None:
            self._views.setdefault(view, weakref.WeakSet()).add(stream)
        path = getattr(start_line, "path", "").partition("?")[0]
        if self.first is None or path in _BY_MACHINES:
            return None
        if self._making is None:
            self._making = asyncio.ensure_future(self._make(self.first))
        return self._making

    async def _make(self, first: Callable[[], Awaitable[None]]) -> None:
        try:
            await first()
        except Exception:
            logger.exception("The dashboard's pages can't be made")
        self.first = None

    def cut(self, views: list[str]) -> None:
        """End the connections of sessions that have ended."""
        for view in views:
            for stream in list(self._views.pop(view, ())):
                stream.close()

    def keep(self, views: list[str]) -> None:
        """End the connections of all sessions but these."""
        self.cut([view for view in self._views if view not in views])

    def stop(self) -> None:
        """See tornado."""
        if self.link is not None:
            self.link.end()
        super().stop()


class _Seen(HTTPMessageDelegate):
    """Passes everything on, and looks at the headers of requests."""

    def __init__(
        self, delegate: HTTPMessageDelegate, look: Callable[..., asyncio.Future[None] | None]
    ) -> None:
        self._delegate = delegate
        self._look = look
        self._begun = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Any:
        before = self._look(start_line, headers)
        if before is not None:
            return self._received_after(before, start_line, headers)
        self._begun = True
        return self._delegate.headers_received(start_line, headers)

    async def _received_after(
        self, before: asyncio.Future[None], start_line: Any, headers: HTTPHeaders
    ) -> None:
        await asyncio.shield(before)  # others wait for it, too
        self._begun = True
        received = self._delegate.headers_received(start_line, headers)
        if received is not None:
            await received

    def data_received(self, chunk: bytes) -> Any:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        if self._begun:  # the delegate knows nothing of it before
            self._delegate.on_connection_close()


class Link:
    """A scheduler's link to the broker; never in the way of a computation.

    Parameters
    ----------
    where : Places
    server : PrivateServer
    about : dict
        ``name``, ``kind``, ``pools``.
    reached : callable
        Called with the cluster's id, in the event loop, whenever that is known or another.
    """

    def __init__(
        self,
        where: Places,
        server: PrivateServer,
        about: dict[str, Any],
        reached: Callable[[str], None],
    ) -> None:
        self.id = ""
        self._where = where
        self._server = server
        self._about = about
        self._reached = reached
        self._first = threading.Event()
        self._ended = threading.Event()
        self._warned = False
        self._open: _Way = _Near(self) if asking.is_near(where) else _Far(self)
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Register; wait a moment for it, as a link that is known at once serves its user best."""
        threading.Thread(target=self._run, name="dask-site-dashboard", daemon=True).start()
        self._first.wait(_FIRST_SECONDS)
        self._take()

    def end(self) -> None:
        """Say that the cluster has ended."""
        if not self._ended.is_set():
            self._ended.set()
            self._open.end()

    # -- in its thread -----------------------------------------------------------------------

    def _run(self) -> None:
        pause = _AGAIN
        while not self._ended.is_set():
            try:
                said = self._open.register({"op": "register", "id": self.id, **self._about})
            except (OSError, ValueError, DashboardError) as error:
                self._say(error)
                self._first.set()
                self._ended.wait(pause)
                pause = min(2 * pause, _LONGEST_AGAIN)
                continue
            pause = _AGAIN
            if said["id"] != self.id:
                self.id = str(said["id"])
                if self._first.is_set():
                    self._call(self._take)
            self._call(self._server.keep, list(said.get("keep", ())))
            self._first.set()
            with suppress(OSError, ValueError, DashboardError):
                self._open.listen(lambda views: self._call(self._server.cut, views))
            self._ended.wait(0.2)

    def _say(self, error: Exception) -> None:
        if not self._warned and not self._ended.is_set():
            self._warned = True
            logger.warning("The dashboard can't be reached for now, all else goes on: %s", error)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *args)

    def _take(self) -> None:
        """Listen on what was handed over; in the event loop."""
        if self.id and not self._ended.is_set():
            self._open.take(self._server)
            self._reached(self.id)


class _Way:
    """How the broker is reached from here."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def register(self, question: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def listen(self, cut: Callable[[list[str]], None]) -> None:
        raise NotImplementedError

    def take(self, server: PrivateServer) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class _Near(_Way):
    """On a login node."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._connection: socket.socket | None = None
        self._given: list[socket.socket] = []

    def register(self, question: dict[str, Any]) -> dict[str, Any]:
        connection = asking.connect(self.link._where, question)
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, _MOST_LINE, 1)
            given = [socket.socket(fileno=number) for number in descriptors]
            said = json.loads(data or b"null")
            if not isinstance(said, dict) or "error" in said:
                for one in given:
                    one.close()
                why = said["error"] if said else "the broker hung up"
                raise DashboardError(str(why))
        except BaseException:
            connection.close()
            raise
        for one in given:
            one.setblocking(False)
        self._given += given
        connection.settimeout(None)
        self._connection = connection
        return said

    def listen(self, cut: Callable[[list[str]], None]) -> None:
        connection = self._connection
        if connection is None:
            return
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline(_MOST_LINE):
                cut(list(json.loads(line).get("cut", ())))

    def take(self, server: PrivateServer) -> None:
        while self._given:
            server.add_socket(self._given.pop())

    def end(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.sendall(b'{"op": "end"}\n')
                self._connection.shutdown(socket.SHUT_RDWR)


class _Far(_Way):
    """In a job: TLS, with a certificate of the site for this cluster."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener: socket.socket | None = None
        self._taken = False
        self._believed = ""
        self._broker: Where | None = None
        self._word = ""

    def register(self, question: dict[str, Any]) -> dict[str, Any]:
        from dask_site.dashboards import keys

        where = self.link._where
        if self._listener is None:
            self._listener = socket.create_server((_own_address(where), 0), backlog=128)
            self._listener.setblocking(False)
        request, key = keys.request()
        port = self._listener.getsockname()[1]
        said, self._broker = asking.ask_elsewhere(
            where, {**question, "port": port, "request": request}
        )
        self._word = str(said["word"])
        _use(self._context, str(said["certificate"]).encode(), key)
        if said["proxies"] != self._believed:
            self._context.load_verify_locations(cadata=str(said["proxies"]))
            self._believed = str(said["proxies"])
        return said

    def listen(self, cut: Callable[[list[str]], None]) -> None:
        if self._broker is None:
            return
        calls = Calls(self._broker, "the dashboards' broker", _WAIT)
        while not self.link._ended.is_set():
            try:
                cut(list(calls("POST", ("wait",), body={"word": self._word})["cut"]))
            except SourceError as error:
                raise DashboardError(str(error)) from None

    def take(self, server: PrivateServer) -> None:
        if not self._taken and self._listener is not None:
            self._taken = True
            server.ssl_options = _clean(self._context)
            server.add_socket(self._listener)

    def end(self) -> None:
        if self._broker is not None:
            with suppress(ServiceDownError, SourceError):
                Calls(self._broker, "the dashboards' broker", 2.0)(
                    "POST", ("wait",), body={"word": self._word, "end": True}
                )


def _own_address(where: Places) -> str:
    """Return the address from which this node reaches a broker; nothing is sent."""
    for one in asking.brokers(where):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((one.host, one.port))
            return str(probe.getsockname()[0])
    raise OSError(f"no login node can be reached: nothing in {where.public} says where one is")


def _use(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key, which no disk ever sees."""
    descriptor = os.memfd_create("dask-site", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, key + certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _clean(context: ssl.SSLContext) -> ssl.SSLContext:
    # See `dask_site.cluster.tls`: one connection's end must not break the others.
    from dask_site.cluster.tls import AFFECTED, CleanSocket

    if AFFECTED:
        context.sslsocket_class = CleanSocket
    return context
