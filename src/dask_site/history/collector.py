"""Takes what schedulers wrote to their spools into the store."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.exc import OperationalError

from dask_site.history.finding import FOLDER, Finder, Found, User
from dask_site.history.reading import SpoolError, read_spool
from dask_site.history.records import Record
from dask_site.history.store import spools
from dask_site.history.store.batches import Batch, Mark, Taken
from dask_site.history.store.core import Store

logger = logging.getLogger("dask_site")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_AT_ONCE = 2000
# What opening a file counts for, in bytes of it.
_OPENING = 4096
# Marks of files that may be gone, in one pass.
_SWEPT = 500
# Seconds that the others' silent clusters wait for a user of whom not all has been read.
_PATIENCE = 900.0


@dataclass
class Pass:
    """What one walk through the spools found.

    Attributes
    ----------
    files, deleted : int
        Files that had something new; that were taken away.
    taken : Taken
        What became of the records.
    bad : int
        Lines that are no records.
    skipped : Counter of str
        Folders and files that were not read, or not deleted, by the reason.
    more : bool
        Whether something was left for the next.
    problem : str or None
        Why the store took nothing more; what was not taken comes with the next.
    """

    files: int = 0
    deleted: int = 0
    taken: Taken = field(default_factory=Taken)
    bad: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    more: bool = False
    problem: str | None = None


class Collector:
    """Walks spool folders; each file goes on where it was left.

    A file's owner is the owner of its records, whatever they say.

    Parameters
    ----------
    store : Store
        Where the records go, together with how far each file was read.
    folders : iterable of path
        Each holds folders of users, or is itself the folder of one.
    keep : float
        Seconds after which a file is deleted that nobody writes to, though its cluster never
        ended.
    received : path, optional
        What users sent to the service, which wrote it there: see `Finder`.
    """

    def __init__(
        self,
        store: Store,
        folders: Iterable[str | os.PathLike[str]],
        keep: float = 14 * 86400.0,
        received: str | os.PathLike[str] | None = None,
    ) -> None:
        self._store = store
        self._finder = Finder(folders, received)
        self._keep = keep
        self._behind: dict[int, float] = {}
        self._caught_up = False
        self._swept: tuple[str, str, str] | None = None
        # Files whose batches are not in the store yet.
        self._read: list[tuple[Found, bool]] = []

    def collect(self, now: float | None = None) -> Pass:
        """Take in what is new, and delete what is not needed any more.

        Parameters
        ----------
        now : float, optional
            Seconds since 1970.
        """
        moment = time.time() if now is None else now
        done = Pass()
        try:
            self._collect(done, moment)
        except OperationalError as error:
            # Locked, or the disk is full. Nothing is lost: the offset is stored with the records.
            done.problem = _cause(error)
            logger.warning("The history can't be written now, it is tried again: %s", done.problem)
        done.skipped += self._finder.skipped()
        behind = self._finder.behind()
        done.more = bool(behind)
        self._behind = {uid: self._behind.get(uid, moment) for uid in behind}
        waited_for = any(moment - since <= _PATIENCE for since in self._behind.values())
        self._caught_up = done.problem is None and not waited_for
        return done

    def silent(self, now: float, after: float = 900.0) -> list[str]:
        """Close the clusters not heard of for longer than `after` seconds; return their ids.

        Only after a pass that left nothing unread: what a cluster wrote while nobody collected
        shows that it was alive. Who has so much that it takes longer is not waited for.
        """
        return self._store.silent(now, after) if self._caught_up else []

    def _collect(self, done: Pass, now: float) -> None:
        self._read.clear()
        users = self._finder.users(now)
        marks = self._marks(file for user in users for file in user.pending)
        # There may be hundreds of thousands that only their owners may delete: those that were
        # read are let go of here.
        ours: list[Found] = []
        # Small ones together: a transaction costs as much as hundreds of records.
        batches: list[Batch] = []
        for user in users:
            for batch in self._of(user, marks, ours, done):
                batches.append(batch)
                if sum(len(batch.records) for batch in batches) >= _AT_ONCE:
                    self._flush(batches, done, now)
        self._flush(batches, done, now)
        if ours:
            self._delete(ours, done, now)
        self._sweep()

    def _marks(self, files: Iterable[Found]) -> dict[tuple[str, str, str], Mark]:
        keys = [file.key for file in files]
        if not keys:
            return {}
        with self._store.asking() as ask:
            return spools.marks_of(ask, keys)

    def _flush(self, batches: list[Batch], done: Pass, now: float) -> None:
        if batches:
            for taken in self._store.ingest_all(batches, now):
                done.taken.add(taken)
            batches.clear()
        for file, again in self._read:
            file.folder.dealt(file, again)
        self._read.clear()

    def _sweep(self) -> None:
        """Forget how far files were read that are gone, some of them in each pass.

        Also what is only out of reach goes: reading it again changes nothing.
        """
        with self._store.asking() as ask:
            marks = spools.marks_after(ask, self._swept, _SWEPT)
        self._swept = marks[-1] if len(marks) == _SWEPT else None
        gone = [mark for mark in marks if not _is_there(mark)]
        if gone:
            self._store.drop_marks(gone)

    # -- reading -----------------------------------------------------------------------------

    def _of(
        self,
        user: User,
        marks: dict[tuple[str, str, str], Mark],
        ours: list[Found],
        done: Pass,
    ) -> Iterator[Batch]:
        """Yield what is new of a user, at most as much as he has a turn for."""
        while user.pending and user.turn.bytes > 0:
            file = user.pending.popleft()
            mark = marks.get(file.key) or Mark(*file.key, offset=0)
            again = False
            if mark.offset != file.status.st_size:
                try:
                    yield from self._batches(user, file, mark, done)
                except SpoolError as error:
                    done.skipped[str(error)] += 1
                    again = True
                except OSError as error:
                    done.skipped[f"file: {error.strerror}"] += 1
                    again = True
            if not user.pending or user.pending[0] is not file:
                self._read.append((file, again))
                if file.folder.deletable and not again:
                    ours.append(file)

    def _batches(self, user: User, file: Found, mark: Mark, done: Pass) -> Iterator[Batch]:
        user.turn.bytes -= _OPENING
        with _opened(file) as descriptor:
            offset = start = mark.offset if mark.offset <= file.status.st_size else 0
            reading = read_spool(descriptor, start)
            records: list[Record] = []
            cluster = mark.cluster
            for record, offset in reading:  # the last one counts
                records.append(record)
                cluster = record.c
                if len(records) >= _AT_ONCE:
                    yield Batch(file.owner, records, _at(file, offset, cluster))
                    records = []
                if offset - start >= user.turn.bytes:
                    user.pending.appendleft(file)
                    break
            else:
                offset = reading.offset
        user.turn.bytes -= offset - start
        done.bad += reading.bad
        done.files += offset != start
        if records or offset != mark.offset:
            yield Batch(file.owner, records, _at(file, offset, cluster))

    # -- deleting ----------------------------------------------------------------------------

    def _delete(self, found: list[Found], done: Pass, now: float) -> None:
        marks = self._marks(found)
        known = {file.key: marks[file.key] for file in found if file.key in marks}
        clusters = {file.cluster for file in found} | {m.cluster or "" for m in known.values()}
        ended = self._store.done(sorted(clusters - {""}))
        gone = []
        for file in found:
            mark = known.get(file.key)
            if mark is None:
                continue
            idle = now - file.status.st_mtime > self._keep
            read = mark.offset == file.status.st_size
            over = (mark.cluster or file.cluster) in ended
            # All whole lines were read: what follows them in a file that is long idle was torn.
            if ((over and read) or idle) and _unlink(file, done):
                gone.append(file.key)
                file.folder.forget(file.name)
        done.deleted += len(gone)
        if gone:
            self._store.drop_marks(gone)


def _cause(error: BaseException) -> str:
    """Return what went wrong first: undoing it may have failed as well, as it was undone."""
    while (before := error.__context__) and type(before).__name__ == "OperationalError":
        error = before
    return str(error)


def _is_there(key: tuple[str, str, str]) -> bool:
    device, inode, path = key
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    return (str(status.st_dev), str(status.st_ino)) == (device, inode)


def _at(file: Found, offset: int, cluster: str | None) -> Mark:
    return Mark(*file.key, offset=offset, cluster=cluster)


@contextmanager
def _opened(file: Found) -> Iterator[int]:
    """Open a file that was found, unless another has been put in its place."""
    folder = os.open(file.folder.path, FOLDER)
    try:
        descriptor = os.open(file.name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise SpoolError("no regular file") from None
        raise
    finally:
        os.close(folder)
    try:
        status = os.fstat(descriptor)
        same = (status.st_dev, status.st_ino, status.st_uid)
        if same != (file.status.st_dev, file.status.st_ino, file.status.st_uid):
            raise SpoolError("another file in its place")
        yield descriptor
    finally:
        os.close(descriptor)


def _unlink(file: Found, done: Pass) -> bool:
    """Delete a file, unless it has changed since it was found.

    Below a shared folder only its owner may; there `tidying` does it.
    """
    try:
        folder = os.open(file.folder.path, FOLDER)
        try:
            now = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
            if (now.st_ino, now.st_size) != (file.status.st_ino, file.status.st_size):
                return False
            os.unlink(file.name, dir_fd=folder)
        finally:
            os.close(folder)
    except PermissionError:
        return False
    except OSError as error:
        done.skipped[f"not deleted: {error.strerror}"] += 1
        return False
    return True
