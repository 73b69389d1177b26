"""How much work comes before a task."""

import math
from collections import Counter

import pytest

from dask_site.placement.matching import Shape
from dask_site.scaling.ancestry import Ancestry

ANY, GPU = Shape((), {"cpu": 1}), Shape((("gpu", 1),), {"gpu": 1})
SECONDS = {"load": 0.1, "clean": 2.0, "sum": 0.5, "train": 10.0}


class Group:
    """What distributed knows of a layer, and a task of it."""

    def __init__(self, prefix, *before, **states):
        self.prefix, self.dependencies, self.states = prefix, set(before), Counter(states)
        self.group = self


class Cell:
    def __init__(self, shape, prefix, unfinished=1, ready=0):
        self.shape, self.prefix, self.unfinished, self.ready = shape, prefix, unfinished, ready


def ancestry(cells=(), enough=1000.0, **ready):
    threads = {ANY: 2, GPU: 1}
    shapes = dict.fromkeys(SECONDS, ANY) | {"train": GPU}
    cells = cells or [Cell(shapes[name], name, ready=ready.get(name, 0)) for name in SECONDS]
    return Ancestry(cells, SECONDS.get, lambda shape, took: took / threads[shape], enough)


@pytest.fixture
def pipeline():
    """Chunks are loaded, cleaned and summed up, then something is trained, and loaded again."""
    load = Group("load", queued=30, processing=10, memory=60)
    clean = Group("clean", load, waiting=40)
    total = Group("sum", clean, waiting=1)
    train = Group("train", total, clean, waiting=1)
    return [load, clean, total, train, Group("load", train, waiting=1)]


def test_all_layers_that_come_before_count_and_no_others(pipeline):
    load, clean, total, train, again = pipeline
    found = ancestry(load=40)
    assert found.seconds_before(load) == 0
    assert found.seconds_before(clean) == pytest.approx(40 * 0.1 / 2)
    assert found.seconds_before(total) == pytest.approx(40 * 2.1 / 2)
    assert found.seconds_before(train) == pytest.approx((40 * 2.1 + 0.5) / 2)
    assert found.seconds_before(again) == pytest.approx((40 * 2.1 + 0.5) / 2 + 10)


def test_what_is_ready_counts_too_but_for_tasks_of_the_same_kind(pipeline):
    _, clean, total, *_ = pipeline
    found = ancestry(load=40, clean=7)
    assert found.seconds_before(clean) == pytest.approx(40 * 0.1 / 2)
    assert found.seconds_before(total) == pytest.approx((4 + 80 + 7 * 2.0) / 2)
    assert ancestry(load=40, train=9).seconds_before(total) == pytest.approx(42.0), "by others"


def test_what_is_finished_takes_nothing():
    load = Group("load", memory=100, released=3, forgotten=7, erred=1)
    assert ancestry().seconds_before(Group("clean", load, waiting=1)) == 0


def test_a_layer_that_comes_before_itself_counts_once():
    layer = Group("load", waiting=5)
    layer.dependencies.add(layer)
    assert ancestry().seconds_before(layer) == pytest.approx(5 * 0.1 / 2)


def test_what_is_counted_nowhere_makes_it_unknown(pipeline):
    some = ancestry(cells=[Cell(ANY, "load"), Cell(GPU, "train")])
    assert some.seconds_before(pipeline[1]) is not None
    assert some.seconds_before(pipeline[3]) is None


def test_names_that_some_have_with_needs_are_taken_for_what_most_of_them_need():
    both = [Cell(GPU, "load", 3), Cell(ANY, "load", 40)]
    after = Group("clean", Group("load", waiting=43), waiting=1)
    assert ancestry(cells=both).seconds_before(after) == pytest.approx(43 * 0.1 / 2)


def test_no_more_is_added_up_than_is_enough(pipeline):
    total, train = pipeline[2:4]
    assert ancestry(enough=41.0, load=40).seconds_before(total) == math.inf
    assert ancestry(enough=41.0, load=40).seconds_before(train) == math.inf
    assert ancestry(enough=43.0, load=40).seconds_before(total) == pytest.approx(42.0)


def test_thousands_of_layers_in_a_row_take_no_more_steps_than_a_tick_has():
    groups = [Group("load", waiting=1)]
    for _ in range(6000):
        groups.append(Group("load", groups[-1], waiting=1))
    found = ancestry()
    known = [found.seconds_before(group) for group in groups]
    assert known[1] == pytest.approx(0.05)
    assert 20 < sum(seconds is not None for seconds in known) < 200
    assert known[-1] is None
