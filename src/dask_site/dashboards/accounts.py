"""What the system says of users, asked in threads: it may be a slow LDAP server."""

from __future__ import annotations

import asyncio
import pwd
import re
from collections.abc import Iterable
from typing import Any

from dask_site.dashboards.registry import RefusedError
from dask_site.people import name_of
from dask_site.services.access import uid_of

_NO_SHELLS = re.compile(r".*/(nologin|false)")


class Accounts:
    """The names of users, and whose accounts are of no use any more."""

    def __init__(self) -> None:
        self.unusable: frozenset[int] = frozenset()
        self._names: dict[int, str] = {}

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
        found = await asyncio.to_thread(
            lambda: ({uid: name_of(uid) for uid in uids}, unusable(uids))
        )
        self._names, self.unusable = found


def unusable(uids: set[int]) -> frozenset[int]:
    """Return the users whose accounts are gone, or have no login shell."""
    found = set()
    for uid in uids:
        try:
            shell = pwd.getpwuid(uid).pw_shell
        except (KeyError, OverflowError):
            found.add(uid)
        else:
            if _NO_SHELLS.fullmatch(shell):
                found.add(uid)
    return frozenset(found)


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
