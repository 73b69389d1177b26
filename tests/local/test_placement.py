"""Work lands on the pool that it names, and nowhere exclusive that it doesn't."""

import itertools

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import wait
from machine import SITE
from places import devices, here, slow, span

from dask_site import Cluster, Site, needs, pool


def on_workers(client, collection):
    """Return the pools of the workers that hold a persisted collection's chunks."""
    names = {}
    for address, info in client.scheduler_info(n_workers=-1)["workers"].items():
        names[address] = info["name"].split("-")[0]
    client.cluster.sync(_settled, collection)
    held = client.who_has(collection)
    assert held
    return {names[address] for addresses in held.values() for address in addresses}


async def _settled(collection):
    from distributed import futures_of

    for future in futures_of(collection):
        await future._state.wait()


# Graphs with the same keys as one that is still in memory are not computed again, wherever asked.
fresh = itertools.count()


def delayed_work():
    return dask.delayed([dask.delayed(slow)(i, 0.01) for i in range(8)])


def array_work():
    return (da.random.random((400, 400), chunks=(100, 100)) + 1).sum(axis=0)


def dataframe_work():
    frame = pd.DataFrame({"key": np.arange(100) % 5, "value": np.arange(100.0) + next(fresh)})
    return dd.from_pandas(frame, npartitions=5).map_partitions(lambda part: part + 1)


def bag_work():
    start = 100 * next(fresh)
    return db.from_sequence(range(start, start + 20), npartitions=5).map(lambda x: x + 1)


def xarray_work():
    data = da.random.random((20, 40), chunks=(5, 40))
    return (xr.DataArray(data, dims=("time", "x")) - 1).mean("x")


COLLECTIONS = [delayed_work, array_work, dataframe_work, bag_work, xarray_work]


@pytest.mark.parametrize("name", ["highmem", "gpu"])
@pytest.mark.parametrize("make", COLLECTIONS, ids=lambda f: f.__name__)
def test_a_persisted_collection_lies_on_the_pool_that_was_named(client, make, name):
    with pool(name):
        done = make().persist()
    assert on_workers(client, done) == {name}


def priority_of(future, cluster):
    return cluster.scheduler.tasks[future.key].priority


def test_what_a_dearer_pool_waits_for_goes_before_other_work(client):
    other = client.submit(slow, 0, 0.01, pure=False)
    with pool("cpu"):
        default = client.submit(slow, 1, 0.01, pure=False)
    tile = dask.delayed(slow)(2, 0.01, dask_key_name="a-tile")
    with pool("gpu"):
        lit = client.compute(dask.delayed(slow)(tile, 0.01))
    urgent = client.submit(slow, 3, 0.01, pure=False, priority=1)
    wait([other, default, lit, urgent])
    order = [priority_of(future, client.cluster)[0] for future in (urgent, lit, other, default)]
    assert order == [-1, -0.5, 0, 0]
    with pool("gpu"):
        own = client.submit(slow, 4, 0.01, pure=False, priority=-2)
    wait(own)
    assert priority_of(own, client.cluster)[0] == 2


def test_shared_inputs_that_other_work_waits_for_are_lifted_too(client):
    with pool("cpu"):
        busy = client.map(slow, range(20), [0.3] * 20, pure=False)
        shared = client.submit(slow, 1, 0.0, key="shared-input")
        behind = client.submit(slow, shared, 0.0, key="behind-it")
    with pool("gpu"):
        lit = client.submit(slow, behind, 0.01)
    wait(lit)
    assert priority_of(shared, client.cluster)[0] == -0.5
    assert sum(future.done() for future in busy) < len(busy)


def test_roots_that_a_dearer_pool_waits_for_dont_queue_behind_other_work(client):
    starts = client.map(slow, range(6), [0.0] * 6, pure=False)
    wait(starts)
    busy = client.map(slow, starts * 20, [0.2] * 120, pure=False)
    roots = da.full(40, next(fresh), chunks=1).persist()
    with pool("gpu"):
        lit = client.compute(roots.sum())
    wait(lit)
    assert sum(future.done() for future in busy) < len(busy) / 2


@pytest.mark.parametrize("make", COLLECTIONS, ids=lambda f: f.__name__)
def test_work_without_a_pool_stays_off_exclusive_pools(client, make):
    done = make().persist()
    assert "gpu" not in on_workers(client, done)


@pytest.mark.parametrize("name", ["cpu", "highmem", "gpu"])
def test_futures_run_on_the_pool_that_was_named(client, name):
    with pool(name):
        futures = [*client.map(here, range(20), pure=False), client.submit(here, pure=False)]
    assert set(client.gather(futures)) == {name}


def test_futures_without_a_pool_run_on_every_open_pool_and_on_no_exclusive_one(client):
    futures = client.map(lambda i: (slow(i), here())[1], range(60), pure=False)
    assert set(client.gather(futures)) == {"cpu", "highmem"}


def test_what_follows_a_pool_goes_back_to_the_open_pools(client):
    with pool("gpu"):
        x = da.ones((200, 200), chunks=50).persist()
    assert on_workers(client, x) == {"gpu"}
    y = (x + 1).persist()
    assert "gpu" not in on_workers(client, y)
    assert float(y.sum().compute()) == 2 * 200 * 200


@pytest.mark.parametrize("name", [None, "gpu"])
def test_a_p2p_shuffle_stays_where_its_tasks_may_run_and_finishes(client, name):
    frame = pd.DataFrame({"key": np.arange(1000) % 17, "value": np.arange(1000.0) + next(fresh)})
    frame = dd.from_pandas(frame, npartitions=8)
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        if name is None:
            shuffled = frame.shuffle("key").persist()
        else:
            with pool(name):
                shuffled = frame.shuffle("key").persist()
    where = on_workers(client, shuffled)
    assert where == {name} if name else "gpu" not in where
    assert shuffled.value.sum().compute() == frame.value.sum().compute()


def test_a_p2p_rechunk_on_a_pool_finishes(client):
    x = da.random.random((200, 200), chunks=(200, 10))
    with dask.config.set({"array.rechunk.method": "p2p"}), pool("gpu"):
        y = x.rechunk((10, 200)).persist()
    assert on_workers(client, y) == {"gpu"}


def test_root_tasks_are_still_queued_beside_an_exclusive_pool(client, cluster):
    """Work that names no pool must keep distributed's root-task queuing."""
    futures = client.map(slow, range(200), seconds=0.02, pure=False)
    most = 0
    while not all(f.done() for f in futures):
        most = max(most, len(cluster.scheduler.queued))
    assert most > 50


def test_each_worker_of_a_gpu_job_sees_its_own_gpu(client):
    with pool("gpu"):
        seen = client.gather(client.map(lambda i: (slow(i), devices())[1], range(40), pure=False))
    assert set(seen) == {"0", "1"}


def test_dasks_own_gpu_annotation_finds_the_gpu_workers(client):
    with dask.annotate(resources={"GPU": 1}):
        futures = client.map(here, range(6), pure=False)
    assert set(client.gather(futures)) == {"gpu"}


def test_a_pool_inside_of_resources_by_key(client):
    by_key = {"a-large": {"MEMORY": 1.0}}
    with dask.annotate(resources=by_key.get), pool("highmem"):
        done = client.compute(dask.delayed(here)(dask_key_name="a-large"))
        assert done.result() == "highmem"
        there = client.cluster.scheduler.tasks["a-large"].resource_restrictions
    assert there == {"pool:highmem": 1, "MEMORY": 1.0}


def test_a_pool_that_is_not_there_is_refused_with_the_nearest_one(client):
    with (
        pytest.raises(ValueError, match=r"has no pool 'gpus'; .*Did you mean 'gpu'\?"),
        pool("gpus"),
    ):
        client.submit(here)


def test_the_inner_pool_wins(client):
    with pool("cpu"), pool("highmem"):
        assert client.submit(here, pure=False).result() == "highmem"


def test_loose_restrictions_stay_off_exclusive_pools_too(client):
    """distributed runs such a task anywhere when none of its workers is there."""
    futures = client.map(here, range(20), pure=False, workers=["nobody"], allow_other_workers=True)
    assert "gpu" not in client.gather(futures)


@pytest.fixture(scope="module")
def wide(state_dir):
    """A client of one worker with two threads."""
    pools = {"wide": {"cores": 2, "memory": "512MiB"}}
    mapping = {**SITE, "pools": pools, "default_pool": "wide", "escalate": []}
    with Cluster(Site.from_mapping({**mapping, "state_dir": str(state_dir)})) as cluster:
        cluster.scale(wide=1)
        cluster.wait_for_workers(timeout=120)
        with cluster.get_client() as client:
            yield client


@pytest.mark.parametrize(("memory", "at_once"), [("300MiB", 1), ("200MiB", 2)])
def test_a_need_in_memory_limits_how_many_run_at_once_on_a_worker(wide, memory, at_once):
    spans = wide.gather(wide.map(needs(memory=memory)(span), range(6), pure=False))
    most = max(sum(begun <= start < end for begun, end in spans) for start, _ in spans)
    assert most == at_once
