"""Who is logged in, and the words that prove it.

A browser has one session with the pages of the login nodes. For the origin of a cluster it gets a
word that holds for that session and that origin alone, so a dashboard can use it for nothing else,
and ends with the session. Nothing but numbers is kept: words are proven by the brokers' secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: The prefix has browsers refuse it without Secure, for another path, or set by another host.
COOKIE = "__Host-dask-site"
LINK_SECONDS, TICKET_SECONDS, ATTEMPT_SECONDS = 60.0, 15.0, 600.0
_EACH, _MOST = 20, 20_000
_WORD = re.compile(r"([0-9a-z.-]{1,150})\.([0-9A-Za-z_-]{43})")
_REMEMBERED = 660.0


@dataclass(frozen=True)
class Session:
    """One browser that is logged in.

    Attributes
    ----------
    id : str
        Which is no secret.
    uid : int
    until : float
        Seconds since 1970.
    """

    id: str
    uid: int
    until: float


@dataclass(frozen=True)
class Attempt:
    """A login that goes by a provider; all of it follows from the word that the browser keeps.

    Attributes
    ----------
    word : str
        For the browser's cookie.
    state, nonce, verifier : str
        As in OpenID Connect, of 43 characters each.
    """

    word: str
    state: str
    nonce: str
    verifier: str


class Sessions:
    """The sessions that this broker opened, and those that others tell of.

    Parameters
    ----------
    key : bytes
        The secret of all brokers of the site.
    seconds : float
        How long a login lasts.
    clock : callable
        Seconds since 1970, about the same for all brokers.
    """

    def __init__(
        self,
        key: bytes,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._seconds = seconds
        self._clock = clock
        self._own: dict[str, Session] = {}
        self._others: dict[str, Session] = {}
        self._closed: dict[str, float] = {}
        self._used: dict[str, float] = {}

    # -- in and out --------------------------------------------------------------------------

    def link(self, uid: int) -> str:
        """Return the word that lets a user's browser in once, within a minute."""
        return self._word("link", f"{uid}.{self._end(LINK_SECONDS)}.{secrets.token_hex(12)}")

    def linked(self, word: str) -> int | None:
        """Return the user whose link it is, which stays usable; None if it is none any more."""
        parts = self._parts("link", word, 3)
        if parts is None or not self._is_ahead(parts[1]) or parts[2] in self._used:
            return None
        return int(parts[0])

    def use(self, word: str) -> tuple[int, str] | None:
        """Return the user of a link and its name among all; it is used up here then."""
        uid = self.linked(word)
        if uid is None:
            return None
        nonce = word.split(".")[2]
        return (uid, nonce) if self._first(nonce) else None

    def begin(
        self, uid: int, ended: Callable[[Session], None] = lambda _: None
    ) -> tuple[str, Session]:
        """Return the cookie and the session of a user who has proven himself otherwise.

        Parameters
        ----------
        ended : callable
            Told of each session that ends for it, as there are too many.
        """
        self._tidy()
        mine = sorted((s for s in self._own.values() if s.uid == uid), key=lambda s: s.until)
        too_many = mine[: max(0, len(mine) - _EACH + 1)]
        too_many += list(self._own.values())[: max(0, len(self._own) - _MOST + 1)]
        for old in too_many:
            self.close(old.id)
            ended(old)
        cookie = secrets.token_urlsafe(32)
        session = Session(_id(cookie), uid, self._clock() + self._seconds)
        self._own[session.id] = session
        return cookie, session

    def attempt(self) -> Attempt:
        """Begin a login that goes by a provider; it ends within ten minutes."""
        return self._attempt(f"{secrets.token_hex(24)}.{self._end(ATTEMPT_SECONDS)}")

    def attempted(self, word: str, state: str) -> Attempt | None:
        """Return the login of a browser that comes back with a state; once."""
        parts = self._parts("attempt", word, 2)
        if parts is None or not self._is_ahead(parts[1]):
            return None
        attempt = self._attempt(".".join(parts))
        same = hmac.compare_digest(attempt.state.encode(), state.encode("utf-8", "replace"))
        return attempt if same and self._first(parts[0]) else None

    def _attempt(self, said: str) -> Attempt:
        state, nonce, verifier = (
            self._proof(f"attempt {what}", said) for what in ("state", "nonce", "verifier")
        )
        return Attempt(self._word("attempt", said), state, nonce, verifier)

    def of(self, cookie: str) -> Session | None:
        """Return the session of a cookie of the login pages."""
        return self.get(_id(cookie)) if cookie else None

    def get(self, name: str) -> Session | None:
        """Return a session by its id, if it goes on."""
        session = self._own.get(name) or self._others.get(name)
        if session is None or name in self._closed or self._clock() >= session.until:
            return None
        return session

    def close(self, name: str) -> None:
        """End a session, whoever opened it."""
        session = self._own.pop(name, None) or self._others.pop(name, None)
        if session is not None:
            self._closed[name] = session.until

    def of_user(self, uid: int) -> list[Session]:
        """Return the sessions of a user."""
        return [s for s in self.all() if s.uid == uid and self.get(s.id) is not None]

    def all(self) -> list[Session]:
        """Return all sessions, also those that have come to their end just now."""
        return list({**self._others, **self._own}.values())

    # -- the origins of clusters -------------------------------------------------------------

    def ticket(self, session: Session, cluster: str, state: str = "") -> str:
        """Return the word by which a session gets its cookie at a cluster, once, within 15 s.

        Parameters
        ----------
        state : str
            What the browser got there when it was sent here.
        """
        said = f"{session.id}.{cluster}.{self._end(TICKET_SECONDS)}.{secrets.token_hex(8)}"
        return self._word("ticket", f"{said}.{_id(state)}")

    def nonce(self, word: str, state: str) -> tuple[str, bool] | None:
        """Return a ticket's name among all, and whether it is for the browser of a state."""
        parts = self._parts("ticket", word, 5)
        if parts is None:
            return None
        return parts[3], bool(state) and hmac.compare_digest(parts[4], _id(state))

    def redeem(self, word: str, cluster: str) -> str | None:
        """Return the cookie for a cluster's origin, for a ticket that is used up then."""
        parts = self._parts("ticket", word, 5)
        if parts is None or parts[1] != cluster or not self._is_ahead(parts[2]):
            return None
        if self.get(parts[0]) is None or not self._first(parts[3]):
            return None
        return self._word("cluster", f"{parts[0]}.{cluster}")

    def at(self, cookie: str, cluster: str) -> Session | None:
        """Return the session of a cookie of a cluster's origin."""
        parts = self._parts("cluster", cookie, 2)
        return self.get(parts[0]) if parts is not None and parts[1] == cluster else None

    def view(self, session: str, cluster: str) -> str:
        """Return by what a scheduler knows the connections of a session, without knowing it."""
        return self._word("view", f"{session}.{cluster}").rpartition(".")[2]

    # -- what brokers tell each other --------------------------------------------------------

    def told(self) -> dict[str, list[list[object]]]:
        """Return what others have to know, as JSON-ready values."""
        self._tidy()
        return {
            "sessions": [[s.id, s.uid, s.until] for s in self._own.values()],
            "closed": [[name, until] for name, until in self._closed.items()],
        }

    def restore(self, sessions: Iterable[Session], closed: Iterable[tuple[str, float]]) -> None:
        """Take over what this broker told before it was started anew."""
        now = self._clock()
        self._closed.update((name, until) for name, until in closed if until > now)
        for session in sessions:
            if now < session.until <= now + self._seconds:
                self._own[session.id] = session

    def heard(self, sessions: Iterable[Session], closed: Iterable[tuple[str, float]]) -> list[str]:
        """Take what all others tell; return the ids of the sessions that have ended by it."""
        now = self._clock()
        before = {**self._own, **self._others}
        ended = {name: until for name, until in closed if until > now}
        self._others = {
            s.id: s for s in sessions if now < s.until <= now + self._seconds and s.id not in ended
        }
        gone = [name for name in before if name in ended]
        for name in gone:
            self._own.pop(name, None)
        return gone

    def expired(self) -> list[str]:
        """Return the ids of the sessions that have come to their end by themselves; once."""
        now = self._clock()
        gone = [s.id for s in {**self._others, **self._own}.values() if s.until <= now]
        for name in gone:
            self._own.pop(name, None)
            self._others.pop(name, None)
        return gone

    def __len__(self) -> int:
        return len({**self._own, **self._others})

    # -- words -------------------------------------------------------------------------------

    def _word(self, purpose: str, said: str) -> str:
        return f"{said}.{self._proof(purpose, said)}"

    def _proof(self, purpose: str, said: str) -> str:
        digest = hmac.new(self._key, f"{purpose} {said}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _parts(self, purpose: str, word: str, count: int) -> list[str] | None:
        found = _WORD.fullmatch(word)
        if found is None or not hmac.compare_digest(found[2], self._proof(purpose, found[1])):
            return None
        parts = found[1].split(".")
        return parts if len(parts) == count else None

    def _end(self, seconds: float) -> int:
        return int(self._clock() + seconds)

    def _is_ahead(self, until: str) -> bool:
        return self._clock() < int(until)

    def _first(self, nonce: str) -> bool:
        if nonce in self._used:
            return False
        self._used[nonce] = self._clock() + _REMEMBERED
        return True

    def _tidy(self) -> None:
        now = self._clock()
        for kept in (self._closed, self._used):
            for name in [name for name, until in kept.items() if until <= now]:
                del kept[name]


def _id(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()[:32]
