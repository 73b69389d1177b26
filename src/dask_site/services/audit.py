"""Who looked at what is another's, and who deleted what: lines that nobody changes."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dask_site.services.access import Viewer

logger = logging.getLogger("dask_site")
_LONGEST = 500
_WHEN = "%Y%m%dT%H%M%S%f"


class AuditLog:
    """Appends lines of JSON to ``<folder>/<host>.jsonl``.

    A file that is full goes beside as ``<host>-<when>.jsonl``, and the oldest of those go.

    Parameters
    ----------
    folder : path
        Made, for its owner only, where it is missing. A host writes files of its own: network
        file systems know no append that several hosts share.
    largest : int
        Bytes from which a file is full.
    kept : int
        Full files that are kept.
    """

    def __init__(self, folder: Path, largest: int = 10 * 1024 * 1024, kept: int = 10) -> None:
        self._folder = folder
        self._largest = largest
        self._kept = kept
        self._host = socket.gethostname().partition(".")[0] or "host"
        self._path = folder / f"{self._host}.jsonl"
        self._lock = threading.Lock()

    def note(self, viewer: Viewer, what: str, **details: Any) -> None:
        """Write down what somebody is about to see or do; it is on disk when this returns.

        Parameters
        ----------
        what : str
            ``look``, ``sums``, ``forget``...
        **details
            JSON-ready values; long texts are cut.

        Raises
        ------
        OSError
            If it can't be written: then what it is about must not happen.
        """
        now = datetime.now(UTC)
        short = {k: v[:_LONGEST] if isinstance(v, str) else v for k, v in details.items()}
        entry = {
            "time": now.isoformat(timespec="milliseconds"),
            "user": viewer.user,
            "uid": viewer.uid,
            "admin": viewer.admin,
            "what": what,
            **short,
        }
        line = (json.dumps(entry) + "\n").encode("ascii")
        with self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._opened()
            try:
                end = os.fstat(descriptor).st_size
                if os.write(descriptor, line) != len(line):
                    # The disk is full: half a line would spoil the next one too.
                    os.ftruncate(descriptor, end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                os.fsync(descriptor)
                if not end:
                    self._sync_folder()
            finally:
                os.close(descriptor)

    def _opened(self) -> int:
        """Return a descriptor of a file that isn't full, unless the full one can't be moved."""
        descriptor = self._open()
        status = os.fstat(descriptor)
        if status.st_size < self._largest:
            return descriptor
        try:
            if os.path.samestat(status, os.lstat(self._path)):  # nobody else has moved it
                self._path.rename(self._folder / f"{self._host}-{datetime.now(UTC):{_WHEN}}.jsonl")
            other = self._open()
        except OSError as error:
            # What is to be noted matters more than the size.
            logger.warning("%s grows on, it can't be put aside: %s", self._path, error)
            return descriptor
        os.close(descriptor)
        self._drop_oldest()
        return other

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def _drop_oldest(self) -> None:
        # Those of other hosts are theirs, also where one's name begins as another's.
        full = re.compile(rf"{re.escape(self._host)}-(\d{{4}}-\d\d|\d{{8}}T\d{{12}})\.jsonl")
        found = sorted(path for path in self._folder.iterdir() if full.fullmatch(path.name))
        for path in found[: -self._kept]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
