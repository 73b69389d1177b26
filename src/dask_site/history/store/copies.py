"""Copies of a store on SQLite: made while it is in use, and put back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from dask_site.history import migrations
from dask_site.history.store import tables, versions
from dask_site.history.store.engine import engine_for, plainly, reading
from dask_site.history.store.failures import StoreError, other_version
from dask_site.whole import put


def backup(source: Path, target: Path) -> None:
    """Write a copy of a store as it is at one moment; nobody waits for it.

    Raises
    ------
    StoreError
        If it can't be written, or is not whole.
    """
    _check_target(source, target)
    with _beside(target) as beside:
        _copy(source, beside)
        _check(beside)


def restore(source: Path, target: Path) -> None:
    """Put a copy in the place of a store.

    Raises
    ------
    StoreError
        If the copy is not whole or not of this release or an older one, or the store is in use.
    """
    if not source.is_file():
        raise StoreError(f"{source}: there is no such file")
    with _beside(target) as beside:
        _copy(source, beside)
        version = _check(beside)
        if version > migrations.HEAD:
            raise other_version(str(source), version)
        _bring_up(beside, source)
        _retire(target)


def _check_target(source: Path, target: Path) -> None:
    """Refuse to put a copy in the place of what it is of, or of a device."""
    parts = [source.with_name(source.name + end) for end in ("", "-wal", "-shm", "-journal")]
    try:
        place = target.parent.resolve(strict=True) / target.name
        if place in [part.parent.resolve() / part.name for part in parts]:
            raise StoreError(f"{target} is the history itself: name another file for its copy")
        there = target.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{target} can't be written: {error}") from None
    if not stat.S_ISREG(there.st_mode):
        raise StoreError(f"{target} is no regular file: name another for the copy")


def _keep_mode(beside: Path, target: Path) -> None:
    """Leave a file as open as it was, unless another user has opened it in advance."""
    with contextlib.suppress(FileNotFoundError):
        there = target.lstat()
        if stat.S_ISREG(there.st_mode) and there.st_uid == os.geteuid():
            beside.chmod(stat.S_IMODE(there.st_mode) & 0o777)


def _copy(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=60)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)  # at one go: by parts it begins anew whenever somebody writes
            new.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    except sqlite3.Error as error:
        raise StoreError(f"{source} can't be copied to {target.parent}: {error}") from None


def _check(path: Path) -> str:
    """Return the version of a store that is whole."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as conn:
            found = [row[0] for row in conn.execute("PRAGMA integrity_check(5)")]
            broken = conn.execute("PRAGMA foreign_key_check").fetchone()
            version = conn.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"the copy is no history: {error}") from None
    if found != ["ok"] or broken is not None:
        raise StoreError(f"the copy is not whole: {'; '.join(found)}; it is not used")
    if version is None or not version[0]:
        raise StoreError("the copy is no history: it has no version")
    return str(version[0])


def _bring_up(path: Path, source: Path) -> None:
    """Bring a copy to this release's form, before anything is lost by putting it in a place."""
    engine = engine_for(f"sqlite:///{path}", "delete", 60.0)
    try:
        with plainly(f"{source} is no history"):
            versions.upgrade(engine)
            with reading(engine) as conn:
                for table in tables.metadata.sorted_tables:
                    conn.execute(select(table).limit(0))
    finally:
        engine.dispose()


def _retire(path: Path) -> None:
    """Make sure that nobody uses a store any more, and that nothing of it lies beside it."""
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.5)) as conn:
            # Only who is alone with it can do that.
            conn.execute("PRAGMA journal_mode=DELETE")
            conn.execute("BEGIN EXCLUSIVE")
            conn.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path} is in use ({error}): stop the service first") from None
    except sqlite3.DatabaseError:
        pass  # broken, which may be why the copy is wanted
    for end in ("-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).unlink()


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a new file that takes the place of another once all is well."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.close(descriptor)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        _keep_mode(beside, target)
        put(beside, target)
    except OSError as error:
        raise StoreError(f"{target} can't be written: {error}") from None
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                beside.with_name(beside.name + end).unlink()
