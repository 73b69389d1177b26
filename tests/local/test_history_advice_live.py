"""Advice on computations that ran: one that a rule is for, and one like it that it is not for.

They are recorded and asked about as users do. Where what is to be pasted is code, the second
computation is the first with that pasted. Thread-seconds are what counts where no resource manager
keeps books, so workers here have many threads. Rules on walltimes and queues have the rows of a
resource manager in `tests/unit/test_history_advice.py`: nothing else knows them. `serialising` is
there, too.
"""

import json
import os
import re
import signal
import time

import dask
import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, Event, LocalCluster, wait
from machine import until

from dask_site.cli import main
from dask_site.history.records import UsageRecord
from dask_site.history.spool import read_spool

SETTINGS = {
    "distributed.scheduler.preload": ["dask_site.history.preload"],
    "distributed.diagnostics.computations.nframes": 1,
    "distributed.worker.memory.terminate": False,
    "dask-site.history.interval": 1,
}
GIB = 2**30


@pytest.fixture
def advised(tmp_path):
    """Return what runs a computation on a cluster and yields the advice on it, by rule."""
    folder = tmp_path / "spool"

    def run(computation, **options):
        for path in folder.glob("*"):
            path.unlink()
        given = {"n_workers": 1, "threads_per_worker": 32, "processes": False, **options}
        with (
            dask.config.set({**SETTINGS, "dask-site.history.spool": str(folder)}),
            LocalCluster(**given, dashboard_address=":0", silence_logs=50) as cluster,
            Client(cluster) as client,
        ):
            computation(client)
            heard(cluster.scheduler)
        command = ["history", "advise", "-", "--json", "--spool", str(folder)]
        done = CliRunner().invoke(main, command, prog_name="dask-site")
        assert done.exit_code == 0, done.output
        return {advice["rule"]: advice for advice in json.loads(done.stdout)}

    return run


def heard(scheduler):
    """Wait until all workers have told what they did until now."""
    now = time.time()
    assert until(lambda: all(w.last_seen > now + 0.1 for w in scheduler.workers.values()))


def pasted(advice, **names):
    """Run what is to be pasted; return what there is then by name."""
    exec(advice["paste"], names)
    return names


def samples(folder):
    """Return the samples that are on file."""
    files = (folder / "spool").iterdir()
    records = [record for path in files for record, _ in read_spool(path)]
    return [record for record in records if isinstance(record, UsageRecord)]


def double(x):
    return 2 * x


def sleep(_number, seconds=3.0):
    time.sleep(seconds)


def test_short_tasks(advised):
    items = range(4000)

    def many(client):
        wait(client.map(double, items))

    advice = advised(many, threads_per_worker=128)["short tasks"]
    assert "'double'" in advice["evidence"][0]

    def batches(client):
        names = pasted(advice, client=client, function=double, items=items)
        assert names["results"] == [double(item) for item in items]
        assert len(names["futures"]) < 1000

    assert "short tasks" not in advised(batches, threads_per_worker=128)


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_small_chunks(advised):
    shape = 20_000, 1000

    def small(client):
        wait(da.random.random(shape, chunks=(5, 1000)).persist())

    found = advised(small, threads_per_worker=128)
    advice = found["small chunks"]
    assert "39.06 kiB" in advice["evidence"][0]
    assert "short tasks" not in found
    x = pasted(advice, x=da.ones(shape, chunks=(5, 1000)))["x"]
    assert x.npartitions < 1000

    def larger(client):
        wait(da.random.random(shape, chunks=x.chunks).persist())

    assert not {"small chunks", "short tasks"} & set(advised(larger, threads_per_worker=128))


@pytest.mark.slow
def test_large_chunks(advised, tmp_path):
    shape, chunks = (12 * 7680, 1024), (7680, 1024)
    options = {"processes": True, "threads_per_worker": 2, "memory_limit": 400 * 2**20}

    def spilling(chunks):
        x = da.random.random(shape, chunks=chunks).persist()
        wait(x)
        # What is on disk is let go with it.
        assert until(lambda: any(s.spilled >= 200 * 2**20 for s in samples(tmp_path)))

    advice = advised(lambda client: spilling(chunks), **options)["large chunks"]
    assert advice["nbytes"] >= 200 * 2**20
    x = pasted(advice, x=da.ones(shape, chunks=chunks))["x"]
    assert x.npartitions > 12

    assert "large chunks" not in advised(lambda client: spilling(x.chunks), **options)


def hold(mib):
    held = np.ones(mib * 2**17)
    time.sleep(3)
    return held[0]


@pytest.mark.slow
@pytest.mark.parametrize(("mib", "expected"), [(900, True), (200, False)])
def test_full_memory(advised, mib, expected):
    found = advised(lambda client: wait(client.submit(hold, mib)), processes=True, memory_limit=GIB)
    assert ("full memory" in found) is expected
    if expected:
        assert 'LocalCluster(memory_limit="2GiB")' in found["full memory"]["paste"]


@pytest.mark.parametrize(("mib", "expected"), [(1, True), (2000, False)])
def test_unused_memory(advised, mib, expected):
    def busy(client):
        wait([client.submit(hold, mib), *client.map(sleep, range(31))])

    found = advised(busy, memory_limit=4 * GIB)
    assert ("unused memory" in found) is expected
    if expected:
        names = pasted(found["unused memory"], LocalCluster=dict)
        assert re.fullmatch(r"[1-3]GiB", names["cluster"]["memory_limit"])


def spin(_number):
    """Compute without ever letting go of the lock; return from when to when, and the CPU time."""
    begun, before = time.monotonic(), time.thread_time()
    while time.monotonic() < begun + 6:
        pass
    return begun, time.monotonic(), time.thread_time() - before


@pytest.mark.slow
def test_threads_that_take_turns(advised):
    cores = []

    def spinning(client):
        begun, ended, cpu = zip(*client.gather(client.map(spin, range(16))), strict=True)
        cores.append(sum(cpu) / (max(ended) - min(begun)))

    for _ in range(3):
        found = advised(spinning, processes=True, threads_per_worker=16)
        if "threads" in found:
            break
    if "threads" not in found and max(cores) < 0.8:
        pytest.skip(f"this machine has no whole core for it: {cores}")
    names = pasted(found["threads"], LocalCluster=dict)
    assert names["cluster"] == {"processes": True, "n_workers": 16, "threads_per_worker": 1}

    def waiting(client):
        wait(client.map(sleep, range(32)))

    assert "threads" not in advised(waiting, threads_per_worker=16)


@pytest.mark.parametrize("expected", [True, False])
def test_a_straggler(advised, expected):
    def uneven(client):
        first = next(iter(client.scheduler_info(-1)["workers"]))
        wait(client.map(sleep, range(16), [8.0] * 16, workers=[first]))

    def even(client):
        wait(client.map(sleep, range(64)))

    found = advised(uneven if expected else even, n_workers=4, threads_per_worker=16)
    assert ("straggler" in found) is expected
    assert "few tasks" not in found


@pytest.mark.parametrize(("tasks", "expected"), [(2, True), (32, False)])
def test_few_tasks(advised, tasks, expected):
    found = advised(lambda client: wait(client.map(sleep, range(tasks))))
    assert ("few tasks" in found) is expected
    if expected:
        assert "cluster.adapt(maximum=1, " in found["few tasks"]["paste"]


def test_workers_that_are_held_for_nothing(advised):
    def idle(client):
        client.submit(double, 1).result()
        time.sleep(3)

    advice = advised(idle)["no work"]
    assert "longest stretch" in advice["evidence"][0]

    def given_back(client):
        pasted(advice, cluster=client.cluster)
        assert until(lambda: not client.cluster.scheduler.workers)

    advised(given_back)
    assert "no work" not in advised(lambda client: wait(client.map(sleep, range(32))))


def total(data, number, event):
    event.wait()
    return data.sum() + number


def test_a_large_graph(advised):
    big = np.ones(2**18)

    def carried(client, scattered=None):
        event = Event()
        data = [big] * 60 if scattered is None else [scattered] * 60
        futures = [client.submit(total, each, n, event) for n, each in enumerate(data)]
        time.sleep(2)
        event.set()
        assert client.gather(futures)[0] == 2**18

    advice = advised(carried)["large graph"]
    assert "60 tasks" in advice["evidence"][0]
    assert "large graph" not in advised(
        lambda client: carried(client, pasted(advice, client=client, big=big)["big"])
    )


def slowly(block):
    time.sleep(1)
    return block + 1


def slow_array():
    return da.ones(96, chunks=1).map_blocks(slowly, dtype=float)


def test_recomputation(advised, tmp_path):
    spool = tmp_path / "spool"

    def again(client):
        x = slow_array()
        x.sum().compute()
        # The recorder looks at times only, and seldom where the machine is busy.
        for _ in range(20):
            x.sum().compute()
            if any("compute again" in path.read_text() for path in spool.iterdir()):
                break

    advice = advised(again)["recomputation"]
    assert advice["core_seconds"] >= 90

    def kept(client):
        x = pasted(advice, x=slow_array())["x"]
        assert [x.sum().compute(), x.sum().compute()] == [192, 192]

    assert "recomputation" not in advised(kept)


def fail(number):
    raise ValueError(number)


@pytest.mark.parametrize(("tasks", "expected"), [(20, True), (3, False)])
def test_the_same_error(advised, tasks, expected):
    found = advised(lambda client: wait(client.map(fail, range(tasks))))
    assert ("same error" in found) is expected

    def one_of_them(client):
        with pytest.raises(ValueError, match="0"):
            pasted(found["same error"], client=client, function=fail, items=range(tasks))

    if expected:
        advised(one_of_them, processes=True, threads_per_worker=1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False])
def test_lost_work(advised, killed):
    def computation(client):
        futures = client.map(sleep, range(64), [5.0] * 64)
        first, state = next(iter(client.cluster.scheduler.workers.items()))
        assert until(lambda: sum(state.executing.values()) > 70)
        if killed:
            (pid,) = client.run(os.getpid, workers=[first]).values()
            os.kill(pid, signal.SIGKILL)
        else:
            client.retire_workers([first])
        assert until(lambda: first not in client.cluster.scheduler.workers)
        client.cancel(futures)

    found = advised(computation, n_workers=2, processes=True)
    assert ("lost work" in found) is killed
