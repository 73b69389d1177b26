"""What follows from a worker's death: the cause, who is to blame, what each task does next."""

import asyncio
import collections
import inspect
import logging
import pickle
import re
import types
from datetime import UTC, datetime, timedelta

import pytest
from distributed import KilledWorker

from dask_site import Site
from dask_site.cluster.records import CLOSING, RUNNING, JobRecord
from dask_site.faults import judge as judging
from dask_site.faults import ruling
from dask_site.faults.errors import TaskCrashed, TaskOutOfMemory
from dask_site.faults.evidence import (
    CRASH,
    MEMORY,
    PARDON,
    UNKNOWN,
    Evidence,
    of_report,
    of_verdict,
)
from dask_site.faults.judge import Judge
from dask_site.faults.ruling import Court, Ordeal, Place, Suspect

GIB = 2**30
SITE = Site.from_mapping(
    {
        "schema": 1,
        "name": "Centre",
        "resource_manager": "slurm",
        "default_pool": "cpu",
        "escalate": ["cpu", "mid", "gpu", "big"],
        "pools": {
            "cpu": {"cores": 4, "memory": "8GiB", "processes": 2, "walltime": "1h"},
            "mid": {"cores": 4, "memory": "8GiB", "walltime": "1h"},
            "gpu": {"cores": 4, "memory": "16GiB", "gpus": 2, "walltime": "1h"},
            "big": {"cores": 4, "memory": "64GiB", "walltime": "1h"},
            "huge": {"cores": 4, "memory": "128GiB", "walltime": "1h", "exclusive": True},
        },
    }
)
CPU = Place("cpu-0", "cpu", "n1", 4 * GIB)
BIG = Place("big-0", "big", "n9", 64 * GIB)


# -- from evidence to a cause ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "cause", "words"),
    [
        (Evidence(exit_code=-11), CRASH, r"died of signal 11 \(SIGSEGV\)"),
        (Evidence(exit_code=3), CRASH, "ended with exit code 3"),
        (Evidence(exit_code=0), CRASH, "ended with exit code 0"),
        (Evidence(exit_code=-6, peak=1, limit=100), CRASH, "SIGABRT"),
        (Evidence(exit_code=-6, peak=95, limit=100), MEMORY, "ran out of memory"),
        (Evidence(exit_code=-9, peak=50, limit=100), UNKNOWN, r"from outside .* \(SIGKILL\)"),
        (Evidence(exit_code=-9, peak=95, limit=100), MEMORY, "ran out of memory"),
        (Evidence(exit_code=-9, peak=0, limit=0), UNKNOWN, "SIGKILL"),
        (Evidence(exit_code=-9, oom_kill=True), MEMORY, "killed by the kernel"),
        (Evidence(exit_code=-15, nanny_kill=True), MEMORY, "killed by its nanny"),
        (Evidence(exit_code=-15), UNKNOWN, "SIGTERM"),
        (Evidence(exit_code=-24), UNKNOWN, "SIGXCPU"),
        (Evidence(exit_code=-64), CRASH, "signal 64"),
        (Evidence(exit_code=255), UNKNOWN, "nobody saw"),
        (Evidence(exit_code=0, closing="closing"), PARDON, "told to end"),
        (Evidence(closing="worker-lifetime-reached"), PARDON, "told to end"),
        (Evidence(closing="worker-execute-fail-hard"), UNKNOWN, "gave up on an error"),
        (Evidence(), UNKNOWN, "is gone"),
    ],
)
def test_the_cause_of_a_death(evidence, cause, words):
    assert evidence.finding.cause == cause
    assert re.search(words, evidence.finding.how)


def test_what_was_said_twice_adds_up():
    killed = Evidence(nanny_kill=True, peak=500)
    ended = Evidence(exit_code=-15, executing=("x",), complete=True, peak=300, limit=512)
    for both in (killed + ended, ended + killed, killed + ended + killed):
        assert both.finding.cause == MEMORY
        assert both.executing == ("x",)
        assert both.peak == 500
        assert both.limit == 512
        assert both.final
    assert not killed.final, "what it was executing is still to come"
    assert not Evidence().final
    assert Evidence(closing="x").final


def test_reports_of_the_black_box_are_understood():
    assert of_report({"worker": "w", "how": "closing"}).finding.cause == PARDON
    report = {
        "worker": "w",
        "how": "exit",
        "exit_code": -9,
        "executing": (("x", 1),),
        "complete": True,
        "closing": False,
        "error": "",
        "oom_kill": True,
        "nanny_kill": False,
        "peak": 7,
        "limit": 8,
    }
    evidence = of_report(report)
    assert evidence.executing == (("x", 1),)
    assert evidence.finding.cause == MEMORY


@pytest.mark.parametrize(
    ("verdict", "reason", "cause"),
    [
        ("OUT_OF_MEMORY", "", MEMORY),
        ("TIMEOUT", "", PARDON),
        ("PREEMPTED", "", PARDON),
        ("NODE_FAIL", "", PARDON),
        ("BOOT_FAIL", "", PARDON),
        ("CANCELLED", "by 1000", PARDON),
        ("DEADLINE", "", PARDON),
        ("SUSPENDED", "", PARDON),
        ("REQUEUED", "", PARDON),
        ("COMPLETED", "", PARDON),
        ("FAILED", "exit code 1", CRASH),
        ("FAILED", "exit code 139", CRASH),
        ("FAILED", "exit code 137", UNKNOWN),
        ("FAILED", "exit code 0, signal 9", UNKNOWN),
        ("FAILED", "signal 15", UNKNOWN),
        ("FAILED", "signal 11", CRASH),
        ("UNKNOWN", "Slurm does not know the job", UNKNOWN),
        ("SOMETHING_NEW", "", UNKNOWN),
    ],
)
def test_the_resource_managers_verdict(verdict, reason, cause):
    assert of_verdict(verdict, reason).cause == cause


# -- from a cause to what tasks do next --------------------------------------------------------


@pytest.fixture
def done():
    return collections.Counter()


@pytest.fixture
def court(done):
    return Court(SITE, done.__getitem__)


def suspect(key="x", prefix=None, restrictions=None, movable=True, ordeal=None):
    return Suspect(key, prefix or key[0], restrictions or {}, ordeal or Ordeal(), movable)


def moved(one, restrictions):
    """Return a suspect as it is after it was sent to run with these restrictions."""
    return Suspect(one.key, one.prefix, restrictions, one.ordeal, one.movable)


def test_a_task_that_ran_out_of_memory_moves_to_the_next_pool_that_has_more(court):
    """`mid` has as much a job as `cpu`, but twice as much a worker."""
    (one,) = court.memory([suspect()], CPU, 0, sole=True)
    assert (one.do, one.pool) == (ruling.MOVED, "mid")
    assert one.resources == {"pool:mid": 1, "MEMORY": 4 * GIB + 1}


def test_the_measured_peak_decides_how_far_it_moves(court):
    (one,) = court.memory([suspect()], CPU, 9 * GIB, sole=True)
    assert one.resources == {"pool:gpu": 1, "MEMORY": 9 * GIB}


def test_a_gpu_is_kept_and_other_pools_are_forgotten(court):
    held = {"pool:cpu": 1, "GPU": 1, "MEMORY": 2 * GIB}
    (one,) = court.memory([suspect(restrictions=held)], CPU, 0, sole=True)
    assert one.resources == {"pool:gpu": 1, "MEMORY": 4 * GIB + 1, "GPU": 1}


def test_no_pool_above_means_once_more_alone_and_then_an_end(court):
    one = suspect()
    (first,) = court.memory([one], BIG, 60 * GIB, sole=True)
    assert first.do == ruling.ALONE
    assert first.resources == {"pool:big": 1, "MEMORY": 64 * GIB}
    (second,) = court.memory([moved(one, first.resources)], BIG, 61 * GIB, sole=True)
    assert second.do == ruling.TOO_LARGE
    assert one.ordeal.peak == 61 * GIB


def test_a_peak_beyond_all_pools_is_tried_alone_on_the_largest(court):
    """Part of what the worker held was perhaps not the task's."""
    one = suspect()
    (first,) = court.memory([one], CPU, 70 * GIB, sole=True)
    assert first.do == ruling.ALONE
    assert first.resources == {"pool:big": 1, "MEMORY": 64 * GIB}
    (second,) = court.memory([moved(one, first.resources)], BIG, 0, sole=True)
    assert second.do == ruling.TOO_LARGE


def test_of_several_suspects_each_runs_alone_first(court):
    several = [suspect("a"), suspect("b", restrictions={"GPU": 1})]
    rulings = court.memory(several, CPU, 4 * GIB, sole=False)
    assert [one.do for one in rulings] == [ruling.ALONE] * 2
    assert rulings[0].resources == {"pool:cpu": 1, "MEMORY": 4 * GIB}
    assert rulings[1].resources == {"pool:cpu": 1, "MEMORY": 4 * GIB, "GPU": 1}
    # Alone, or with a newcomer beside it: it was there both times.
    again = [moved(several[0], rulings[0].resources), suspect("c")]
    first, second = court.memory(again, CPU, 4 * GIB, sole=False)
    assert (first.do, first.pool) == (ruling.MOVED, "mid")
    assert second.do == ruling.AGAIN
    assert second.resources is None


def test_those_of_a_hungry_kind_are_blamed_first(court):
    court.memory([suspect("h1", "hungry")], CPU, 0, sole=True)
    rulings = court.memory([suspect("a"), suspect("h2", "hungry")], CPU, 0, sole=False)
    assert [one.do for one in rulings] == [ruling.AGAIN, ruling.MOVED]


def test_a_kind_that_often_runs_out_of_memory_is_known_by_its_peak(court, done):
    for number, peak in enumerate((5, 9, 6)):
        assert court.need_of_prefix("hungry") is None
        court.memory([suspect(f"h{number}", "hungry")], CPU, peak * GIB, sole=True)
    assert court.need_of_prefix("hungry") == 9 * GIB
    assert court.hungry() == {"hungry": 9 * GIB}
    done["hungry"] = 6
    assert court.need_of_prefix("hungry") == 9 * GIB
    done["hungry"] = 7
    assert court.need_of_prefix("hungry") is None, "3 of 10 is not more than 3 in 10"
    assert court.hungry() == {}
    done["hungry"] = 2
    (one,) = court.memory([suspect("h9", "hungry")], CPU, 0, sole=True)
    assert one.resources == {"pool:gpu": 1, "MEMORY": 9 * GIB}, "straight to where the known fit"


def test_a_known_peak_beyond_all_pools_is_not_held_against_the_others(court):
    for number in range(3):
        court.memory([suspect(f"h{number}", "hungry")], CPU, 99 * GIB, sole=True)
    (one,) = court.memory([suspect("h9", "hungry")], CPU, 0, sole=True)
    assert one.pool == "mid"


def test_a_task_bound_to_certain_workers_stays_there_and_ends(court):
    one = suspect(movable=False)
    for _ in range(2):
        (again,) = court.memory([one], CPU, 0, sole=True)
        assert (again.do, again.resources) == (ruling.AGAIN, None)
    assert court.memory([one], CPU, 0, sole=True)[0].do == ruling.TOO_LARGE


def test_whoever_had_company_on_its_last_resort_gets_more_chances(court):
    one = suspect()
    one.ordeal.alone = True
    whole = {"pool:big": 1, "MEMORY": 64 * GIB}
    rulings = []
    for number in range(10):
        company = [moved(one, whole), suspect(f"c{number}", f"other{number}")]
        rulings.append(court.memory(company, BIG, 0, sole=False)[0].do)
        if rulings[-1] == ruling.TOO_LARGE:
            break
    assert rulings == [ruling.ALONE] * 5 + [ruling.TOO_LARGE]


def test_three_strikes(court):
    one = suspect()
    rulings = [court.crash([one], CPU, sole=True)[0].do for _ in range(3)]
    assert rulings == [ruling.AGAIN, ruling.AGAIN, ruling.CRASHED]


def test_suspects_of_a_crash_meet_no_more(court):
    several = [suspect("a", restrictions={"GPU": 1}), suspect("b")]
    rulings = court.crash(several, CPU, sole=False)
    assert [one.do for one in rulings] == [ruling.ALONE] * 2
    assert rulings[0].resources == {"pool:cpu": 1, "MEMORY": 4 * GIB, "GPU": 1}


def test_who_was_there_before_is_blamed_and_newcomers_are_not(court):
    guilty, first = suspect("g"), suspect("a")
    court.crash([guilty, first], CPU, sole=False)
    for number in range(2):
        newcomer = suspect(f"n{number}")
        rulings = court.crash([guilty, newcomer], CPU, sole=False)
        assert rulings[0].do == ruling.ALONE, "never seen to do it by itself"
        assert rulings[1].do == ruling.AGAIN
        assert newcomer.ordeal.strikes == 0
    assert court.crash([guilty], CPU, sole=True)[0].do == ruling.CRASHED
    assert first.ordeal.strikes == 1


def test_a_long_task_among_crashing_ones_is_innocent(court):
    """A kind that was seen to crash by itself is blamed before whoever was there more often."""
    court.crash([suspect("bad0", "bad")], CPU, sole=True)
    long = suspect("long")
    for number in range(8):
        rulings = court.crash([long, suspect(f"bad{number}", "bad")], CPU, sole=False)
        assert rulings[0].do == ruling.AGAIN
    assert long.ordeal.strikes == 0


def test_even_in_company_there_is_an_end(court):
    one = suspect()
    rulings = [
        court.crash([one, suspect(f"n{number}", f"n{number}")], CPU, sole=False)[0].do
        for number in range(6)
    ]
    assert rulings == [ruling.ALONE] * 5 + [ruling.CRASHED]


def test_losses_that_nobody_knows_the_cause_of_have_an_end(court):
    one = suspect()
    rulings = [court.unknown([one])[0].do for _ in range(11)]
    assert rulings == [ruling.AGAIN] * 10 + [ruling.CRASHED]


# -- the judge, with a scheduler that only notes what it is told --------------------------------


class Task:
    def __init__(self, key, priority=0, prefix=None):
        self.key = key
        self.priority = (priority,)
        self.prefix = types.SimpleNamespace(name=prefix or str(key).rpartition("-")[0] or str(key))
        self.resource_restrictions = None
        self.worker_restrictions = None
        self.host_restrictions = None
        self.state = "processing"


class FakeScheduler:
    def __init__(self, *keys):
        self.tasks = {key: Task(key, number) for number, key in enumerate(keys)}
        self.task_prefixes = {}
        self.held, self.log, self.failed = set(), [], {}

    def hold(self, keys):
        self.held |= set(keys)
        for key in keys:
            self.log.append(("hold", key))

    def let_go(self, keys):
        for key in list(keys):
            self.held.discard(key)
            if key in self.tasks:
                self.tasks[key].state = "processing"
                self.log.append(("let go", key))

    def restrict(self, key, resources):
        if self.tasks[key].state == "processing":
            return False
        self.tasks[key].resource_restrictions = resources
        self.log.append(("restrict", key))
        return True

    def fail(self, key, error):
        self.held.discard(key)
        self.tasks[key].state = "erred"
        self.failed[key] = pickle.loads(pickle.dumps(error))


class Worker:
    def __init__(self, scheduler, *keys, address="tls://w:1", nthreads=1, executing=()):
        tasks = scheduler.tasks
        self.address, self.name, self.host, self.nthreads = address, "cpu-0", "n1", nthreads
        self.memory_limit = 4 * GIB
        self.resources = {"pool:cpu": 1e6, "MEMORY": 4 * GIB}
        self.processing = {tasks[key] for key in keys}
        self.executing = {tasks[key]: 1.0 for key in executing}
        self.long_running = set()

    def clean(self):
        return types.SimpleNamespace(address=self.address)


class Bench:
    """A judge at work."""

    def __init__(self, *keys, record=None, site=SITE):
        self.record = record
        self.scheduler = FakeScheduler(*keys)
        self.judge = Judge(site, self.scheduler, lambda address: self.record)

    def lose(self, *keys, address="tls://w:1", **worker):
        ws = Worker(self.scheduler, *keys, address=address, **worker)
        self.judge.worker_lost(ws)
        for ts in ws.processing:  # what distributed does next
            if ts.key in self.scheduler.held:
                ts.state = "no-worker"

    def tell(self, code=-11, executing=(), address="tls://w:1", **changes):
        report = {
            "worker": address,
            "how": "exit",
            "exit_code": code,
            "executing": tuple(executing),
            "complete": True,
            "closing": False,
            "error": "",
            "oom_kill": False,
            "nanny_kill": False,
            "peak": 0,
            "limit": 4 * GIB,
        }
        self.judge.log_event("dask-site-blackbox", {**report, **changes})


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(judging, "_NANNY_TELLS", 0.05)
    monkeypatch.setattr(judging, "_MANAGER_TELLS", 0.2)


def judged(test):
    """Run a test in an event loop."""

    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    run.__signature__ = inspect.signature(test)
    return run


@judged
async def test_bystanders_go_on_at_once_and_unblamed():
    bench = Bench("a", "b", ("c", 1))
    bench.lose("a", "b", ("c", 1))
    assert bench.scheduler.held == {"a", "b", ("c", 1)}
    assert bench.judge.waiting == {"a", "b", ("c", 1)}
    bench.tell(executing=[("c", 1)])
    assert bench.scheduler.held == set()
    assert not bench.judge.waiting
    (event,) = bench.judge.events
    assert (event.cause, event.keys, event.pool) == (CRASH, (("c", 1),), "cpu")


@judged
async def test_evidence_may_come_first():
    bench = Bench("a", "b")
    bench.tell(executing=["a"], oom_kill=True, code=-9)
    bench.lose("a", "b")
    assert bench.scheduler.held == {"a", "b"}
    await asyncio.sleep(0.02)
    assert bench.scheduler.held == set()
    assert bench.scheduler.tasks["a"].resource_restrictions == {
        "pool:mid": 1,
        "MEMORY": 4 * GIB + 1,
    }
    assert bench.scheduler.tasks["b"].resource_restrictions is None
    assert bench.scheduler.log.index(("restrict", "a")) < bench.scheduler.log.index(("let go", "a"))


@judged
async def test_the_nannys_warning_and_its_report_are_one_death():
    bench = Bench("a")
    bench.judge.log_event(
        "worker-restart-memory", {"worker": "tls://w:1", "pid": 1, "rss": 5 * GIB}
    )
    bench.lose("a")
    bench.tell(code=-15, executing=["a"], nanny_kill=True, peak=GIB)
    bench.tell(code=-15, executing=["a"], nanny_kill=True, peak=GIB)
    await asyncio.sleep(0.1)
    (event,) = bench.judge.events
    assert event.cause == MEMORY
    assert bench.scheduler.tasks["a"].resource_restrictions["MEMORY"] == 5 * GIB


@judged
async def test_without_a_report_the_nannys_warning_is_enough():
    bench = Bench("a", "b", "c")
    bench.lose("a", "b", "c", executing=["b"])
    bench.judge.log_event(
        "worker-restart-memory", {"worker": "tls://w:1", "pid": 1, "rss": 5 * GIB}
    )
    assert bench.scheduler.held == {"a", "b", "c"}
    await asyncio.sleep(0.1)
    assert bench.scheduler.held == set()
    assert bench.scheduler.tasks["b"].resource_restrictions["pool:mid"] == 1
    assert bench.scheduler.tasks["a"].resource_restrictions is None


@judged
async def test_without_any_word_those_go_on_that_had_hardly_begun():
    bench = Bench("a", "b", "c", "d")
    bench.lose("a", "b", "c", "d", nthreads=2)
    await asyncio.sleep(0.1)
    assert bench.scheduler.held == {"a", "b"}, "the first two by priority"
    await asyncio.sleep(0.2)
    assert bench.scheduler.held == set()
    (event,) = bench.judge.events
    assert event.cause == UNKNOWN
    assert not bench.scheduler.failed


@judged
async def test_unknown_losses_have_an_end_and_a_story():
    bench = Bench("a")
    for number in range(11):
        assert not bench.scheduler.failed
        bench.lose("a", address=f"w{number}")
        bench.tell(code=-9, executing=["a"], address=f"w{number}")
    error = bench.scheduler.failed["a"]
    assert isinstance(error, TaskCrashed)
    assert "11 workers were lost under it, and nothing says why" in str(error)
    assert "11. cpu-0 (pool 'cpu', node n1) was killed from outside by signal 9" in str(error)


@judged
async def test_a_task_that_crashes_fails_with_its_story():
    bench = Bench("a", "b")
    for number, code in enumerate((-11, 3, -11)):
        bench.lose("a", "b", address=f"w{number}")
        bench.tell(code=code, executing=["a"], address=f"w{number}")
    error = bench.scheduler.failed.pop("a")
    assert not bench.scheduler.failed
    assert isinstance(error, KilledWorker)
    assert error.task == "a"
    assert error.last_worker.address == "w2"
    assert error.allowed_failures == 2
    text = str(error)
    assert "Task 'a' was given up: it brought 3 workers down." in text
    assert "1. cpu-0 (pool 'cpu', node n1) died of signal 11 (SIGSEGV)" in text
    assert "2. cpu-0 (pool 'cpu', node n1) ended with exit code 3" in text
    assert ("let go", "b") in bench.scheduler.log


@judged
async def test_a_task_that_fits_nowhere_fails_with_its_story():
    bench = Bench("a")
    for number in range(8):
        bench.lose("a", address=f"w{number}")
        bench.tell(
            code=-9, executing=["a"], address=f"w{number}", oom_kill=True, peak=63 * GIB + number
        )
        if bench.scheduler.failed:
            break
        wanted = bench.scheduler.tasks["a"].resource_restrictions
        (pool,) = [name[5:] for name in wanted if name.startswith("pool:")]
        bench.record = JobRecord(f"{pool}-0", pool, state=RUNNING)
    error = bench.scheduler.failed["a"]
    assert isinstance(error, TaskOutOfMemory)
    text = str(error)
    assert "a worker that ran nothing else was killed with 63.00 GiB" in text
    assert "The largest workers of Centre are those of pool 'huge', 128.00 GiB each" in text
    assert "with pool('huge')" in text
    assert "`escalate` (cpu, mid, gpu, big)" in text


@pytest.mark.parametrize("verdict", ["TIMEOUT", "PREEMPTED", "NODE_FAIL", "REQUEUED"])
@judged
async def test_the_resource_manager_pardons(verdict):
    record = JobRecord("cpu-0", "cpu", state=RUNNING)
    bench = Bench("a", record=record)
    for number in range(12):
        bench.lose("a", address=f"w{number}")
        await asyncio.sleep(0.06)
        assert bench.scheduler.held == {"a"}
        bench.judge.job_ended(record, verdict)
        assert bench.scheduler.held == set()
        bench.judge._verdicts.clear()
    assert not bench.scheduler.failed


@judged
async def test_a_verdict_may_come_before_its_workers_are_missed():
    record = JobRecord("cpu-0", "cpu", state=RUNNING)
    bench = Bench("a", record=record)
    bench.judge.job_ended(record, "OUT_OF_MEMORY")
    bench.lose("a")
    await asyncio.sleep(0.02)
    assert bench.scheduler.tasks["a"].resource_restrictions["pool:mid"] == 1


@judged
async def test_a_whole_job_out_of_memory_makes_all_its_workers_tasks_suspect():
    record = JobRecord("cpu-0", "cpu", processes=2, state=RUNNING)
    bench = Bench("a", "b", record=record)
    bench.lose("a", address="w0")
    bench.lose("b", address="w1")
    bench.judge.job_ended(record, "OUT_OF_MEMORY")
    for key in "ab":
        assert bench.scheduler.tasks[key].resource_restrictions == {
            "pool:cpu": 1,
            "MEMORY": 4 * GIB,
        }


@judged
async def test_a_job_whose_worker_told_of_its_memory_is_explained():
    record = JobRecord("cpu-0", "cpu", processes=2, state=RUNNING)
    bench = Bench("a", "b", record=record)
    bench.lose("a", address="w0")
    bench.tell(code=-9, executing=["a"], oom_kill=True, address="w0")
    bench.lose("b", address="w1")
    bench.judge.job_ended(record, "OUT_OF_MEMORY")
    assert bench.scheduler.tasks["a"].resource_restrictions is not None
    assert bench.scheduler.tasks["b"].resource_restrictions is None
    assert bench.scheduler.held == set()


@pytest.mark.parametrize(
    "record",
    [
        JobRecord("cpu-0", "cpu", state=CLOSING),
        JobRecord("cpu-0", "cpu", state=RUNNING, deadline=datetime.now(UTC) + timedelta(seconds=2)),
    ],
)
@judged
async def test_what_we_wanted_or_the_walltime_needs_no_inquiry(record):
    bench = Bench("a", record=record)
    bench.lose("a")
    assert bench.scheduler.held == set()
    (event,) = bench.judge.events
    assert event.cause == PARDON


def with_walltimes(**walltimes):
    """Return a site with these walltimes by pool; None for a pool without one."""
    pools = {}
    for name, walltime in walltimes.items():
        pools[name] = {"cores": 4, "memory": "8GiB", "exclusive": name == "special"}
        if walltime:
            pools[name]["walltime"] = walltime
    return Site.from_mapping(
        {
            "schema": 1,
            "name": "Centre",
            "resource_manager": "local",
            "default_pool": "cpu",
            "pools": pools,
        }
    )


LIMITED = with_walltimes(cpu="1h", same="1h", special="9h", long="4h", endless=None)


def cut_off(bench, *keys):
    """End a job at its walltime while it executes tasks, and let the judge act."""
    bench.record = JobRecord("cpu-0", "cpu", state=CLOSING, time_up=True)
    bench.lose(*keys, executing=keys)
    return asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("restrictions", "pool"),
    [({}, "long"), ({"MEMORY": GIB}, "long"), ({"pool:cpu": 1}, None), ({"pool:long": 1}, "long")],
)
def test_the_next_pool_with_a_longer_walltime_that_satisfies_a_need(restrictions, pool):
    place = Place("cpu-0", "cpu", "n1", 8 * GIB)
    court = Court(LIMITED, collections.Counter().__getitem__)
    assert court.longer(suspect(restrictions=restrictions), place) == pool


def test_a_pool_without_a_walltime_is_the_longest():
    court = Court(LIMITED, collections.Counter().__getitem__)
    assert court.longer(suspect(), Place("long-0", "long", "n1", 8 * GIB)) == "endless"
    assert court.longer(suspect(), Place("endless-0", "endless", "n1", 8 * GIB)) is None


@judged
async def test_a_task_longer_than_its_walltime_moves_to_a_pool_with_a_longer_one(caplog):
    bench = Bench("a", "b", site=LIMITED)
    await cut_off(bench, "a")
    assert bench.scheduler.tasks["a"].resource_restrictions is None
    assert not caplog.records
    bench.scheduler.tasks["a"].state = "processing"
    await cut_off(bench, "a", "b")
    assert bench.scheduler.tasks["a"].resource_restrictions == {"pool:long": 1}
    assert bench.scheduler.tasks["b"].resource_restrictions is None
    assert bench.scheduler.held == set()
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == (
        "Task 'a' was cut off 2 times by the end of its job: it seems to take longer than the "
        "walltime of pool 'cpu', 01:00:00. It goes to pool 'long', where it may take 04:00:00."
    )
    assert bench.judge.troubles() == {"a": warning}


@judged
async def test_a_task_longer_than_every_walltime_goes_on_and_says_so_once(caplog):
    bench = Bench("a", site=with_walltimes(cpu="1h", other="30m"))
    for _ in range(5):
        bench.scheduler.tasks["a"].state = "processing"
        await cut_off(bench, "a")
        assert ("let go", "a") in bench.scheduler.log or not bench.scheduler.held
    assert not bench.scheduler.failed
    assert bench.scheduler.held == set()
    assert bench.scheduler.tasks["a"].resource_restrictions is None
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "No pool that it may run on has a longer one, so it is tried again" in warning
    assert "cut off 5 times" in bench.judge.troubles()["a"]
    bench.scheduler.tasks["a"].state = "memory"
    assert bench.judge.troubles() == {}


@judged
async def test_what_a_drained_worker_did_not_finish_is_noted():
    """distributed expects workers that are retired, and so asks nobody about them."""
    bench = Bench("a", site=LIMITED)
    bench.record = JobRecord("cpu-0", "cpu", state=CLOSING)
    ws = Worker(bench.scheduler, "a", executing=["a"])
    bench.judge.worker_retired(ws)
    assert not bench.judge.events
    bench.record.time_up = True
    bench.judge.worker_retired(ws)
    (event,) = bench.judge.events
    assert (event.keys, event.how) == (("a",), "is gone: its job reached the walltime")


@judged
async def test_a_worker_that_closes_in_order_is_pardoned_at_once():
    bench = Bench("a", "b")
    bench.judge.log_event("tls://w:1", {"action": "closing-worker", "reason": "signal-15"})
    bench.lose("a")
    assert bench.scheduler.held == set()
    bench.lose("b", address="w2")
    bench.judge.log_event("dask-site-blackbox", {"worker": "w2", "how": "closing"})
    assert bench.scheduler.held == set()
    assert {event.cause for event in bench.judge.events} == {PARDON}


@pytest.mark.parametrize("late", [False, True])
@judged
async def test_a_task_that_workers_cannot_read_is_given_up_though_they_close_in_order(late):
    """That it closes is told by the worker, why by its nanny: before or after."""
    bench = Bench("a")
    for number in range(ruling.STRIKES + late):
        assert not bench.scheduler.failed
        worker = f"tls://w:{number}"
        why = {"worker": worker, "how": "closing", "error": "ModuleNotFoundError: x"}
        if late and number < ruling.STRIKES:
            bench.judge.log_event(worker, {"action": "closing-worker", "reason": "broken"})
            bench.lose("a", address=worker)
            bench.judge.log_event("dask-site-blackbox", why)
        else:
            bench.judge.log_event("dask-site-blackbox", why)
            bench.lose("a", address=worker)
            await asyncio.sleep(0.05)
    said = str(bench.scheduler.failed["a"])
    assert said.count("gave up on what it was sent (ModuleNotFoundError: x)") >= ruling.STRIKES
    assert "upload_file" in said


@judged
async def test_a_task_cancelled_while_it_is_held():
    bench = Bench("a", "b")
    bench.lose("a", "b")
    del bench.scheduler.tasks["a"]
    bench.tell(executing=["a", "b"])
    assert bench.scheduler.held == set()
    assert bench.judge.events[0].keys == ("b",)


@judged
async def test_late_evidence_waits_while_the_task_is_processing_elsewhere():
    bench = Bench("a", "b")
    bench.lose("a", "b")
    await asyncio.sleep(0.3)
    assert bench.scheduler.tasks["a"].state == "processing"
    bench.tell(code=-9, executing=["a"], oom_kill=True)
    assert bench.scheduler.tasks["a"].resource_restrictions is None
    bench.lose("a", "b", address="w2")
    bench.tell(code=0, executing=["a"], closing=True, address="w2")
    assert bench.scheduler.tasks["a"].resource_restrictions == {
        "pool:mid": 1,
        "MEMORY": 4 * GIB + 1,
    }
    assert bench.scheduler.tasks["b"].resource_restrictions is None


@judged
async def test_late_evidence_reaches_a_task_that_still_waits():
    bench = Bench("a")
    bench.lose("a")
    await asyncio.sleep(0.3)
    bench.scheduler.tasks["a"].state = "waiting"
    bench.tell(code=-9, executing=["a"], oom_kill=True)
    assert bench.scheduler.tasks["a"].resource_restrictions["pool:mid"] == 1


@judged
async def test_late_evidence_against_one_that_was_let_go_as_a_bystander():
    bench = Bench("a", "b")
    bench.lose("a", "b")
    await asyncio.sleep(0.1)
    assert bench.scheduler.held == {"a"}
    bench.tell(code=-9, executing=["b"], oom_kill=True)
    assert bench.scheduler.held == set()
    assert bench.scheduler.tasks["a"].resource_restrictions is None
    assert bench.scheduler.tasks["b"].resource_restrictions is None
    bench.lose("b", address="w2")
    bench.tell(code=-9, executing=["b"], address="w2")
    assert bench.scheduler.tasks["b"].resource_restrictions["pool:mid"] == 1


@judged
async def test_a_late_pardon_takes_the_unknown_loss_back():
    record = JobRecord("cpu-0", "cpu", state=RUNNING)
    bench = Bench("a", record=record)
    for number in range(30):
        bench.lose("a", address=f"w{number}")
        bench.tell(code=-9, executing=["a"], address=f"w{number}")
        bench.judge.job_ended(record, "NODE_FAIL")
        bench.judge._verdicts.clear()
    assert not bench.scheduler.failed


@judged
async def test_a_worker_that_dies_while_it_fetches_inputs():
    """Nothing executes then: what was to be next is suspect, but was not alone."""
    bench = Bench("a", "b")
    bench.lose("a", "b")
    bench.tell(code=-15, executing=[], nanny_kill=True)
    assert bench.scheduler.tasks["a"].resource_restrictions == {"pool:cpu": 1, "MEMORY": 4 * GIB}
    assert bench.scheduler.tasks["b"].resource_restrictions is None
    bench.lose("a", "b", address="w2")
    bench.tell(code=-15, executing=[], nanny_kill=True, address="w2")
    assert bench.scheduler.tasks["a"].resource_restrictions["pool:mid"] == 1


@judged
async def test_a_cancelled_task_that_runs_on_may_be_to_blame():
    bench = Bench("a", "b")
    bench.lose("a", "b")
    bench.tell(code=-9, executing=["a", "cancelled"], oom_kill=True)
    assert bench.scheduler.tasks["a"].resource_restrictions == {"pool:cpu": 1, "MEMORY": 4 * GIB}
    bench.lose("b", address="w2")
    bench.tell(executing=["cancelled"], address="w2")
    assert bench.judge.events[-1].keys == ()


@judged
async def test_an_idle_worker_that_is_killed_puts_nobody_under_suspicion():
    bench = Bench("a", "b")
    for number in range(12):
        bench.lose("a", "b", address=f"w{number}")
        bench.tell(code=-9, executing=[], address=f"w{number}")
    assert not bench.scheduler.failed
    assert not bench.judge._ordeals


@judged
async def test_several_workers_lost_at_once():
    bench = Bench(*range(100))
    for number in range(10):
        bench.lose(*range(number * 10, number * 10 + 10), address=f"w{number}")
    assert len(bench.scheduler.held) == 100
    for number in reversed(range(10)):
        bench.tell(executing=[number * 10], address=f"w{number}")
    assert bench.scheduler.held == set()
    assert [event.keys for event in bench.judge.events] == [(n * 10,) for n in reversed(range(10))]


@judged
async def test_a_closing_cluster_judges_nobody():
    bench = Bench("a", "b")
    bench.lose("a")
    await bench.judge.close()
    bench.lose("b", address="w2")
    bench.tell(executing=["b"], address="w2")
    bench.judge.job_ended(JobRecord("cpu-0", "cpu"), "OUT_OF_MEMORY")
    await asyncio.sleep(0.3)
    assert not bench.judge.events
    assert "b" not in bench.scheduler.held


@judged
async def test_a_new_task_of_an_old_name_starts_with_a_clean_record():
    bench = Bench("a")
    for number in range(6):
        bench.lose("a", address=f"w{number}")
        bench.tell(executing=["a"], address=f"w{number}")
        if number % 2:
            bench.scheduler.tasks["a"] = Task("a")
    assert not bench.scheduler.failed
    bench.scheduler.tasks.clear()
    assert not bench.judge._ordeals, "what is gone is forgotten"


@judged
async def test_users_are_told_once_a_worker_and_not_without_end(caplog):
    caplog.set_level(logging.WARNING, "dask_site")
    bench = Bench(*(f"x-{number}" for number in range(40)))
    bench.lose(*bench.scheduler.tasks, nthreads=4)
    bench.tell(executing=["x-0", "x-1", "x-2", "x-3"], oom_kill=True, code=-9, peak=5 * GIB)
    (record,) = caplog.records
    assert record.message == (
        "Worker cpu-0 (pool 'cpu', node n1) ran out of memory and was killed by the kernel "
        "(5.00 GiB of 4.00 GiB). Tasks 'x-0', 'x-1', 'x-2' and 1 more run again alone on a worker, "
        "for any of them may be the cause. 36 tasks that had not begun there go on."
    )
    for number in range(40):
        bench.lose(f"x-{number}", address=f"w{number}")
        bench.tell(executing=[f"x-{number}"], address=f"w{number}")
    assert len(caplog.records) == 10
    assert caplog.records[-1].message.endswith("not told one by one.")
    assert len(bench.judge.events) == 41


@judged
async def test_whatever_goes_wrong_the_tasks_go_on(caplog):
    bench = Bench("a", "b")
    bench.lose("a", "b")
    bench.scheduler.restrict = None
    bench.tell(code=-9, executing=["a"], oom_kill=True)
    assert bench.scheduler.held == set()
    assert not bench.judge.waiting
    assert "Judging a lost worker went wrong; its tasks go on." in caplog.text


@judged
async def test_other_events_are_passed_over():
    bench = Bench("a")
    bench.judge.log_event("all", {"action": "remove-worker"})
    bench.judge.log_event(["x"], None)
    bench.judge.log_event("print", ("a", "b"))
    assert not bench.judge._early


def test_errors_survive_pickling_with_their_story():
    for kind in (TaskCrashed, TaskOutOfMemory):
        error = kind(("x", 1), types.SimpleNamespace(address="tls://w:1"), 3, "the whole story")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert isinstance(copy, KilledWorker)
        assert str(copy) == "the whole story" == copy.story
        assert copy.task == ("x", 1)
        assert copy.allowed_failures == 2
        assert copy.last_worker.address == "tls://w:1"
