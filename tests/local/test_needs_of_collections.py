"""What functions need is met in every kind of work, on real clusters of local processes."""

import functools
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import time
import warnings

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import needing
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import as_completed, futures_of, wait
from needing import Model, after, before, infer, infer_later, noted, work

from dask_site import Cluster, NeedError, needs, pool

# Graphs with the same keys as one that is still in memory are not computed again.
fresh = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(site, tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "notes"
    path.touch()
    os.environ[needing.NOTES] = str(path)
    with Cluster(site) as cluster:
        cluster.scale(cpu=2, highmem=1, gpu=2)
        cluster.wait_for_workers(timeout=120)
        yield cluster
    del os.environ[needing.NOTES]


@pytest.fixture(autouse=True)
def _nothing_noted(client):
    noted()


# -- every collection ----------------------------------------------------------------------------


def series():
    return np.arange(12.0) + 1000 * next(fresh)


def array():
    return da.from_array(series(), chunks=4).map_blocks(before, dtype=float)


def frame():
    table = pd.DataFrame({"key": np.arange(12) % 3, "value": series()})
    return dd.from_pandas(table, npartitions=3).map_partitions(before)


def data_array():
    x = da.from_array(series().reshape(3, 4), chunks=(1, 4)).map_blocks(before, dtype=float)
    times = pd.date_range("2000-01-01", periods=3, freq="MS")
    return xr.DataArray(x, dims=("time", "x"), coords={"time": times})


def in_delayed(need):
    first = [dask.delayed(before)(i) for i in range(4)]
    return dask.delayed(after)([dask.delayed(need(work))(x) for x in first])


def in_delayed_decorated_at_last(need):
    first = [dask.delayed(before)(i) for i in range(4)]
    later = dask.delayed(need(functools.partial(work)), pure=True)
    return dask.delayed(after)([later(x, k=next(fresh)) for x in first])


def in_bag(need):
    bag = db.from_sequence(list(series()), npartitions=3).map(before)
    return bag.map(need(work)).map(after)


def in_bag_partitions(need):
    bag = db.from_sequence(list(series()), npartitions=3).map_partitions(lambda p: before(list(p)))
    return bag.map_partitions(need(work)).filter(after)


def in_bag_fold(need):
    bag = db.from_sequence(list(series()), npartitions=3).map(before)
    return bag.fold(need(lambda total, x: work(total) + x), lambda a, b: after(a) + b, initial=0)


def in_map_blocks(need):
    return array().map_blocks(need(work), dtype=float).map_blocks(after, dtype=float)


def in_map_blocks_with_block_info(need):
    @need
    def located(block, block_info=None, block_id=None):
        assert block_info[0]["chunk-location"] == block_id
        return work(block)

    return array().map_blocks(located, dtype=float).map_blocks(after, dtype=float)


def in_map_blocks_with_keywords(need):
    x = array()
    y = x.map_blocks(apply, work=need(work), lowest=x.min(), dtype=float)
    return y.map_blocks(after, dtype=float)


def apply(block, work, lowest):
    return work(block)


def in_blockwise(need):
    both = need(lambda a, b: work(a) + b)
    return da.blockwise(both, "i", array(), "i", array(), "i", dtype=float).map_blocks(after)


def in_concatenated_blocks(need):
    x = array().reshape(3, 4).rechunk((1, 2))
    row = need(lambda block: work(block).sum(axis=1))
    return da.blockwise(row, "i", x, "ij", concatenate=True, dtype=float).map_blocks(after)


def in_gufunc(need):
    x = array().reshape(3, 4).rechunk((1, 4))
    mean = da.apply_gufunc(need(lambda a: work(a).mean(-1)), "(i)->()", x, output_dtypes=float)
    return mean.map_blocks(after, dtype=float)


def in_vectorized_gufunc(need):
    x = array()
    each = da.apply_gufunc(need(work), "()->()", x, vectorize=True, output_dtypes=float)
    return each.map_blocks(after, dtype=float)


def in_map_overlap(need):
    x = array().map_overlap(need(work), depth=1, boundary="none", dtype=float)
    return x.map_blocks(after, dtype=float)


def in_reduction(need):
    chunk = need(lambda block, axis, keepdims: work(block).sum(axis=axis, keepdims=keepdims))

    def last(block, axis, keepdims):
        return after(block).sum(axis=axis, keepdims=keepdims)

    return da.reduction(array(), chunk=chunk, aggregate=last, dtype=float)


def in_apply_along_axis(need):
    return da.apply_along_axis(need(work), 0, array(), dtype=float, shape=(12,)).map_blocks(after)


def in_array_from_delayed(need):
    parts = [dask.delayed(need(work))(dask.delayed(before)(series())) for _ in range(3)]
    arrays = [da.from_delayed(part, (12,), float) for part in parts]
    return da.concatenate(arrays).map_blocks(after, dtype=float)


def in_partitions(need):
    return frame().map_partitions(need(work)).map_partitions(after)


def in_a_column(need):
    column = frame().value.map(need(work), meta=("value", float))
    return column.map_partitions(after)


def in_groupby_apply(need):
    grouped = frame().groupby("key")
    with warnings.catch_warnings(action="ignore"):
        applied = grouped.apply(need(lambda g: work(g.value.sum())), meta=("value", float))
    return applied.map_partitions(after)


def in_partitions_before_a_merge(need):
    left = frame().map_partitions(need(work))
    return left.merge(frame(), on="key").map_partitions(after)


def in_partitions_after_a_shuffle(need, method="p2p"):
    with dask.config.set({"dataframe.shuffle.method": method}):
        shuffled = frame().shuffle("key").optimize(fuse=False)
    return shuffled.map_partitions(need(work)).map_partitions(after)


def in_partitions_after_a_shuffle_in_tasks(need):
    return in_partitions_after_a_shuffle(need, method="tasks")


def in_from_map(need):
    @need
    def load(i):
        work(i)
        return pd.DataFrame({"value": series()})

    meta = pd.DataFrame({"value": series()})
    return dd.from_map(load, [next(fresh) for _ in range(3)], meta=meta).map_partitions(after)


def in_xarray_map_blocks(need):
    x = data_array()
    y = xr.map_blocks(need(work), x, template=x)
    return xr.map_blocks(after, y, template=x)


def in_apply_ufunc(need):
    def ufunc(function, x):
        return xr.apply_ufunc(function, x, dask="parallelized", output_dtypes=[float])

    return ufunc(after, ufunc(need(work), data_array()))


def in_vectorized_apply_ufunc(need):
    mean = xr.apply_ufunc(
        need(lambda row: work(row).mean()),
        data_array(),
        input_core_dims=[["x"]],
        vectorize=True,
        dask="parallelized",
        output_dtypes=[float],
    )
    return mean.copy(data=mean.data.map_blocks(after, dtype=float))


def in_xarray_groupby(need):
    def monthly(group):
        return group.copy(data=group.data.map_blocks(need(work), dtype=float))

    x = data_array().groupby("time.month").map(monthly)
    return x.copy(data=x.data.map_blocks(after, dtype=float))


COLLECTIONS = [f for name, f in list(globals().items()) if name.startswith("in_")]
NEEDS = {"gpu": {"gpu": 1}, "highmem": {"memory": "700MiB"}}


@pytest.mark.parametrize("where", NEEDS)
@pytest.mark.parametrize("make", COLLECTIONS, ids=lambda f: f.__name__)
def test_needs_are_met(client, make, where):
    made = make(needs(**NEEDS[where]))
    noted()  # by dask, while it asks functions for the types of their results
    made.compute()
    ran = noted()
    assert ran["work"] == {where}
    assert ran["after"]


@pytest.mark.parametrize(
    "make",
    [in_delayed, in_partitions_after_a_shuffle],
    ids=lambda f: f.__name__,
)
def test_what_is_apart_stays_off_exclusive_pools(client, make):
    made = make(needs(gpu=1))
    noted()
    made.compute()
    assert "gpu" not in noted()["before"]


def test_a_pool_by_name(client):
    in_map_blocks(needs(pool="gpu")).compute()
    assert noted()["work"] == {"gpu"}


@pytest.mark.parametrize("make", COLLECTIONS, ids=lambda f: f.__name__)
def test_work_without_needs_stays_off_exclusive_pools(client, make):
    make(lambda function: function).compute()
    ran = noted()
    assert ran.keys() == {"before", "work", "after"} - (
        {"before"} if make is in_from_map else set()
    )
    assert "gpu" not in set().union(*ran.values())


def test_persisting_several_collections_together(client):
    x = in_map_blocks(needs(gpu=1))
    bag = db.range(6, npartitions=3).map(needs(pool="highmem")(before))
    single = dask.delayed(needs(pool="cpu")(after))(next(fresh))
    wait(dask.persist(x.map_blocks(np.sqrt), bag, single))
    ran = noted()
    assert ran["work"] == {"gpu"}
    assert ran["before"] >= {"highmem"}
    assert ran["after"] >= {"cpu"}


def test_joblib(client):
    import joblib

    with joblib.parallel_config(backend="dask", wait_for_workers_timeout=60):
        done = joblib.Parallel(n_jobs=2)(joblib.delayed(infer)(i) for i in range(6))
    assert noted() == {"infer": {"gpu"}}
    assert done == list(range(6))


@pytest.mark.slow  # imports scikit-learn here and on the worker
def test_scikit_learn_through_joblib(client):
    import joblib
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import cross_val_score

    with joblib.parallel_config(backend="dask", wait_for_workers_timeout=60):
        score = needs(pool="highmem")(scorer)
        x = np.arange(40.0).reshape(20, 2)
        cross_val_score(LinearRegression(), x, x[:, 0], scoring=score, cv=4, n_jobs=2)
    assert noted()["work"] == {"highmem"}


def scorer(estimator, x, y):
    work(x)
    return 1.0


# -- futures -------------------------------------------------------------------------------------


def test_futures(client):
    futures = [client.submit(infer, next(fresh)), *client.map(infer, [next(fresh) for _ in "abcd"])]
    assert len(client.gather(futures)) == 5
    assert noted() == {"infer": {"gpu"}}


def test_as_completed(client):
    assert len(list(as_completed(client.map(infer, [next(fresh) for _ in "abcd"])))) == 4
    assert noted() == {"infer": {"gpu"}}


def test_partial_lambda_method_and_coroutine(client):
    x = next(fresh)
    assert client.submit(functools.partial(infer, scale=2), x, pure=False).result() == x
    assert client.submit(lambda y: infer(y) + 1, x, pure=False).result() == x + 1
    assert client.submit(Model(2).infer, x, pure=False).result() == 2 * x
    assert dask.delayed(Model(3)).infer(x).compute() == 3 * x
    assert noted() == {"infer": {"gpu"}}
    assert client.submit(infer_later, x, pure=False).result() == x
    assert client.submit(functools.partial(infer_later, x), pure=False).result() == x
    assert noted() == {"infer_later": {"gpu"}}
    assert client.submit(Model(2).fit, x, pure=False).result() == x
    assert noted()["fit"] <= {"cpu", "highmem"}


def test_both_of_two_needs_count(client, cluster):
    function = needs(pool="gpu")(needs(memory="300MiB")(work))
    future = client.submit(function, next(fresh))
    future.result()
    assert noted() == {"work": {"gpu"}}
    restrictions = cluster.scheduler.tasks[future.key].resource_restrictions
    assert restrictions == {"pool:gpu": 1, "MEMORY": 300 * 2**20}


@pytest.mark.parametrize(
    "block",
    [pool("gpu"), needs(gpu=1), needs(pool="gpu")],
    ids=["pool", "gpus", "pool that is needed"],
)
def test_actors_live_where_the_block_says(client, block):
    with block:
        actor = client.submit(Model, 2, actor=True, pure=False).result()
    assert actor.fit(3).result() == 3
    assert noted() == {"init": {"gpu"}, "fit": {"gpu"}}


def test_work_submitted_by_a_task(client):
    """The task that submits it does not take a GPU itself, and wait for that for ever."""
    assert client.submit(needing.drives, list(range(4)), pure=False).result() == [0, 1, 2, 3]
    ran = noted()
    assert ran["infer"] == {"gpu"}
    assert ran["drives"] <= {"cpu", "highmem"}


def test_blocks_cover_what_is_submitted_inside(client):
    with needs(memory="700MiB") as need:
        assert str(need) == "700MiB of memory"
        x = in_map_blocks(lambda f: f).persist()
        wait(x)
        assert set().union(*noted().values()) == {"highmem"}
        with needs(gpu=1), pytest.raises(NeedError, match="1 GPU"):
            client.submit(work, next(fresh)).result()
        inner = client.submit(infer, next(fresh))  # what a function says itself comes first
        inner.result()
    assert noted() == {"infer": {"gpu"}}


def test_dasks_own_annotation(client):
    with dask.annotate(resources={"GPU": 1}):
        in_map_blocks(lambda f: f).compute()
    assert noted()["work"] == {"gpu"}
    made = client.submit(work, next(fresh), resources={"MEMORY": 700 * 2**20})
    made.result()
    assert noted() == {"work": {"highmem"}}


def test_work_by_its_name(client, cluster):
    cluster.place({"mean_agg*": "highmem", "work": needs(gpu=1)})
    try:
        x = array().mean().persist()
        wait(x)
        (future,) = futures_of(x)
        holders = client.who_has([future])[future.key]
        names = [client.scheduler_info(-1)["workers"][address]["name"] for address in holders]
        assert names == ["highmem-0"]
        client.submit(work, next(fresh)).result()
    finally:
        cluster.place({"mean_agg*": None, "work": None})
    assert noted()["work"] == {"gpu"}
    with pytest.raises(ValueError, match="has no pool 'higmem'.*Did you mean 'highmem'"):
        cluster.place({"work": "higmem"})


# -- what no pool has ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"gpu": 8},
            "'work' needs 8 GPUs; no pool of Test machine has that. "
            "The most that one worker has is 1 GPU, in pool 'gpu'.",
        ),
        (
            {"memory": "1TiB"},
            "'work' needs 1TiB of memory; no pool of Test machine has that. "
            "The most that one worker has is 1GiB of memory, in pool 'highmem'.",
        ),
        (
            {"pool": "gpus"},
            "'work' needs pool 'gpus'; no pool of Test machine has that. "
            "Its pools: cpu, highmem, gpu. Did you mean 'gpu'?",
        ),
        (
            {"gpu": 1, "memory": "800MiB"},
            "'work' needs 1 GPU and 800MiB of memory; no pool of Test machine has that. "
            "Each is there, but not in one pool: 1 GPU in 'gpu'; 800MiB of memory in 'highmem'.",
        ),
    ],
)
def test_what_no_pool_has_is_refused_at_once(client, cluster, asked, message):
    known = set(cluster.scheduler.tasks)
    begun = time.monotonic()
    future = client.submit(needs(**asked)(work), next(fresh))
    with pytest.raises(NeedError) as caught:
        future.result(timeout=30)
    assert str(caught.value) == message
    persisted = in_map_blocks(needs(**asked)).persist()
    wait(persisted, timeout=30)
    with pytest.raises(NeedError):
        (persisted + 1).compute()
    with pytest.raises(NeedError):
        in_partitions(needs(**asked)).compute()
    with pytest.raises(NeedError):
        list(as_completed([client.submit(needs(**asked)(work), next(fresh))], with_results=True))
    assert time.monotonic() - begun < 20
    del future, persisted, caught
    deadline = time.monotonic() + 20
    while set(cluster.scheduler.tasks) - known and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(cluster.scheduler.tasks) - known
    assert noted() == {}


# -- fused tasks for several pools ---------------------------------------------------------------

on_cpu, on_highmem, on_gpu = needs(pool="cpu"), needs(memory="700MiB"), needs(gpu=1)


def chain_of_arrays():
    x = da.from_array(series(), chunks=4)
    x = x.map_blocks(on_cpu(before), dtype=float).map_blocks(on_gpu(work), dtype=float)
    return (x + 1).map_blocks(on_highmem(after), dtype=float).sum()


def chain_of_bags():
    bag = db.from_sequence(list(series()), npartitions=3).map(on_cpu(before)).map(lambda x: x + 1)
    return bag.map(on_gpu(work)).filter(on_highmem(after)).sum()


def chain_of_frames():
    table = dd.from_pandas(pd.DataFrame({"value": series()}), npartitions=3)
    table = table.map_partitions(on_cpu(before)).map_partitions(on_gpu(work)) + 1
    return table.map_partitions(on_highmem(after)).value.sum()


def chain_of_delayed():
    x = dask.delayed(on_cpu(before))(float(series().sum()) + 12)
    return dask.delayed(on_highmem(after))(dask.delayed(on_gpu(work))(x))


def chain_in_xarray():
    x = data_array()
    x = xr.apply_ufunc(on_cpu(before), x, dask="parallelized", output_dtypes=[float])
    x = xr.apply_ufunc(on_gpu(work), x, dask="parallelized", output_dtypes=[float]) + 1
    x = xr.apply_ufunc(on_highmem(after), x, dask="parallelized", output_dtypes=[float])
    return x.sum()


CHAINS = [f for name, f in list(globals().items()) if name.startswith("chain_")]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda f: f.__name__)
def test_what_was_fused_across_pools_is_taken_apart(client, chain):
    made = chain()
    expected = 1000 * (next(fresh) - 1) * 12 + 66 + 12
    noted()
    with dask.config.set({"optimization.fuse.delayed": True}):
        assert float(made.compute()) == expected
    ran = noted()
    assert ran["work"] == {"gpu"}
    assert ran["after"] == {"highmem"}
    assert "cpu" in ran["before"]
    if chain is not chain_in_xarray:
        assert ran["before"] == {"cpu"}


def test_the_same_chain_twice_at_once(client):
    """Pieces have the same keys each time: the second submission finds the first one's tasks."""
    x = chain_of_arrays()
    first = client.compute(x)
    second = client.compute(x + 0)
    third = client.compute(x)
    assert first.result() == second.result() == third.result()


# -- another process, another optimiser ----------------------------------------------------------

SCRIPT = """
    import os, pickle, sys
    import dask
    dask.config.set({"array.query-planning": True})
    import dask.array as da
    import numpy as np
    from distributed import Client
    from dask_site import NeedError, needs

    assert da.ARRAY_EXPR_ENABLED or da._array_expr_enabled()

    def where(x):
        here = os.environ.get("DASK_SITE_POOL")  # Dask calls it in this process too
        return x + {None: 0, "cpu": 1, "highmem": 10, "gpu": 100}[here]

    @needs(gpu=1)
    def infer(x):
        return where(x)

    @needs(gpu=1)
    def fall(n):
        return fall(n - 1) if n else os.environ["DASK_SITE_POOL"]

    address, security = pickle.loads(bytes.fromhex(sys.stdin.read()))
    with Client(address, security=security) as client:
        x, f8 = da.zeros(6, chunks=2), np.dtype(float)
        say = lambda made: print(*np.ravel(made.compute()).astype(int))
        infers, small = needs(gpu=1)(where), needs(pool="cpu")(where)
        high = needs(memory="700MiB")(where)
        say(x.map_blocks(infer, dtype=f8))
        say(x.map_blocks(lambda b: infer(b), dtype=f8))
        say((x + 1).map_blocks(infer, dtype=f8) - 1)
        say(x.map_blocks(high, dtype=f8).map_blocks(infers, dtype=f8))
        say(da.concatenate([x.map_blocks(infer, dtype=f8), x.map_blocks(small, dtype=f8)]))
        say(x.map_overlap(infer, depth=1, boundary="none", dtype=f8))
        chunk = needs(gpu=1)(lambda b, axis, keepdims: infer(b).sum(axis=axis, keepdims=keepdims))
        last = lambda b, axis, keepdims: b.sum(axis=axis, keepdims=keepdims)
        say(da.reduction(x, chunk=chunk, aggregate=last, dtype=f8))
        print(client.submit(fall, 3).result())
        try:
            x.map_blocks(needs(gpu=5)(where), dtype=float).compute()
        except NeedError as error:
            print(error)
"""


def test_functions_of_a_script_in_another_process_with_array_expressions(client, cluster):
    script = textwrap.dedent(SCRIPT)
    who = pickle.dumps((cluster.scheduler_address, cluster.security)).hex()
    done = subprocess.run(
        [sys.executable, "-c", script], input=who, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "100 100 100 100 100 100",
        "100 100 100 100 100 100",
        "100 100 100 100 100 100",
        "110 110 110 110 110 110",
        "100 100 100 100 100 100 1 1 1 1 1 1",
        "100 100 100 100 100 100",
        "600",
        "gpu",
        "'where' needs 5 GPUs; no pool of Test machine has that. "
        "The most that one worker has is 1 GPU, in pool 'gpu'.",
    ]
