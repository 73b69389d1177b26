"""The memory that a worker leaves behind, and what its nanny makes of it."""

import asyncio
import mmap
import os
import types

import pytest

from dask_site.faults import blackbox
from dask_site.faults.blackbox import BlackBox, Memo, NannyBox, read, wipe
from dask_site.faults.oom import OomKills, counters


@pytest.fixture
def memory():
    with mmap.mmap(-1, Memo.SIZE) as memory:
        yield memory


def test_keys_of_all_kinds_are_read_back(memory):
    memo = Memo(memory)
    keys = ["x-1", ("x", 0, 3), b"raw", ("nested", (1.5, "y")), 7]
    for key in keys:
        memo.begin(key)
    assert read(memory)[0] != []
    assert sorted(map(repr, read(memory)[0])) == sorted(map(repr, keys))
    assert read(memory)[1:] == (True, False)
    memo.end(("x", 0, 3))
    memo.end("never began")
    assert ("x", 0, 3) not in read(memory)[0]
    assert len(read(memory)[0]) == len(keys) - 1


def test_a_key_that_is_too_long_leaves_the_memo_incomplete_while_it_runs(memory):
    memo = Memo(memory)
    memo.begin("long" * 1000)
    memo.begin("short")
    assert read(memory) == (["short"], False, False)
    memo.end("long" * 1000)
    assert read(memory) == (["short"], True, False)


def test_more_tasks_than_there_is_room_for(memory):
    memo = Memo(memory)
    for number in range(1000):
        memo.begin(("x", number))
    keys, complete, _ = read(memory)
    assert 100 < len(keys) < 1000
    assert not complete
    for number in range(1000):
        memo.end(("x", number))
    memo.begin("y")
    assert read(memory)[0] == ["y"]


def test_torn_writing_is_no_error(memory):
    memo = Memo(memory)
    memo.begin("x")
    memory[260:264] = b"\xff\xff\xff\xff"
    assert read(memory) == ([], False, False)
    wipe(memory)
    assert read(memory) == ([], True, False)


def test_the_plugin_follows_what_runs(memory):
    state = types.SimpleNamespace(tasks={"x": "the task x"}, executing=set(), long_running=set())
    plugin = BlackBox(Memo(memory))
    plugin.setup(types.SimpleNamespace(state=state))

    plugin.transition("x", "waiting", "ready")
    assert read(memory)[0] == []
    state.executing.add("the task x")
    plugin.transition("x", "ready", "executing")
    assert read(memory)[0] == ["x"]
    plugin.transition("x", "executing", "released")
    assert read(memory)[0] == ["x"], "its thread still runs"
    state.long_running.add(state.executing.pop())
    plugin.transition("x", "executing", "long-running")
    plugin.transition("x", "cancelled", "waiting")
    assert read(memory)[0] == ["x"]
    state.long_running.clear()
    plugin.transition("x", "long-running", "memory")
    assert read(memory)[0] == []
    plugin.transition("x", "ready", "executing")
    state.tasks.clear()
    plugin.transition("x", "released", "forgotten")
    assert read(memory)[0] == []
    plugin.teardown(None)
    assert read(memory)[2]


def fake_nanny(**changes):
    told = []

    async def log_event(topic, msg):
        told.append((topic, msg))

    nanny = types.SimpleNamespace(
        env={},
        periodic_callbacks={},
        worker_address="tls://w:1",
        status=None,
        process=types.SimpleNamespace(pid=os.getpid()),
        memory_manager=types.SimpleNamespace(_last_terminated_pid=-1, memory_limit=2**30),
        scheduler=types.SimpleNamespace(log_event=log_event),
        ended=[],
        told=told,
    )
    nanny._on_worker_exit_sync = nanny.ended.append
    vars(nanny).update(changes)
    return nanny


def worker_side(nanny):
    """Return what the worker process would write to."""
    with open(nanny.env[blackbox.PATH], "r+b") as file:
        return mmap.mmap(file.fileno(), Memo.SIZE)


def test_a_nanny_reports_how_its_worker_ended():
    async def main():
        nanny = fake_nanny()
        box = NannyBox(nanny)
        box.attach()
        Memo(worker_side(nanny)).begin(("x", 1))
        box.sample()
        nanny._on_worker_exit_sync(-11)
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return nanny

    nanny = asyncio.run(main())
    assert nanny.ended == [-11], "distributed restarts the worker as ever"
    ((topic, report),) = nanny.told
    assert topic == blackbox.TOPIC
    assert report["executing"] == [("x", 1)]
    assert report["exit_code"] == -11
    assert report["worker"] == "tls://w:1"
    assert report["limit"] == 2**30
    assert 2**20 < report["peak"] < 2**40
    assert not (report["oom_kill"] or report["nanny_kill"] or report["closing"])


def test_the_next_worker_finds_the_box_empty():
    nanny = fake_nanny()
    box = NannyBox(nanny)
    box.attach()
    Memo(worker_side(nanny)).begin("x")
    assert box.report(-9)["executing"] == ["x"]
    assert box.report(-9)["executing"] == []


def test_a_worker_that_dies_before_its_nanny_knows_its_address():
    nanny = fake_nanny(worker_address="tls://of-the-one-before:1")
    box = NannyBox(nanny)
    box.attach()
    memo = Memo(worker_side(nanny))
    memo.sign("tls://[::1]:2")
    memo.begin("x")
    assert box.report(3)["worker"] == "tls://[::1]:2"
    assert box.report(3)["worker"] == "tls://of-the-one-before:1"


def test_the_nannys_own_kill_for_memory_is_told():
    nanny = fake_nanny()
    box = NannyBox(nanny)
    box.sample()
    assert not box.report(-15)["nanny_kill"]
    nanny.memory_manager._last_terminated_pid = os.getpid()
    assert box.report(-15)["nanny_kill"]


def test_a_kill_by_the_kernel_explains_one_death_of_several(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 1\noom_kill 3\noom_group_kill 0\n")
    kills = OomKills([counter])
    assert not kills.claim(), "what was before does not count"
    counter.write_text("low 0\noom 1\noom_kill 4\n")
    nannies = [NannyBox(fake_nanny()) for _ in range(3)]
    for box in nannies:
        box._kills = kills
    assert not nannies[0].report(-11)["oom_kill"], "the kernel kills with SIGKILL"
    assert nannies[1].report(-9)["oom_kill"]
    assert not nannies[2].report(-9)["oom_kill"]


def test_a_kill_of_long_ago_explains_nothing(tmp_path, monkeypatch):
    """It was a child of a task, whose worker lived on."""
    counter = tmp_path / "memory.oom_control"
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    kills = OomKills([counter])
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    kills.look(often=0)
    monkeypatch.setattr("dask_site.faults.oom._CLAIMABLE_SECONDS", 0.0)
    assert not kills.claim()


@pytest.mark.parametrize(
    ("cgroups", "files", "wanted"),
    [
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0",
            ["sys/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0/memory.events"],
            0,
        ),
        ("12:cpu:/\n4:memory:/slurm/job_7\n0::/", ["sys/memory/slurm/job_7/memory.oom_control"], 0),
        ("4:memory:/docker/abc\n", ["sys/memory/memory.oom_control", "proc/vmstat"], slice(None)),
        ("4:cpu,memory:/x\n0::/x", ["sys/unified/x/memory.events"], 0),
        ("0::/", ["proc/vmstat"], slice(None)),
        ("0::/", [], slice(None)),
    ],
)
def test_the_counter_of_both_kinds_of_control_groups(tmp_path, cgroups, files, wanted):
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("oom_kill_disable 0\noom_kill 0\n")
    found = counters(cgroups, str(tmp_path / "sys"), str(tmp_path / "proc"))
    assert found == (paths[wanted] if isinstance(wanted, slice) else [paths[wanted]])


def test_counters_that_vanish_are_no_error(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 0\n")
    kills = OomKills([counter])
    counter.unlink()
    assert not kills.claim()
    assert not OomKills([]).claim()


@pytest.mark.parametrize("server", [object(), types.SimpleNamespace(plugin_add=None)])
def test_the_box_never_fails_a_worker(server, monkeypatch):
    monkeypatch.setenv(blackbox.PATH, "/proc/1/nowhere")
    asyncio.run(blackbox.dask_setup(server))
    asyncio.run(blackbox.dask_teardown(server))


def test_a_scheduler_that_is_gone_is_no_error():
    async def gone(topic, msg):
        raise OSError("gone")

    async def main():
        nanny = fake_nanny(scheduler=types.SimpleNamespace(log_event=gone))
        box = NannyBox(nanny)
        box.attach()
        await blackbox.dask_teardown(nanny)
        nanny._on_worker_exit_sync(-9)
        await asyncio.sleep(0.01)
        return nanny.ended

    assert asyncio.run(main()) == [-9]


def test_a_nanny_that_is_told_to_end_says_so():
    nanny = fake_nanny()
    NannyBox(nanny).attach()
    asyncio.run(blackbox.dask_teardown(nanny))
    assert nanny.told == [(blackbox.TOPIC, {"worker": "tls://w:1", "how": "closing", "error": ""})]


def test_keys_that_no_message_can_hold_are_not_sent():
    np = pytest.importorskip("numpy")
    nanny = fake_nanny()
    box = NannyBox(nanny)
    box.attach()
    memo = Memo(worker_side(nanny))
    memo.begin(("x", np.float64(1)))
    memo.begin("y")
    report = box.report(1)
    assert report["executing"] == ["y"]
    assert not report["complete"]
