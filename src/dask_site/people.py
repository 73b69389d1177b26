"""Users: their names, and the groups that are theirs alone."""

from __future__ import annotations

import grp
import os
import pwd


def name_of(uid: int | None = None) -> str:
    """Return the name of a user, by default the caller, or the number where nobody knows one."""
    number = os.getuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return str(number)


def is_private(group: int, uid: int | None = None) -> bool:
    """Say whether a group is a user's private one: named after him, with nobody else in it.

    Parameters
    ----------
    uid : int, optional
        By default the caller's.
    """
    try:
        user, entry = pwd.getpwuid(os.getuid() if uid is None else uid), grp.getgrgid(group)
    except (KeyError, OverflowError):
        return False
    return group == user.pw_gid and entry.gr_name == user.pw_name and not entry.gr_mem
