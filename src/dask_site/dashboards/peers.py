"""What the brokers of a site tell each other: a file of each in the folder that they share.

Each writes its own file only, so no two write to the same, and reads the others' each second.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_site.dashboards.registry import Cluster
from dask_site.dashboards.sessions import Session
from dask_site.whole import make_folder, write_whole

logger = logging.getLogger("dask_site")
_LARGEST = 32 * 1024 * 1024
_SILENT = 60.0  # seconds after which a broker that wrote nothing is gone


@dataclass(frozen=True)
class Told:
    """What one broker says.

    Attributes
    ----------
    host : str
    seen : float
        When it wrote, in seconds since 1970.
    """

    host: str
    seen: float
    clusters: tuple[Cluster, ...] = ()
    sessions: tuple[Session, ...] = ()
    closed: tuple[tuple[str, float], ...] = ()

    def is_there(self, now: float) -> bool:
        """Return whether its broker is running."""
        return abs(now - self.seen) < _SILENT

    @classmethod
    def read(cls, data: bytes) -> Told:
        """Read what `Peers.tell` wrote.

        Raises
        ------
        ValueError
            If it is something else.
        """
        try:
            return cls._from_dict(json.loads(data, parse_constant=_number, parse_float=_number))
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"it is not what a broker writes: {error or type(error)}") from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> Told:
        return cls(
            host=str(values["host"]),
            seen=float(values["seen"]),
            clusters=tuple(Cluster.from_dict(each) for each in values["clusters"]),
            sessions=tuple(Session(str(n), int(u), float(t)) for n, u, t in values["sessions"]),
            closed=tuple((str(name), float(until)) for name, until in values["closed"]),
        )


class Peers:
    """The files of all brokers.

    Parameters
    ----------
    folder : Path
        For the brokers alone.
    host : str
        Of this one.
    """

    def __init__(self, folder: Path, host: str, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder / "nodes"
        self._used = folder / "used"
        self._host = host
        self._clock = clock
        self._known: dict[str, tuple[bytes, Told]] = {}
        self._refused: dict[str, bytes] = {}

    def tell(self, said: dict[str, Any]) -> None:
        """Write the file of this broker.

        Raises
        ------
        OSError
            If it can't be written; the one before stays.
        """
        make_folder(self._folder, 0o700)
        values = {"host": self._host, "seen": self._clock(), **said}
        write_whole(self._folder / f"{self._host}.json", json.dumps(values).encode(), 0o600)

    def own(self) -> Told | None:
        """Return what this broker wrote last, if it can be read.

        Raises
        ------
        OSError
            If it is there, and can't be read.
        """
        return self._read(self._folder / f"{self._host}.json")

    def others(self) -> list[Told]:
        """Return what the others say; of one who wrote nonsense, what was known before.

        Raises
        ------
        OSError
            If the folder or a file can't be read: what is known by now may be old.
        """
        mine = f"{self._host}.json"
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except FileNotFoundError:
            return []
        there = [n for n in names if n.endswith(".json") and n != mine and n[0] != "."]
        self._known = {name: self._known[name] for name in self._known if name in names}
        found = (self._read(self._folder / name) for name in there)
        return [told for told in found if told is not None]

    def first(self, nonce: str) -> bool:
        """Say whether a link is being used for the first time, on any node."""
        try:
            make_folder(self._used, 0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self._used / nonce, flags, 0o600))
        except FileExistsError:
            return False  # used already; or what keeps the folder from being made
        except OSError as error:
            logger.warning("Nobody can log in, %s can't be written to: %s", self._used, error)
            return False
        return True

    def tidy(self, seconds: float) -> None:
        """Remove what was used so long ago that it has expired, and nodes that are long gone."""
        now = self._clock()
        for folder, age in ((self._used, seconds), (self._folder, 30 * 86400.0)):
            try:
                old = [e.path for e in os.scandir(folder) if now - e.stat().st_mtime > age]
            except OSError:
                continue
            for path in old:
                Path(path).unlink(missing_ok=True)

    def _read(self, path: Path) -> Told | None:
        try:
            # Opened each time: over NFS a look at its date may be old.
            with path.open("rb") as file:
                data = file.read(_LARGEST)
        except FileNotFoundError:
            return None
        before = self._known.get(path.name)
        if before is not None and before[0] == data:
            return before[1]
        try:
            told = Told.read(data)
        except ValueError as error:
            if self._refused.get(path.name) != data:
                self._refused[path.name] = data
                logger.warning("%s can't be used, what it said before holds: %s", path, error)
            return None if before is None else before[1]
        self._known[path.name] = (data, told)
        return told


def _number(text: str) -> float:
    """Refuse what is no number, or too large to be one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number
