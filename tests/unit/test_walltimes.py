"""What is done about jobs that end, on stand-ins for the scheduler and what ends them."""

from datetime import UTC, datetime, timedelta
from time import time
from types import SimpleNamespace as Some

import pytest

from dask_site.cluster.records import RUNNING, JobRecord
from dask_site.placement.matching import Shape
from dask_site.scaling import walltimes as module
from dask_site.scaling.demand import Cell
from dask_site.scaling.walltimes import Walltimes

CPU = Shape((), {"cpu": 1})
GPU = Shape((("GPU", 1),), {"gpu": 1})


class Stage:
    """Jobs with one worker each, and what is done about them."""

    def __init__(self):
        self.live = {"cpu": [], "gpu": []}
        self.cells = []
        self.ending = {}
        self.longest = 0.0
        self.tried_again = 0
        self.drained = {}
        scheduler = Some(
            workers={},
            bandwidth=1e8,
            seconds_of=lambda prefix: prefix.seconds,
            set_ending=self.set_ending,
            take_back=lambda address, left: None,
            try_again=self.try_again,
        )
        retirement = Some(drain=lambda record, seconds: self.drained.update({record.name: seconds}))
        self.walltimes = Walltimes(scheduler, retirement, Some(expected=lambda pool: 5.0))

    def set_ending(self, ending, longest):
        self.ending, self.longest = ending, longest

    def try_again(self):
        self.tried_again += 1

    def job(self, left, pool="cpu", walltime=3600):
        name = f"{pool}-{len(self.live[pool])}"
        record = JobRecord(name, pool, state=RUNNING, workers={f"w-{name}": name})
        record.walltime = timedelta(seconds=walltime)
        self.live[pool].append(record)
        self.lasts(record, left)
        return record

    def lasts(self, record, left):
        record.deadline = datetime.now(UTC) + timedelta(seconds=left)

    def tasks(self, seconds, shape=CPU, **count):
        cell = Cell(shape, Some(seconds=seconds))
        cell.count.update({state.replace("_", "-"): n for state, n in count.items()})
        self.cells.append(cell)
        return cell

    def look(self):
        self.walltimes.mind(self.live, self.cells, {"cpu": False, "gpu": False})

    def outlasted(self, pool="cpu"):
        found = self.walltimes.outlasted(pool, self.live[pool], self.cells)
        return [record.name for record in found]


@pytest.fixture
def stage():
    return Stage()


def test_queued_tasks_and_no_others_choose_who_gets_queued_tasks(stage):
    stage.tasks(3600, GPU, processing=1)
    stage.tasks(600, waiting=1, processing=1)
    stage.tasks(3, queued=5)
    stage.look()
    assert stage.longest == 3


def test_the_scheduler_knows_all_ends_whatever_there_is_to_do(stage):
    stage.job(3000)
    stage.job(600, "gpu")
    stage.look()
    assert list(stage.ending) == ["w-cpu-0", "w-gpu-0"]


def test_jobs_that_end_before_what_waits_is_done_are_of_no_use_to_it(stage):
    stage.job(900)
    stage.job(3500)
    stage.job(700)
    stage.tasks(1200, no_worker=1, processing=3)
    stage.look()
    assert stage.outlasted() == ["cpu-0"], "one task needs one job"
    stage.tasks(1000, queued=50)
    assert stage.outlasted() == ["cpu-0", "cpu-2"]


@pytest.mark.parametrize(
    ("shape", "seconds", "count"),
    [
        (CPU, 60, {"no_worker": 1}),
        (CPU, 1200, {"processing": 9, "waiting": 9}),
        (GPU, 1200, {"no_worker": 1}),
    ],
)
def test_jobs_that_last_for_what_waits_are_of_use(stage, shape, seconds, count):
    stage.job(900)
    stage.tasks(seconds, shape, **count)
    stage.look()
    assert stage.outlasted() == []


def test_what_takes_longer_than_any_job_may_try_a_young_one(stage):
    stage.job(3500)
    stage.tasks(90_000, no_worker=1)
    stage.look()
    assert stage.outlasted() == []


def test_what_had_no_worker_is_tried_again_when_one_lasts_longer(stage):
    job = stage.job(900)
    for _ in range(3):
        stage.look()
    assert not stage.tried_again
    stage.lasts(job, 1800)
    stage.look()
    stage.look()
    assert stage.tried_again == 1


def test_what_had_no_worker_is_tried_again_when_it_is_known_to_be_shorter(stage):
    stage.job(900)
    cell = stage.tasks(1200, no_worker=1)
    for seconds in (1200, 1150, 1100):
        cell.prefix.seconds = seconds
        stage.look()
    assert not stage.tried_again
    for seconds in (1000, 990, 1000):
        cell.prefix.seconds = seconds
        stage.look()
    assert stage.tried_again == 1


@pytest.mark.parametrize(("walltime", "margin"), [(14400, 600), (3600, 180), (60, 10), (20, 5)])
def test_jobs_are_drained_in_time(stage, walltime, margin):
    stage.job(margin + 1, walltime=walltime)
    stage.job(margin - 1, walltime=walltime)
    stage.look()
    assert list(stage.drained) == ["cpu-1"]


def test_the_next_jobs_are_drained_as_early_as_the_last_ones_needed(stage, monkeypatch):
    later = 0.0
    monkeypatch.setattr(module, "time", lambda: time() + later)
    first, nobody, second = (stage.job(left, walltime=120) for left in (9, 9, 25))
    stage.look()
    assert list(stage.drained) == ["cpu-0", "cpu-1"]
    stage.walltimes.kept(nobody)
    later = 19.0
    nobody.workers.clear()
    stage.live["cpu"] = [second]
    stage.look()
    assert "cpu-2" not in stage.drained
    first.workers.clear()
    stage.look()
    assert "cpu-2" in stage.drained


def test_a_job_that_is_drained_late_moves_its_results_nonetheless(stage):
    stage.job(9.9, walltime=60)
    stage.job(7.5, walltime=60)
    stage.job(5, walltime=60)
    stage.look()
    assert [round(seconds) for seconds in stage.drained.values()] == [0, 1, 3]
