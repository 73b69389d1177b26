"""What workers that have nothing get of others, on stand-ins for the scheduler and its workers."""

from types import SimpleNamespace as Some

import pytest

from dask_site.scaling.sharing import Sharing

MIB = 2**20


class Thing(Some):
    """Something that is told from others of its kind."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Stage:
    """Workers with one thread each: the first has tasks, the others nothing."""

    def __init__(self, tasks=100, others=1, size=0):
        self.moved = {}
        names = [f"w{n}" for n in range(1 + others)]
        self.workers = {
            name: Thing(
                address=name,
                nthreads=1,
                processing=set(),
                executing={},
                long_running=set(),
                memory_limit=100 * MIB,
                resources={"pool:cpu": 9},
            )
            for name in names
        }
        self.full, *self.idle = self.workers.values()
        for n in range(tasks):
            data = Thing(who_has={self.full}, get_nbytes=lambda: size)
            ts = Thing(key=n, priority=(0, n), dependencies={data}, actor=False)
            self.full.processing.add(ts)
        self.only = {}
        self.scheduler = Some(
            workers=self.workers,
            running=set(self.workers.values()),
            extensions={"stealing": Some(move_task_request=self.move)},
            total_nthreads=1 + others,
            bandwidth=10 * MIB,
            valid_workers=lambda ts: self.only.get(ts.key),
        )
        self.sharing = Sharing(self.scheduler)

    def move(self, ts, victim, thief):
        assert ts in victim.processing
        self.moved.setdefault(thief.address, []).append(ts.key)

    def look(self, seconds=60.0, times=2, addresses=None):
        self.moved = {}
        for _ in range(times):
            self.sharing.look(addresses or list(self.workers), seconds)
        return self.moved


@pytest.mark.parametrize("others", [1, 3])
def test_what_comes_last_is_shared_among_all_that_have_nothing(others):
    moved = Stage(others=others).look()
    each = 100 // (others + 1)
    assert {name: len(keys) for name, keys in moved.items()} == {
        f"w{n + 1}": each for n in range(others)
    }
    keys = sorted(key for keys in moved.values() for key in keys)
    assert keys == list(range(100 - others * each, 100))
    assert all(max(keys) - min(keys) == each - 1 for keys in moved.values()), "neighbours stay"


def test_only_who_has_nothing_for_longer_than_a_moment_gets_something():
    stage = Stage()
    assert not stage.look(times=1) and stage.look(times=1)
    assert not stage.look(times=1), "what was asked for is on its way"
    stage.idle[0].processing.add("a")
    assert not stage.look(times=3)
    stage.idle[0].processing.clear()
    assert not stage.look(times=1) and stage.look(times=1)


def test_only_who_is_asked_for_gets_something():
    assert set(Stage(others=2).look(addresses=["w0", "w2", "gone"])) == {"w2"}


@pytest.mark.parametrize(
    ("tasks", "seconds"), [(3, 60.0), (100, 9.9)], ids=["few tasks", "soon done"]
)
def test_little_is_not_worth_it(tasks, seconds):
    assert not Stage(tasks).look(seconds)


def test_whoever_wants_no_stealing_gets_none():
    stage = Stage()
    stage.scheduler.extensions.clear()
    assert not stage.look()


def test_what_may_not_run_there_stays():
    stage = Stage()
    stage.only = {99: set(), 98: {stage.full}, 97: set(stage.idle)}
    assert stage.look()["w1"] == list(range(97, 49, -1))


def test_no_more_than_is_soon_moved():
    stage = Stage(size=5 * MIB)
    assert stage.look()["w1"] == [99, 98, 97, 96], "20 MiB in 2 s, and as much of the memory"
    stage = Stage()
    shared = Thing(who_has={stage.full}, get_nbytes=lambda: 15 * MIB)
    for ts in stage.full.processing:
        ts.dependencies = {shared}
    assert len(stage.look()["w1"]) == 50, "it is moved once"


def test_at_most_some_hundreds_in_one_look():
    moved = Stage(tasks=10_000, others=3).look()
    assert [len(keys) for keys in moved.values()] == [83] * 3


def test_more_workers_than_may_move_tasks_in_one_look_get_one_each_in_turn():
    stage = Stage(tasks=10_000, others=300)
    assert [len(keys) for keys in stage.look(seconds=1e6).values()] == [1] * 250


def test_each_pool_shares_its_own():
    """Tasks with needs are never queued on the scheduler: all of them are on their workers."""
    stage = Stage(others=2)
    gpu = stage.idle.pop()
    gpu.resources = {"pool:gpu": 9}
    for n in range(100, 400):
        task = Thing(key=n, priority=(0, n), dependencies=set(), actor=False)
        gpu.processing.add(task)
        stage.only[n] = {gpu}
    assert stage.look() == {"w1": list(range(99, 49, -1))}


def test_what_has_begun_or_waits_for_its_own_tasks_stays():
    stage = Stage(tasks=20)
    tasks = sorted(stage.full.processing, key=lambda ts: ts.key)
    stage.full.executing = {tasks[19]: 3.0}
    stage.full.long_running = set(tasks[10:19])
    assert stage.look()["w1"] == [9, 8, 7, 6, 5]
    stage.full.long_running = set(tasks[2:19])
    assert not stage.look(times=3), "three are not many"


def test_who_may_run_none_of_it_takes_no_share():
    stage = Stage(others=2)
    stage.only = {n: {stage.full, stage.idle[0]} for n in range(100)}
    moved = stage.look()
    assert set(moved) == {"w1"} and len(moved["w1"]) == 50
