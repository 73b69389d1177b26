"""What is allocated and does nothing, on a mixed computation with real terrain.

Tile by tile, at several scales, how far each place lies above the mean and above the median of its
surroundings (the topographic position index), for which any node will do. Places that stick out
more than the roughest of these scales varies are taken for errors, and levelled. On a GPU: the sun
over one day. On a node with much memory: where water runs, over the whole terrain. The last two are
functions of examples/winter_sun.py.

As one submission. With `--pause` as in a notebook: each of the three is asked for when its user has
seen what came of the one before, and what was computed stays on the cluster meanwhile. With
`--at-once` nothing is levelled, so that GPUs have work from the beginning.

The nodes claim more cores than the machine below them has, so that tasks would take the longer the
more workers there are. Therefore all is computed once before, on one core and with nothing beside
it. On the clusters a task then gives the result of that, after as long as it took: data, graph,
transfers and the times of all tasks are real, and a worker has a core to itself.

Without GPUs, NumPy computes the sun in coarse steps, and then its task waits as long as a GPU would
be busy with fine ones. One task at a time has a GPU, on all sides.

Against dask-jobqueue's SLURMCluster with `adapt` and one pool that fits everything: GPUs, and the
memory of the last step. In whole nodes; in halves of them, a GPU with its share of the cores; and
in jobs with no more cores than the GPUs need, two or one.

What is idle is what was held, by Slurm's accounts, without the work: the time of GPUs, each of
which keeps a core waiting, and that of cores. What is lost and computed again is no work.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import pickle
import time
from collections import Counter, defaultdict
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import terrain
import xarray as xr
from measure import forget_waits, jobs_since, middle, note, ours, stock, tell
from scipy.ndimage import gaussian_filter, median_filter

from dask_site import needs

# Each job is one worker: of a job with two, `adapt` gives both back as soon as it needs one less,
# again and again (dask-jobqueue, issue 498). Memory is asked for in whole GiB, of which the node
# has less than eight.
SHAPES = {
    "whole_node": {"cores": 16, "gpus": 2, "memory": "6GiB", "most": 1},
    "half_node": {"cores": 8, "gpus": 1, "memory": "3GiB", "most": 2},
    "two_cores": {"cores": 2, "gpus": 2, "memory": "6GiB", "most": 1},
    "one_core": {"cores": 1, "gpus": 1, "memory": "3GiB", "most": 2},
}
PRICES = {"standard": 0.01, "highmem": 0.03}  # of a core for an hour, as in the site file
GPU_PRICE = 0.8
SPIKE = 1  # standard deviation of the roughest scale
RECORDS = Path("~/bench-records").expanduser()
# Before it is uploaded: then it is imported from elsewhere.
TERRAIN = str(Path(terrain.__file__).absolute())


def above_surroundings(height, scale):
    """How far each cell lies above the mean around it; for a tile with 3 * scale cells more."""
    edge = 3 * scale
    return (height - gaussian_filter(height, sigma=scale, truncate=3))[edge:-edge, edge:-edge]


def above_median(height, edge):
    """How far each cell lies above the median around it; for a tile with `edge` cells more."""
    return (height - median_filter(height, size=2 * edge + 1))[edge:-edge, edge:-edge]


def record_of(function, blocks, options):
    """Return the file with what a function gives for these arrays, and how long it computes."""
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for block in blocks:
        digest.update(np.ascontiguousarray(block))
    return RECORDS / f"{function.__name__}-{digest.hexdigest()}"


def recording(work):
    """Have functions compute, keep what they give, and count their seconds in `work`."""

    def marked(function):
        @functools.wraps(function)
        def call(*blocks, **options):
            path = record_of(function, blocks, options)
            if not path.exists():
                begun = time.thread_time()
                result = function(*blocks, **options)
                new = path.with_suffix(".new")
                new.write_bytes(pickle.dumps((time.thread_time() - begun, result)))
                new.rename(path)
            seconds, result = pickle.loads(path.read_bytes())
            work[function.__name__] += seconds
            return result

        return call

    return marked


def recorded(function):
    """Have a function give what is recorded, after as long as it computed."""

    @functools.wraps(function)
    def call(*blocks, **options):
        begun = time.monotonic()
        seconds, result = pickle.loads(record_of(function, blocks, options).read_bytes())
        time.sleep(max(0, begun + seconds - time.monotonic()))
        return result

    return call


def on_gpu(function, seconds):
    """Have a GPU of this job busy for some seconds with what a function gives."""

    @functools.wraps(function)
    def call(*blocks, **options):
        result = function(*blocks, **options)
        if seconds:
            with a_gpu():
                time.sleep(seconds)
        return result

    return call


@contextlib.contextmanager
def a_gpu():
    """Have one of this process's GPUs for oneself, among all threads and processes of the job."""
    gpus, job = os.environ["CUDA_VISIBLE_DEVICES"].split(","), os.environ["SLURM_JOB_ID"]
    with contextlib.ExitStack() as opened:
        locks = [opened.enter_context(Path(f"/dev/shm/{job}-{gpu}").open("w")) for gpu in gpus]
        for lock in itertools.cycle(locks):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        yield


def computed(given, mark, as_is):
    """Compute all of it, each function of interest as `as_is` has it; return how many tiles."""

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
    mean, median = as_is(above_surroundings), as_is(above_median)
    height = metres.data.map_overlap(as_is(terrain.smooth), depth=4, **tiles).persist()
    relief = [
        height.map_overlap(mean, depth=3 * scale, scale=scale, **tiles).std().persist()
        for scale in given.scales
    ] + [
        height.map_overlap(median, depth=edge, edge=edge, **tiles).std().persist()
        for edge in given.edges
    ]
    seen(*relief)
    if not given.at_once:
        least = min(given.edges)
        above = height.map_overlap(median, depth=least, edge=least, **tiles)
        errors = abs(above) > SPIKE * da.stack(relief).max()
        height = da.where(errors, height - above, height).persist()
    sunlight = mark(gpu=1)(on_gpu(as_is(terrain.sunlight), given.gpu_seconds))
    sun = height.map_overlap(sunlight, depth=terrain.HALO, step=given.step, **tiles).persist()
    seen(sun.mean())
    catchments = mark(pool="highmem")(as_is(terrain.catchments))
    streams = dask.delayed(catchments)(height, sun).persist()
    dask.compute(streams, *relief)
    return height.npartitions


def work_of(given):
    """Compute all of it here, unless that was done before; return the seconds of each function."""
    RECORDS.mkdir(exist_ok=True)
    work = Counter()
    without = argparse.Namespace(**vars(given) | {"gpu_seconds": 0, "pause": 0})
    with dask.config.set(scheduler="synchronous"):
        tiles = computed(without, nothing, recording(work))
    return work + Counter(gpu=tiles * given.gpu_seconds)


def nothing(**_):
    """Say nothing about a function: what the peers are given."""
    return lambda function: function


@contextlib.contextmanager
def own(given):
    with ours() as (cluster, *rest):
        cluster.adapt(target_duration=given.target)
        yield cluster, *rest


@contextlib.contextmanager
def peer(cores, gpus, memory, most):
    directives = [f"--gres=gpu:{gpus}"]
    shape = {"cores": cores, "processes": 1, "memory": memory}
    with stock("gpu", job_extra_directives=directives, **shape) as (cluster, *rest):
        cluster.adapt(maximum_jobs=most)
        yield cluster, *rest


def measured(side, mark, given):
    """Return what was held."""
    begun = time.time()
    with side as (_, client, _):
        client.upload_file(TERRAIN)
        computed(given, mark, recorded)
        took = time.time() - begun - 2 * given.pause  # two results were looked at
    jobs = jobs_since(begun)
    cost = sum(
        job["seconds"] * (PRICES.get(job["pool"], 0) * job["cores"] + GPU_PRICE * job["gpus"])
        for job in jobs
    )
    return {
        "seconds": round(took, 1),
        "jobs": len(jobs),
        "cores": sum(job["seconds"] * job["cores"] for job in jobs),
        "gpus": sum(job["seconds"] * job["gpus"] for job in jobs),
        "cost": round(cost / 3600, 4),
    }


def without_work(held, work):
    """Return what was idle of what was held: cores, GPUs, and what they cost."""
    used = GPU_PRICE * work["gpu"] + PRICES["highmem"] * work["catchments"]
    used += PRICES["standard"] * (work.total() - work["gpu"] - work["catchments"])
    return {
        "cores": round(held["cores"] - work.total(), 1),
        "gpus": round(held["gpus"] - work["gpu"], 1),
        "cost": round(held["cost"] - used / 3600, 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="trinidad.nc")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--pause", type=float, default=0, help="seconds for looking at each result")
    parser.add_argument("--target", default="1 min", help="of ours, target_duration (1 min)")
    parser.add_argument("--tile", type=int, nargs=2, default=(202, 322), help="rows and columns")
    parser.add_argument("--step", type=float, default=0.5, help="of the sun, in hours (0.5)")
    parser.add_argument("--gpu-seconds", type=float, default=4.0, help="for each tile (4)")
    parser.add_argument("--scales", type=int, nargs="+", default=range(7, 31, 3))
    parser.add_argument("--edges", type=int, nargs="+", default=range(3, 21))
    parser.add_argument("--at-once", action="store_true", help="nothing is levelled for the GPUs")
    given = parser.parse_args()
    forget_waits()
    work = work_of(given)
    note("work, in seconds:", {name: round(seconds, 1) for name, seconds in work.items()})
    all_sides, ratios = [], defaultdict(list)
    for _ in range(given.pairs):
        sides = {"ours": measured(own(given), needs, given)}
        note("ours:", sides["ours"])
        for name in given.peers:
            sides[name] = measured(peer(**SHAPES[name]), nothing, given)
            note(f"{name}:", sides[name])
        for side in sides.values():
            side["idle"] = without_work(side, work)
        for name in given.peers:
            mine, its = sides["ours"], sides[name]
            for what in ("cores", "gpus", "cost"):
                ratios[f"idle {what} by {name}"].append(mine["idle"][what] / its["idle"][what])
            ratios[f"cost by {name}"].append(mine["cost"] / its["cost"])
            ratios[f"time by {name}"].append(mine["seconds"] / its["seconds"])
        all_sides.append(sides)
    figures = {name: middle(values) for name, values in ratios.items()}
    tell("idle", work=work, pairs=all_sides, **figures)


if __name__ == "__main__":
    main()
