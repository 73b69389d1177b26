"""What schedulers sent to the service: files like those of a spool, from which it is collected."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dask_site.history.finding import LARGEST, NAME
from dask_site.history.lines import MIB
from dask_site.history.reading import MOST_BYTES, checked
from dask_site.whole import make_folder

_COUNTED = 30.0  # seconds for which what a user has there is known


class InboxError(Exception):
    """What was sent is not taken, nothing of it; the message says why and the mend.

    Attributes
    ----------
    status : int
        Of HTTP.
    at : int or None
        How far the file has got, in bytes, if that is what is wrong.
    """

    def __init__(self, status: int, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.at = at


@dataclass
class _Used:
    counted: float = float("-inf")
    bytes: int = 0
    files: int = 0


class Inbox:
    """Keeps what users sent, each in a folder named by his number, until it has been collected.

    Parameters
    ----------
    folder : path
        Made where missing.
    most_bytes, most_files : int
        Of each user.
    left_bytes : int
        Of all users together: what stays free of the file system, for the store; of a small one
        a twentieth.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int = 512 * MIB,
        most_files: int = 10_000,
        left_bytes: int = 512 * MIB,
    ) -> None:
        self._folder = folder
        self._left_bytes = left_bytes
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._used: dict[int, _Used] = {}

    def take(self, uid: int, name: str, at: int, lines: bytes) -> int:
        """Append to a user's file; what has been taken already changes nothing.

        For one user call it from one thread at a time.

        Parameters
        ----------
        name : str
            Of the file, as in a spool.
        at : int
            Offset of the first of these bytes.
        lines : bytes
            Whole lines of the cluster by which the file is named.

        Returns
        -------
        int
            How far the file has got: that much is on disk.

        Raises
        ------
        InboxError
            If it is not taken.
        OSError
            If it can't be written; what was there before is there still.
        """
        _check(name, lines)
        folder = self._folder / str(uid)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(folder / name, flags)
        except FileNotFoundError:
            if at:
                raise _gap(name, at, 0) from None
            self._admit(uid, folder, len(lines), 1)
            make_folder(folder, 0o700)
            file = os.open(folder / name, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self._note(uid, 0, 1)
        try:
            size = os.fstat(file).st_size
            if at > size:
                raise _gap(name, at, size)
            known = os.pread(file, min(len(lines), size - at), at)
            if not lines.startswith(known):
                raise InboxError(
                    409, f"{name} has other lines from byte {at} on: begin another file", size
                )
            new = lines[len(known) :]
            if size + len(new) > LARGEST:
                raise InboxError(
                    413,
                    f"{name} has {size} bytes, and a file gets {LARGEST} at most: begin another",
                    size,
                )
            self._admit(uid, folder, len(new), 0)
            _append(file, new, size)
            self._note(uid, len(new), 0)
        finally:
            os.close(file)
        if not size:
            for each in (folder, self._folder, self._folder.parent):
                _keep_names(each)
        return size + len(new)

    def _admit(self, uid: int, folder: Path, size: int, files: int) -> None:
        """Refuse what a user has no room for, or nobody."""
        system = os.statvfs(self._folder.parent)
        left = system.f_bavail * system.f_frsize
        least = min(self._left_bytes, system.f_blocks * system.f_frsize // 20)
        if left - size < least:
            raise InboxError(
                503,
                f"The file system of the history has {left} bytes left, and what is sent is taken "
                f"while there are {least}: tell who runs the service.",
            )
        used, now = self._used.setdefault(uid, _Used()), time.monotonic()
        if now - used.counted > _COUNTED:
            used.counted, used.bytes, used.files = now, 0, 0
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it has been collected
                        used.bytes += entry.stat(follow_symlinks=False).st_size
                        used.files += 1
        if used.bytes + size > self._most_bytes or used.files + files > self._most_files:
            raise InboxError(
                429,
                f"What was sent of your clusters has {used.bytes} of {self._most_bytes} bytes in "
                f"{used.files} of {self._most_files} files here. It goes when it has been "
                "collected and they have ended: wait for that, or close some.",
            )

    def _note(self, uid: int, size: int, files: int) -> None:
        used = self._used[uid]
        used.bytes += size
        used.files += files


def cluster_of(name: str) -> str:
    """Return the cluster by which a file is named.

    Raises
    ------
    InboxError
        If it is no name of a spool file.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise InboxError(400, "file must be named as in a spool: <cluster>.<number>.spool.")
    return match["cluster"]


def _check(name: str, lines: bytes) -> None:
    """Refuse what a recorder doesn't write; what its records say, the collector looks at."""
    cluster = cluster_of(name)
    if not lines.endswith(b"\n"):
        raise InboxError(400, "The last line is not whole: send whole lines, at least one.")
    for number, line in enumerate(lines[:-1].split(b"\n"), 1):
        try:
            if len(line) >= MOST_BYTES:
                raise ValueError("longer than a line may be")
            whose = checked(line).get("c")
        except (ValueError, RecursionError) as error:
            why = str(error)[:200]
            raise InboxError(400, f"Line {number} is none of a recorder: {why}.") from None
        if whose != cluster:
            raise InboxError(400, f"Line {number} is not of the cluster that the file is named by.")


def _gap(name: str, at: int, size: int) -> InboxError:
    why = f"{name} has {size} bytes here, so none go on from {at}: send what is between"
    return InboxError(409, f"{why}, or begin another file.", size)


def _append(file: int, data: bytes, size: int) -> None:
    """Write all of it, on disk, or nothing."""
    try:
        done = 0
        # Not at the end, wherever that is: another writer that is about to stop may do the same.
        while done < len(data):
            done += os.pwrite(file, data[done:], size + done)
        os.fsync(file)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise


def _keep_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
