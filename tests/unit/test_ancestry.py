"""How much work comes before that of a kind."""

import pytest

from dask_site.placement.matching import Shape
from dask_site.scaling.ancestry import Ancestry

ANY, GPU = Shape((), {"cpu": 1}), Shape((("gpu", 1),), {"gpu": 1})
SECONDS = {"load": 0.1, "clean": 2.0, "sum": 0.5, "train": 10.0}


class Task:
    def __init__(self, prefix, *before, needs=None):
        self.prefix, self.waiting_on = prefix, set(before)
        self.resource_restrictions = needs


class Cell:
    def __init__(self, shape, prefix, waiting=(), ready=0):
        self.shape, self.prefix = shape, prefix
        self.waiting = dict.fromkeys(waiting)
        self.unfinished = ready + len(self.waiting)


class Matcher:
    def shape(self, needs):
        return GPU if needs else ANY


def ancestry(*cells, threads=2):
    return Ancestry(cells, Matcher(), SECONDS.get, lambda _, seconds: seconds / threads)


@pytest.fixture
def pipeline():
    """Forty chunks are loaded, cleaned and summed up, and then something is trained."""
    loads = [Task("load") for _ in range(40)]
    cleans = [Task("clean", load) for load in loads]
    total = Task("sum", *cleans)
    return [
        Cell(ANY, "load", ready=40),
        Cell(ANY, "clean", cleans),
        Cell(ANY, "sum", [total]),
        Cell(GPU, "train", [Task("train", total, needs={"gpu": 1})]),
    ]


def test_all_kinds_that_come_before_count_and_no_others(pipeline):
    _, clean, total, train = pipeline
    found = ancestry(*pipeline)
    assert found.seconds_before(clean) == pytest.approx(40 * 0.1 / 2)
    assert found.seconds_before(total) == pytest.approx(40 * 2.1 / 2)
    assert found.seconds_before(train) == pytest.approx((40 * 2.1 + 0.5) / 2)


def test_a_kind_that_comes_before_itself_counts_once():
    first = Task("load")
    second = Task("load", first)
    cell = Cell(ANY, "load", [second], ready=1)
    assert ancestry(cell).seconds_before(cell) == pytest.approx(0.1)


def test_what_is_counted_nowhere_makes_it_unknown(pipeline):
    train = pipeline[-1]
    assert ancestry(*pipeline[1:]).seconds_before(train) is None


def test_thousands_of_kinds_in_a_row_take_no_more_steps_than_a_tick_has():
    tasks = [Task(0)]
    for name in range(1, 6000):
        tasks.append(Task(name, tasks[-1]))
    cells = [Cell(ANY, task.prefix, [task]) for task in tasks]
    found = Ancestry(cells, Matcher(), lambda _: 1.0, lambda _, seconds: seconds)
    known = [found.seconds_before(cell) for cell in cells]
    assert known[1] == 1.0
    assert 20 < sum(seconds is not None for seconds in known) < 200
    assert known[-1] is None
