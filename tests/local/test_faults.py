"""Workers that die, for real: what goes on, what moves, what is given up, and what users read."""

import contextlib
import glob
import importlib
import logging
import os
import re
import signal
import time

import pytest
from distributed import KilledWorker
from machine import SITE as MACHINE
from machine import until
from places import here, slow
from wreckage import fill, gulp, leave, mark_and_leave, run_as, segfault

from dask_site import Cluster, Site, pool
from dask_site.faults.errors import TaskCrashed, TaskOutOfMemory

SITE = {
    **MACHINE,
    "pools": {
        "cpu": {"cores": 1, "memory": "512MiB", "max_jobs": 4},
        "wide": {"cores": 2, "memory": "512MiB"},
        "pair": {"cores": 2, "memory": "1GiB", "processes": 2},
        "highmem": {"cores": 1, "memory": "1GiB"},
    },
}


@pytest.fixture
def wrecked(state_dir, caplog):
    """Return a function that makes a cluster with some workers and a client."""
    with contextlib.ExitStack() as stack:

        def make(changes=(), **workers):
            mapping = {**SITE, **dict(changes), "state_dir": str(state_dir)}
            cluster = stack.enter_context(Cluster(Site.from_mapping(mapping)))
            caplog.set_level(logging.WARNING, "dask_site")  # the cluster sets it for its time
            cluster.scale(**workers)
            cluster.wait_for_workers(timeout=120)
            return cluster, stack.enter_context(cluster.get_client())

        yield make


def causes(cluster):
    return [event.cause for event in cluster.scheduler.judge.events]


@pytest.mark.slow
def test_a_task_too_large_for_its_pool_finishes_on_the_next(wrecked, caplog):
    cluster, client = wrecked(cpu=1, highmem=1)
    with pool("cpu"):
        future = client.submit(fill, 600)
    assert future.result(timeout=60) == "highmem"
    (event,) = cluster.scheduler.judge.events
    assert (event.cause, event.pool, event.did) == ("memory", "cpu", "runs again on highmem")
    assert event.keys == (future.key,)
    restrictions = cluster.scheduler.tasks[future.key].resource_restrictions
    assert restrictions["pool:highmem"] == 1
    assert restrictions["MEMORY"] > 512 * 2**20
    (warning,) = [r.message for r in caplog.records if r.name == "dask_site"]
    assert "ran out of memory and was killed by its nanny" in warning
    assert "runs again on pool 'highmem' (1.00 GiB a worker)" in warning


@pytest.mark.slow
def test_a_kind_of_task_is_known_to_be_large(wrecked):
    cluster, client = wrecked(cpu=1, highmem=1)
    judge = cluster.scheduler.judge
    with pool("cpu"):
        futures = client.map(fill, [600, 610, 620])
    assert judge.need_of_prefix("fill") is None
    assert client.gather(futures) == ["highmem"] * 3
    assert causes(cluster) == ["memory"] * 3
    assert 512 * 2**20 < judge.need_of_prefix("fill") < 2**30


@pytest.mark.slow
def test_a_task_too_large_for_all_pools_is_given_up_with_its_story(wrecked):
    cluster, client = wrecked(cpu=1, highmem=1)
    future = client.submit(fill, 1200)
    with pytest.raises(TaskOutOfMemory) as caught:
        future.result(timeout=120)
    text = str(caught.value)
    assert "needs more memory than any worker has that it may run on" in text
    assert "highmem-0 (pool 'highmem', node" in text
    assert "The largest workers of Test machine are those of pool 'highmem', 1.00 GiB each" in text
    assert isinstance(caught.value, KilledWorker)
    assert len(cluster.scheduler.judge.events) <= 3


@pytest.mark.slow
def test_killed_workers_fail_no_task(wrecked, tmp_path):
    """With distributed's own judgement, most of these tasks fail."""
    cluster, client = wrecked(cpu=2)
    futures = client.map(run_as, range(40), folder=str(tmp_path))
    killed = set()
    deadline = time.monotonic() + 60
    while len(killed) < 5 and time.monotonic() < deadline:
        for path in glob.glob(f"{tmp_path}/*-*"):
            pid = int(path.rpartition("-")[2])
            if pid not in killed and len(killed) < 5:
                killed.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert len(killed) == 5
    assert client.gather(futures) == list(range(40))
    assert until(lambda: len(causes(cluster)) == 5)
    assert set(causes(cluster)) == {"unknown"}
    # Who was not executing lost nothing: of each worker, one task was.
    judge = cluster.scheduler.judge
    assert all(len(event.keys) <= 1 for event in judge.events)
    assert len(judge._ordeals) <= 5


@pytest.mark.parametrize(
    ("function", "arguments", "how"),
    [
        (segfault, (), r"died of signal 11 \(SIGSEGV\)"),
        pytest.param(leave, (3,), "ended with exit code 3", marks=pytest.mark.slow),
    ],
)
def test_a_task_that_crashes_is_given_up_and_its_neighbours_finish(
    wrecked, function, arguments, how
):
    cluster, client = wrecked(cpu=2)
    neighbours = client.map(slow, range(30), seconds=0.02)
    bad = client.submit(function, *arguments)
    more = client.map(slow, range(30, 60), seconds=0.02)
    with pytest.raises(TaskCrashed, match="it brought 3 workers down") as caught:
        bad.result(timeout=60)
    assert client.gather(neighbours + more) == list(range(60))
    text = str(caught.value)

    assert len(re.findall(rf"cpu-\d \(pool 'cpu', node \S+\) {how}", text)) == 3
    assert causes(cluster) == ["crash"] * 3
    assert {event.keys for event in cluster.scheduler.judge.events} == {(bad.key,)}


@pytest.mark.slow
def test_a_job_that_is_told_to_end_is_pardoned(wrecked, tmp_path):
    cluster, client = wrecked(cpu=2)
    futures = client.map(run_as, range(4), folder=str(tmp_path), seconds=1)
    assert until(lambda: len(glob.glob(f"{tmp_path}/*-*")) == 2)
    os.killpg(int(cluster.jobs[0].job_id), signal.SIGTERM)
    assert client.gather(futures) == list(range(4))
    assert causes(cluster) in (["pardon"], ["unknown"])
    assert not any(o.strikes for _, o in cluster.scheduler.judge._ordeals.values())


@pytest.mark.slow
def test_a_job_that_vanishes_takes_no_task_with_it(wrecked, tmp_path):
    """No nanny tells: the resource manager does."""
    cluster, client = wrecked(cpu=2)
    futures = client.map(run_as, range(4), folder=str(tmp_path), seconds=1)
    assert until(lambda: len(glob.glob(f"{tmp_path}/*-*")) == 2)
    begun = time.monotonic()
    os.killpg(int(cluster.jobs[0].job_id), signal.SIGKILL)
    assert client.gather(futures) == list(range(4))
    assert time.monotonic() - begun < 15
    assert causes(cluster) == ["unknown"]


@pytest.mark.slow
def test_of_two_threads_the_hungry_one_moves(wrecked):
    cluster, client = wrecked(wide=1, highmem=1)
    with pool("wide"):
        quiet = client.map(slow, range(3), seconds=1)
        hungry = client.submit(fill, 600)
    assert client.gather(quiet) == list(range(3))
    assert hungry.result(timeout=60) == "highmem"
    assert set(causes(cluster)) == {"memory"}
    tasks = cluster.scheduler.tasks
    assert all("pool:highmem" not in tasks[f.key].resource_restrictions for f in quiet)


@pytest.mark.slow
def test_of_two_threads_the_crashing_one_is_given_up(wrecked, tmp_path):
    _, client = wrecked(wide=1)
    with pool("wide"):
        quiet = client.map(slow, range(12), seconds=0.3)
        bad = client.submit(mark_and_leave, str(tmp_path), priority=1)
    with pytest.raises(TaskCrashed):
        bad.result(timeout=90)
    assert client.gather(quiet) == list(range(12))
    assert 3 <= len(os.listdir(tmp_path)) <= 6


@pytest.mark.slow
def test_of_two_workers_of_a_job_only_one_is_hurt(wrecked):
    cluster, client = wrecked(pair=2, highmem=1)
    with pool("pair"):
        quiet = client.submit(slow, 1, seconds=3)
        hungry = client.submit(fill, 600)
    assert hungry.result(timeout=60) == "highmem"
    assert quiet.result() == 1
    (event,) = cluster.scheduler.judge.events
    assert event.keys == (hungry.key,)


def test_a_task_that_is_cancelled_while_its_worker_is_judged(wrecked):
    cluster, client = wrecked(cpu=1)
    judge = cluster.scheduler.judge
    futures = client.map(leave, range(3), pure=False)
    assert until(lambda: judge.events)
    client.cancel(futures)
    assert client.submit(here).result(timeout=60) == "cpu"
    assert until(lambda: not judge.waiting)
    assert not cluster.scheduler._held


@pytest.mark.slow
def test_closing_while_tasks_are_held_takes_no_longer(wrecked, caplog):
    cluster, client = wrecked(cpu=1)
    future = client.submit(slow, 1, seconds=30)
    assert until(lambda: next(iter(cluster.scheduler.workers.values())).processing)
    os.killpg(int(cluster.jobs[0].job_id), signal.SIGKILL)
    assert until(lambda: cluster.scheduler.judge.waiting or causes(cluster))
    begun = time.monotonic()
    cluster.close()
    assert time.monotonic() - begun < 10
    assert future.status != "finished"
    assert "Traceback" not in caplog.text


@pytest.fixture
def memory_group():
    """A memory control group of 400 MiB that a job can be put in, as a resource manager does."""
    parent = "/sys/fs/cgroup/memory" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup"
    limit = "memory.limit_in_bytes" if parent.endswith("memory") else "memory.max"
    group = f"{parent}/dask-site-test-{os.getpid()}"
    try:
        os.mkdir(group)
        with open(f"{group}/{limit}", "w") as file:
            file.write(str(400 * 2**20))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.rmdir(group)
        pytest.skip(f"No control group can be made here: {error}")
    yield group
    until(lambda: _gone(group), 20)


def _gone(group):
    with contextlib.suppress(OSError):
        os.rmdir(group)
    return not os.path.exists(group)


@pytest.mark.slow
def test_a_kill_by_the_kernel_is_known_for_what_it_is(memory_group, wrecked):
    """Two workers share the group; the kernel kills the one that took too much, not its nanny."""
    pools = {
        **SITE["pools"],
        "pair": {**SITE["pools"]["pair"], "prologue": [f"echo $$ > {memory_group}/cgroup.procs"]},
    }
    cluster, client = wrecked({"pools": pools}, pair=2, highmem=1)
    with pool("pair"):
        quiet = client.submit(slow, 1, seconds=3)
        hungry = client.submit(gulp, 430)
    assert hungry.result(timeout=60) == "highmem"
    assert quiet.result() == 1
    (event,) = cluster.scheduler.judge.events
    assert event.how == "ran out of memory and was killed by the kernel"
    assert event.keys == (hungry.key,)


@pytest.mark.slow
def test_the_box_is_empty_after_a_death(wrecked):
    """What one worker executed at its end is not held against the next."""
    cluster, client = wrecked(cpu=1)
    bad = client.submit(leave, 7)
    with contextlib.suppress(TaskCrashed):
        bad.result(timeout=60)
    assert client.submit(here).result(timeout=60) == "cpu"
    (pid,) = client.run(os.getpid).values()
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: client.submit(here, pure=False).result() == "cpu")
    told = [event.keys for event in cluster.scheduler.judge.events]
    assert told[:3] == [(bad.key,)] * 3
    assert (bad.key,) not in told[3:]


@pytest.mark.slow
def test_a_task_of_a_module_that_workers_do_not_have_is_given_up_and_says_so(
    wrecked, tmp_path, monkeypatch
):
    """distributed closes a worker that can't read its task as if the connection were broken."""
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("only_here")
    _cluster, client = wrecked(cpu=1)
    far = client.submit(module.double, 1)
    assert until(lambda: far.status == "error", 120)
    said = str(far.exception())
    assert "No module named 'only_here'" in said
    assert "upload_file" in said
    assert "3 workers" in said or "4 workers" in said
    assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.slow
def test_a_task_longer_than_its_walltime_goes_where_it_may_take_longer(wrecked, caplog):
    pools = {name: dict(SITE["pools"][name]) for name in ("cpu", "highmem")}
    pools["cpu"]["walltime"] = "00:00:15"
    cluster, client = wrecked({"pools": pools}.items(), cpu=1)
    future = client.submit(run_here, 25, pure=False)
    assert until(cluster.scheduler.judge.troubles, 120)
    (told,) = [r for r in cluster.explain(future).reasons if "cut off 2 times" in r]
    assert told.endswith("It goes to pool 'highmem', which has no walltime.")
    assert future.result(timeout=120) == "highmem"
    assert [r.message for r in caplog.records if "cut off" in r.message] == [told]
    assert not cluster.scheduler.judge.troubles()


def run_here(seconds):
    time.sleep(seconds)
    return here()
