"""What is allocated and does nothing, on a mixed computation with real terrain.

On the pool cpu, tile by tile: how far each place lies above the mean and above the median of its
surroundings, at several scales (the topographic position index). On gpu: the sun over one day. On
highmem: where water runs, over the whole terrain. The last two are functions of
examples/winter_sun.py, but most of the work needs no GPU. NumPy stands in for CuPy on both sides.

As one submission, or, with `--pause`, as in a notebook: each of the three is asked for when its
user has seen what came of the one before, and what was computed stays on the cluster meanwhile.

Against dask-jobqueue's SLURMCluster with `adapt` and one pool that fits everything: a GPU, and the
memory of the last step. Once in whole nodes, as the site gives nodes with GPUs, and once in jobs
that have one core, the least that there is to hold, where a site lets such nodes be divided. All
with their defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

import dask
import numpy as np
import terrain
import xarray as xr
from measure import forget_waits, jobs_since, middle, note, ours, stock, tell
from scipy.ndimage import gaussian_filter, median_filter

from dask_site import pool

# A GPU for each job. dask-jobqueue asks for whole GiB, of which the node has less than eight.
ONE_CORE = {"cores": 1, "processes": 1, "memory": "3GiB"}
# The node with its GPUs, as one worker: `adapt` gives a job back as soon as it needs one of the
# workers in it less, again and again (dask-jobqueue, issue 498).
WHOLE_NODE = {"cores": 4, "processes": 1, "memory": "6GiB"}
PRICES = {"standard": 0.01, "highmem": 0.03}  # of a core for an hour, as in the site file
GPU_PRICE = 0.8
# Before it is uploaded: then it is imported from elsewhere.
TERRAIN = str(Path(terrain.__file__).absolute())


def above_surroundings(height, scale):
    """How far each cell lies above the mean around it; for a tile with 3 * scale cells more."""
    edge = 3 * scale
    return (height - gaussian_filter(height, sigma=scale, truncate=3))[edge:-edge, edge:-edge]


def above_median(height, edge):
    """How far each cell lies above the median around it; for a tile with `edge` cells more."""
    return (height - median_filter(height, size=2 * edge + 1))[edge:-edge, edge:-edge]


def computed(given, placed):
    """Compute all of it, and return the sizes of the results."""

    def seen(*results):
        if given.pause:
            dask.compute(*results)
            time.sleep(given.pause)

    feet = xr.open_dataset(given.data)["data"].sel(lon=slice(-105.6, None))
    metres = feet.chunk(lat=given.tile[0], lon=given.tile[1]) * 0.3048
    tiles = {
        "boundary": "nearest",
        "trim": False,
        "chunks": metres.chunks,
        "meta": np.empty((0, 0), "f4"),
    }
    with placed("cpu"):
        height = metres.data.map_overlap(terrain.smooth, depth=4, **tiles).persist()
        relief = [
            height.map_overlap(above_surroundings, depth=3 * scale, scale=scale, **tiles)
            .std()
            .persist()
            for scale in given.scales
        ] + [
            height.map_overlap(above_median, depth=edge, edge=edge, **tiles).std().persist()
            for edge in given.edges
        ]
    seen(*relief)
    sunlight = {"depth": terrain.HALO, "step": given.step, **tiles}
    with placed("gpu"):
        sun = height.map_overlap(terrain.sunlight, **sunlight).persist()
    seen(sun.mean())
    with placed("highmem"):
        streams = dask.delayed(terrain.catchments)(height, sun).persist()
    return dask.compute(streams, *relief)


def anywhere(_):
    return contextlib.nullcontext()


@contextlib.contextmanager
def one_core():
    with stock("gpu", job_extra_directives=["--gres=gpu:1"], **ONE_CORE) as (cluster, *rest):
        cluster.adapt(maximum_jobs=2)
        yield cluster, *rest


@contextlib.contextmanager
def whole_node():
    with stock("gpu", job_extra_directives=["--gres=gpu:2"], **WHOLE_NODE) as (cluster, *rest):
        cluster.adapt(maximum_jobs=1)
        yield cluster, *rest


PEERS = {"whole_node": whole_node, "one_core": one_core}


def measured(side, placed, given):
    begun = time.time()
    with side() as (_, client, busy):
        client.upload_file(TERRAIN)
        computed(given, placed)
        took = time.time() - begun
    jobs = jobs_since(begun)
    gpus = sum(job["seconds"] * job["gpus"] for job in jobs)
    sun = sum(s for name, s in busy.seconds.items() if "sunlight" in name)
    cores = sum(job["seconds"] * job["cores"] for job in jobs)
    cost = sum(
        job["seconds"] * (PRICES.get(job["pool"], 0) * job["cores"] + GPU_PRICE * job["gpus"])
        for job in jobs
    )
    last = sum(s for name, s in busy.seconds.items() if "catchments" in name)
    used = GPU_PRICE * sun + PRICES["highmem"] * last
    used += PRICES["standard"] * (busy.total - sun - last)
    return {
        "seconds": round(took, 1),
        "work": round(busy.total, 1),
        "gpu_work": round(sun, 1),
        "gpu_seconds": gpus,
        "core_seconds": cores,
        "idle_core_seconds": round(cores - busy.total, 1),
        "idle_gpu_seconds": round(gpus - sun, 1),
        "cost": round(cost / 3600, 4),
        "idle_cost": round((cost - used) / 3600, 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="trinidad.nc")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--tile", type=int, nargs=2, default=(101, 161), help="rows and columns")
    parser.add_argument("--step", type=float, default=1, help="of the sun, in hours (1)")
    parser.add_argument("--pause", type=float, help="seconds for looking at each result")
    parser.add_argument("--scales", type=int, nargs="+", default=range(7, 31))
    parser.add_argument("--edges", type=int, nargs="+", default=range(3, 13))
    given = parser.parse_args()
    forget_waits()
    mine, peers = [], {name: [] for name in given.peers}
    for _ in range(given.pairs):
        mine.append(measured(ours, pool, given))
        note("ours:", mine[-1])
        for peer, measurements in peers.items():
            measurements.append(measured(PEERS[peer], anywhere, given))
            note(f"{peer}:", measurements[-1])
    counts = ("core_seconds", "gpu_seconds", "cost")
    compared = [f"idle_{what}" for what in counts] + ["cost", "seconds"]
    ratios = {
        f"ratio_of_{what}_to_{peer}": middle(
            a[what] / b[what] for a, b in zip(mine, measurements, strict=True)
        )
        for peer, measurements in peers.items()
        for what in compared
    }
    tell("idle", ours=mine, **peers, **ratios)


if __name__ == "__main__":
    main()
