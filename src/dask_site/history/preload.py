"""Scheduler preload: records every scheduler, of whatever kind of cluster.

To be named in Dask's configuration::

    distributed:
      scheduler:
        preload: [dask_site.history.preload]
    dask-site:
      history:
        enabled: true
        spool: /var/spool/dask-site/$USER
        records: spool  # or http: they are sent to the service whose folder is `state`
        state: /var/lib/dask-site
        interval: 5
"""

from __future__ import annotations

import logging
import os
import string
from pathlib import Path
from typing import Any, Literal

import dask.config

from dask_site.people import name_of

logger = logging.getLogger("dask_site")
_DEFAULT = "~/.local/state/dask-site/spool"


def dask_setup(scheduler: Any) -> None:
    """Begin to record a scheduler (Dask's preload interface)."""
    try:
        if not dask.config.get("dask-site.history.enabled", True):
            return
        from dask_site.history.recorder import Recorder

        recorder = Recorder(
            scheduler,
            spool_folder(),
            interval=_interval(),
            service=service_folder(),
            first=_first(),
        )
        recorder.start()
    except Exception as error:
        logger.warning("The history of this cluster is not recorded: %s", error)


def dask_teardown(scheduler: Any) -> None:
    """End the record of a scheduler that closes (Dask's preload interface)."""
    from dask_site.history.recorder import recorder_of

    recorder = recorder_of(scheduler)
    if recorder is not None:
        recorder.stop()


def spool_folder(template: str | None = None) -> Path:
    """Return the user's spool folder, by default as ``dask-site.history.spool`` says.

    Raises
    ------
    ValueError
        If it is no absolute path after variables and ``~`` are filled in.
    """
    template = template or dask.config.get("dask-site.history.spool", None) or _DEFAULT
    # Not whatever starts a process sets USER, and a folder of that name would be nobody's.
    known = {"USER": name_of(), **os.environ}
    folder = Path(string.Template(str(template)).safe_substitute(known)).expanduser()
    if not folder.is_absolute():
        raise ValueError(
            f"dask-site.history.spool is {template!r}: write an absolute path, such as {_DEFAULT}"
        )
    return folder


def service_folder(state: str | None = None, spool: str | None = None) -> Path | None:
    """Return the folder of the history service; None where there is none, as on a laptop.

    Parameters
    ----------
    state, spool : str, optional
        By default as ``dask-site.history`` says.
    """
    named = state or dask.config.get("dask-site.history.state", None)
    if not named:
        return None
    folder = Path(os.path.expandvars(str(named))).expanduser()
    # A service finds users' records only where they are side by side.
    above = str(spool or dask.config.get("dask-site.history.spool", None) or "").rstrip("/")
    return folder if above.endswith(("/$USER", "/${USER}")) or _written(folder) else None


def _written(state: Path) -> bool:
    try:
        return (state / "where.json").exists()
    except OSError:
        return True  # there, and not for us: the service says why


def _first() -> Literal["spool", "http"]:
    first = dask.config.get("dask-site.history.records", "spool")
    if first not in ("spool", "http"):
        raise ValueError(f"dask-site.history.records is {first!r}: write spool or http")
    return "http" if first == "http" else "spool"


def _interval() -> float:
    seconds = dask.config.get("dask-site.history.interval", 5)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 1 <= seconds <= 3600:
        raise ValueError(
            f"dask-site.history.interval is {seconds!r}: write a number of seconds, 1 to 3600"
        )
    return float(seconds)
