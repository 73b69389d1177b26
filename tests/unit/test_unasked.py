"""Workers of dear pools that nobody asks for: which they are, and what they still get."""

from types import SimpleNamespace as Some

import pytest

from dask_site.cluster.records import PENDING, RUNNING, JobRecord
from dask_site.cluster.resources import pool_of, pool_resource
from dask_site.cluster.resting import Resting
from dask_site.scaling.unasked import Unasked

RANKS = {"cpu": 0, "highmem": 1, "bighm": 2}


class Worker(Some):
    """As much of a worker as is looked at."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __init__(self, pool=None):
        super().__init__(resources={"MEMORY": 1, **({pool_resource(pool): 9} if pool else {})})


def job(name, state=RUNNING):
    workers = {f"tls://{name}": name} if state == RUNNING else {}
    return JobRecord(name, name.rstrip("0123456789"), state=state, workers=workers)


def found(unasked, wanted, *jobs, times=3):
    return [unasked.among({"highmem": (wanted, list(jobs))}) for _ in range(times)][-1]


@pytest.fixture
def unasked():
    """Jobs with greater numbers are the dearer to lose."""
    return Unasked(lambda record: record.name)


def test_a_job_beyond_the_target_is_found_once_it_lasts(unasked):
    first, second = job("highmem1"), job("highmem2")
    assert found(unasked, 1, first, second, times=2) == []
    assert found(unasked, 1, first, second, times=1) == ["tls://highmem1"]
    assert found(unasked, 2, first, second, times=1) == []
    assert found(unasked, 1, first, second, times=2) == [], "from the beginning"


def test_the_one_that_rests_goes_on_though_another_is_cheaper_to_lose(unasked):
    first, second = job("highmem1"), job("highmem2")
    assert found(unasked, 1, second, job("highmem3")) == ["tls://highmem2"]
    assert found(unasked, 1, first, second) == ["tls://highmem2"]


def test_what_waits_in_the_queue_is_taken_back_first(unasked):
    assert found(unasked, 1, job("highmem1"), job("highmem2", PENDING)) == []
    assert found(unasked, 0, job("highmem1"), job("highmem2", PENDING)) == ["tls://highmem1"]


def test_what_a_cheaper_worker_can_have_goes_there():
    cheap, dear, dearer = (Worker(pool) for pool in RANKS)
    resting = Resting(RANKS)
    assert not resting.workers and resting.asked({cheap, dear, dearer}) == {cheap, dear, dearer}
    resting.only([dear])
    assert resting.asked({cheap, dear, dearer}) == {cheap, dearer}
    assert resting.asked({dear, dearer}) == {dear, dearer}, "rather the cheaper, though it rests"
    assert resting.asked({dear}) == {dear}, "nobody else can do it"
    resting.only([dear, dearer])
    assert resting.asked({dear, dearer}) == {dear, dearer}
    resting.left(dear)
    assert resting.workers == {dearer}


def test_a_cheap_worker_that_rests_is_worth_as_much_as_its_like():
    one, other, dear = Worker("cpu"), Worker("cpu"), Worker("highmem")
    resting = Resting(RANKS)
    resting.only([one, dear])
    assert resting.asked({one, other, dear}) == {one, other}


def test_who_is_of_no_pool_costs_nothing():
    own, cheap = Worker(), Worker("cpu")
    resting = Resting(RANKS)
    resting.only([cheap])
    assert resting.asked({own, cheap}) == {own}
    assert pool_of(own.resources) is None and pool_of(cheap.resources) == "cpu"
