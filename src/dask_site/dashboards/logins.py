"""Logins by links and providers, logouts, and who is kept out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from dask_site.dashboards.accounts import uid_for
from dask_site.dashboards.exchange import Exchange
from dask_site.dashboards.gate import Gate
from dask_site.dashboards.known import Known
from dask_site.dashboards.lines import Lines
from dask_site.dashboards.notes import Notes
from dask_site.dashboards.onward import is_path, ticket
from dask_site.dashboards.peers import Told
from dask_site.dashboards.registry import RefusedError
from dask_site.dashboards.sessions import Session
from dask_site.services.access import uid_named

logger = logging.getLogger("dask_site")
_NOTHING = "There is no such dashboard, or none of yours."


class Logins:
    """Begins and ends the sessions of users."""

    def __init__(
        self, known: Known, gate: Gate, lines: Lines, exchange: Exchange, notes: Notes
    ) -> None:
        self._known = known
        self._gate = gate
        self._lines = lines
        self._exchange = exchange
        self._notes = notes

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
        self._known.barred.check(uid)
        onward = ""
        if name is not None:
            if not isinstance(name, str) or not self._gate.reaches(uid, name):
                raise RefusedError(_NOTHING, 404)
            if not isinstance(path, str) or not is_path(path):
                raise RefusedError("path must be one that links can lead to: /clusters/<id>, or /")
            onward = ticket(name, path)
        return f"{self._known.places.origin()}/login#{self._known.sessions.link(uid)}{onward}"

    async def open(self, word: str) -> tuple[str, Session] | None:
        """Return cookie and session of a link; it is known on disk then."""
        uid = self._known.sessions.linked(word)
        if uid is None or self._known.barred.is_barred(uid) or self._exchange.is_stale():
            return None
        used = self._known.sessions.use(word)
        if used is None or not await self._exchange.is_first(used[1]):
            return None
        opened = self._known.sessions.begin(uid, self._lines.cut)
        logger.info("%s logged in", await self._known.accounts.named(uid))
        await self._exchange.tell()
        return opened

    async def enter(self, user: str) -> tuple[str, Session]:
        """Return cookie and session of a user whom a provider knows; it is known on disk then.

        Raises
        ------
        RefusedError
            If nobody here has the name, it is root's, or the account is locked.
        """
        uid = await self._somebody(user)
        opened = self._known.sessions.begin(uid, self._lines.cut)
        logger.info("%s logged in by the provider", await self._known.accounts.named(uid))
        await self._exchange.tell()
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
        self._known.barred.check(uid)
        # nobody has looked at it so far
        if await asyncio.to_thread(self._known.accounts.find_unusable, [uid]):
            raise RefusedError(
                f"the account of {user} is locked, has expired, or has no login shell", 403
            )
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
        cookie = self._known.sessions.redeem(word, cluster)
        session = self._known.sessions.at(cookie, cluster) if cookie else None
        known = self._known.sessions.nonce(word, state)
        if cookie is None or session is None or known is None:
            raise RefusedError("that is no ticket, or none any more", 403)
        if not await self._exchange.is_first(known[0]):
            raise RefusedError("the ticket was used before", 403)
        return (cookie, session) if known[1] else None

    def close(self, session: Session) -> None:
        """End a session, and what it has open."""
        self._known.sessions.close(session.id)
        self._lines.cut(session)
        self._exchange.changed()

    def log_out(self, uid: int) -> int:
        """End all sessions of a user; return how many there were."""
        found = self._known.sessions.of_user(uid)
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
        await self._notes.of_root("logout-everyone")
        found = self._known.sessions.all()
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
        whose = await uid_for(user)
        await self._notes.of_root("lock" if locked else "unlock", user_asked=user)
        try:
            await self._known.barred.change(whose, locked)
        except (OSError, ValueError) as error:
            raise RefusedError(f"Nothing has changed: {error}", 503) from None
        ended = self.log_out(whose) if locked else 0
        self._lines.cut_guests()
        self._exchange.changed()
        return {"user": user, "locked": locked, "ended": ended}

    def heard(self, told: list[Told]) -> None:
        """Take in the sessions that others tell of; cut what has ended, or is to end now."""
        before = {s.id: s for s in self._known.sessions.all()}
        ended = self._known.sessions.heard(
            [s for one in told for s in one.sessions], [c for one in told for c in one.closed]
        )
        if ended:
            self._exchange.changed()  # nor is it to come back with a restart
        for name in [*ended, *self._known.sessions.expired()]:
            if name in before:
                self._lines.cut(before[name])
        for uid in {s.uid for s in before.values() if self._known.barred.is_barred(s.uid)}:
            self.log_out(uid)
        self._lines.cut_guests()
