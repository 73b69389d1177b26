"""Imported by the fork server of a worker job: what every worker needs, before it is forked."""

from __future__ import annotations

import os

import dask.config
import distributed.utils

# The nanny sets these before it spawns; a fork of this process would not see it.
for _name, _value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
    os.environ.setdefault(_name, str(_value))


def skip_upstream_preload() -> None:
    """Keep distributed from importing NumPy and pandas in the nanny.

    It does so to choose modules for a fork server that it would start itself; ours runs already.
    """
    distributed.utils._forkserver_preload_set = True
