"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file beside, make sure that it is on disk, and put it in its place.

    Parameters
    ----------
    mode : int
        Permissions, whatever the umask is.

    Raises
    ------
    OSError
        If it can't be written; what was there before is there still.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        descriptor = os.open(beside, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        put(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def put(beside: Path, path: Path) -> None:
    """Put a file that is on disk in the place of another, and make sure that it stays there.

    Raises
    ------
    OSError
        If it can't be put there.
    """
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder and those above it, where missing, with these permissions.

    Raises
    ------
    OSError
        If it can't be made.
    """
    for folder in (*reversed(path.parents), path):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(mode)  # whatever the umask is
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
