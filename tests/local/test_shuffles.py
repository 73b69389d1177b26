"""P2P shuffles and rechunks are never split so that they wait for ever."""

import asyncio
import contextlib
import itertools
import time

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import wait
from distributed.shuffle._core import barrier_key
from machine import until
from places import here
from wreckage import fill

from dask_site import Cluster, needs, pool

fresh = itertools.count()


def where(block):
    """Return a block of the same shape that tells the pool by its length."""
    return np.full_like(block, len(here()))


HIGHMEM, GPU, CPU = map(len, ("highmem", "gpu", "cpu"))


@pytest.fixture(autouse=True)
def _p2p():
    config = {"array.rechunk.method": "p2p", "dataframe.shuffle.method": "p2p"}
    with dask.config.set(config):
        yield


def array():
    return da.random.random((64, 64), chunks=(64, 4))


def result_of(client, collection, seconds=90):
    """Compute, and fail rather than wait for ever."""
    future = client.compute(collection)
    wait(future, timeout=seconds)
    return future.result()


@pytest.mark.parametrize(
    ("need", "places"),
    [
        ({"pool": "highmem"}, {HIGHMEM}),
        ({"memory": "700MiB"}, {HIGHMEM}),
        ({"gpu": 1}, {GPU}),
    ],
)
def test_a_rechunk_that_is_fused_with_what_needs_something(client, need, places):
    x = array().rechunk((4, 64)).map_blocks(needs(**need)(where), dtype=float)
    assert set(np.unique(result_of(client, x))) == places


def test_a_rechunk_that_is_placed_by_its_name(cluster, client):
    cluster.place({"rechunk*": "highmem"})
    try:
        x = array().rechunk((4, 64))
        assert result_of(client, x.sum()) > 0
    finally:
        cluster.place({"rechunk*": None})


@pytest.mark.parametrize("prefix", ["hashjoinp2p", "rechunk-sum"])
def test_output_that_is_known_to_need_memory(cluster, client, monkeypatch, prefix):
    monkeypatch.setattr(cluster.scheduler.placer, "hungry", lambda: {prefix: 700 * 2**20})
    if prefix == "rechunk-sum":
        work = array().rechunk((4, 64)).sum(axis=0)
    else:
        left = pd.DataFrame({"key": np.arange(400) % 40, "a": np.arange(400.0) + next(fresh)})
        right = pd.DataFrame({"key": np.arange(400) % 40, "b": np.arange(400.0)})
        parts = [dd.from_pandas(frame, npartitions=6) for frame in (left, right)]
        work = parts[0].merge(parts[1], on="key", how="inner")
    hungry = set()
    scheduler = cluster.scheduler

    def seen(key, start, finish, *_, **__):
        ts = scheduler.tasks[key]
        if ts.prefix.name == prefix and finish == "memory" and start == "processing":
            hungry.add(ts.resource_restrictions["MEMORY"])

    monkeypatch.setattr(scheduler.judge, "transition", seen, raising=False)
    assert len(result_of(client, work)) > 0
    assert hungry == {700 * 2**20}


def test_halves_of_one_rechunk_may_need_pools_that_exclude_each_other(client):
    x = array().rechunk((4, 64))
    lit = x[:32].map_blocks(needs(gpu=1)(where), dtype=float)
    wide = x[32:].map_blocks(needs(pool="highmem")(where), dtype=float)
    both = result_of(client, da.concatenate([lit, wide]))
    assert set(np.unique(both[:32])) == {GPU}
    assert set(np.unique(both[32:])) == {HIGHMEM}


def slowly(block):
    time.sleep(0.2)
    return block


@pytest.mark.parametrize("name", ["cpu", None])
def test_output_that_comes_to_need_another_pool_takes_the_others_along(cluster, client, name):
    moved = []
    cluster.sync(move_an_output, cluster.scheduler, moved)
    x = array().map_blocks(slowly, dtype=float).rechunk((4, 64)).map_blocks(where, dtype=float)
    with pool(name) if name else contextlib.nullcontext():
        x = x.persist()
    found = result_of(client, x)
    ((row, done),) = moved
    assert done
    # Others may be done on a worker of the first choice before this one is tried there.
    assert set(np.unique(found[4 * row : 4 * row + 4])) == {HIGHMEM}


async def move_an_output(scheduler, moved):
    """Restrict an output as soon as its shuffle has begun, and so has chosen its places."""
    choose = scheduler.shuffles.spread

    def chosen(spec):
        del scheduler.shuffles.spread
        asyncio.get_running_loop().call_soon(move)
        return choose(spec)

    def move():
        ((shuffle, state),) = scheduler.shuffles.active_shuffles.items()
        elsewhere = {
            partition
            for partition, address in state.run_spec.worker_for.items()
            if scheduler.workers[address].name.startswith("cpu")
        }
        outputs = scheduler.tasks[barrier_key(shuffle)].dependents
        output = next(ts for ts in outputs if ts.key[1:] in elsewhere)
        moved.append((output.key[1], scheduler.restrict(output.key, {"pool:highmem": 1})))

    scheduler.shuffles.spread = chosen


@pytest.mark.slow
def test_a_shuffle_waits_for_the_worker_that_its_output_needs_and_for_no_thread(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2, highmem=0)
        cluster.wait_for_workers(timeout=120)
        x = array().rechunk((4, 64)).map_blocks(needs(pool="highmem")(where), dtype=float)
        future = client.compute(x)
        waiting = cluster.scheduler.shuffles.waiting
        assert until(lambda: waiting)
        (told,) = [r for r in cluster.explain(future).reasons if "shuffle" in r]
        assert told.startswith("A P2P shuffle waits for a worker of pool 'highmem'")
        with pool("cpu"):  # its threads are free meanwhile
            assert client.submit(here, pure=False).result(timeout=60) == "cpu"
        cluster.scale(highmem=1)
        wait(future, timeout=120)
        assert set(np.unique(future.result())) == {HIGHMEM}
        assert not waiting
        assert not cluster.scheduler._held


@pytest.mark.slow
def test_the_worker_that_a_shuffle_waits_for_is_asked_for_by_demand(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        x = array().rechunk((4, 64)).map_blocks(needs(pool="highmem")(where), dtype=float)
        assert set(np.unique(result_of(client, x, 120))) == {HIGHMEM}


@pytest.mark.slow
def test_a_shuffle_waits_while_the_workers_for_its_output_are_paused(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1, highmem=1)
        cluster.wait_for_workers(timeout=120)

        def pause(name, status):
            async def change(dask_worker):
                from distributed.core import Status

                dask_worker.monitor.memory_pause_fraction = False
                dask_worker.memory_manager.memory_pause_fraction = False
                dask_worker.status = Status[status]

            addresses = [a for job in cluster.jobs if job.pool == name for a in job.workers]
            client.run(change, workers=addresses)

        pause("highmem", "paused")
        assert until(lambda: len(cluster.scheduler.running) == 1)
        x = array().rechunk((4, 64)).map_blocks(needs(pool="highmem")(where), dtype=float)
        future = client.compute(x)
        assert until(lambda: cluster.scheduler.shuffles.waiting)
        pause("highmem", "running")
        wait(future, timeout=120)
        assert set(np.unique(future.result())) == {HIGHMEM}


@pytest.mark.slow
def test_a_shuffle_that_is_given_up_while_it_waits_leaves_nothing_behind(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1, highmem=0)
        cluster.wait_for_workers(timeout=120)
        x = array().rechunk((4, 64)).map_blocks(needs(pool="highmem")(where), dtype=float)
        future = client.compute(x)
        assert until(lambda: cluster.scheduler.shuffles.waiting)
        future.cancel()
        del future
        assert until(lambda: not cluster.scheduler.shuffles.waiting)
        assert until(lambda: not cluster.scheduler._held)


@pytest.mark.slow
def test_a_shuffle_that_waited_when_all_was_restarted_begins_when_it_comes_again(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1, highmem=0)
        cluster.wait_for_workers(timeout=120)
        x = array().rechunk((4, 64)).map_blocks(needs(pool="highmem")(where), dtype=float)
        future = client.compute(x)
        assert until(lambda: cluster.scheduler.shuffles.waiting)
        client.restart(timeout=90)
        assert not cluster.scheduler._held
        del future
        cluster.scale(highmem=1)
        assert set(np.unique(result_of(client, x, 120))) == {HIGHMEM}


def greedy(block, block_info=None):
    """Take more memory in one block than a worker of the cheapest pool has."""
    if block_info[0]["chunk-location"][0] == 3:
        fill(600)
    return where(block)


@pytest.mark.slow
def test_output_that_runs_out_of_memory_takes_its_shuffle_to_the_next_pool(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2, highmem=1)
        cluster.wait_for_workers(timeout=120)
        with pool("cpu"):
            future = client.compute(array().rechunk((4, 64)).map_blocks(greedy, dtype=float))
        wait(future, timeout=150)
        # Others may be done on a worker that lives on, before it is known what this one needs.
        assert set(np.unique(future.result()[12:16])) == {HIGHMEM}
        assert "memory" in {event.cause for event in cluster.scheduler.judge.events}
