"""Worker preload: give each worker process of a job its own share of the job's GPUs."""

from __future__ import annotations

import os
from typing import Any


def share(visible: str, index: int, processes: int) -> str:
    """Return the devices of process `index` out of `processes`, as CUDA_VISIBLE_DEVICES.

    Parameters
    ----------
    visible : str
        What the resource manager granted the job: device numbers or UUIDs with commas between.
    index, processes : int
        Which worker process of the job this is, from 0, and how many there are.

    Examples
    --------
    >>> share("0,1,2,3", 1, 2)
    '2,3'
    """
    devices = [device for device in visible.split(",") if device]
    each = len(devices) // processes
    return ",".join(devices[index * each : (index + 1) * each]) if each else visible


def dask_setup(worker: Any) -> None:
    """Run in the worker process before its first task (Dask's preload interface)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    processes = int(os.environ.get("DASK_SITE_PROCESSES", "1"))
    if not visible or processes < 2:
        return
    _, _, index = str(worker.name).rpartition("-")
    os.environ["CUDA_VISIBLE_DEVICES"] = share(visible, int(index), processes)
