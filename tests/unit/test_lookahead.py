"""When waiting tasks will be ready."""

import pytest

from dask_site.placement.matching import Shape
from dask_site.scaling.lookahead import LATER, Look, Lookahead

CPU = Shape((), {"cpu": 1})


class Task:
    """What the scheduler knows of a task, as far as it is looked at."""

    resource_restrictions = None
    processing_on = None

    def __init__(self, seconds, *before):
        self.prefix = seconds
        self.waiting_on = set(before)


class Matcher:
    def shape(self, restrictions):
        return CPU


def look(threads=2, delay=0.0):
    return Lookahead(Matcher(), lambda prefix: prefix, lambda shape: (threads, delay))


def arrival(tasks, horizon=100.0, rest=0.0, **here):
    return look(**here).arrival(Look(dict.fromkeys(tasks), horizon, rest))


def test_behind_a_barrier_all_the_work_before_it_counts():
    barrier = Task(0.0, *[Task(1.0) for _ in range(40)])
    assert arrival([Task(5.0, barrier)]) == (20.0, 20.0)
    assert arrival([Task(5.0, barrier)], threads=10) == (4.0, 4.0)


def test_a_chain_takes_its_length_however_many_threads_there_are():
    chain = Task(3.0)
    for _ in range(4):
        chain = Task(3.0, chain)
    assert arrival([Task(1.0, chain)], threads=100) == (15.0, 15.0)


def test_one_after_the_other_is_ready_when_its_own_is_done():
    pairs = [Task(1.0, Task(2.0)) for _ in range(50)]
    first, last = arrival(pairs)
    assert first == 2.0
    assert last == 2.0


def test_the_last_of_those_that_come_one_by_one_waits_for_the_work_of_all():
    pairs = [Task(1.0, Task(2.0)) for _ in range(50)]
    assert arrival(pairs, rest=80.0) == (2.0, 50.0)
    assert arrival(pairs, rest=30.0) == (2.0, 30.0)


def test_what_all_of_them_wait_for_counts_once():
    barrier = Task(0.0, *[Task(1.0) for _ in range(40)])
    assert arrival([Task(5.0, barrier) for _ in range(50)], rest=80.0) == (20.0, 20.0)


def test_what_runs_already_counts_for_what_is_left_of_it():
    class Worker:
        def __init__(self, ran):
            self.executing = ran

    running = Task(10.0)
    running.processing_on = Worker({running: 7.0})
    assert arrival([Task(1.0, running)]) == (3.0, 3.0)


def test_beyond_the_horizon_it_does_not_look_further():
    barrier = Task(0.0, *[Task(10.0) for _ in range(400)])
    assert arrival([Task(5.0, barrier)], horizon=30.0) == (LATER, LATER)


def test_where_nothing_is_there_yet_its_wait_comes_on_top():
    assert arrival([Task(1.0, Task(2.0))], threads=1, delay=60.0) == (62.0, 62.0)


@pytest.mark.parametrize(("rest", "expected"), [(8.0, 8.0), (500.0, LATER)])
def test_a_graph_too_large_to_look_at_is_judged_by_the_work_that_is_left(rest, expected):
    barrier = Task(0.0, *[Task(1e-6) for _ in range(5000)])
    assert arrival([Task(5.0, barrier)], rest=rest)[0] == expected


class Many(set):
    """What a task waits for; counts what is looked at."""

    looked_at = 0

    def __iter__(self):
        for one in super().__iter__():
            Many.looked_at += 1
            yield one


def test_a_graph_too_large_to_look_at_is_judged_by_what_comes_before_where_that_is_known():
    barrier = Task(0.0, *[Task(1.0) for _ in range(3000)])
    looked = [
        look().arrival(Look(dict.fromkeys([barrier]), 100.0, 40.0, lambda _, known=known: known))
        for known in (0.5, 300.0, None)
    ]
    assert [first for first, _ in looked] == [0.5, LATER, 40.0]


def test_what_waits_for_very_much_costs_no_more_than_the_budget():
    wide = [Task(0.0) for _ in range(20)]
    inputs = [Task(1e-6) for _ in range(20_000)]
    for barrier in wide:
        barrier.waiting_on = Many(inputs)
    ahead = look()
    Many.looked_at = 0
    for barrier in wide:
        assert ahead.arrival(Look(dict.fromkeys([barrier]), 100.0, 8.0))[0] == 8.0
        behind = Task(1.0, barrier, Task(2.0))
        assert ahead.arrival(Look(dict.fromkeys([behind]), 100.0, 8.0))[0] == 8.0
    assert Many.looked_at <= 2000
    # Elsewhere it still looks.
    assert ahead.arrival(Look(dict.fromkeys([Task(1.0, Task(2.0))]), 100.0, 8.0))[0] == 2.0


def test_what_waits_for_thousands_leaves_what_may_be_looked_at_to_others():
    inputs = [Task(1e-6) for _ in range(5000)]
    sums = [Task(0.0, Task(0.0, *inputs)) for _ in range(8)]
    pairs = [Task(1.0, Task(2.0))]
    large = Task(5.0, Task(0.0, *[Task(0.01) for _ in range(1200)]))
    looks = [Look(dict.fromkeys(tasks), 100.0, 80.0) for tasks in (sums, [large], pairs)]
    ahead = look(threads=1)
    first, second, third = ahead.arrivals(looks)
    assert third == (2.0, 2.0), "though it is the last"
    assert first[0] == 80.0, "judged by the work that is left"
    assert second[0] == pytest.approx(12.0), "what nobody else needed was enough for it"
    assert look(threads=1).arrivals([]) == []


def test_a_second_look_that_would_see_less_changes_nothing():
    def two_behind(inputs):
        return [
            Task(1.0, Task(0.0, *[Task(0.0005) for _ in range(inputs)], Task(0.1 * n)))
            for n in (1, 2)
        ]

    looks = [Look(dict.fromkeys(two_behind(inputs)), 100.0, 500.0) for inputs in (700, 500)]
    first, second = look(threads=1).arrivals(looks)
    assert first[0] == pytest.approx(0.45) and second[0] == pytest.approx(0.35)
