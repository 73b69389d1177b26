"""How many workers get work at all, on stand-ins for the scheduler and its workers."""

from types import SimpleNamespace as Some

import pytest

from dask_site.cluster.records import PENDING, RUNNING, JobRecord
from dask_site.placement.matching import Shape
from dask_site.scaling import starved as module
from dask_site.scaling.demand import Cell
from dask_site.scaling.starved import Starved

SHORT, LONG = "short", "long"


class Stage:
    """Jobs with one worker of one thread each."""

    def __init__(self, *tasks):
        self.workers = {}
        self.jobs = [self.job(n) for n in tasks]
        seconds = {SHORT: 0.002, LONG: 0.5}
        scheduler = Some(workers=self.workers, seconds_of=seconds.get)
        self.starved = Starved("cpu", scheduler, Some(is_idle=self.is_idle))

    def job(self, tasks=0, state=RUNNING):
        name = f"cpu-{len(self.workers)}"
        self.workers[name] = Some(
            processing=dict.fromkeys(range(tasks)), long_running=set(), nthreads=1
        )
        return JobRecord(name, "cpu", state=state, workers={name: name})

    def is_idle(self, record):
        return not any(self.workers[address].processing for address in record.workers)

    def looks(self, wanted, *cells, times=1):
        return [self.starved.bounded(wanted, self.jobs, cells) for _ in range(times)][-1]


def cell(prefix=SHORT, pool="cpu", **count):
    made = Cell(Shape((), {pool: 1}), prefix)
    made.count.update(count)
    return made


ASSIGNED = {"processing": 12_000}


def test_workers_that_get_nothing_beside_a_full_one_are_too_many():
    stage = Stage(12_000, 0, 0)
    assert stage.looks(6, cell(**ASSIGNED)) == 3, "no more, as long as some have nothing"
    assert stage.looks(6, cell(**ASSIGNED), times=4) == 1
    stage.jobs = stage.jobs[:1]
    assert stage.looks(6, cell(**ASSIGNED), times=5) == 1, "and none comes for those that went"


def test_after_a_while_more_are_tried_and_bounded_again(monkeypatch):
    stage, now = Stage(12_000, 0), [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    assert stage.looks(6, cell(**ASSIGNED), times=5) == 1
    gone = stage.jobs.pop()
    now[0] += 61
    assert stage.looks(6, cell(**ASSIGNED)) == 2
    stage.jobs.append(gone)
    assert stage.looks(6, cell(**ASSIGNED), times=5) == 1
    stage.jobs.pop()
    stage.workers["cpu-0"].processing.clear()
    for wanted in (2, 4, 6):
        now[0] += 61
        assert stage.looks(6) == wanted
    assert stage.starved.most is None


@pytest.mark.parametrize(
    "more",
    [
        {"queued": 1, **ASSIGNED},
        {"no-worker": 1, **ASSIGNED},
        {"prefix": LONG, "processing": 31},
    ],
    ids=["queued", "no worker", "long enough to move"],
)
def test_what_reaches_new_workers_bounds_nothing(more):
    stage = Stage(12_000, 0, 0)
    stage.looks(6, cell(**ASSIGNED), times=5)
    assert stage.looks(6, cell(**more), times=2) == 1, "it may be gone with the next look"
    assert stage.looks(6, cell(**more)) == 6 and stage.starved.most is None
    assert stage.looks(6, cell(**more), times=9) == 6


@pytest.mark.parametrize(
    ("tasks", "cells"),
    [
        ((3, 0), [cell(processing=3)]),
        ((12_000, 1), [cell(**ASSIGNED)]),
        ((12_000, 2_000), [cell(**ASSIGNED)]),
        ((), []),
    ],
    ids=["no backlog", "something to do", "all of them full", "none there"],
)
def test_workers_are_not_starved(tasks, cells):
    assert Stage(*tasks).looks(6, *cells, times=9) == 6


def test_jobs_without_workers_and_work_of_other_pools_say_nothing():
    stage = Stage(12_000)
    stage.jobs.append(JobRecord("cpu-9", "cpu", state=PENDING))
    assert stage.looks(6, cell(**ASSIGNED), times=9) == 6
    stage.jobs.append(stage.job())
    elsewhere = cell(prefix=LONG, pool="gpu", queued=9, processing=900)
    assert stage.looks(6, cell(**ASSIGNED), elsewhere, times=5) == 2


def test_a_worker_that_gets_something_now_and_then_is_not_counted():
    stage = Stage(12_000, 0)
    for _ in range(5):
        stage.looks(6, cell(**ASSIGNED), times=4)
        stage.workers["cpu-1"].processing[0] = None
        assert stage.looks(6, cell(**ASSIGNED)) == 6
        stage.workers["cpu-1"].processing.clear()
