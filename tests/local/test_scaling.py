"""Pools that follow the work, on real local processes."""

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from distributed import Client, wait
from machine import SITE, until
from places import count, here, slow, span

from dask_site import Cluster, NeedError, Site, needs, pool
from dask_site.cluster.errors import PoolError
from dask_site.scaling import paused
from dask_site.scaling.ancestry import Ancestry


class ByHand:
    """A cluster with one cpu worker, whose controller looks when it is told to, and only asks."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.asked = Counter()
        cluster.adapt(cpu=(1, 2))
        cluster.wait_for_workers(cpu=1, timeout=60)
        cluster._controller.stop()
        (self.job,) = cluster._fleet.records
        cluster._fleet.submit = lambda pool, jobs: self.asked.update({pool.name: jobs})

    def ends_in(self, seconds, walltime=60):
        self.job.walltime = timedelta(seconds=walltime)
        self.job.deadline = datetime.now(UTC) + timedelta(seconds=seconds)

    def look(self):
        self.cluster.sync(_tick, self.cluster._controller)

    def states(self):
        return Counter(ts.state for ts in self.cluster.scheduler.tasks.values())


async def _tick(controller):
    controller.tick()


@pytest.fixture
def by_hand(make):
    return lambda **pools: ByHand(make(**pools))


@pytest.fixture
def make(state_dir):
    """Start a cluster on a changed site: ``make(gpu={"max_jobs": 2})``."""
    started = []

    def cluster(**pools):
        changed = {name: {**SITE["pools"][name], **pools.get(name, {})} for name in SITE["pools"]}
        site = Site.from_mapping({**SITE, "pools": changed, "state_dir": str(state_dir)})
        new = Cluster(site)
        started.append(new)
        return new

    yield cluster
    for one in started:
        one.close()


def jobs_by_pool(cluster):
    return {name: sum(j.pool == name for j in cluster.jobs) for name in cluster.pools}


def workers(cluster):
    return {
        name: sum(len(j.workers) for j in cluster.jobs if j.pool == name) for name in SITE["pools"]
    }


def sleepy(x, seconds=0.2):
    time.sleep(seconds)
    return here()


on_gpu = needs(gpu=1)(sleepy)
in_much_memory = needs(memory="700MiB")(sleepy)


def test_workers_that_the_work_demands_can_be_waited_for_at_once(make):
    cluster = make()
    cluster.adapt()
    with cluster.get_client() as client:
        lit = client.submit(on_gpu, 1, pure=False)
        cluster.wait_for_workers(gpu=1, timeout=60)
        with pytest.raises(PoolError, match=r"has, or has asked for, \d workers"):
            cluster.wait_for_workers(gpu=4, timeout=60)
        assert lit.result() == "gpu"


@pytest.mark.slow
def test_workers_that_come_get_work_though_all_inputs_are_elsewhere(make, tmp_path):
    """Work stealing alone would bring them one of many short tasks every tenth of a second."""
    cluster = make()
    cluster.adapt(cpu=1, highmem=0, target_duration=5, idle=1)
    ran = tmp_path / "ran"

    def smooth(block, n):
        time.sleep(0.05)
        with open(ran, "a") as file:
            file.write(f"{os.getpid()}\n")
        return block + n

    with cluster.get_client() as client:
        tiles = da.zeros((100, 100), chunks=20).persist()
        wait(tiles)
        cluster.adapt(cpu=2)
        several = [tiles.map_overlap(smooth, depth=1 + n % 18, n=n) for n in range(36)]
        wait(client.persist(several))
    shares = Counter(ran.read_text().split())
    del shares[str(os.getpid())]  # where dask finds out what comes of it
    assert shares.total() == 900 and len(shares) == 2 and min(shares.values()) > 200, shares


def test_layers_of_a_graph_know_what_comes_before_them(make):
    """Without a worker, so that nothing has begun; each task is taken to last for half a second."""
    cluster = make()
    cluster._controller.stop()
    scheduler = cluster.scheduler
    with cluster.get_client() as client:
        base = da.zeros((60, 10), chunks=10).map_blocks(sleepy, dtype=int, name="base")
        lit = base.map_blocks(on_gpu, dtype=int, name="lit")
        top = lit.max(split_every=100)
        below = base.map_blocks(slow, 0, dtype=int, name="below")
        with dask.config.set({"optimization.fuse.active": False}):
            work = client.persist([top, below], optimize_graph=False)
        assert until(lambda: len(scheduler.tasks) > 24)

        async def before():
            ancestry = Ancestry(
                scheduler.demand.cells(), scheduler.seconds_of, lambda _, seconds: seconds
            )
            return {key: ancestry.seconds_before(ts) for key, ts in scheduler.tasks.items()}

        found = cluster.sync(before)
        zeros = found["base", 0, 0]
        assert found["lit", 3, 0] == found["below", 5, 0] == zeros + 6 * 0.5
        assert found[top.__dask_keys__()[0]] > zeros + 12 * 0.5
        client.cancel(work)


def test_dearer_pools_get_what_is_too_much_for_cheaper_ones_after_a_while(by_hand):
    one = by_hand()
    with one.cluster.get_client() as client:
        work = client.map(sleepy, range(1000))
        assert until(lambda: sum(one.states().values()) > 999)
        one.look()
        one.look()
        assert one.asked["highmem"] == 0
        one.look()
        assert one.asked["highmem"] > 0
        client.cancel(work)


@pytest.mark.slow
def test_workers_that_no_work_reaches_go_again(make):
    cluster = make(cpu={"max_jobs": 3})
    cluster.adapt(target_duration=5, idle=1)
    with cluster.get_client() as client:
        first = client.submit(here, pure=False)
        wait(first)
        (where,) = client.who_has(first)[first.key]
        futures = client.map(slow, range(2000), [0.02] * 2000, pure=False, workers=[where])
        assert until(lambda: workers(cluster)["cpu"] > 1, 60)
        assert until(lambda: workers(cluster)["cpu"] == 1, 60)
        assert sum(not f.done() for f in futures) > 300, "long before the end"
        assert client.gather(futures) == list(range(2000))


@pytest.mark.slow
def test_a_dear_worker_goes_when_its_own_work_is_done_whatever_cheap_ones_have(make):
    cluster = make(cpu={"max_jobs": 1})
    cluster.adapt(target_duration=60, idle=1)
    with cluster.get_client() as client:
        busy = client.map(sleepy, range(300), pure=False)
        own = client.submit(in_much_memory, 1, pure=False)
        assert own.result() == "highmem"
        assert until(lambda: workers(cluster)["highmem"] == 0, 20)
        assert sum(not f.done() for f in busy) > 100, "long before the end"


@pytest.mark.slow
def test_drops_for_a_dearer_pool_gather_until_they_are_worth_a_job(make):
    cluster = make()
    cluster.adapt(target_duration=30)
    known = {"distributed.scheduler.default-task-durations": {"here": "10 ms"}}
    with cluster.get_client() as client, dask.config.set(known):
        first = [dask.delayed(sleepy, pure=False)(i, 1.0) for i in range(80)]
        second = [dask.delayed(needs(gpu=1)(here), pure=False)(x) for x in first]
        futures = client.compute(second)
        assert until(lambda: any("gathers until" in r for r in cluster.explain().reasons), 60)
        assert not jobs_by_pool(cluster)["gpu"]
        assert set(client.gather(futures)) == {"gpu"}
        assert jobs_by_pool(cluster)["gpu"] == 1


@pytest.mark.slow
def test_pools_come_when_their_work_does_and_go_when_it_is_done(make):
    cluster = make()
    cluster.adapt(target_duration=3)
    with cluster.get_client() as client:
        first = [dask.delayed(sleepy, pure=False)(i) for i in range(16)]
        second = [dask.delayed(on_gpu, pure=False)(x) for x in first[:6]]
        last = dask.delayed(in_much_memory, pure=False)(second)
        futures = client.compute([*first, *second, last])
        results = client.gather(futures)
        assert "gpu" not in results[:16]
        assert set(results[16:22]) == {"gpu"}
        assert results[22] == "highmem"
        asked = jobs_by_pool(cluster)
        assert 1 <= asked["cpu"] <= 4
        # Two workers a job: no more jobs than the work and the GPUs make sense of.
        assert asked["gpu"] <= 3
        assert asked["highmem"] <= 2
        del futures
        assert until(lambda: {j.state for j in cluster.jobs} == {"ended"})


def test_nothing_is_asked_for_without_work(make):
    cluster = make()
    time.sleep(2.5)
    assert list(cluster.jobs) == []


@pytest.mark.slow
def test_what_idle_workers_hold_is_never_lost(make, tmp_path):
    cluster = make()
    cluster.adapt(target_duration=1, idle=1)
    with cluster.get_client() as client:
        futures = client.map(count, range(12), folder=str(tmp_path))
        client.gather(futures)
        with pool("gpu"):
            block = client.submit(np.ones, 1_000_000, pure=False)
        client.gather(block)
        # One worker is left, the cheapest, with everything.
        last = {"cpu": 1, "highmem": 0, "gpu": 0}
        assert until(lambda: workers(cluster) == last)
        time.sleep(3)
        assert workers(cluster) == last
        assert client.gather(futures) == list(range(12))
        assert block.result().sum() == 1_000_000
        assert len(os.listdir(tmp_path)) == 12, "nothing was computed twice"
        del futures, block
        assert until(lambda: not any(workers(cluster).values()))


@pytest.mark.slow
def test_a_cheap_worker_comes_to_take_what_a_dear_one_holds(make):
    cluster = make()
    cluster.adapt(idle=1)
    with cluster.get_client() as client:
        block = client.submit(needs(gpu=1)(np.ones), 1_000_000, pure=False)
        assert until(lambda: workers(cluster) == {"cpu": 1, "highmem": 0, "gpu": 0})
        assert block.result().sum() == 1_000_000
        assert jobs_by_pool(cluster) == {"cpu": 1, "highmem": 0, "gpu": 1}


@pytest.mark.slow
def test_bounds_hold_and_the_least_stays(make):
    cluster = make()
    cluster.adapt(cpu=(1, 2), highmem=0, gpu=0, target_duration=0.1, idle=1)
    with cluster.get_client() as client:
        cluster.wait_for_workers(cpu=1, timeout=60)
        futures = client.map(slow, range(100), seconds=0.05, pure=False)
        client.gather(futures)
        assert jobs_by_pool(cluster) == {"cpu": 2, "highmem": 0, "gpu": 0}
        del futures
        assert until(lambda: workers(cluster)["cpu"] == 1)
        time.sleep(2)
        assert workers(cluster)["cpu"] == 1


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"cpus": 3}, r"has no pool 'cpus'.*Did you mean 'cpu'"),
        ({"cpu": -1}, r"adapt\(cpu=-1\): the most workers"),
        ({"cpu": (3, 1)}, "the least is more than the most"),
        ({"cpu": 99}, "the site allows 4 workers"),
        ({"maximum": 99}, "the site allows 4 workers"),
        ({"cpu": "2"}, "the most workers"),
        ({"backlog": 0}, "a number of jobs"),
        ({"target_duration": "soon"}, 'a time such as "2 min"'),
        ({"idle": -3}, 'a time such as "2 min"'),
    ],
)
def test_bounds_that_are_none_are_named(cluster, bounds, message):
    with pytest.raises(ValueError, match=message):
        cluster.adapt(**bounds)


@pytest.mark.slow
def test_a_pool_whose_jobs_fail_is_paused_with_the_reason_and_goes_on_when_told(
    make, tmp_path, caplog
):
    mended = tmp_path / "mended"
    cluster = make(gpu={"prologue": [f"test -e {mended} || {{ echo no licence >&2; exit 3; }}"]})
    with cluster.get_client() as client, caplog.at_level(logging.WARNING, "dask_site"):
        future = client.submit(on_gpu, 1, pure=False)
        assert until(lambda: "Pool 'gpu' is paused" in caplog.text)
        assert jobs_by_pool(cluster)["gpu"] == 3
        explained = repr(cluster.explain())
        assert "no licence" in explained
        assert "cluster.resume('gpu')" in explained
        with pytest.raises(PoolError, match="no licence"):
            cluster.wait_for_workers(gpu=2)
        time.sleep(2)
        assert jobs_by_pool(cluster)["gpu"] == 3
        # The others go on.
        assert client.submit(sleepy, 1, pure=False).result() in {"cpu", "highmem"}
        mended.touch()
        cluster.resume("gpu")
        assert future.result(timeout=60) == "gpu"


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_lost_job_is_replaced(make, by_hand):
    cluster = make()
    if by_hand:
        cluster.scale(highmem=1)
    with cluster.get_client() as client, pool("highmem"):
        futures = client.map(slow, range(30), seconds=0.3, pure=False)
        assert until(lambda: workers(cluster)["highmem"] == 1)
        (job,) = [j for j in cluster.jobs if j.pool == "highmem"]
        os.killpg(int(job.job_id), signal.SIGKILL)
        assert client.gather(futures) == list(range(30))
        assert jobs_by_pool(cluster)["highmem"] == 2


@pytest.mark.slow
def test_a_job_that_hangs_before_its_worker_starts_is_replaced(make, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dask_site.cluster.fleet._LATE", 4.0)
    monkeypatch.setattr("dask_site.cluster.fleet._GIVEN_UP", 1000)
    cluster = make(cpu={"prologue": [f"mkdir {tmp_path}/first 2>/dev/null && sleep 600"]})
    with caplog.at_level(logging.WARNING, "dask_site"):
        cluster.scale(cpu=1)
        cluster.wait_for_workers(cpu=1, timeout=60)
    assert caplog.text.count("without a worker, so another one is asked for") >= 1
    assert len(cluster.jobs) > 1
    cluster.scale(cpu=0)
    assert until(lambda: {job.state for job in cluster.jobs} == {"ended"})


@pytest.mark.slow
def test_jobs_are_replaced_before_their_walltime_and_nothing_is_computed_twice(make, tmp_path):
    cluster = make(cpu={"walltime": "00:00:25", "max_jobs": 2})
    cluster.adapt(cpu=2, highmem=0, gpu=0)
    cluster.adapt(target_duration=5, idle=1, cpu=2, highmem=0, gpu=0)
    with cluster.get_client() as client, pool("cpu"):

        def timed(i, folder):
            time.sleep(1)
            return count(i, folder)

        futures = client.map(timed, range(60), folder=str(tmp_path))
        assert sorted(client.gather(futures)) == list(range(60))
        assert jobs_by_pool(cluster)["cpu"] >= 3
        lived = [
            (j.finished - j.started).total_seconds() for j in cluster.jobs if j.finished is not None
        ]
        assert lived
        assert max(lived) < 27, "none was still there at its walltime"
        assert len(os.listdir(tmp_path)) == 60, "nothing was computed twice"


@pytest.mark.slow
def test_a_long_task_elsewhere_keeps_no_queued_task_waiting(by_hand):
    known = {"distributed.scheduler.default-task-durations": {"sleepy": "1h"}}
    stage = by_hand()
    with stage.cluster.get_client() as client, dask.config.set(known):
        lit = client.submit(on_gpu, 1, pure=False)
        assert until(lambda: stage.states()["no-worker"] == 1)
        stage.ends_in(40)
        stage.look()
        wait(client.map(slow, range(20), seconds=0, pure=False), timeout=60)
        assert not lit.done()


@pytest.mark.slow
def test_queued_tasks_go_on_once_their_workers_last_long_enough(by_hand):
    known = {"distributed.scheduler.default-task-durations": {"slow": "1h"}}
    stage = by_hand()
    stage.ends_in(40)
    with stage.cluster.get_client() as client, dask.config.set(known):
        futures = client.map(slow, range(20), seconds=0.3, pure=False)
        assert until(lambda: stage.states()["queued"])
        stage.look()
        assert until(lambda: not stage.states()["processing"])
        assert stage.states()["queued"]
        stage.ends_in(3600, walltime=3600)
        stage.look()
        wait(futures, timeout=60)


@pytest.mark.slow
def test_no_task_begins_that_its_worker_can_not_finish_not_even_the_first(by_hand):
    known = {"distributed.scheduler.default-task-durations": {"slow": "40 s", "span": "40 s"}}
    stage = by_hand()
    stage.ends_in(30)
    stage.look()
    with stage.cluster.get_client() as client, dask.config.set(known):
        one = client.submit(slow, 1, seconds=0)
        assert until(lambda: stage.states() == {"no-worker": 1})
        many = client.map(span, range(10), seconds=0)
        assert until(lambda: stage.states() == {"no-worker": 1, "queued": 10})
        time.sleep(0.5)
        assert not any(future.done() for future in (one, *many))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["end", "duration"])
def test_a_task_too_long_for_the_worker_that_is_there_gets_another_or_this_one(by_hand, by):
    known = {"distributed.scheduler.default-task-durations": {"slow": "40 s"}}
    stage = by_hand()
    stage.ends_in(30)
    stage.look()
    with stage.cluster.get_client() as client, dask.config.set(known):
        one = client.submit(slow, 1, seconds=0)
        assert until(lambda: stage.states() == {"no-worker": 1})
        stage.look()
        assert stage.asked == {"cpu": 1}
        if by == "end":
            stage.ends_in(3600, walltime=3600)
        else:
            stage.cluster.scheduler.task_prefixes["slow"].duration_average = 0.1
        stage.look()
        wait(one, timeout=60)
        stage.look()
        assert stage.asked == {"cpu": 1}


@pytest.mark.slow
def test_another_worker_comes_for_what_a_paused_one_does_not_begin(by_hand, monkeypatch):
    monkeypatch.setattr(paused, "_PATIENCE", 0.5)
    stage = by_hand()
    scheduler = stage.cluster.scheduler
    with stage.cluster.get_client() as client:
        with pool("cpu"):
            futures = client.map(slow, range(4), seconds=3, pure=False)
        assert until(lambda: stage.states()["processing"] == 4)
        client.run(_pause_above, 0.01)
        assert until(lambda: not scheduler.running)
        stage.look()
        assert not stage.asked
        time.sleep(1)
        stage.look()
        assert until(lambda: stage.states()["no-worker"] >= 2)
        assert stage.asked == {"cpu": 1}
        assert any("1 worker of pool 'cpu' is paused" in r for r in stage.cluster.explain().reasons)
        client.run(_pause_above, 0.9)
        wait(futures, timeout=60)


def _pause_above(share, dask_worker):
    dask_worker.memory_manager.memory_pause_fraction = share


@pytest.mark.slow
def test_work_ahead_is_prepared_while_the_work_before_it_runs(make):
    cluster = make()
    with cluster.get_client() as client:
        before = [dask.delayed(sleepy, pure=False)(i, 0.4) for i in range(30)]
        barrier = dask.delayed(len)(before)
        after = [dask.delayed(on_gpu, pure=False)(barrier) for _ in range(4)]
        done = client.compute(barrier)
        futures = client.compute(after)
        done.result()
        assert workers(cluster)["gpu"], "its workers were there when the barrier fell"
        assert set(client.gather(futures)) == {"gpu"}


def test_what_no_pool_has_is_refused_at_submission(cluster, client):
    future = client.submit(needs(gpu=3)(here))
    with pytest.raises(NeedError, match=r"needs 3 GPUs.*most.*1 GPU.*'gpu'"):
        future.result(timeout=10)


@pytest.mark.slow
def test_inputs_that_do_not_fit_go_where_there_is_room_before_they_fail(make):
    cluster = make()
    cluster.scale(cpu=2, highmem=1)
    cluster.wait_for_workers(timeout=60)
    with cluster.get_client() as client:
        with pool("cpu"):
            parts = client.map(np.ones, [11 * 2**20] * 6, dtype="u8", pure=False)  # 88 MiB each
        where = client.submit(lambda parts: (len(parts), here()), parts)
        assert where.result() == (6, "highmem")
        assert not cluster.scheduler.judge.events


@pytest.mark.slow
def test_one_pool_and_no_needs_is_plain_dask(state_dir):
    site = {
        "schema": 1,
        "name": "One",
        "resource_manager": "local",
        "state_dir": str(state_dir),
        "pools": {"work": {"cores": 2, "memory": "1GiB", "max_jobs": 1}},
    }
    with Cluster(site) as cluster, cluster.get_client() as client:
        futures = client.map(slow, range(200), seconds=0.01, pure=False)
        assert client.gather(futures) == list(range(200))
        assert cluster.scheduler.tasks
        assert all(not ts.resource_restrictions for ts in cluster.scheduler.tasks.values())
        assert len(cluster.jobs) == 1


def test_counting_is_exact(client, cluster):
    """The counters equal a scan of all tasks, after all sorts of changes."""
    futures = client.map(slow, range(50), seconds=0.02, pure=False)
    more = [client.submit(slow, f, seconds=0.01, pure=False) for f in futures]
    with pool("gpu"):
        more += client.map(slow, range(20), seconds=0.02, pure=False)
    for _ in range(5):
        time.sleep(0.1)
        cluster.sync(_counters_are_right, cluster.scheduler)
    client.cancel(more[:10])
    client.gather(more[10:])
    del futures, more
    assert until(lambda: not list(cluster.scheduler.demand.cells()))


@pytest.mark.slow
def test_what_runs_is_not_ready_as_well(client, cluster):
    with pool("gpu"):
        futures = client.map(slow, range(4), seconds=2, pure=False)

    def seen():
        latest = cluster._controller.history[-1].pools["gpu"]
        return latest.running, latest.ready

    assert until(lambda: seen() == (2, 2), 10)
    client.gather(futures)


async def _counters_are_right(scheduler):
    states = ("waiting", "queued", "no-worker", "processing")
    scanned = dict.fromkeys(states, 0)
    for ts in scheduler.tasks.values():
        if ts.state in scanned:
            scanned[ts.state] += 1
    cells = list(scheduler.demand.cells())
    assert {s: sum(c.count[s] for c in cells) for s in states} == scanned
    assert sum(len(c.waiting) for c in cells) == scanned["waiting"]


@pytest.mark.slow
def test_no_process_of_a_job_stays(make):
    cluster = make()
    with cluster.get_client() as client:
        assert client.submit(sleepy, 1, pure=False).result() in {"cpu", "highmem"}
    before = {int(j.job_id) for j in cluster.jobs}
    cluster.close()
    assert not any(psutil.pid_exists(pid) for pid in before)


@pytest.mark.slow
def test_a_trickle_of_short_tasks_keeps_its_worker_and_no_more(make):
    cluster = make()
    cluster.adapt(idle=2)
    with cluster.get_client() as client:
        client.gather(client.map(slow, range(4), seconds=0.1, pure=False))
        for i in range(20):
            client.submit(slow, i, seconds=0.02, pure=False).result()
            time.sleep(0.4)
        assert jobs_by_pool(cluster) == {"cpu": 1, "highmem": 0, "gpu": 0}
        assert until(lambda: not any(workers(cluster).values()), seconds=10)


@pytest.mark.slow
def test_workers_that_are_there_by_hand_take_what_they_can(make):
    cluster = make()
    cluster.scale(highmem=1)
    cluster.wait_for_workers(timeout=60)
    with cluster.get_client() as client:
        client.gather(client.map(slow, range(20), seconds=0.1, pure=False))
        time.sleep(1.5)
    assert jobs_by_pool(cluster) == {"cpu": 0, "highmem": 1, "gpu": 0}


@pytest.mark.slow
def test_work_of_a_pool_that_is_paused_goes_on_where_it_can(make):
    cluster = make(cpu={"prologue": ["exit 3"]})
    with cluster.get_client() as client:
        assert client.submit(sleepy, 1, pure=False).result(timeout=60) == "highmem"
        assert jobs_by_pool(cluster)["cpu"] == 3


@pytest.mark.slow
def test_a_worker_comes_for_data_that_a_client_scatters(make):
    cluster = make()
    with cluster.get_client() as client:
        data = client.scatter([1, 2, 3])
        assert client.gather(data) == [1, 2, 3]
        assert jobs_by_pool(cluster) == {"cpu": 1, "highmem": 0, "gpu": 0}


@pytest.mark.slow
def test_a_user_s_bound_of_none_holds_for_what_dear_workers_hold_too(make):
    cluster = make()
    cluster.adapt(cpu=0, highmem=0, gpu=2, idle=1)
    with cluster.get_client() as client:
        block = client.submit(needs(gpu=1)(np.ones), 1_000_000, pure=False)
        assert block.result().sum() == 1_000_000
        time.sleep(4)
        assert jobs_by_pool(cluster) == {"cpu": 0, "highmem": 0, "gpu": 1}


@pytest.mark.slow
def test_bounds_and_places_hold_at_once_in_coroutines(site):
    async def main():
        async with Cluster(site, asynchronous=True) as cluster:
            assert cluster.adapt(cpu=(0, 1), highmem=0, target_duration=1) is None
            cluster.place({"sleepy*": "gpu"})
            cluster.resume("cpu")
            async with Client(cluster, asynchronous=True) as client:
                assert await client.submit(sleepy, 1, pure=False) == "gpu"
                await client.gather(client.map(slow, range(40), seconds=0.1, pure=False))
            assert jobs_by_pool(cluster) == {"cpu": 1, "highmem": 0, "gpu": 1}

    asyncio.run(main())


@pytest.mark.slow
def test_who_may_run_elsewhere_does_when_the_worker_that_was_named_is_gone(make):
    cluster = make()
    gone = {"workers": ["tls://127.0.0.1:1"], "allow_other_workers": True, "pure": False}
    with cluster.get_client() as client:
        assert client.submit(sleepy, 1, **gone).result(timeout=60) == "cpu"
        # The worker of the cpu pool is there, but has no GPU.
        assert client.submit(on_gpu, 1, **gone).result(timeout=60) == "gpu"
