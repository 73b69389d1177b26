"""Who may see what."""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Viewer:
    """Who asks.

    Attributes
    ----------
    user : str
        Name; the number in digits, where the system knows none.
    uid : int
        Which is what counts.
    admin : bool
        Sees everything; looks at what is another's are noted.
    accounts : frozenset of str
        Of which he is a coordinator: he sees what was charged to them.
    """

    user: str
    uid: int
    admin: bool = False
    accounts: frozenset[str] = frozenset()

    def may_see(self, owner: str | int, account: str | None = None) -> bool:
        """Return whether he may see what belongs to a user and was charged to an account.

        Parameters
        ----------
        owner : str or int
            Name, or better the number: names can be given to others.
        account : str or None
            As the resource manager's accounting says.
        """
        return self.admin or self.owns(owner) or bool(account and account in self.accounts)

    def owns(self, owner: str | int) -> bool:
        """Return whether it is his own."""
        return owner == (self.uid if isinstance(owner, int) else self.user)


class Directory:
    """Makes viewers of user numbers, by the system's users and groups.

    What the system said holds for a minute: it may be a slow LDAP server.

    Parameters
    ----------
    admins : iterable of str
        Names of users, and of groups as ``@group``.
    coordinators : dict of str to iterable of str
        By account, in the same way.
    """

    _HOLDS = 60.0
    _MOST = 1000

    def __init__(
        self, admins: Iterable[str] = (), coordinators: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._admins = frozenset(admins)
        self._coordinators = {
            account: frozenset(names) for account, names in (coordinators or {}).items()
        }
        self._known: dict[int, tuple[float, Viewer]] = {}

    def viewer(self, uid: int) -> Viewer:
        """Return the viewer of a user number; may take as long as the system's look-up does."""
        now = time.monotonic()
        when, known = self._known.get(uid, (-self._HOLDS, None))
        if known is not None and now - when < self._HOLDS:
            return known
        if len(self._known) >= self._MOST:
            self._known.clear()
        viewer = self._asked(uid)
        self._known[uid] = (now, viewer)
        return viewer

    def _asked(self, uid: int) -> Viewer:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return Viewer(str(uid), uid)
        names = {entry.pw_name, *(f"@{group}" for group in _groups(entry))}
        accounts = (a for a, people in self._coordinators.items() if names & people)
        return Viewer(entry.pw_name, uid, bool(names & self._admins), frozenset(accounts))


def _groups(entry: pwd.struct_passwd) -> list[str]:
    found = []
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            found.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return found


def uid_of(user: str) -> int | None:
    """Return the number of a user by name or by number in digits; None if there is none."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return int(user) if user.isascii() and user.isdigit() and len(user) <= 10 else None


def uid_named(user: str) -> int | None:
    """Return the number of the user of a name that others vouch for; None if there is none.

    Digits are no name here: somebody who can choose his name elsewhere would choose a number.
    """
    if user.strip().isdigit():
        return None
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return None
