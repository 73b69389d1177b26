"""Busy workers take root tasks that dearer pools wait for, a few at a time."""

from types import SimpleNamespace

import pytest

from dask_site.cluster.feeding import Feeding


def anyone(_):
    return True


class Worker(SimpleNamespace):
    """As much of a worker as is looked at."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __init__(self, backlog, nthreads=1):
        super().__init__(processing=set(range(backlog)), long_running=set(), nthreads=nthreads)


def hand_out(feeding, allowed=anyone):
    """Hand out tasks while there is room; return the workers that took them."""
    took = []
    while (ws := feeding.taker(allowed)) is not None:
        took.append(ws)
        feeding.took(Task(ws), ws)
    return took


class Task:
    """A task that a worker has."""

    def __init__(self, ws):
        self.processing_on = ws


@pytest.mark.parametrize(("nthreads", "tasks"), [(1, 2), (4, 5)])
def test_a_worker_has_a_few_at_once_whatever_else_it_has(nthreads, tasks):
    feeding = Feeding(1.1)
    feeding.changed(Worker(100, nthreads))
    assert len(hand_out(feeding)) == tasks


def test_who_has_less_to_do_comes_first():
    feeding, idle, busy = Feeding(1.0), Worker(1), Worker(9)
    for ws in (busy, idle):
        feeding.changed(ws)
    assert hand_out(feeding) == [idle, busy]


def test_room_is_seen_when_a_worker_changes():
    feeding, ws = Feeding(1.0), Worker(3)
    feeding.changed(ws)
    task = Task(ws)
    feeding.took(task, feeding.taker(anyone))
    assert feeding.taker(anyone) is None
    feeding.changed(ws)
    assert feeding.taker(anyone) is None
    task.processing_on = None
    assert feeding.taker(anyone) is None  # nobody said that it has changed
    feeding.changed(ws)
    assert feeding.taker(anyone) is ws


def test_workers_that_may_have_none_and_those_that_left():
    feeding, ws = Feeding(1.0), Worker(0)
    feeding.changed(ws)
    assert feeding.taker(lambda _: False) is None
    assert feeding.taker(anyone) is None
    feeding.changed(ws)
    feeding.left(ws)
    assert feeding.taker(anyone) is None
