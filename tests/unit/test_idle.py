"""Which idle jobs are given back, on stand-ins for the scheduler and the fleet."""

import time
from types import SimpleNamespace as Some

import pytest

from dask_site import Site
from dask_site.cluster.records import CLOSING, RUNNING, JobRecord
from dask_site.placement.matching import Matcher
from dask_site.scaling import idle as module
from dask_site.scaling.idle import IdleJobs
from dask_site.scaling.plan import Limits, Work

SITE = Site.from_mapping(
    {
        "schema": 1,
        "name": "Test",
        "resource_manager": "local",
        "default_pool": "cpu",
        "pools": {
            "cpu": {"cores": 1, "memory": "1GiB"},
            "highmem": {"cores": 1, "memory": "4GiB"},
        },
    }
)
GIB = 2**30
LIMITS = {"cpu": Limits(), "highmem": Limits()}


class Stage:
    """Some jobs with one worker each, and what is given back of them."""

    def __init__(self):
        self.workers = {}
        self.records = {}
        self.given_back = []
        self.shuffling = set()
        scheduler = Some(workers=self.workers, in_shuffle=lambda ws: ws.address in self.shuffling)
        fleet = Some(job_of=self.records.get, of=self.of)
        retirement = Some(retire=lambda records, **_: self.given_back.extend(records))
        scaling = Some(cost_of_losing=self.held_by, retirement=retirement)
        waits = Some(expected=lambda pool: 0.0)
        walltimes = Some(is_draining=lambda record: False)
        self.scheduler = scheduler
        self.idle = IdleJobs(SITE, scheduler, fleet, scaling, waits, walltimes)
        self.idle.grace = 0.01

    def held_by(self, record):
        return sum(self.workers[a].nbytes for a in record.workers)

    def of(self, pool):
        return [r for r in self.records.values() if r.pool == pool and r.live]

    def job(self, pool="cpu", held=0, memory=GIB, tasks=0):
        n = len(self.records)
        record = JobRecord(f"{pool}-{n}", pool, state=RUNNING, workers={f"w{n}": f"{pool}-{n}"})
        self.records[f"w{n}"] = record
        self.workers[f"w{n}"] = Some(
            address=f"w{n}",
            nbytes=held,
            memory_limit=memory,
            metrics={"memory": held},
            processing=dict.fromkeys(range(tasks)),
            actors=set(),
        )
        return record

    def give_back(self, surplus, pool="cpu", wait=0.02):
        """Look twice, as idle jobs are kept for a while."""
        self.scheduler.running = set()
        for _ in range(2):
            self.given_back.clear()
            self.scheduler.running = list(self.workers.values())
            mine = [r for r in self.records.values() if r.pool == pool]
            self.idle.give_back(SITE.pools[pool], mine, surplus, LIMITS)
            time.sleep(wait)
        return self.given_back


def test_only_what_is_idle_and_too_many_goes():
    stage = Stage()
    busy, first, second = stage.job(tasks=1), stage.job(held=5), stage.job()
    assert stage.give_back(1) == [second]
    assert stage.give_back(3) == [second, first]
    assert busy.live


def test_workers_in_a_shuffle_stay_to_its_end():
    stage = Stage()
    stage.shuffling = {"w0"}
    stage.job()
    assert stage.give_back(1) == []
    stage.shuffling = set()
    assert stage.give_back(1) == [stage.records["w0"]]


def test_together_they_leave_no_more_than_the_others_take():
    stage = Stage()
    for _ in range(4):
        stage.job(held=GIB // 4)
    # What two leave, 512 MiB, is less than 2 * (0.6 - 0.25) GiB; what three leave is more.
    assert len(stage.give_back(4)) == 2


def test_who_is_to_take_what_another_holds_stays():
    stage = Stage()
    cheap, dear = stage.job(), stage.job("highmem", held=1000, memory=4 * GIB)
    assert stage.give_back(1, "highmem") == [dear]
    dear.enter(CLOSING)
    assert stage.give_back(1) == []
    stage.workers["w1"].nbytes = 0
    stage.idle.in_demand([cheap])
    assert stage.give_back(1) == [cheap]


def test_what_a_dear_one_holds_seeks_a_worker_of_the_default_pool():
    stage = Stage()
    stage.job("highmem", held=1000, memory=4 * GIB)
    assert stage.give_back(1, "highmem") == []
    assert stage.idle.harbour


@pytest.mark.parametrize(("seconds", "gone"), [(0.5, 2), (1.5, 1), (9.0, 0)])
def test_as_many_stay_as_the_last_seconds_took(monkeypatch, seconds, gone):
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    stage = Stage()
    stage.idle.grace = 1.0
    for _ in range(3):
        stage.job()
    stage.scheduler.running = []
    stage.idle.give_back(SITE.pools["cpu"], list(stage.records.values()), 3, LIMITS)
    now += 1.0
    ordinary = Matcher(SITE).shape(None)
    stage.idle.worked([Work(ordinary, 50, seconds / 2), Work(ordinary, 50, seconds / 2)])
    stage.idle.give_back(SITE.pools["cpu"], list(stage.records.values()), 3, LIMITS)
    assert len(stage.given_back) == gone


@pytest.mark.parametrize(
    ("needs", "cheaper", "gone"),
    [(None, False, 0), (None, True, 1), ({"pool:highmem": 1}, True, 0)],
    ids=["nobody else is there", "a cheaper one has it", "its own"],
)
def test_work_that_cheaper_workers_could_have_keeps_no_dear_one(monkeypatch, needs, cheaper, gone):
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    stage, pool, limits = Stage(), SITE.pools["highmem"], {**LIMITS, "cpu": Limits(0, 1)}
    stage.idle.grace = 1.0
    dear = [stage.job("highmem")]
    if cheaper:
        stage.job(tasks=1)
    stage.scheduler.running = list(stage.workers.values())
    stage.idle.give_back(pool, dear, 1, limits)
    now += 1.0
    stage.idle.worked([Work(Matcher(SITE).shape(needs), 50, 2.0)])
    stage.idle.give_back(pool, dear, 1, limits)
    assert len(stage.given_back) == gone


def test_a_thousand_idle_jobs_are_looked_at_in_a_moment():
    stage = Stage()
    for _ in range(1000):
        stage.job(held=1000)
    begun = time.perf_counter()
    assert len(stage.give_back(1000, wait=0.01)) > 900
    assert time.perf_counter() - begun < 0.3
