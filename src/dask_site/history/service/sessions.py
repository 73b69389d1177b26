"""One-time links that let a browser in, and the cookies that keep it in at the next writer, too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dask_site.whole import write_whole

logger = logging.getLogger("dask_site")
#: The prefix has browsers refuse it without Secure, for another path, or set by another host.
COOKIE = "__Host-dask-site"
TOKEN_SECONDS = 60.0
SESSION_SECONDS = 12 * 3600.0
_TOKENS_EACH, _SESSIONS_EACH = 20, 20
_MOST = 20_000
_LONGEST_PATH = 2000
_LARGEST = 8 * 1024 * 1024  # bytes of a file of `_MOST` sessions, and more
_AGAIN = 60.0


@dataclass(frozen=True)
class _Entry:
    uid: int
    until: float
    path: str = ""


class Sessions:
    """Who was let in. Only hashes of what lets in are kept; links are in memory alone.

    Parameters
    ----------
    clock : callable
        Seconds since 1970, about the same for all who use the file.
    file : path, optional
        Where the writer keeps the sessions for the one after it.
    """

    def __init__(self, clock: Callable[[], float] = time.time, file: Path | None = None) -> None:
        self._file = file
        self._tokens = _Secrets(TOKEN_SECONDS, _TOKENS_EACH, clock)
        self._sessions = _Secrets(SESSION_SECONDS, _SESSIONS_EACH, clock)
        self._changed = asyncio.Event()
        self._saving = threading.Lock()

    def token(self, uid: int, path: str) -> str:
        """Return what lets a user in once, within a minute, to a page.

        Raises
        ------
        ValueError
            If the path is none of this service.
        """
        return self._tokens.new(uid, local_path(path))

    def open(self, token: str) -> tuple[str, str, int] | None:
        """Return a new session, the path and the user of a token, which is used up then."""
        entry = self._tokens.take(token)
        if entry is None:
            return None
        word = self._sessions.new(entry.uid)
        self._changed.set()
        return word, entry.path, entry.uid

    def user(self, session: str) -> int | None:
        """Return the number of the user whose session it is, None if it isn't one any more."""
        entry = self._sessions.get(session)
        return None if entry is None else entry.uid

    def close(self, session: str) -> None:
        """End a session."""
        if self._sessions.take(session) is not None:
            self._changed.set()

    def __len__(self) -> int:
        return len(self._sessions)

    # -- for the next writer -----------------------------------------------------------------

    def load(self) -> None:
        """Take over the sessions of the writer before; a spoiled file costs those alone."""
        if self._file is None:
            return
        try:
            self._sessions.add(_read(self._file))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s can't be used, browsers log in anew: %s", self._file, error)

    def save(self) -> None:
        """Write all sessions into the file.

        Raises
        ------
        OSError
            If it can't be written.
        """
        if self._file is None:
            return
        with self._saving:  # so that what was read last is written last
            rows = [[key.hex(), e.uid, e.until] for key, e in self._sessions.items()]
            write_whole(self._file, json.dumps({"sessions": rows}).encode(), 0o600)

    async def keep(self) -> None:
        """Write the file after every change, until it is cancelled.

        Not within a request: a file system may be slow, and all requests would wait for it.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await asyncio.to_thread(self.save)
            except OSError as error:
                logger.warning("%s can't be written, trying again: %s", self._file, error)
                await asyncio.sleep(_AGAIN)
                self._changed.set()


def _read(file: Path) -> list[tuple[bytes, _Entry]]:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        said = json.loads(opened.read(_LARGEST))
    if not isinstance(said, dict):
        raise ValueError("it is not as it was written")
    return [
        (bytes.fromhex(key), _Entry(int(uid), float(until)))
        for key, uid, until in said.get("sessions", ())
    ]


class _Secrets:
    """Random words, and whose they are: bounded for each user and in all."""

    def __init__(self, seconds: float, each: int, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._each = each
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._of: dict[int, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def new(self, uid: int, path: str = "") -> str:
        word = secrets.token_urlsafe(32)
        self._put(_hashed(word), _Entry(uid, self._clock() + self._seconds, path))
        return word

    def add(self, entries: Iterable[tuple[bytes, _Entry]]) -> None:
        """Put in what another had, oldest first; none lasts longer than one that is new."""
        now = self._clock()
        longest = now + self._seconds
        for key, entry in sorted(entries, key=lambda one: one[1].until):
            if now < entry.until and key not in self._entries:
                self._put(key, _Entry(entry.uid, min(entry.until, longest)))

    def items(self) -> list[tuple[bytes, _Entry]]:
        return list(self._entries.items())

    def _put(self, key: bytes, entry: _Entry) -> None:
        self._expire()
        own = self._of.setdefault(entry.uid, OrderedDict())
        while len(own) >= self._each:
            self._drop(next(iter(own)))
        while len(self._entries) >= _MOST:
            self._drop(next(iter(self._entries)))
        self._entries[key] = entry
        self._of.setdefault(entry.uid, OrderedDict())[key] = None

    def get(self, word: str) -> _Entry | None:
        entry = self._entries.get(_hashed(word))
        return entry if entry is not None and self._clock() < entry.until else None

    def take(self, word: str) -> _Entry | None:
        entry = self.get(word)
        self._drop(_hashed(word))
        return entry

    def _expire(self) -> None:
        # All last equally long, so the oldest come first.
        now = self._clock()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now < entry.until:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        own = self._of[entry.uid]
        own.pop(key, None)
        if not own:
            del self._of[entry.uid]


def local_path(path: str) -> str:
    """Return a path of this service; browsers take some that begin with / for another's.

    Raises
    ------
    ValueError
        If it isn't one.
    """
    plain = path.isascii() and path.isprintable() and " " not in path and "\\" not in path
    if not path.startswith("/") or path.startswith("//") or not plain:
        raise ValueError(f"{path[:60]!r} is no path of this service: write /clusters/<id>, or /")
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"the path has more than {_LONGEST_PATH} characters")
    return path


def _hashed(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
