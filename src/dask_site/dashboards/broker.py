"""What the broker knows and decides; how it is asked stands in `control` and `web`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dask_site.dashboards import doors, keys
from dask_site.dashboards.accounts import Accounts, unusable
from dask_site.dashboards.buckets import Buckets
from dask_site.dashboards.locks import Locks
from dask_site.dashboards.onward import is_path, ticket
from dask_site.dashboards.past import Past
from dask_site.dashboards.peers import Peers, Told
from dask_site.dashboards.places import HISTORY, ID, Places
from dask_site.dashboards.registry import Cluster, RefusedError, Registry
from dask_site.dashboards.sessions import Session, Sessions
from dask_site.services.access import Viewer, uid_named, uid_of
from dask_site.services.audit import AuditLog

logger = logging.getLogger("dask_site")
#: Seconds for which a cluster that says nothing is kept: a broker or a network may come back.
PATIENCE = 45.0
_HEAR, _TELL, _LOOK = 1.0, 10.0, 30.0
_TOGETHER = 0.2
_AGAIN = 0.3
#: Seconds after which a broker that can't read what the others tell lets nobody in.
STALE = 60.0
# Questions of a user: all of his schedulers come at once after a restart.
_RATE, _BURST = 20.0, 300
_LONGEST_SHARE = 7 * 86400.0
_NOTHING = "There is no such dashboard, or none of yours."


@dataclass(frozen=True)
class Asked:
    """A request for a dashboard or the history, as nginx has it.

    Texts are as the browser sent them, but for `cluster`, which nginx takes from the name that was
    called: a cluster's id, or `history`.
    """

    cluster: str
    cookie: str = ""
    origin: str = ""
    site: str = ""
    mode: str = ""
    dest: str = ""
    upgrade: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether nginx may pass a request on, and where to.

    Attributes
    ----------
    status : int
        204, 401 (log in), 403, or 503 where it can't be known.
    upstream : str
        For ``proxy_pass``.
    name : str
        Which the certificate there has to have.
    host : str
        For the Host header.
    view : str
        By which the scheduler knows the connections of the session.
    user : str
        For the history alone: the number of the user, who has none of its own sessions.
    """

    status: int
    upstream: str = ""
    name: str = ""
    host: str = ""
    view: str = ""
    user: str = ""


class Broker:
    """One login node's part of all brokers of a site.

    Parameters
    ----------
    places : Places
    seconds : float
        How long a login lasts.
    past : Past, optional
        The site's history, where it keeps one; it needs a name of its own, as clusters do.
    """

    def __init__(
        self,
        places: Places,
        seconds: float,
        clock: Callable[[], float] = time.time,
        past: Past | None = None,
    ) -> None:
        self.places = places
        self.past = None if places.paths else past
        self._writer = ""
        self.peers = Peers(places.secret, places.host, clock)
        self.registry = Registry(places.host, clock)
        key = keys.hmac_key(places)
        self.sessions = Sessions(key, seconds, clock)
        self.audit = AuditLog(places.secret / "audit")
        self._clock = clock
        self._changed = asyncio.Event()
        self.locks = Locks(places.secret)
        self.accounts = Accounts()
        self.questions = Buckets(_RATE, _BURST)
        self._locked: frozenset[int] = frozenset()
        self._lines: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._addresses: dict[str, str] = {}
        self._telling = asyncio.Lock()
        self._told_well = True
        self._hearing = asyncio.Lock()
        self._asked_again = -_AGAIN
        self._heard = clock()
        self._deaf = self._closed = False

    # -- requests for dashboards -------------------------------------------------------------

    def decide(self, asked: Asked) -> Verdict:
        """Decide about a request for a dashboard, or for the history.

        A dashboard that isn't there is not told apart from one that is another's.
        """
        known = asked.cluster == HISTORY or ID.fullmatch(asked.cluster)
        if not known or not self._is_own_page(asked):
            return Verdict(403)
        if self.is_stale():
            return Verdict(503)
        if self.places.paths:  # all clusters are at the origin of the login pages
            session = self.sessions.of(asked.cookie)
        else:
            session = self.sessions.at(asked.cookie, asked.cluster)
        if session is None:
            return Verdict(401)
        if asked.cluster == HISTORY:
            way = self._way_to_history()
            allowed = way is not None and self.reaches(session.uid, HISTORY)
            return replace(way, user=str(session.uid)) if way and allowed else Verdict(403)
        cluster = self.visible(session.uid, asked.cluster)
        if cluster is None:
            return Verdict(403)
        view = self.sessions.view(session.id, cluster.id)
        return replace(self._way_to(cluster), view=view)

    def _is_own_page(self, asked: Asked) -> bool:
        """Refuse what pages of other origins have the browser ask for.

        Cookies go along, as all clusters have the same site; what comes back they can't read, but
        a WebSocket they could.
        """
        own = self.places.origin(asked.cluster)
        if asked.upgrade:
            return asked.origin == own
        if asked.origin and asked.origin != own:
            return False
        if asked.site in {"", "same-origin", "none"}:
            return True
        return asked.mode == "navigate" and asked.dest == "document"

    def visible(self, uid: int, name: str) -> Cluster | None:
        """Return a cluster, if a user may look at it."""
        cluster = self.registry.get(name)
        if cluster is None or self.is_barred(uid) or self.is_barred(cluster.uid):
            return None
        if self.places.paths and cluster.uid != uid:
            return None
        return cluster if cluster.may_look(uid, self._clock()) else None

    def reaches(self, uid: int, name: str) -> bool:
        """Return whether a user may go to a cluster's dashboard, or to the history."""
        if name == HISTORY:
            return self.past is not None and not self.is_barred(uid)
        return ID.fullmatch(name) is not None and self.visible(uid, name) is not None

    @property
    def history_url(self) -> str:
        """Where browsers reach the history; empty where no service of it is known."""
        there = self.past is not None and (self._writer or self.past.socket.exists())
        return f"{self.places.origin(HISTORY)}/" if there else ""

    def _way_to_history(self) -> Verdict | None:
        places, past = self.places, self.past
        if past is None:
            return None
        address = self._addresses.get(self._writer)
        if address is None or self._writer == places.host:
            # Of a standby's own words users learn more than of a refusal here.
            host = places.origin(HISTORY).removeprefix("https://")
            return Verdict(204, f"http://unix:{past.socket}:", "-", host)
        return Verdict(204, f"https://{address}:{places.port}", self._writer, self._writer)

    def _way_to(self, cluster: Cluster) -> Verdict:
        places, host = self.places, self.places.upstream(cluster.id)
        if cluster.address:
            return Verdict(204, f"https://{cluster.address}", _certified(cluster.id), host)
        if cluster.host == places.host:
            return Verdict(204, f"http://unix:{places.doors}/{cluster.id}.sock:", "-", host)
        address = self._addresses.get(cluster.host)
        if address is None:
            return Verdict(403)
        return Verdict(204, f"https://{address}:{places.port}", cluster.host, cluster.host)

    # -- who may come in ---------------------------------------------------------------------

    def is_barred(self, uid: int) -> bool:
        """Return whether a user's account is locked, or gone."""
        return uid in self._locked or uid in self.accounts.unusable

    def is_stale(self) -> bool:
        """Return whether it is too long ago that this broker knew who has logged out, or is locked.

        The folder that the login nodes share hangs, or can't be read: nobody is let in then.
        """
        stale = self._clock() - self._heard > STALE
        if stale and not self._closed:
            logger.error(
                "Nobody is let in: %s can't be read since more than %d s, nor what the other login "
                "nodes tell there; it goes on by itself when it can",
                self.places.secret,
                STALE,
            )
        self._closed = stale
        return stale

    def link(self, uid: int, name: Any = None, path: Any = "/") -> str:
        """Return the address that lets a user's browser in, once and within a minute.

        Parameters
        ----------
        name, path : str, optional
            Where it leads then: the id of a cluster or `history`, and a page there.

        Raises
        ------
        RefusedError
            If the account is locked, or there is no such page for the user.
        """
        self._check(uid)
        onward = ""
        if name is not None:
            if not isinstance(name, str) or not self.reaches(uid, name):
                raise RefusedError(_NOTHING, 404)
            if not isinstance(path, str) or not is_path(path):
                raise RefusedError("path must be one that links can lead to: /clusters/<id>, or /")
            onward = ticket(name, path)
        return f"{self.places.origin()}/login#{self.sessions.link(uid)}{onward}"

    async def open(self, word: str) -> tuple[str, Session] | None:
        """Return cookie and session of a link; it is known on disk then."""
        uid = self.sessions.linked(word)
        if uid is None or self.is_barred(uid) or self.is_stale():
            return None
        used = self.sessions.use(word)
        if used is None or not await asyncio.to_thread(self.peers.first, used[1]):
            return None
        opened = self.sessions.begin(uid, self._cut)
        logger.info("%s logged in", await self.accounts.named(uid))
        await self.tell()
        return opened

    async def enter(self, user: str) -> tuple[str, Session]:
        """Return cookie and session of a user whom a provider knows; it is known on disk then.

        Raises
        ------
        RefusedError
            If nobody here has the name, it is root's, or the account is locked.
        """
        uid = await self._somebody(user)
        opened = self.sessions.begin(uid, self._cut)
        logger.info("%s logged in by the provider", await self.accounts.named(uid))
        await self.tell()
        return opened

    async def link_of(self, user: str) -> str:
        """Return the address that lets in the browser of a user whom a portal knows.

        Raises
        ------
        RefusedError
            As `enter` does.
        """
        return self.link(await self._somebody(user))

    async def _somebody(self, user: str) -> int:
        uid = await asyncio.to_thread(uid_named, user)
        if uid is None:
            raise RefusedError("there is no such user", 404)
        if uid == 0:
            raise RefusedError("root does not log in from elsewhere", 403)
        self._check(uid)
        if uid in await asyncio.to_thread(unusable, {uid}):  # nobody has looked at it so far
            raise RefusedError(f"the account of {user} is gone, or has no login shell", 403)
        return uid

    async def arrive(self, word: str, cluster: str, state: str) -> tuple[str, Session] | None:
        """Return cookie and session for the origin of a cluster, for a ticket that is used up then.

        Parameters
        ----------
        state : str
            What the browser got there, when it was sent for the ticket.

        Returns
        -------
        tuple or None
            None if the ticket was another browser's: it has to ask for one of its own.

        Raises
        ------
        RefusedError
            If it is no ticket for this cluster, or was used on any node.
        """
        cookie = self.sessions.redeem(word, cluster)
        session = self.sessions.at(cookie, cluster) if cookie else None
        known = self.sessions.nonce(word, state)
        if cookie is None or session is None or known is None:
            raise RefusedError("that is no ticket, or none any more", 403)
        if not await asyncio.to_thread(self.peers.first, known[0]):
            raise RefusedError("the ticket was used before", 403)
        return (cookie, session) if known[1] else None

    def close(self, session: Session) -> None:
        """End a session, and what it has open."""
        self.sessions.close(session.id)
        self._cut(session)
        self.changed()

    def log_out(self, uid: int) -> int:
        """End all sessions of a user; return how many there were."""
        found = self.sessions.of_user(uid)
        for session in found:
            self.close(session)
        return len(found)

    async def log_out_everyone(self, uid: int) -> int:
        """End all sessions, on all nodes; return how many there were. For root.

        Raises
        ------
        RefusedError
            If the caller is not root.
        """
        if uid != 0:
            raise RefusedError("Only root logs everyone out", 403)
        await self._note(Viewer("root", 0), "logout-everyone")
        found = self.sessions.all()
        for session in found:
            self.close(session)
        return len(found)

    async def lock(self, uid: int, user: str, locked: bool) -> dict[str, Any]:
        """Keep a user out of all nodes, or let him in again; for root.

        Raises
        ------
        RefusedError
            If the caller is not root, there is no such user, or it can't be written down.
        """
        if uid != 0:
            raise RefusedError("Only root keeps users out, or lets them in again", 403)
        whose = await _user(user)
        await self._note(Viewer("root", 0), "lock" if locked else "unlock", user_asked=user)
        try:
            self._locked = await asyncio.to_thread(self.locks.change, whose, locked)
        except (OSError, ValueError) as error:
            raise RefusedError(f"Nothing has changed: {error}", 503) from None
        ended = self.log_out(whose) if locked else 0
        self._cut_guests()
        self.changed()
        return {"user": user, "locked": locked, "ended": ended}

    def _check(self, uid: int) -> None:
        if self.is_barred(uid):
            raise RefusedError("Your account is locked: ask who runs the service", 403)

    # -- clusters ----------------------------------------------------------------------------

    def register(
        self, uid: int, about: Mapping[str, Any], line: Callable[[dict[str, Any]], None]
    ) -> tuple[dict[str, Any], socket.socket | None]:
        """Take in a scheduler on this node.

        Parameters
        ----------
        about : mapping
            ``name``, ``kind``, ``pools``; ``id`` of one that comes back after this process or its
            own connection ended.
        line : callable
            By which the scheduler is told what to cut.

        Returns
        -------
        dict
            What to answer.
        socket or None
            On which it shall listen, unless it does already.
        """
        self._check(uid)
        again = self._back(uid, about.get("id"), "")
        if again is not None and (self.places.doors / f"{again.id}.sock").is_socket():
            self._lines[again.id] = line
            self.registry.change(again.id, lost=0.0)
            return self._told(again), None
        cluster = again or self.registry.new(uid, about)
        try:
            listener = doors.door(self.places.doors / f"{cluster.id}.sock")
        except OSError:
            self.registry.drop(cluster.id)
            raise
        self._lines[cluster.id] = line
        logger.info("%s registered %s", self.accounts.name(uid), cluster.id)
        return self._told(cluster), listener

    def register_job(
        self,
        uid: int,
        about: Mapping[str, Any],
        ip: str,
        line: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Take in a scheduler on another node, at the address from which it calls.

        Only nginx connects there, and sends nothing to whoever lacks the certificate that is
        returned here.

        Raises
        ------
        RefusedError
            If the port or the address is none of a compute node's, or the request for a certificate
            is not right.
        """
        self._check(uid)
        address = doors.address(ip, about.get("port"))
        asked = about.get("request")
        again = self._back(uid, about.get("id"), address) or self._adopted(uid, about, address)
        cluster = again or self.registry.new(uid, about, address)
        try:
            certificate = keys.certify(self.places, str(asked), _certified(cluster.id))
        except ValueError as error:
            if again is None:
                self.registry.drop(cluster.id)
            raise RefusedError(str(error)) from None
        self._lines[cluster.id] = line
        since = max(self._clock(), cluster.since + 0.001)  # later, whatever other clocks say
        cluster = self.registry.change(cluster.id, lost=0.0, address=address, since=since)
        logger.info("%s registered %s at %s", self.accounts.name(uid), cluster.id, address)
        proxies = (self.places.public / "proxies.pem").read_text()
        return {**self._told(cluster), "certificate": certificate, "proxies": proxies}

    def _back(self, uid: int, name: Any, address: str) -> Cluster | None:
        cluster = self.registry.own.get(name) if isinstance(name, str) else None
        if cluster is None or cluster.uid != uid or bool(cluster.address) != bool(address):
            return None
        return cluster

    def _adopted(self, uid: int, about: Mapping[str, Any], address: str) -> Cluster | None:
        """Take over a job's cluster from a login node that is down."""
        name = about.get("id")
        cluster = self.registry.others.get(name) if isinstance(name, str) else None
        if cluster is None or cluster.uid != uid or not cluster.address:
            return None
        mine = replace(cluster, host=self.places.host, address=address, lost=0.0)
        self.registry.own[mine.id] = mine
        del self.registry.others[mine.id]
        return mine

    def _told(self, cluster: Cluster) -> dict[str, Any]:
        self.changed()
        now = self._clock()
        # What ended while nobody could tell the scheduler is not among these.
        keep = [
            self.sessions.view(session.id, cluster.id)
            for session in self.sessions.all()
            if self.sessions.get(session.id) and cluster.may_look(session.uid, now)
        ]
        url = self.places.page(cluster.id)
        return {"id": cluster.id, "url": url, "keep": keep}

    def lost(self, name: str, line: Callable[[dict[str, Any]], None]) -> None:
        """Note that nothing is heard any more of a cluster, unless it has come back already."""
        if self._lines.get(name) is line:
            del self._lines[name]
            if name in self.registry.own:
                self.registry.change(name, lost=self._clock())
                self.changed()

    def forget(self, name: str) -> None:
        """Forget a cluster that has ended."""
        cluster = self.registry.drop(name)
        self._lines.pop(name, None)
        if cluster is not None:
            with contextlib.suppress(OSError):
                (self.places.doors / f"{name}.sock").unlink()
            logger.info("%s is gone", cluster.id)
            self.changed()

    def own(self, uid: int, name: Any) -> Cluster:
        """Return a cluster of a user by its id or its name.

        Raises
        ------
        RefusedError
            404 if there is none; 400 if several have the name; 421 if another login node has it.
        """
        mine = [c for c in self.registry.seen_by(uid) if c.uid == uid]
        found = [c for c in mine if c.id == name] or [c for c in mine if c.name == name]
        if not found:
            raise RefusedError("You have no such cluster: dask-site dashboards lists them", 404)
        if len(found) > 1:
            some = ", ".join(c.id for c in found[:5])
            raise RefusedError(f"Several of your clusters have this name, take the id: {some}")
        if found[0].id not in self.registry.own:
            where = found[0].host
            raise RefusedError(f"Its broker is on {where}: call this there", 421, where)
        return found[0]

    async def share(self, uid: int, name: Any, user: Any, seconds: Any) -> dict[str, Any]:
        """Let another look at a cluster; with 0 s, no longer.

        Raises
        ------
        RefusedError
            If there is no such cluster or user, the time is none, or another login node has it.
        """
        if self.places.paths:
            why = "Nothing is shared at this site: its dashboards have no names of their own"
            raise RefusedError(why, 403)
        self.own(uid, name)
        whose = await _user(user)
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= _LONGEST_SHARE:
            raise RefusedError("a dashboard can be shared for up to 7 days")
        if whose == uid:
            raise RefusedError("It is yours already")
        await self.hear()  # perhaps its scheduler has gone over to another node
        cluster = self.own(uid, name)
        what = "share" if seconds else "unshare"
        await self._note_of(cluster, what, user_asked=user, seconds=seconds)
        cluster = self.registry.share(self.own(uid, cluster.id).id, whose, seconds)
        if not seconds:
            for session in self.sessions.of_user(whose):
                self._send(cluster.id, session)
        self.changed()
        return {"id": cluster.id, "user": user, "until": cluster.shares.get(whose)}

    async def listed(self, uid: int) -> list[dict[str, Any]]:
        """Return what a user may look at, as JSON-ready values."""
        now = self._clock()
        seen = self.registry.seen_by(uid)
        await self.accounts.know({u for c in seen for u in (c.uid, *c.shares)})
        name_of = self.accounts.name
        return [
            {
                "id": c.id,
                "name": c.name,
                "kind": c.kind,
                "pools": list(c.pools),
                "owner": name_of(c.uid),
                "host": c.host,
                "node": c.node,
                "begun": c.begun,
                "silent": bool(c.lost),
                "url": self.places.page(c.id),
                "until": None if c.uid == uid else c.shares.get(uid),
                "shares": {name_of(u): t for u, t in c.shares.items() if t > now}
                if c.uid == uid
                else {},
            }
            for c in seen
            if c.uid == uid or not self.places.paths
        ]

    async def _note_of(self, cluster: Cluster, what: str, **more: Any) -> None:
        viewer = Viewer(await self.accounts.named(cluster.uid), cluster.uid)
        await self._note(viewer, what, cluster=cluster.id, name=cluster.name, **more)

    async def _note(self, viewer: Viewer, what: str, **more: Any) -> None:
        try:
            await asyncio.to_thread(self.audit.note, viewer, what, **more)
        except OSError as error:
            logger.warning("The audit log can't be written: %s", error)
            if what in {"share", "unlock"}:  # what lets nobody in is done all the same
                done = "shared" if what == "share" else "unlocked"
                why = f"The audit log can't be written: nothing is {done}"
                raise RefusedError(why, 503) from None

    # -- cutting what is open ----------------------------------------------------------------

    def _cut(self, session: Session) -> None:
        for name in list(self._lines):
            self._send(name, session)

    def _send(self, name: str, session: Session) -> None:
        line = self._lines.get(name)
        if line is not None:
            line({"cut": [self.sessions.view(session.id, name)]})

    def _cut_guests(self) -> None:
        """End what others have open of users who are kept out."""
        for cluster in self.registry.own.values():
            if cluster.shares and self.is_barred(cluster.uid):
                for session in self.sessions.all():
                    if session.uid in cluster.shares:
                        self._send(cluster.id, session)

    # -- what goes on beside -----------------------------------------------------------------

    def restore(self) -> None:
        """Take over what this broker knew before it was started anew.

        It holds from when the others are heard.

        Raises
        ------
        OSError
            If it can't be read.
        """
        self._heard = float("-inf")
        told = self.peers.own()
        if told is None:
            return
        now = self._clock()
        self.sessions.restore(told.sessions, told.closed)
        for cluster in told.clusters:
            self.registry.own[cluster.id] = replace(cluster, lost=cluster.lost or now)
        known = {f"{name}.sock" for name in self.registry.own}
        with contextlib.suppress(OSError):
            for path in self.places.doors.iterdir():
                if path.name not in known:
                    path.unlink()

    def changed(self) -> None:
        """Have the others told soon."""
        self._changed.set()

    async def tell(self) -> bool:
        """Tell the others, now; what can't be written is tried again.

        Returns
        -------
        bool
            Whether all that has changed before is on disk.
        """
        self._changed.set()
        async with self._telling:
            if not self._changed.is_set():  # another has told it meanwhile
                return self._told_well
            self._changed.clear()
            said: dict[str, Any] = {
                **self.sessions.told(),
                "clusters": [c.to_dict() for c in self.registry.own.values()],
            }
            try:
                await asyncio.to_thread(self.peers.tell, said)
            except OSError as error:
                logger.warning("%s can't be written to: %s", self.places.secret, error)
                self._told_well = False
            else:
                self._told_well = True
            return self._told_well

    async def run(self) -> None:
        """Do what has to be done again and again, until cancelled."""
        await asyncio.gather(self._tells(), self._hears(), self._looks(), self._tidies())

    async def _tells(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _TELL)
                await asyncio.sleep(_TOGETHER)
            await self.tell()

    async def _hears(self) -> None:
        while True:
            await self.hear()
            await asyncio.sleep(_HEAR)

    async def hear(self) -> None:
        """Take in what the others tell, and let go what has ended.

        What can't be read leaves what is known as it is, for a while: see `is_stale`.
        """
        async with self._hearing:
            try:
                told, locked = await asyncio.to_thread(self._read)
            except (OSError, ValueError) as error:
                if not self._deaf:
                    logger.warning("What other login nodes tell can't be read: %s", error)
                self._deaf = True
                return
            self._deaf = False
            self._heard = self._clock()
            await self._take_in(told, locked)

    def _read(self) -> tuple[list[Told], frozenset[int]]:
        return self.peers.others(), self.locks.read()

    async def _take_in(self, told: list[Told], locked: frozenset[int]) -> None:
        now = self._clock()
        there = [one for one in told if one.is_there(now)]
        await self._find(there)
        if self.past is not None:
            self._writer = await asyncio.to_thread(self.past.writer)
        mine = set(self.registry.own)
        # A job's cluster outlives the login node that knew it; one on a node that is down does not.
        self.registry.heard(
            c for one in told for c in one.clusters if one.is_there(now) or c.address
        )
        for name in mine - set(self.registry.own):
            logger.info("%s is another login node's now", name)
            self._lines.pop(name, None)
            self.changed()
        self._locked = locked
        before = {s.id: s for s in self.sessions.all()}
        ended = self.sessions.heard(
            [s for one in told for s in one.sessions], [c for one in told for c in one.closed]
        )
        if ended:
            self.changed()  # nor is it to come back with a restart
        for name in [*ended, *self.sessions.expired()]:
            if name in before:
                self._cut(before[name])
        for uid in {s.uid for s in before.values() if self.is_barred(s.uid)}:
            self.log_out(uid)
        self._cut_guests()
        for cluster in self.registry.silent(PATIENCE):
            self.forget(cluster.id)
        await self._end_shares(now)

    async def hear_again(self) -> None:
        """Hear of a session that another node may have opened just now."""
        now = time.monotonic()
        if now - self._asked_again > _AGAIN and not self._hearing.locked():
            self._asked_again = now
            await self.hear()

    async def _end_shares(self, now: float) -> None:
        ended = []
        for cluster in list(self.registry.own.values()):
            for uid in [uid for uid, until in cluster.shares.items() if until <= now]:
                self.registry.share(cluster.id, uid, 0)
                for session in self.sessions.of_user(uid):
                    self._send(cluster.id, session)
                self.changed()
                ended.append((cluster, uid))
        for cluster, uid in ended:
            user = await self.accounts.named(uid)
            await self._note_of(cluster, "share-ended", user_asked=user)

    async def _find(self, there: list[Told]) -> None:
        for one in there:
            if one.host not in self._addresses:
                with contextlib.suppress(OSError):
                    found = await asyncio.to_thread(socket.getaddrinfo, one.host, None)
                    ip = str(found[0][4][0])
                    self._addresses[one.host] = f"[{ip}]" if ":" in ip else ip

    async def _looks(self) -> None:
        while True:
            uids = {s.uid for s in self.sessions.all()}
            uids |= {c.uid for c in self.registry.own.values()}
            uids |= {uid for c in self.registry.own.values() for uid in c.shares}
            await self.accounts.look(uids)
            await asyncio.sleep(_LOOK)

    async def _tidies(self) -> None:
        while True:
            await asyncio.to_thread(self.peers.tidy, 600.0)
            await asyncio.sleep(3600)


def _certified(name: str) -> str:
    """Return what a dashboard in a job proves to be; no browser and no node has such a name."""
    return f"{name}.clusters.dask-site.invalid"


async def _user(given: Any) -> int:
    uid = await asyncio.to_thread(uid_of, given) if isinstance(given, str) and given else None
    if uid is None:
        raise RefusedError("there is no such user", 404)
    return uid
