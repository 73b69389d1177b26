"""Files, settings and processes by which others could get at a user's work."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import dask

from dask_site.doctor.findings import CLOSED, Finding, Level
from dask_site.doctor.listeners import command_of
from dask_site.people import is_private, name_of

_SCRATCH = "dask-scratch-space"
_SECRET = re.compile(r"(?i)(?:token|password|passwd|secret|api[-_]?key)[\"']?[=:]\S{6,}")


def scratch(uid: int, folder: Path | None = None) -> Iterator[Finding]:
    """Yield what is to be said of the folder in which workers keep spilled data.

    Workers unpickle what they find there: who can write to it runs code as they do.

    Parameters
    ----------
    folder : path, optional
        By default what Dask's configuration names, else the system's for temporary files.
    """
    named = dask.config.get("temporary-directory", None)
    parent = folder or Path(named or tempfile.gettempdir())
    for path in (parent / _SCRATCH, parent / f"{_SCRATCH}-{uid}"):
        try:
            own, status = path.lstat(), path.stat()
        except OSError:
            continue
        if not os.access(path, os.W_OK | os.X_OK):
            continue  # a worker takes one with the user's number in its name, or makes its own
        if stat.S_ISLNK(own.st_mode) and own.st_uid not in (uid, 0):
            what = "The folder for spilled data is a link of another, who can move it."
            yield Finding(Level.OPEN, what, str(path), name_of(own.st_uid), _own_scratch())
        elif status.st_uid not in (uid, 0):
            what = "The folder for spilled data belongs to another, who can put code into it."
            yield Finding(Level.OPEN, what, str(path), name_of(status.st_uid), _own_scratch())
        elif _others_write(status, uid) and not status.st_mode & stat.S_ISVTX:
            what = "Others can write into the folder for spilled data, and so run code as you."
            yield Finding(Level.OPEN, what, str(path), name_of(uid), f"chmod 700 {path}")
        elif status.st_mode & 0o055:
            what = "Others can see the names of files in the folder for spilled data."
            yield Finding(Level.NOTE, what, str(path), name_of(uid), f"chmod 700 {path}")


def _others_write(status: os.stat_result, uid: int) -> bool:
    return bool(status.st_mode & (0o002 if is_private(status.st_gid, uid) else 0o022))


def _own_scratch() -> str:
    folder, file = Path.home() / "dask-scratch", Path.home() / ".config/dask/scratch.yaml"
    return (
        f"mkdir -m 700 {folder}; mkdir -p {file.parent}; "
        f"echo 'temporary-directory: {folder}' > {file}"
    )


def configuration(uid: int, paths: Iterable[Path] | None = None) -> Iterator[Finding]:
    """Yield the files and folders of Dask's configuration that others can write.

    It may name modules that Dask loads: who can write it runs code as whoever reads it. Who owns
    this Python is trusted: it is his code that runs.
    """
    trusted = {uid, 0, Path(sys.prefix).stat().st_uid}
    for path in paths if paths is not None else map(Path, dask.config.paths):
        files = [path, *sorted(path.glob("*.y*ml"))] if path.is_dir() else [path]
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue
            if status.st_uid not in trusted:
                what = "Dask is configured by a file of another, who can have it load any module."
                mend = f"remove it, or leave it out of DASK_CONFIG: {file}"
                yield Finding(Level.OPEN, what, str(file), name_of(status.st_uid), mend)
            elif _others_write(status, uid):
                what = "Others can write what configures Dask, and have it load any module."
                yield Finding(
                    Level.OPEN, what, str(file), name_of(status.st_uid), f"chmod go-w {file}"
                )


def settings() -> Iterator[Finding]:
    """Yield settings of Dask that leave doors open."""
    import distributed  # noqa: F401  # sets its defaults

    me = name_of()
    if not dask.config.get("distributed.comm.require-encryption", None):
        yield Finding(
            Level.NOTE,
            "Clusters that are started without security= speak without TLS.",
            "distributed.comm.require-encryption",
            me,
            CLOSED,
        )
    if "*" in dask.config.get("distributed.scheduler.dashboard.bokeh-application", {}).get(
        "allow_websocket_origin", ()
    ):
        yield Finding(
            Level.NOTE,
            "Any web page in your browser may talk to your dashboards.",
            "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin",
            me,
            "name the hosts from which you look at them",
        )


def processes(uid: int | None, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Yield processes with a secret among their arguments, which all users can read.

    Seen is what is given as ``name=value`` or ``name:value`` in one argument.
    """
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            owner = folder.stat().st_uid
        except OSError:
            continue
        if uid is not None and owner != uid:
            continue
        words = command_of(int(folder.name), proc)
        if any(_SECRET.search(word) for word in words):
            yield Finding(
                Level.READABLE,
                "A secret is among the arguments of a process: every user of this machine can "
                "read it, where /proc is not hidden.",
                f"process {folder.name}, {Path(words[0]).name}",
                name_of(owner),
                "end it, take another secret, and give it by a file or the environment",
            )
