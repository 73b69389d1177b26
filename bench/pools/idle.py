"""Worker-hours without work, on the computation of examples/winter_sun.py with real terrain.

Against dask-jobqueue's SLURMCluster with `adapt` and one pool that fits everything: a GPU, and the
memory of the last step. Both as they come, with their defaults. NumPy stands in for CuPy on both
sides, so that what a GPU would do takes a core.
"""

from __future__ import annotations

import argparse
import contextlib
import time

import dask
import numpy as np
import terrain
import xarray as xr
from measure import forget_waits, jobs_since, middle, note, ours, stock, tell, worker_seconds

from dask_site import pool

# Everything fits: one GPU of a node, and half of its memory.
FITS_ALL = {"cores": 1, "processes": 1, "memory": "3900MB"}


def winter_sun(data, parts, placed):
    """Return what winter_sun.py computes, on `parts` times as many tiles."""
    feet = xr.open_dataset(data)["data"].sel(lon=slice(-105.6, None))
    metres = feet.chunk(lat=101, lon=161) * 0.3048
    tiles = {
        "boundary": "nearest",
        "trim": False,
        "chunks": metres.chunks,
        "meta": np.empty((0, 0), "f4"),
    }
    with placed("cpu"):
        height = metres.data.map_overlap(terrain.smooth, depth=4, **tiles).persist()
        steep = height.map_overlap(terrain.steepness, depth=1, **tiles).persist()
        faces = height.map_overlap(terrain.facing, depth=1, **tiles).persist()
    with placed("gpu"):
        sun = [
            height.map_overlap(
                terrain.sunlight, depth=terrain.HALO, step=0.5 / (n + 1), **tiles
            ).persist()
            for n in range(parts)
        ]
    with placed("highmem"):
        streams = dask.delayed(terrain.catchments)(height, sun[0]).persist()
    return dask.compute(height, steep, faces, *sun, streams)


def anywhere(_):
    return contextlib.nullcontext()


def measured(side, placed, data, parts):
    begun = time.time()
    with side() as (cluster, client, busy):
        client.upload_file(terrain.__file__)
        if side is everything:
            # Two GPUs: no more such jobs fit.
            cluster.adapt(maximum_jobs=2)
        winter_sun(data, parts, placed)
        took, work = time.time() - begun, busy.total
    jobs = jobs_since(begun)
    gpu_seconds = sum(job["seconds"] * job["gpus"] for job in jobs)
    row = {
        "seconds": round(took, 1),
        "work": round(work, 1),
        "workers": worker_seconds(jobs, gpu=1 if side is everything else 2),
        "gpus": gpu_seconds,
    }
    row["idle"] = round(row["workers"] - work, 1)
    return row


@contextlib.contextmanager
def everything():
    directives = ["--gres=gpu:1"]
    with stock("gpu", job_extra_directives=directives, **FITS_ALL) as given:
        yield given


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="trinidad.nc")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--parts", type=int, default=1)
    given = parser.parse_args()
    forget_waits()
    mine, theirs = [], []
    for _ in range(given.pairs):
        mine.append(measured(ours, pool, given.data, given.parts))
        note("ours:", mine[-1])
        theirs.append(measured(everything, anywhere, given.data, given.parts))
        note("stock:", theirs[-1])
    tell(
        "idle",
        ours=mine,
        stock=theirs,
        ratio_of_idle_worker_hours=middle(
            a["idle"] / b["idle"] for a, b in zip(mine, theirs, strict=True)
        ),
    )


if __name__ == "__main__":
    main()
