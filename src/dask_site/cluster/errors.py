"""What can go wrong with a cluster, said to the person who runs it."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable
from types import TracebackType

from dask_site.site import SiteError


class ClusterError(RuntimeError):
    """A cluster can't start or go on; the message says what, where, and what to do."""


class PoolError(ClusterError):
    """A pool can't deliver the workers that were waited for."""


def show_site_errors_plainly() -> None:
    """Let an uncaught SiteError end a program with its message alone.

    A mistake in a configuration file is not one of the program: a traceback would hide where it is.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, SiteError):
            sys.stderr.write(f"{error}\n")
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


def unknown_pool(name: str, known: Iterable[str], where: str) -> ValueError:
    """Return the error for a pool that isn't there, with the nearest one that is."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{where} has no pool {name!r}; it has {', '.join(names)}.{hint}")


def cannot_write(path: str | os.PathLike[str], error: OSError) -> ClusterError:
    """Return the error for a folder or file of the cluster that can't be written."""
    mend = {
        errno.ENOSPC: "Free some space there, or name another shared folder as `state_dir`.",
        errno.EDQUOT: "Your quota there is used up: free some space, or name another shared folder "
        "as `state_dir`.",
    }.get(
        error.errno or 0,
        "`state_dir` must be a folder of yours on storage that login and compute nodes share.",
    )
    return ClusterError(
        f"Cannot write {os.fspath(path)}: {error.strerror or error}. {mend} "
        "(`dask_site: {state_dir: ...}` in ~/.config/dask/site.yaml)"
    )
