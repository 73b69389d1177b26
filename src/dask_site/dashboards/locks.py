"""Who is kept out: whom root locked, as one file says that all nodes share; who is gone."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
from pathlib import Path

from dask_site.dashboards.accounts import Accounts
from dask_site.dashboards.registry import RefusedError
from dask_site.whole import write_whole

_LARGEST = 4 * 1024 * 1024


class Locks:
    """The users that are kept out, by their numbers.

    Parameters
    ----------
    folder : Path
        For the brokers alone.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "locked.json"
        self._beside = folder / "locked.lock"
        self._alone = threading.Lock()

    def read(self) -> frozenset[int]:
        """Return who is kept out.

        Raises
        ------
        OSError
            If it can't be read.
        ValueError
            If something else stands there.
        """
        try:
            with self.path.open("rb") as file:
                values = json.loads(file.read(_LARGEST))
        except FileNotFoundError:
            return frozenset()
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, list) or not all(type(uid) is int for uid in values):
            raise ValueError(f"{self.path} is no list of numbers of users: write [] into it")
        return frozenset(values)

    def change(self, uid: int, locked: bool) -> frozenset[int]:
        """Keep a user out, or not any more; return who is kept out then.

        Raises
        ------
        OSError, ValueError
            As `read`, or if it can't be written; then nothing has changed.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._alone:  # threads; other nodes by the lock of the file
            descriptor = os.open(self._beside, flags, 0o600)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
                after = self.read() - {uid} | ({uid} if locked else frozenset())
                write_whole(self.path, json.dumps(sorted(after)).encode(), 0o600)
            finally:
                os.close(descriptor)
        return after


class Barred:
    """The users who are let in nowhere: their accounts are locked, or gone."""

    def __init__(self, locks: Locks, accounts: Accounts) -> None:
        self.locks = locks
        self._accounts = accounts
        self._locked: frozenset[int] = frozenset()

    def is_barred(self, uid: int) -> bool:
        """Return whether a user's account is locked, or gone."""
        return uid in self._locked or uid in self._accounts.unusable

    def check(self, uid: int) -> None:
        """Refuse a user who is kept out.

        Raises
        ------
        RefusedError
            If he is.
        """
        if self.is_barred(uid):
            raise RefusedError("Your account is locked: ask who runs the service", 403)

    async def change(self, uid: int, locked: bool) -> None:
        """Lock a user's account on all nodes, or not any more.

        Raises
        ------
        OSError, ValueError
            As `Locks.change` does.
        """
        self._locked = await asyncio.to_thread(self.locks.change, uid, locked)

    def heard(self, locked: frozenset[int]) -> None:
        """Take in whose accounts are locked by now."""
        self._locked = locked
