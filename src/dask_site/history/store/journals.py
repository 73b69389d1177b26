"""Which journal SQLite may use on a file system."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Journal = Literal["wal", "delete"]
_MOUNTS = Path("/proc/self/mountinfo")
# WAL needs memory that all who use the file share, which these don't give to two nodes.
_NETWORK = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs(_\w+)?|cifs|smb\w*|ceph|glusterfs|panfs|afs|9p|orangefs|pvfs2|ocfs2"
    r"|gfs2|wekafs|virtiofs|vboxsf|ncpfs|coda|fuse|fuse\..+"
)


def journal_for(folder: Path, mounts: Path = _MOUNTS) -> tuple[Journal, str]:
    """Return the journal for a store in a folder, and the kind of its file system.

    Parameters
    ----------
    folder : Path
        It need not be there yet.
    mounts : Path
        In the form of Linux's ``/proc/self/mountinfo``. Where there is none, the file system
        counts as one of this machine.
    """
    kind = _kind(folder.resolve(), mounts)
    return ("delete" if _NETWORK.fullmatch(kind) else "wal"), kind


def _kind(folder: Path, mounts: Path) -> str:
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found, best = "", -1
    for line in lines:
        about, _, system = line.partition(" - ")
        fields = about.split()
        if len(fields) < 5 or not system:
            continue
        place = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # Of several at one place the last is the one that is seen.
        if folder.is_relative_to(place) and len(place.parts) >= best:
            found, best = system.split()[0], len(place.parts)
    return found
