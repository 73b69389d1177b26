"""One writer among all nodes: who holds the lease writes, and knows when it is lost."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import text

from dask_site.history.store.engine import engine_for

# Of PostgreSQL's advisory locks: another than the store's.
_LOCK = 0x6461736C


class Lease(Protocol):
    """The right to write."""

    def take(self) -> bool:
        """Try to get it; say whether it is held now."""

    def held(self) -> bool:
        """Say whether it is held still; once it was lost it does not come back by itself."""

    def release(self) -> None:
        """Let others have it."""

    def holder(self) -> str:
        """Return who holds it, in words; empty if nobody knows."""


class FileLease:
    """A lock on a file that all nodes share, held as long as the process lives.

    The holder writes a word of its own into the file. When a network file system has lost the
    lock, and perhaps given it to another in between, the word tells.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._word = secrets.token_hex(16)
        self._descriptor = -1

    def take(self) -> bool:
        """See `Lease`.

        Raises
        ------
        OSError
            If the file can't be made or locked at all.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o640)
        if not _locked(descriptor) or not self._same(descriptor):
            os.close(descriptor)
            return False
        said = {"word": self._word, "host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(said).encode(), 0)
        os.fsync(descriptor)
        self._descriptor = descriptor
        return True

    def held(self) -> bool:
        """See `Lease`."""
        # Not by opening the file: closing any descriptor of it would let go of the lock.
        try:
            return (
                self._descriptor >= 0
                and self._same(self._descriptor)
                and _locked(self._descriptor)
                and _said(self._descriptor).get("word") == self._word
            )
        except OSError:
            return False

    def release(self) -> None:
        """See `Lease`."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def holder(self) -> str:
        """See `Lease`."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            said = _said(descriptor)
        finally:
            os.close(descriptor)
        return f"{said['host']}, process {said['pid']}" if {"host", "pid"} <= said.keys() else ""

    def _same(self, descriptor: int) -> bool:
        """Return whether the file is still the one in its place."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


class DatabaseLease:
    """An advisory lock of PostgreSQL, held by a connection of its own.

    Parameters
    ----------
    url : str
        Of the store.
    """

    def __init__(self, url: str) -> None:
        self._engine = engine_for(url, "wal", 10.0)
        self._connection: Any = None

    def take(self) -> bool:
        """See `Lease`.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            If the database can't be reached.
        """
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            taken = bool(self._ask(connection, "SELECT pg_try_advisory_lock(:lock)"))
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        if taken:
            self._connection = connection
        else:
            connection.close()
        return taken

    def held(self) -> bool:
        """See `Lease`."""
        if self._connection is None:
            return False
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND pid = pg_backend_pid() AND objid = :lock"
        )
        try:
            return bool(self._ask(self._connection, query))
        except Exception:
            # Whatever it is, the connection is not what it was.
            return False

    def release(self) -> None:
        """See `Lease`."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                # In words: the server notices a while later that a connection was closed.
                self._ask(self._connection, "SELECT pg_advisory_unlock(:lock)")
            with contextlib.suppress(Exception):
                self._connection.invalidate()  # closed, not put back: it may hold the lock still
                self._connection.close()
            self._connection = None
        self._engine.dispose()

    def holder(self) -> str:
        """See `Lease`."""
        return ""

    @staticmethod
    def _ask(connection: Any, sql: str) -> Any:
        return connection.execute(text(sql), {"lock": _LOCK}).scalar()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _said(descriptor: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
