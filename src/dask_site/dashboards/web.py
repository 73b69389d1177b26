"""What browsers ask the broker, through nginx, and what jobs on other nodes ask."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from dask_site.dashboards.broker import Broker
from dask_site.dashboards.control import TOO_FAST, answer
from dask_site.dashboards.gate import Asked
from dask_site.dashboards.oidc import OidcError
from dask_site.dashboards.onward import after_login, first_page, is_path
from dask_site.dashboards.registry import RefusedError
from dask_site.dashboards.sessions import ATTEMPT_SECONDS, COOKIE, Session
from dask_site.identity import MungeError, requesting_user
from dask_site.web.rendering import STATIC, render

logger = logging.getLogger("dask_site")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send no Origin with a form then.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "dask-site",
}
_WAIT = 25.0
_PAGES = ("status", "workers", "tasks", "graph")
_ATTEMPT = "__Host-dask-site-oidc"
#: Where a provider sends browsers back.
BACK = "/login/oidc/back"


class Handler(RequestHandler):
    """Base of all."""

    @property
    def broker(self) -> Broker:
        """The broker."""
        broker: Broker = self.settings["broker"]
        return broker

    def set_default_headers(self) -> None:
        """See tornado."""
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    async def session(self) -> Session | None:
        """Return that of the browser with the pages of the login nodes."""
        self.check_heard()
        cookie = self.get_cookie(COOKIE) or ""
        session = self.broker.sessions.of(cookie)
        if session is None and cookie:
            await self.broker.exchange.hear_again()
            session = self.broker.sessions.of(cookie)
        return None if session is None or self.broker.barred.is_barred(session.uid) else session

    def check_heard(self) -> None:
        """Let nobody in by what may be old."""
        if self.broker.exchange.is_stale():
            raise HTTPError(503)

    def check_origin(self) -> None:
        """Refuse what another site's page has the browser send."""
        if self.request.headers.get("Origin", "") != self.broker.places.origin():
            raise HTTPError(403)

    def form(self, name: str) -> str:
        """Return a field of the form that was sent."""
        return str(self.get_body_argument(name, ""))

    def page(self, template: str, code: int = 200, **values: Any) -> None:
        """Send a page."""
        self.set_status(code)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(render(template, site=self.settings["site"], **values))

    def set_login(self, name: str, value: str, session: Session) -> None:
        """Have the browser keep the word of a session as long as that lasts."""
        self.set_cookie(
            name,
            value,
            path="/",
            secure=True,
            httponly=True,
            samesite="Lax",
            max_age=max(1, int(session.until - time.time())),
        )

    async def let_in(self, cookie: str, session: Session, onward: str = "") -> None:
        """Send a browser with a new session to its pages."""
        before = await self.session()
        if before is not None:
            # Who logs in anew, perhaps as another, leaves none behind.
            self.broker.logins.close(before)
            await self.broker.exchange.tell()
        self.set_login(COOKIE, cookie, session)
        self.redirect(after_login(onward), status=303)

    def log_exception(self, *what: Any) -> None:
        """Log what went wrong without what the address says, in which words may be."""
        if not isinstance(what[1], HTTPError):
            summary = f"{self.request.method} {self.request.path}"
            logger.error("%s went wrong", summary, exc_info=what)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Send what was wrong as a page."""
        self.page("door_problem.html", status_code, status=status_code, user="")


class Auth(Handler):
    """Tells nginx whether a request for a dashboard may pass."""

    async def get(self) -> None:
        """Answer."""
        given = self.request.headers.get
        asked = Asked(
            cluster=given("X-Dask-Cluster", ""),
            cookie=self.get_cookie(COOKIE) or "",
            origin=given("X-Dask-Origin", ""),
            site=given("X-Dask-Site", ""),
            mode=given("X-Dask-Mode", ""),
            dest=given("X-Dask-Dest", ""),
            upgrade=given("X-Dask-Upgrade", ""),
        )
        verdict = self.broker.gate.decide(asked)
        if verdict.status == 401 and asked.cookie:
            await self.broker.exchange.hear_again()
            verdict = self.broker.gate.decide(asked)
        self.clear()
        self.set_status(verdict.status)
        if verdict.status == 204:
            for name in ("upstream", "name", "host", "view", "user"):
                self.set_header(f"X-Dask-{name.title()}", getattr(verdict, name))
        self.finish()


class LoginPage(Handler):
    """Where a link from the command line leads; its word stands behind #, where no log sees it."""

    def set_default_headers(self) -> None:
        """Let the form lead on to other origins of the site: browsers hold redirects to it, too."""
        super().set_default_headers()
        leads = f"form-action 'self' {self.broker.places.origin('*')}"
        policy = _POLICY.replace("form-action 'self'", leads)
        self.set_header("Content-Security-Policy", policy)

    async def get(self) -> None:
        """Answer."""
        session = await self.session()
        user = "" if session is None else await self.broker.accounts.named(session.uid)
        self.page("door_login.html", user=user, by_provider=self.settings.get("provider"))

    async def post(self) -> None:
        """Let the browser in; or say, before that, as whom."""
        self.check_origin()
        word = self.form("word")
        if self.form("who"):
            uid = self.broker.sessions.linked(word)
            self.set_header("Content-Type", "application/json")
            self.set_status(200 if uid is not None else 403)
            user = None if uid is None else await self.broker.accounts.named(uid)
            self.finish(json.dumps({"user": user}))
            return
        self.check_heard()
        opened = await self.broker.logins.open(word)
        if opened is None:
            provider = self.settings.get("provider")
            self.page("door_login.html", 403, user="", used=True, by_provider=provider)
            return
        await self.let_in(*opened, onward=self.form("onward"))


class ToProvider(Handler):
    """Sends a browser to the site's provider to log in."""

    async def get(self) -> None:
        """Answer."""
        attempt = self.broker.sessions.attempt()
        try:
            address = await self.settings["provider"].address(attempt)
        except OidcError as error:
            logger.warning("Nobody can log in by the provider: %s", error)
            raise HTTPError(502) from None
        self.set_cookie(
            _ATTEMPT,
            attempt.word,
            path="/",
            secure=True,
            httponly=True,
            samesite="Lax",
            max_age=int(ATTEMPT_SECONDS),
        )
        self.redirect(address, status=303)


class FromProvider(Handler):
    """Where the provider sends it back."""

    async def get(self) -> None:
        """Answer."""
        self.check_heard()
        answer = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        word = self.get_cookie(_ATTEMPT) or ""
        # Only the browser that was sent there: nobody is logged in as another by a link.
        attempt = self.broker.sessions.attempted(word, answer.get("state", ""))
        if attempt is None:
            raise HTTPError(403)
        self.clear_cookie(_ATTEMPT, path="/", secure=True, httponly=True, samesite="Lax")
        try:
            user = await self.settings["provider"].user(attempt, answer)
            opened = await self.broker.logins.enter(user)
        except (OidcError, RefusedError) as error:
            logger.warning("A login by the provider is refused: %s", error)
            raise HTTPError(403) from None
        await self.let_in(*opened)


class FromPortal(Handler):
    """Gives a portal the link for a user's browser; the portal proves itself by its secret."""

    async def get(self) -> None:
        """Answer."""
        given = self.request.headers.get
        secret = given("X-Dask-Portal", "").encode("latin-1", "replace")
        if not hmac.compare_digest(secret, self.settings["portal"]):
            logger.warning("Somebody without its secret asks for a login as the portal")
            raise HTTPError(403)
        try:
            link = await self.broker.logins.link_of(given("X-Dask-Portal-User", ""))
        except RefusedError as error:
            logger.warning("A login by the portal is refused: %s", error)
            raise HTTPError(403) from None
        self.redirect(link, status=303)


class LogoutPage(Handler):
    """Ends the session, once that is asked for on a page of this origin."""

    async def get(self) -> None:
        """Ask: other origins lead here, and may not end it."""
        session = await self.session()
        if session is None:
            self.redirect("/login", status=303)
            return
        self.page("door_logout.html", user=await self.broker.accounts.named(session.uid))

    async def post(self) -> None:
        """Answer."""
        self.check_origin()
        session = self.broker.sessions.of(self.get_cookie(COOKIE) or "")
        if session is None and not self.broker.exchange.is_stale():
            session = await self.session()
        if session is not None:
            self.broker.logins.close(session)
            await self.broker.exchange.tell()
        self.clear_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")
        self.redirect("/login", status=303)


class ListPage(Handler):
    """The user's clusters."""

    async def get(self) -> None:
        """Answer."""
        session = await self.session()
        if session is None:
            self.redirect("/login", status=303)
            return
        listed = await self.broker.shares.listed(session.uid)
        for one in listed:
            one["since"] = datetime.fromtimestamp(one["begun"], UTC)
            one["ends"] = one["until"] and datetime.fromtimestamp(one["until"], UTC)
        self.page(
            "door_list.html",
            user=await self.broker.accounts.named(session.uid),
            history=self.broker.gate.history_url,
            pages=lambda one: [*_PAGES[:1], *(["pools"] if one["pools"] else []), *_PAGES[1:]],
            mine=[one for one in listed if one["until"] is None],
            shared=[one for one in listed if one["until"] is not None],
        )


class Ticket(Handler):
    """Sends a browser on to the origin of a cluster or the history, with a word that works once."""

    async def get(self) -> None:
        """Answer."""
        session = await self.session()
        name, path = self.get_query_argument("cluster", ""), self.get_query_argument("path", "/")
        if session is None:
            self.redirect("/login", status=303)
            return
        if not self.broker.gate.reaches(session.uid, name):
            raise HTTPError(403)
        if not is_path(path):
            path = first_page(name)
        places = self.broker.places
        if places.paths:
            self.redirect(places.page(name, path), status=303)
            return
        state = self.get_query_argument("state", "")
        ticket = self.broker.sessions.ticket(session, name, state)
        origin = places.origin(name)
        self.redirect(f"{origin}/_dask-site/in?word={ticket}&path={path}", status=303)


class Arrival(Handler):
    """Takes the ticket at the origin that it is for.

    Only from the browser that was sent for it there: nginx gave that a word which no other page can
    read or set, so nobody is logged in as another by a link.
    """

    async def get(self) -> None:
        """Answer."""
        given = self.request.headers.get
        if given("X-Dask-Mode", "navigate") not in {"", "navigate"}:
            raise HTTPError(403)
        if given("X-Dask-Dest", "document") not in {"", "document"}:
            raise HTTPError(403)
        self.check_heard()
        cluster, word = given("X-Dask-Cluster", ""), self.get_query_argument("word", "")
        try:
            arrived = await self.broker.logins.arrive(word, cluster, self.get_cookie(COOKIE) or "")
        except RefusedError:
            raise HTTPError(403) from None
        if arrived is not None:
            self.set_login(COOKIE, *arrived)
        path = self.get_query_argument("path", "/")
        self.redirect(path if is_path(path) else first_page(cluster), status=303)


class Questions(Handler):
    """What processes on other nodes ask, whose users munge vouches for."""

    async def post(self) -> None:
        """Answer."""
        uid = await self._user()
        asked = self._asked()
        if not self.broker.questions.take(uid):
            said = dict(TOO_FAST)
        elif asked.get("op") == "register":
            ip = self.request.headers.get("X-Real-IP", "")
            await self.broker.accounts.know([uid])
            name = asked.get("id")
            comes_over = isinstance(name, str) and name in self.broker.registry.others
            if comes_over:
                await self.broker.exchange.hear()  # who may look by now
            said = self._registered(uid, asked, ip)
            if comes_over:
                await self.broker.exchange.tell()  # before its other broker is asked about it
        else:
            said = await answer(self.broker, uid, asked)
        self.set_status(int(said.pop("status", 200)))
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(said))

    async def _user(self) -> int:
        scheme, _, credential = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.upper() != "MUNGE":
            raise HTTPError(401)
        request = self.request
        meant = (self.broker.places.host, "POST", str(request.uri), request.body)
        try:
            return await asyncio.to_thread(requesting_user, credential.strip(), *meant)
        except MungeError as error:
            logger.info("A credential of munge is refused: %s", error)
            raise HTTPError(401) from None

    def _asked(self) -> dict[str, Any]:
        try:
            asked = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise HTTPError(400) from None
        if not isinstance(asked, dict):
            raise HTTPError(400)
        return asked

    def _registered(self, uid: int, asked: dict[str, Any], ip: str) -> dict[str, Any]:
        calls: Calls = self.settings["calls"]
        word = secrets.token_urlsafe(32)
        lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1000)

        def line(what: dict[str, Any]) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                lines.put_nowait(what)

        try:
            said = self.broker.clusters.register_job(uid, asked, ip, line)
        except RefusedError as error:
            return {"error": str(error), "status": error.status}
        calls.begin(word, said["id"], line, lines)
        return {**said, "word": word}

    def write_error(self, status_code: int, **_: Any) -> None:
        """Send what was wrong as JSON."""
        known = {
            400: "the request is no JSON object",
            401: "a credential of munge for this very request is needed",
        }
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": known.get(status_code, "something went wrong here")}))


class Waiting(Questions):
    """Where a scheduler on another node hears what to cut; while it asks, it is there."""

    _waiting: asyncio.Future[Any] | None = None
    _gone = False

    def on_connection_close(self) -> None:
        """Leave what comes next to its next call."""
        self._gone = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def post(self) -> None:
        """Answer when there is something, or after 25 s."""
        asked = self._asked()
        calls: Calls = self.settings["calls"]
        word = asked.get("word")
        known = word if isinstance(word, str) else ""
        self._waiting = asyncio.ensure_future(calls.wait(known, bool(asked.get("end"))))
        try:
            said = await self._waiting
        except asyncio.CancelledError:
            if self._gone:
                return
            raise
        self.set_status(200 if said is not None else 404)
        self.set_header("Content-Type", "application/json")
        await self.finish(json.dumps({"error": "unknown"} if said is None else said))


class Calls:
    """The schedulers on other nodes that call again and again."""

    def __init__(self, broker: Broker, patience: float = 2 * _WAIT) -> None:
        self._broker = broker
        self._patience = patience
        self._known: dict[bytes, _Call] = {}

    def begin(
        self,
        word: str,
        cluster: str,
        line: Callable[[dict[str, Any]], None],
        lines: asyncio.Queue[dict[str, Any]],
    ) -> None:
        """Await the calls of a scheduler, which shows this word."""
        for key in [key for key, call in self._known.items() if call.cluster == cluster]:
            self._known.pop(key).stop()
        call = _Call(cluster, line, lines)
        self._known[_hash(word)] = call
        self._rest(_hash(word), call)

    async def wait(self, word: str, ended: bool) -> dict[str, Any] | None:
        """Return what the scheduler is told, None if nobody knows it."""
        key = _hash(word)
        call = self._known.get(key)
        if call is None or call.cluster not in self._broker.registry.own:
            return None
        call.stop()
        if ended:
            del self._known[key]
            self._broker.clusters.forget(call.cluster)
            return {}
        cut: list[str] = []
        try:
            with contextlib.suppress(TimeoutError):
                cut += (await asyncio.wait_for(call.lines.get(), _WAIT))["cut"]
            while not call.lines.empty():
                cut += call.lines.get_nowait()["cut"]
        finally:
            if self._known.get(key) is call:
                self._rest(key, call)
        return {"cut": cut}

    def _rest(self, key: bytes, call: _Call) -> None:
        call.stop()

        def gone() -> None:
            if self._known.pop(key, None) is not None:
                self._broker.clusters.lost(call.cluster, call.line)

        call.timer = asyncio.get_running_loop().call_later(self._patience, gone)


class _Call:
    def __init__(
        self,
        cluster: str,
        line: Callable[[dict[str, Any]], None],
        lines: asyncio.Queue[dict[str, Any]],
    ) -> None:
        self.cluster = cluster
        self.line = line
        self.lines = lines
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Wait no longer for its next call."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Health(Handler):
    """Says that it is there."""

    def get(self) -> None:
        """Answer."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"clusters": len(self.broker.registry.own)}))


class Nothing(Handler):
    """Answers for what isn't there."""

    def prepare(self) -> None:
        """Answer at once."""
        raise HTTPError(404)


class Static(StaticFileHandler):
    """Styles and scripts."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002  # tornado's signature
        """See tornado."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "dask-site")
        # Without a version in its address another may be there tomorrow.
        named = "v" in self.request.arguments
        self.set_header("Cache-Control", "max-age=86400" if named else "no-cache")


def rules(*, provider: bool = False, portal: bool = False) -> list[Any]:
    """Return tornado's rules. What begins with /internal nginx passes on from itself alone.

    Parameters
    ----------
    provider, portal : bool
        Whether users log in by one.
    """
    ways: list[Any] = []
    if provider:
        ways += [(r"/login/oidc", ToProvider), (BACK, FromProvider)]
    if portal:
        ways += [(r"/login/portal", FromPortal)]
    return [
        *ways,
        (r"/internal/auth", Auth),
        (r"/internal/health", Health),
        (r"/_dask-site/in", Arrival),
        (r"/api/v1/ask", Questions),
        (r"/api/v1/wait", Waiting),
        (r"/login", LoginPage),
        (r"/logout", LogoutPage),
        (r"/ticket", Ticket),
        (r"/static/([a-z_]+\.(?:css|js|svg))", Static, {"path": str(STATIC)}),
        (r"/", ListPage),
    ]


def _hash(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
