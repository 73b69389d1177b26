"""What the system says of users, asked in threads: it may be a slow LDAP server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dask_site.dashboards.registry import RefusedError
from dask_site.people import name_of
from dask_site.services.access import uid_of

logger = logging.getLogger("dask_site")

#: The names of users whose accounts are locked or have expired, one in a line. A unit of root's
#: writes it on each login node, as `/etc/shadow` is not for brokers.
LOCKED = Path("/run/dask-dashboards-accounts/locked")
_LARGEST = 4 * 1024 * 1024
_NO_SHELLS = re.compile(r".*/(nologin|false)")


class Accounts:
    """The names of users, and whose accounts are of no use any more.

    Parameters
    ----------
    locked : Path
        The names of users whose accounts the system has locked; where there is no such file,
        nobody's are.
    """

    def __init__(self, locked: Path = LOCKED) -> None:
        self.unusable: frozenset[int] = frozenset()
        self._names: dict[int, str] = {}
        self._file = locked
        # When it was written that was read last, and that was looked by last.
        self._seen = self._looked = 0
        self._locked: frozenset[str] = frozenset()
        self._alone = threading.Lock()

    def name(self, uid: int) -> str:
        """Return a user's name as far as it is known, else the number; asks nobody."""
        return self._names.get(uid, str(uid))

    async def know(self, uids: Iterable[int]) -> None:
        """Ask for the names of users that are not known yet."""
        new = {uid for uid in uids if uid not in self._names}
        if new:
            self._names.update(await asyncio.to_thread(lambda: {uid: name_of(uid) for uid in new}))

    async def named(self, uid: int) -> str:
        """Return a user's name, or the number where the system knows none."""
        await self.know([uid])
        return self.name(uid)

    async def look(self, uids: set[int]) -> None:
        """Ask anew for names and accounts, and forget all others."""
        self._looked = self._written()
        found = await asyncio.to_thread(
            lambda: ({uid: name_of(uid) for uid in uids}, self.find_unusable(uids))
        )
        self._names, self.unusable = found

    async def change(self, seconds: float) -> None:
        """Return when the system has locked or unlocked somebody, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._written() == self._looked:
                    await asyncio.sleep(1)

    def find_unusable(self, uids: Iterable[int]) -> frozenset[int]:
        """Return the users whose accounts are gone, locked, expired, or have no login shell."""
        locked = self._read()
        found = set()
        for uid in uids:
            try:
                entry = pwd.getpwuid(uid)
            except (KeyError, OverflowError):
                found.add(uid)
            else:
                if _NO_SHELLS.fullmatch(entry.pw_shell) or entry.pw_name in locked:
                    found.add(uid)
        return frozenset(found)

    def _written(self) -> int:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return 0

    def _read(self) -> frozenset[str]:
        """Return whom the system has locked; as before, where that can't be read any more."""
        with self._alone:
            written = self._written()
            if written != self._seen:
                try:
                    with self._file.open(encoding="utf-8", errors="replace") as file:
                        self._locked = frozenset(file.read(_LARGEST).split("\n"))
                    self._seen = written
                except OSError as error:
                    logger.warning("%s says who is locked and can't be read: %s", self._file, error)
            return self._locked


async def uid_for(given: Any) -> int:
    """Return the number of a user whom somebody names.

    Raises
    ------
    RefusedError
        404 if there is no such user.
    """
    uid = await asyncio.to_thread(uid_of, given) if isinstance(given, str) and given else None
    if uid is None:
        raise RefusedError("there is no such user", 404)
    return uid
