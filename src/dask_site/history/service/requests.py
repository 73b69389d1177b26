"""What all requests have in common: who asks is known first, and nothing leaks."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError
from tornado.web import HTTPError, RequestHandler

from dask_site.history.service.context import Context, NoStoreError
from dask_site.history.service.proxied import USER, Proxy, number
from dask_site.history.service.sessions import COOKIE, local_path
from dask_site.history.service.shares import CrowdedError, Shares
from dask_site.history.store.failures import StoreError
from dask_site.identity import MungeError, peer_of, requesting_user
from dask_site.services.access import Viewer

logger = logging.getLogger("dask_site")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_RETRY = "5"  # seconds
_SAFE = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "dask-site",
}
# Which lead to this node through a tunnel, as they do for one who can't reach the others.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LOG_IN = "Nobody is logged in. Run `dask-site history open` on a login node: it prints a link."


class RefusedError(HTTPError):
    """An answer that is no success; the message is for whoever asked.

    Parameters
    ----------
    status : int
        307, 400, 401, 403, 404, 409, 413, 429 or 503.
    message : str
        What was wrong, and the mend.
    headers : mapping of str to str, optional
        Of the answer.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(status)
        self.message = message
        self.headers = headers


class Handler(RequestHandler):
    """Base of all handlers.

    Attributes
    ----------
    viewer : Viewer
        Who asks; of a handler for which `open_to_all` is set, nobody if none is known.
    by_system : bool
        Whether the system says who asks (a Unix socket or munge), not a browser's session.
    proxied : Proxy or None
        The dashboards' proxy, if the request comes from it: a browser's, with a session there.
    """

    #: Whether it answers those who are not known, too.
    open_to_all = False
    viewer: Viewer
    by_system: bool = False
    proxied: Proxy | None = None
    _uid: int | None = None
    _of_error: Mapping[str, str] = MappingProxyType({})

    @property
    def context(self) -> Context:
        """What all requests share."""
        context: Context = self.settings["context"]
        return context

    def set_default_headers(self) -> None:
        """See tornado."""
        for name, value in {**_HEADERS, **self._of_error}.items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        """Find out who asks."""
        self.proxied = self._proxy()
        self._check_host()
        if not self.context.writer:
            self._stand_by()
        if self.proxied is not None:
            self._uid = self._proxied_user(self.proxied)
            self.viewer = await self._person(self._uid)
            return
        uid = await self._system_user()
        if uid is not None:
            self.by_system = True
        else:
            uid = self._cookie_user()
        if uid is None:
            if self.open_to_all:
                self.viewer = Viewer("", -1)
                return
            raise RefusedError(401, _LOG_IN)
        self._uid = uid
        self.viewer = await self.aside(self.context.directory.viewer, uid)

    async def aside(self, function: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        """Call a function in another thread, when it is the caller's turn.

        Raises
        ------
        RefusedError
            503, where the store can't be asked; 429, if too many calls of the caller wait.
        """
        who = self.request.remote_ip if self._uid is None else self._uid
        try:
            return await self._in(self.context.asking, who, function, *args, **more)
        except (StoreError, SQLAlchemyError) as error:
            logger.warning("The history can't be asked: %s", error)
            raise RefusedError(503, "The history can't be asked now: try again soon.") from error

    async def _in(
        self,
        shares: Shares,
        who: int | str | None,
        function: Callable[_P, _T],
        *args: _P.args,
        **more: _P.kwargs,
    ) -> _T:
        try:
            return await shares.call(who, function, *args, **more)
        except CrowdedError as error:
            raise RefusedError(429, str(error), {"Retry-After": _RETRY}) from None

    def answer(self, values: Any, status: int = 200) -> None:
        """Send values as JSON."""
        self.send_json(json.dumps(values, allow_nan=False), status)

    def send_json(self, text: str, status: int = 200) -> None:
        """Send a text that is JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(text)

    def write_error(self, status_code: int, **more: Any) -> None:
        """Send what was wrong as JSON; pages override it."""
        self.send_json(json.dumps({"error": self.message_of(status_code, **more)}), status_code)

    def message_of(self, status_code: int, **more: Any) -> str:
        """Return what was wrong, for whoever asked."""
        error = more.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusedError | NoStoreError):
            return error.message if isinstance(error, RefusedError) else str(error)
        known = {
            400: "The request is not right.",
            404: "There is nothing here.",
            405: "That can't be done here.",
        }
        return known.get(status_code, "Something went wrong here; the service's log says what.")

    def send_error(self, status_code: int = 500, **more: Any) -> None:
        """See tornado; who asks a standby is told so."""
        error = more.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusedError):
            self._of_error = error.headers
        super().send_error(503 if isinstance(error, NoStoreError) else status_code, **more)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is a mistake of ours only."""
        if not isinstance(value, HTTPError | NoStoreError):
            super().log_exception(typ, value, tb)

    # -- who asks ----------------------------------------------------------------------------

    @property
    def _local(self) -> socket.socket | None:
        """The connection, if it is a Unix socket."""
        stream = getattr(self.request.connection, "stream", None)
        connection = getattr(stream, "socket", None)
        is_local = connection is not None and connection.family == socket.AF_UNIX
        return connection if is_local else None

    def _check_host(self) -> None:
        """Refuse names that aren't ours: a page elsewhere may have its own name lead here."""
        if self.proxied is not None and self.request.host.lower() != self.proxied.host:
            raise RefusedError(400, f"Behind the proxy this service is {self.proxied.origin}/.")
        if self._local is None and host_of(self.request.host) not in self.context.settings.names:
            names = ", ".join(sorted(self.context.settings.names))
            raise RefusedError(400, f"This service goes by other names: {names}.")

    def _stand_by(self) -> None:
        """Send browsers to the writer, whose their sessions are; change nothing here.

        Raises
        ------
        RefusedError
            307, with the same path at the writer.
        NoStoreError
            For what a standby can't do at all.
        """
        if self.request.method not in _SAFE or self.proxied is not None:
            raise self.context.away
        if self._local is not None or self._munge is not None:
            return
        writer = self.context.writer_url
        if not writer or host_of(self.request.host) in _LOOPBACK:
            raise self.context.away
        try:
            path = local_path(self.request.uri or "/")
        except ValueError:
            path = "/"
        raise RefusedError(307, self.context.elsewhere, {"Location": writer + path})

    @property
    def _munge(self) -> str | None:
        """The credential of munge, if there is one."""
        scheme, _, credential = self.request.headers.get("Authorization", "").partition(" ")
        return credential.strip() if scheme.upper() == "MUNGE" else None

    def _proxy(self) -> Proxy | None:
        """Return the dashboards' proxy, if the kernel says that it is at the other end."""
        proxy, local = self.context.settings.proxy, self._local
        if proxy is None or local is None:
            return None
        try:
            return proxy if proxy.runs_as(peer_of(local).uid) else None
        except OSError:
            return None

    def _proxied_user(self, proxy: Proxy) -> int:
        """Return the user whose session with the proxy it is; it counts as a browser's."""
        uid = number(self.request.headers.get_list(USER))
        if uid is None:
            why = f"The proxy does not say who asks: log in at {proxy.dashboards}/, and try again."
            raise RefusedError(401, why)
        if uid == 0:
            raise RefusedError(
                403,
                "root does not come through the proxy: log in with your own account, or run "
                "`dask-site history open` as root.",
            )
        if self.request.method not in _SAFE:
            self._check_origin()
        return uid

    async def _person(self, uid: int) -> Viewer:
        """Return the viewer of a user whom the system has to know."""
        viewer = await self.aside(self.context.directory.viewer, uid)
        if viewer.user == str(uid):
            raise RefusedError(403, f"There is no account with the number {uid} any more.")
        return viewer

    async def _system_user(self) -> int | None:
        local = self._local
        if local is not None:
            try:
                return peer_of(local).uid
            except OSError:
                raise RefusedError(401, "The kernel does not tell who asks.") from None
        credential = self._munge
        if credential is None:
            return None
        request = self.request
        meant = (self.context.settings.host, request.method, request.uri, request.body)
        try:
            return await self._in(
                self.context.knowing, request.remote_ip, requesting_user, credential, *meant
            )
        except MungeError as error:
            raise RefusedError(401, str(error)) from None

    def _cookie_user(self) -> int | None:
        word = self.get_cookie(COOKIE)
        uid = self.context.sessions.user(word) if word else None
        if uid is not None and self.request.method not in _SAFE:
            self._check_origin()
        return uid

    def _check_origin(self) -> None:
        """Refuse what another site's page has the browser do."""
        origin = urlsplit(self.request.headers.get("Origin", ""))
        if origin.scheme != "https" or origin.netloc.lower() != self.request.host.lower():
            raise RefusedError(403, "The page that asks for this is not of this service.")


def host_of(header: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Nothing(Handler):
    """Answers for what isn't there."""

    open_to_all = True

    async def prepare(self) -> None:
        """Answer at once."""
        raise RefusedError(404, "There is nothing here.")
