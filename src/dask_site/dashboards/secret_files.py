"""Secrets that an administrator puts into a file for the broker."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_LARGEST = 4096


def read_secret(path: str | Path, least: int) -> bytes:
    """Return a secret, without the white space around it.

    Parameters
    ----------
    least : int
        Characters that it has to have.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If others can read it, or it is too short.
    """
    with Path(os.path.expandvars(path)).open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        secret = file.read(_LARGEST).strip()
    if not stat.S_ISREG(mode) or mode & 0o007:
        raise ValueError(f"{path} is for everybody to read: chmod o= {path}")
    if len(secret) < least:
        raise ValueError(
            f"{path} has a secret of {len(secret)} characters, {least} are needed: "
            f"openssl rand -hex 32 > {path}"
        )
    return secret
