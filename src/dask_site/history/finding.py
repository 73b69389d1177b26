"""Goes through spool folders: users in turn, each a bounded part of what is his at a time.

A folder is listed again when its times have changed, and a file in it looked at again while it may
grow; everything, now and then.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dask_site.people import name_of

logger = logging.getLogger("dask_site")
#: What is done of one user in one pass: files looked at, bytes read, and names listed.
FILES, BYTES, ENTRIES = 2000, 2 * 1024**2, 20_000
#: Files of all users that are held at once, about; other users wait for the next pass.
TOGETHER = 10_000
#: Folders of a user that are gone through before others of his.
FOLDERS = 1000
#: Flags with which a folder is opened.
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What spool files are named, beginning with their cluster.
NAME = re.compile(r"(?P<cluster>[A-Za-z0-9_:@+-][A-Za-z0-9._:@+-]{0,127})\.[0-9]{1,9}\.spool")
#: Bytes of a file that is read; a writer begins another at 8 MiB.
LARGEST = 16 * 1024 * 1024
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
# Names of a user's files that are remembered; others are looked at in each listing.
_REMEMBERED = 50_000
# Seconds after which a file isn't expected to grow: recorders write each half minute.
_QUIET = 2 * 3600.0
_ANEW = 600.0
# What changes within a tick of the file system's clock changes no time: listed again after that.
_SURE = 3.0
# Seconds from one round of a user to his next while another is behind: passes follow each other
# at once then.
_ROUND = 4.0


@dataclass(frozen=True, slots=True)
class Found:
    """A spool file that may have something new: where, and what it was when it was found."""

    folder: Folder
    name: str
    status: os.stat_result

    @property
    def key(self) -> tuple[str, str, str]:
        """Device, inode and path, as in a `Mark`."""
        path = os.fsencode(self.folder.path / self.name).decode("utf-8", "backslashreplace")
        return str(self.status.st_dev), str(self.status.st_ino), path

    @property
    def owner(self) -> int:
        """The number of the user whose records are in it."""
        owner = self.folder.owner
        return self.status.st_uid if owner is None else owner

    @property
    def cluster(self) -> str:
        """The id that its name begins with."""
        match = NAME.fullmatch(self.name)
        return match["cluster"] if match else ""


@dataclass
class Turn:
    """What is left to a user of this pass."""

    now: float = 0.0
    files: int = 0
    bytes: int = 0
    entries: int = 0
    room: int = 0

    def begin(self, now: float) -> None:
        """Begin a pass, at a time in seconds since 1970."""
        self.now = now
        self.files, self.bytes, self.entries = FILES, BYTES, ENTRIES

    @property
    def spent(self) -> bool:
        """Whether nothing more is to be looked for."""
        return self.files <= 0 or self.entries <= 0


class _Times:
    """Says when a folder is to be listed."""

    def __init__(self) -> None:
        self._stamp: tuple[int, ...] = ()
        self._now = self._since = self._listed = self._whole = -1e9

    def due(self, status: os.stat_result) -> bool:
        now = time.monotonic()
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        if stamp != self._stamp:
            self._stamp, self._since = stamp, now
        self._now = now
        return self._listed < self._since + _SURE or self.anew

    @property
    def anew(self) -> bool:
        """Whether it is time to look at everything again."""
        return self._now - self._whole >= _ANEW

    def listed(self, anew: bool) -> None:
        """Note that it was listed as of the last `due`."""
        self._listed = self._now
        if anew:
            self._whole = self._now


class Folder:
    """A spool folder and what is known of its files.

    Attributes
    ----------
    path : Path
    owner : int or None
        Number of the user whose all of it is; None: that of each file's owner.
    deletable : bool
        Whether files may be deleted here. Below a shared folder only their owner may; there
        `tidying` does it.
    skipped : Counter of str
        Files that are not read, by the reason.
    entries : int
        Names that were there when it was listed last.
    """

    def __init__(self, path: Path, turn: Turn, owner: int | None = None) -> None:
        self.path = path
        self.owner = owner
        self.deletable = False
        self.skipped: Counter[str] = Counter()
        self.entries = 0
        self._turn = turn
        self._times = _Times()
        # As of when each file had been dealt with: a hash of what `stat` says.
        self._seen: dict[str, int] = {}
        self._growing: dict[str, None] = {}
        self._why: dict[str, str] = {}

    def __len__(self) -> int:
        return max(len(self._seen), len(self._growing))

    def look(self) -> Iterator[Found | None]:
        """Yield files that have changed, or may be deleted, and None after each other step."""
        self._turn.entries -= 1
        self._note("", None)
        try:
            descriptor = os.open(self.path, FOLDER)
            try:
                yield from self._look(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._note("", f"folder: {error.strerror}")
        yield None

    def dealt(self, file: Found, again: bool = False) -> None:
        """Note that a file was read, or with `again` that it could not be."""
        self._dealt(file.name, file.status, None, again)

    def forget(self, name: str) -> None:
        """Note that a file is there no more."""
        self._seen.pop(name, None)
        self._growing.pop(name, None)
        self._note(name, None)

    def _look(self, descriptor: int) -> Iterator[Found | None]:
        status = os.fstat(descriptor)
        self.deletable = os.access(self.path, os.W_OK | os.X_OK)
        for name in tuple(self._growing):
            yield self._looked_at(descriptor, name, status.st_uid)
        if not self._times.due(status):
            return
        anew = self._times.anew
        there: set[str] = set()
        count = 0
        with os.scandir(descriptor) as entries:
            for entry in entries:
                count += 1
                self._turn.entries -= 1
                name = entry.name
                fresh = self._is_fresh(entry)
                if name in self._seen or name in self._growing:
                    there.add(name)
                if fresh or (anew and name in self._seen and name not in self._growing):
                    yield self._looked_at(descriptor, name, status.st_uid)
                else:
                    yield None
        for name in (self._seen.keys() | self._growing.keys()) - there:
            self.forget(name)
        self.entries = count
        self._times.listed(anew)

    def _is_fresh(self, entry: os.DirEntry[str]) -> bool:
        if entry.name in self._seen or entry.name in self._growing:
            return False
        if entry.is_dir(follow_symlinks=False):
            return False
        if self._turn.room > 0:
            self._turn.room -= 1
            self._growing[entry.name] = None
        return True

    def _looked_at(self, descriptor: int, name: str, owner: int) -> Found | None:
        self._turn.files -= 1
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            self.forget(name)
            return None
        why = _unfit(name, status, owner)
        if why is not None:
            self._dealt(name, status, why)
            return None
        if self._seen.get(name) == _stamp(status):
            self._rest(name, status)
            return Found(self, name, status) if self.deletable else None
        return Found(self, name, status)

    def _dealt(
        self, name: str, status: os.stat_result, why: str | None, again: bool = False
    ) -> None:
        if name in self._growing or name in self._seen:
            self._seen[name] = 0 if again else _stamp(status)
            self._note(name, why)
            self._rest(name, status)

    def _rest(self, name: str, status: os.stat_result) -> None:
        """Let go of a file to which nobody writes any more, until all are looked at."""
        if self._turn.now - status.st_mtime > _QUIET and not self.deletable:
            self._growing.pop(name, None)

    def _note(self, name: str, why: str | None) -> None:
        before = self._why.pop(name, None)
        if before is not None:
            self.skipped[before] -= 1
        if why is not None:
            self._why[name] = why
            self.skipped[why] += 1


class User:
    """A user's spool folders, and how far they were gone through.

    Attributes
    ----------
    pending : deque of Found
        Files that were found and have not been read to their ends.
    turn : Turn
        Of the pass that is going on.
    rounds : int
        How often all of his folders were gone through.
    reached : int
        The last pass in which it was his turn.
    """

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.folders: dict[Path, Folder] = {}
        self.pending: deque[Found] = deque()
        self.turn = Turn()
        self.rounds = self.reached = 0
        self._round: Iterator[Found | None] | None = None
        self._begun = -1e9
        self._warned = False

    @property
    def behind(self) -> bool:
        """Whether something was left for the next pass."""
        return bool(self.pending) or self._round is not None

    def add(self, path: Path, received: bool = False) -> None:
        """Go through this folder too, which with `received` the service wrote for him."""
        if path not in self.folders:
            self.folders[path] = Folder(path, self.turn, self.uid if received else None)
            self._begun = -1e9

    def find(self, now: float, waits: bool = False) -> None:
        """Find files, unless there are some already.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        waits : bool
            Whether he isn't gone through again if he just was.
        """
        self.turn.begin(now)
        if self.pending:
            return
        if self._round is None:
            if waits and time.monotonic() < self._begun + _ROUND:
                return
            self._begun = time.monotonic()
            self.turn.room = _REMEMBERED - sum(map(len, self.folders.values()))
            self._round = (step for folder in [*self.folders.values()] for step in folder.look())
        for step in self._round:
            if step is not None:
                self.pending.append(step)
            if self.turn.spent:
                return
        self._round = None
        self.rounds += 1
        for folder in self.folders.values():
            self.warn(folder.path, folder.entries, ENTRIES, "files")

    def warn(self, path: Path, count: int, most: int, what: str) -> None:
        """Say once that he has more than is gone through in one pass."""
        if count > most and not self._warned:
            self._warned = True
            logger.warning(
                "User %s has %s %s in %s; at most %s are gone through at a time, the others later",
                *(name_of(self.uid), f"{count:,}", what, path, f"{most:,}"),
            )


class Top:
    """A folder that holds folders of users, or is itself the folder of one.

    Parameters
    ----------
    path : path
    received : bool
        Whether the service wrote what is there, for each user in a folder named by his number.

    Attributes
    ----------
    problem : str or None
        Why it can't be read.
    """

    def __init__(self, path: Path, received: bool = False) -> None:
        self.problem: str | None = None
        self._named = path
        self._received = received
        self._times = _Times()
        self._steps: Iterator[None] | None = None
        # Of who has too many folders: those before it are passed over, as of which round of his.
        self._window: dict[int, tuple[int, int]] = {}

    @property
    def behind(self) -> bool:
        """Whether it was not listed to its end."""
        return self._steps is not None

    def go_on(self, users: dict[int, User]) -> None:
        """Find whose folders there are, a part of them at a time."""
        self.problem = None
        try:
            if self._steps is None:
                path = self._named.resolve()  # whoever configured it may use links; users may not
                status = path.stat()
                if not self._times.due(status):
                    return
                self._steps = self._listing(path, status.st_uid, users)
            for number, _ in enumerate(self._steps, 1):
                if number >= ENTRIES:
                    return
        except OSError as error:
            if not (self._received and isinstance(error, FileNotFoundError)):  # nothing came yet
                self.problem = f"folder: {error.strerror}"
        self._steps = None

    def _listing(self, top: Path, owner: int, users: dict[int, User]) -> Iterator[None]:
        anew = self._times.anew
        there: set[tuple[int, Path]] = set()
        if not self._received:
            there.add((owner, top))
            users.setdefault(owner, User(owner)).add(top)
        counts: Counter[int] = Counter()
        with os.scandir(top) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    uid = self._whose(entry)
                    if uid is not None:
                        begin = self._window.get(uid, (0, 0))[0]
                        if begin <= counts[uid] < begin + FOLDERS:
                            there.add((uid, top / entry.name))
                            user = users.setdefault(uid, User(uid))
                            user.add(top / entry.name, self._received)
                        counts[uid] += 1
                yield
        for uid, user in users.items():
            for path in [path for path in user.folders if path.parent == top or path == top]:
                if (uid, path) not in there:
                    del user.folders[path]
            self._move_on(user, counts[uid])
            user.warn(top, counts[uid], FOLDERS, "folders")
        self._times.listed(anew)

    def _whose(self, entry: os.DirEntry[str]) -> int | None:
        """Return the number of the user whose folder it is; None if it is none."""
        if not entry.is_dir(follow_symlinks=False):
            return None
        if self._received:
            return int(entry.name) if _NUMBER.fullmatch(entry.name) else None
        return entry.stat(follow_symlinks=False).st_uid

    def _move_on(self, user: User, count: int) -> None:
        begin, rounds = self._window.pop(user.uid, (0, -1))
        if count > FOLDERS:
            if user.rounds > rounds >= 0:
                begin = begin + FOLDERS if begin + FOLDERS < count else 0
            self._window[user.uid] = (begin, user.rounds)


class Finder:
    """All users whose folders stand in some folders.

    Parameters
    ----------
    folders : iterable of path
        Each holds folders of users, or is itself the folder of one.
    received : path, optional
        Holds what users sent to the service, which wrote it there.
    """

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]],
        received: str | os.PathLike[str] | None = None,
    ) -> None:
        self._tops = [Top(Path(folder)) for folder in folders]
        if received is not None:
            self._tops.append(Top(Path(received), received=True))
        self._users: dict[int, User] = {}
        self._passes = 0
        self._waiting: set[int] = set()

    def users(self, now: float) -> list[User]:
        """Begin a pass; return users with files that were found, who has fewest first.

        Parameters
        ----------
        now : float
            Seconds since 1970.
        """
        goes_on = bool(self.behind())
        for top in self._tops:
            top.go_on(self._users)
        for uid in [uid for uid, user in self._users.items() if not user.folders]:
            del self._users[uid]
        self._passes += 1
        self._waiting.clear()
        held = 0
        for user in sorted(self._users.values(), key=lambda user: user.reached):
            if held >= TOGETHER and not user.pending:
                self._waiting.add(user.uid)
                continue
            user.find(now, waits=goes_on)
            user.reached = self._passes
            held += len(user.pending)
        found = [user for user in self._users.values() if user.pending]
        return sorted(found, key=lambda user: len(user.pending))

    def behind(self) -> set[int]:
        """Return the numbers of users of whom something was left, and -1 for a folder of users."""
        behind = {user.uid for user in self._users.values() if user.behind} | self._waiting
        return behind | ({-1} if any(top.behind for top in self._tops) else set())

    def skipped(self) -> Counter[str]:
        """Return how many files and folders are not read, by the reason."""
        skipped = Counter(top.problem for top in self._tops if top.problem is not None)
        for user in self._users.values():
            for folder in user.folders.values():
                if folder.skipped:
                    skipped += folder.skipped
        return skipped


def _stamp(status: os.stat_result) -> int:
    return hash((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def _unfit(name: str, status: os.stat_result, owner: int) -> str | None:
    """Return why a file is not read."""
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    if not NAME.fullmatch(name):
        return "no spool file's name"
    if status.st_nlink != 1:
        return "several names"
    if status.st_uid != owner:
        return "not the owner of its folder"
    if status.st_size > LARGEST:
        return "larger than a spool file gets"
    return None
