"""From work to workers."""

import math
import random

import pytest

from dask_site.placement.matching import Shape
from dask_site.scaling.plan import Limits, Work, plan

ORDINARY = Shape((), {"cpu": 2, "highmem": 2})
GPU = Shape((("GPU", 1),), {"gpu": 1})
BIG = Shape((("MEMORY", 2**33),), {"highmem": 1})
POOLS = {"cpu": Limits(0, 10), "highmem": Limits(0, 4), "gpu": Limits(0, 2)}


def workers(*work, horizon=10.0, pools=POOLS):
    return {name: n for name, n in plan(work, pools, horizon).items() if n}


def test_no_work_no_workers():
    assert workers() == {}


def test_one_short_task_gets_one_worker():
    assert workers(Work(ORDINARY, 1, 0.01)) == {"cpu": 1}


@pytest.mark.parametrize(
    ("tasks", "seconds", "count"),
    [(100, 20.0, 1), (100, 21.0, 2), (100, 100.0, 5), (3, 3000.0, 2), (1, 3600.0, 1)],
)
def test_as_many_as_do_it_in_time_and_no_more_than_have_a_task_each(tasks, seconds, count):
    assert workers(Work(ORDINARY, tasks, seconds)) == {"cpu": count}


def test_beyond_the_bound_of_the_cheapest_pool_the_next_one_helps():
    assert workers(Work(ORDINARY, 10_000, 240.0)) == {"cpu": 10, "highmem": 2}
    assert workers(Work(ORDINARY, 10_000, 24_000.0)) == {"cpu": 10, "highmem": 4}


def test_work_that_one_pool_can_do_does_not_go_beyond_its_bound():
    assert workers(Work(GPU, 1000, 1000.0)) == {"gpu": 2}


def test_what_is_there_for_others_takes_what_all_can_do():
    # 1 s of 10 s on the one highmem worker; it has two threads for ordinary tasks.
    assert workers(Work(BIG, 1, 1.0), Work(ORDINARY, 10, 10.0)) == {"highmem": 1}
    assert workers(Work(ORDINARY, 10, 10.0), Work(BIG, 1, 1.0)) == {"highmem": 1}
    assert workers(Work(BIG, 1, 9.0), Work(ORDINARY, 10, 10.0)) == {"highmem": 1, "cpu": 1}


def test_a_long_task_leaves_nothing_to_spare():
    assert workers(Work(BIG, 1, 100.0), Work(ORDINARY, 10, 10.0)) == {"highmem": 1, "cpu": 1}


def test_the_least_is_there_without_work_and_counts():
    pools = {**POOLS, "cpu": Limits(3, 10)}
    assert workers(pools=pools) == {"cpu": 3}
    assert workers(Work(ORDINARY, 100, 50.0), pools=pools) == {"cpu": 3}
    assert workers(Work(ORDINARY, 100, 80.0), pools=pools) == {"cpu": 4}


def test_a_pool_that_is_scaled_by_hand_is_left_out():
    pools = {name: POOLS[name] for name in ("cpu", "gpu")}
    assert workers(Work(BIG, 5, 5.0), pools=pools) == {}
    assert workers(Work(ORDINARY, 10_000, 24_000.0), pools=pools) == {"cpu": 10}


def test_many_kinds_of_small_work_share_one_worker():
    kinds = [Work(ORDINARY, 5, 0.5) for _ in range(20)]
    assert workers(*kinds) == {"cpu": 1}


def _random(rng):
    names = [f"p{n}" for n in range(rng.randint(1, 6))]
    pools = {}
    for name in names:
        least = rng.choice([0, 0, 1, 3])
        pools[name] = Limits(least, least + rng.choice([0, 1, 5, 100]))
    work = []
    for n in range(rng.randint(1, 8)):
        hosts = rng.sample(names, rng.randint(1, len(names)))
        shape = Shape((("X", n),), {name: rng.randint(1, 8) for name in hosts})
        tasks = rng.choice([0.3, 1, 2, 7, 50, 1000])
        work.append(Work(shape, tasks, tasks * 10 ** rng.uniform(-6, 5)))
    return work, pools, 10 ** rng.uniform(-1, 3)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_work_bounds_hold_and_nobody_is_forgotten_or_idle(seed):
    work, pools, horizon = _random(random.Random(seed))
    planned = plan(work, pools, horizon)
    for name, limits in pools.items():
        assert limits.least <= planned[name] <= limits.most
    added = sum(planned[name] - limits.least for name, limits in pools.items())
    assert added <= sum(math.ceil(item.tasks) for item in work)
    for item in work:
        can = [name for name in item.shape.slots if pools[name].most > 0]
        assert not can or any(planned[name] for name in can)
    more = [Work(item.shape, 3 * item.tasks, 3 * item.seconds) for item in work]
    assert sum(plan(more, pools, horizon).values()) >= sum(planned.values())
