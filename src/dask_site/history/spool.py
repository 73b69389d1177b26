"""The spool: files to which a scheduler appends what it did, and from which the history is read.

A line is ``crc32-hex SP json LF``, so what was torn by a crash or a full disk is told from what is
whole. A cluster's files are ``<cluster>.<n>.spool``, each of a bounded size; only the newest grows.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from dask_site.history.lines import MIB, Line, Lines, fitting
from dask_site.history.reading import Reading, SpoolError, read_spool
from dask_site.history.tidying import tidy
from dask_site.whole import make_folder, write_whole

__all__ = ["SUFFIX", "Reading", "SpoolError", "SpoolWriter", "own_folder", "read_spool"]
logger = logging.getLogger("dask_site")
SUFFIX = ".spool"
_ID = re.compile(r"[A-Za-z0-9._:@+-]{1,128}")
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_MOST_FOLDERS = 10


def own_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the caller's spool folder: this one, or one beside it where others took its name.

    Where users' folders stand side by side, anybody may make one of any name.

    Returns
    -------
    path
        Of `folder`, `folder`.1, up to .9: the first that is a folder of the caller's and no link;
        else the first that isn't there. Where others took them all, one whose name only the
        caller knows, as it is kept in the file ``~/.dask-site/spool-name``.
    """
    named = Path(folder)
    names = [named, *(Path(f"{named}.{number}") for number in range(1, _MOST_FOLDERS))]
    missing = []
    for one in names:
        try:
            status = one.lstat()
        except FileNotFoundError:
            missing.append(one)
            continue
        except OSError:
            break  # those beside it can't be seen either
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return one
    if missing:
        return missing[0]
    with suppress(OSError, RuntimeError):  # no home
        return Path(f"{named}.{_secret_name()}")
    return named


def _secret_name() -> str:
    """Return a name that nobody else can know, always the same.

    Raises
    ------
    OSError
        If it can't be kept.
    """
    kept = Path.home() / ".dask-site" / "spool-name"
    with suppress(FileNotFoundError):
        name = kept.read_text()
        if re.fullmatch("[0-9a-f]{32}", name):
            return name
    name = secrets.token_hex(16)
    make_folder(kept.parent, 0o700)
    write_whole(kept, name.encode(), 0o600)
    return name


class SpoolWriter:
    """Appends the records of one cluster. No error of the file system gets out of `write`.

    Parameters
    ----------
    folder : path
        The user's spool folder; it and the folders above it are made where missing. Where it is
        not his, see `own_folder`.
    cluster_id : str
        The first part of the files' names.
    most_bytes : int
        Of this cluster: beyond three quarters of them no more samples are written, and the last
        64 KiB are for the end.
    folder_bytes : int
        Of all files of the folder, in the same way.
    rotate : int
        A file that has reached so many bytes is followed by another.

    Raises
    ------
    ValueError
        If `cluster_id` can't be part of a file's name.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        cluster_id: str,
        most_bytes: int = 32 * MIB,
        rotate: int = 8 * MIB,
        folder_bytes: int = 512 * MIB,
    ) -> None:
        if not _ID.fullmatch(cluster_id) or cluster_id.startswith("."):
            raise ValueError(
                f"{cluster_id!r} can't name a spool file: use at most 128 letters, digits and "
                "._:@+- and no dot in front"
            )
        self.folder = self._named = Path(folder)
        self.cluster_id = cluster_id
        self.problem: Exception | None = None
        self._most = (most_bytes, folder_bytes)
        self._rotate = rotate
        self._used = [0, 0]
        self._directory = self._file = -1
        self._size = self._number = 0
        self._lines = Lines(cluster_id)
        self._torn = False
        self._pause, self._not_before = 0.0, 0.0
        self._counted = 0.0

    @property
    def share(self) -> float:
        """The part of its bytes that this cluster has used, or the folder if that is more."""
        return max(used / most for used, most in zip(self._used, self._most, strict=True))

    def write(self, records: Sequence[dict[str, Any]], at_once: bool = False) -> list[int]:
        """Append records in one write; return the indices of those that are on file.

        `v`, `c` and `q` are added here. What is not returned was not written: it is longer than a
        line may be, or see `put`.
        """
        return self.put(self._lines.of(records), at_once)

    def put(self, lines: Sequence[Line], at_once: bool = False) -> list[int]:
        """Append lines in one write; return the indices of those that are on file.

        What is not returned was not written: there is no room for it, or the file system refused
        (see `problem`). After a problem nothing is tried for a while, which grows from 5 s to
        5 min; `at_once` does not wait.
        """
        now = time.monotonic()
        if not lines or (now < self._not_before and not at_once):
            return []
        try:
            self._ready(now)
            room = self._with_room(lines)
            written = self._append(room)
        except (OSError, SpoolError) as error:
            self._failed(error)
            return []
        if len(written) == len(room):
            self.problem, self._pause = None, 0.0
        return written

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._file, self._directory):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._file = self._directory = -1

    def _failed(self, error: Exception) -> None:
        self.problem = error
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
        self._not_before = time.monotonic() + self._pause

    def _ready(self, now: float) -> None:
        if self._file >= 0 and os.fstat(self._file).st_nlink == 0:
            self.close()  # somebody has deleted it
        if self._directory < 0:
            # Each time: whoever is faster may have made one of this name.
            self.folder = own_folder(self._named)
            self._directory = _open_folder(self.folder)
            if self.folder != self._named:
                _tell(self._named, self.folder)
            tidy(self._directory, SUFFIX, self._most[1])
        if self._file < 0 or self._size >= self._rotate:
            self._open_next()
        elif self.share > 1 / 2 and now - self._counted > 60:
            self._count()

    def _open_next(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        mode = 0o640 if os.fstat(self._directory).st_mode & stat.S_ISGID else 0o600
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for number in range(self._number, self._number + 10_000):
            with suppress(FileExistsError):
                name = f"{self.cluster_id}.{number}{SUFFIX}"
                self._file = os.open(name, flags, mode, dir_fd=self._directory)
                os.fchmod(self._file, mode)  # whatever the umask is
                self._number, self._size, self._torn = number + 1, 0, False
                break
        else:
            raise SpoolError(f"{self.folder} has 10,000 files of cluster {self.cluster_id}")
        self._count()

    def _count(self) -> None:
        """Find out how much is there: files are taken away once they have been read."""
        self._counted = time.monotonic()
        own = all_of_it = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(OSError):
                    size = entry.stat(follow_symlinks=False).st_size
                    all_of_it += size
                    own += size if entry.name.startswith(f"{self.cluster_id}.") else 0
        self._used = [own, all_of_it]

    def _with_room(self, lines: Sequence[Line]) -> list[Line]:
        left = min(most - used for used, most in zip(self._used, self._most, strict=True))
        found = fitting(lines, left, min(self._most))
        if not found:
            raise SpoolError(
                f"{self.folder} has no room left: its files have {self._used[1]} of "
                f"{self._most[1]} bytes, those of this cluster {self._used[0]} of {self._most[0]}"
            )
        return found

    def _append(self, lines: Sequence[Line]) -> list[int]:
        # Ends a line that an earlier write left unfinished: it spoils itself only.
        start = b"\n" if self._torn else b""
        data = start + b"".join(line.data for line in lines)
        done = os.write(self._file, data)
        self._size += done
        self._used = [used + done for used in self._used]
        written, end = [], len(start)
        for line in lines:
            end += len(line.data)
            if end > done:
                break
            written.append(line.index)
        if done < len(data):
            self._torn = (self._torn or done > 0) and data[max(0, done - 1) : done] != b"\n"
            self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)))
        else:
            self._torn = False
        return written


@cache
def _tell(named: Path, used: Path) -> None:
    """Say once why the records go elsewhere."""
    whose = "isn't there, though this is"
    with suppress(OSError):
        status = named.lstat()
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no folder"
        whose = f"is {what} and belongs to user number {status.st_uid}"
    logger.warning(
        "The history of this cluster goes to %s, since %s %s. It is read there as well.",
        *(used, named, whose),
    )


def _open_folder(folder: Path) -> int:
    """Return a descriptor of the user's folder, made with mode 0700 if it isn't there.

    Below a folder with the setgid bit, whose group is the service's, that group may read.

    Raises
    ------
    SpoolError
        If it is somebody else's, or others may write to it.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(folder, flags)
    except FileNotFoundError:
        _make_folder(folder)
        descriptor = os.open(folder, flags)
    except NotADirectoryError:
        raise SpoolError(f"{folder} is no folder, or a link: name another or remove it") from None
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        whose = f"belongs to user number {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
        raise SpoolError(
            f"{folder} {whose}: a spool folder must be yours and only you may write to it; "
            "remove it, or name another as dask-site.history.spool"
        )
    return descriptor


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent.stat().st_mode & stat.S_ISGID:
        # Not with chmod: it takes away the setgid bit of who isn't in the group. The umask is
        # that of all threads, so another process sets it.
        done = subprocess.run(
            ["mkdir", "--", str(folder)], umask=0o027, capture_output=True, timeout=10
        )
        if done.returncode == 0:
            return
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
