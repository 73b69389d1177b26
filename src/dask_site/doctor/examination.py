"""All that the doctor looks at."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dask_site.doctor import folders
from dask_site.doctor.findings import Finding, is_python, of_listener
from dask_site.doctor.listeners import Listener, listeners
from dask_site.doctor.probing import Answer, probe

_AT_ONCE = 16


def examination(uid: int | None, asked: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Return what there is to be said of a user, or with None of all; asks their Python ports.

    Configuration and settings are those of the caller, and so is the folder for spilled data, which
    isn't looked at with None: an administrator can write to everybody's.

    Parameters
    ----------
    asked : callable, optional
        Called with how many ports have been asked, of how many.
    """
    found = listeners(uid)
    answers = []
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for answer in threads.map(_answer, found):
            answers.append(answer)
            if asked is not None:
                asked(len(answers), len(found))
    me = os.getuid()
    return [
        *map(of_listener, found, answers),
        *(() if uid is None else folders.scratch(me)),
        *folders.configuration(me),
        *folders.settings(),
        *folders.processes(uid),
    ]


def _answer(listener: Listener) -> Answer | None:
    return probe(listener.address, listener.port) if is_python(listener) else None
