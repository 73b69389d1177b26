"""Scratch that is another's: distributed uses what is there already, whoever put it into /tmp.

What is spilled there is run when it is read, and distributed puts the folder first of those from
which Python imports.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from dask_site.cluster.errors import ClusterError

_SPACE = "dask-scratch-space"  # as in distributed.core.Server


def check() -> None:
    """Refuse the scratch of the nodes of this process, where others could put code into it.

    Raises
    ------
    ClusterError
        If it is so.
    """
    for path in list(sys.path):
        if _SPACE in path:
            check_folder(Path(path))


def check_folder(folder: Path) -> None:
    """Refuse a node's folder, or distributed's around it, if it is another's or open to all.

    Raises
    ------
    ClusterError
        If it is so.
    """
    around = [place for place in folder.parents if place.name.startswith(_SPACE)]
    for place in (folder, *around):
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        is_open = status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode)
        if status.st_uid not in {os.getuid(), 0} or is_open:
            raise ClusterError(
                f"{place} belongs to user number {status.st_uid} (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): others could put code in place of what your "
                "workers spill there. Have Dask use a folder of your own: "
                "export DASK_TEMPORARY_DIRECTORY=/tmp/$USER-dask"
            )
