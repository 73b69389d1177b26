"""Takes away what old clusters left in a user's own spool folder.

The service can read the folder and not write to it: the owner's next scheduler does this.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

#: Seconds: the service has had that long to read a file to which nobody writes any more.
KEPT = 14 * 86400.0
# Where the folder is nearly full, the oldest go after a day.
_KEPT_IF_FULL = 86400.0
_FULL = 0.5


def tidy(folder: int, suffix: str, most_bytes: int, now: float | None = None) -> list[str]:
    """Delete the caller's spool files that are old.

    Parameters
    ----------
    folder : int
        Descriptor of the folder.
    suffix : str
        With which the names of spool files end; nothing else is touched.
    most_bytes : int
        What the folder may hold: while it has more than half of that, files go that nobody has
        written to for a day, the oldest first.
    now : float, optional
        Seconds since 1970.

    Returns
    -------
    list of str
        The names of what is gone.

    Raises
    ------
    OSError
        If the folder can't be read.
    """
    moment = time.time() if now is None else now
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                mine = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                if mine and entry.name.endswith(suffix):
                    files.append((status.st_mtime, entry.name, status.st_size))
    used = sum(size for _, _, size in files)
    gone = []
    for changed, name, size in sorted(files):
        kept = _KEPT_IF_FULL if used > _FULL * most_bytes else KEPT
        if moment - changed > kept:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
                gone.append(name)
                used -= size
    return gone
