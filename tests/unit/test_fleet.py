"""The fleet keeps step with a resource manager, without asking it often."""

import asyncio
import itertools
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.fleet import Fleet
from dask_site.cluster.inquiry import Inquiry
from dask_site.cluster.pace import Pace
from dask_site.cluster.queue import ENDED, PENDING, RUNNING, UNKNOWN, QueueEntry
from dask_site.site import Site

# -- what is asked ----------------------------------------------------------------------------


class Manager:
    """A resource manager that does what it is told; counts what it is asked."""

    can_look = True
    interval = 0.05

    def __init__(self):
        self.jobs = {}
        self.accounts = {}
        self.away = False
        self.calls = Counter()
        self.cancelled = []
        self.refuses = ""
        self.most = 10**6
        self.scripts = []
        self._numbers = itertools.count(1)

    def submit(self, numbers):
        self.scripts.append(numbers)
        if self.refuses:
            raise RuntimeError(self.refuses)
        if len(numbers) > self.most:
            raise RuntimeError("Batch job submission failed: Invalid job array specification")
        number = str(next(self._numbers))
        elements = [f"{number}_{n - numbers[0]}" for n in numbers] if len(numbers) > 1 else [number]
        self.jobs.update(dict.fromkeys(elements, QueueEntry(PENDING, "PENDING", "Priority")))
        return number

    async def look(self, job_ids, job_names):
        self.calls["look"] += 1
        if self.away:
            raise ClusterError("Unable to contact slurm controller")
        return dict(self.jobs)

    async def verdicts(self, job_ids):
        self.calls["verdicts"] += 1
        if self.accounts is None:
            raise ClusterError("Connection refused")
        return {job: self.accounts[job] for job in job_ids if job in self.accounts}

    async def cancel(self, job_ids):
        self.calls["cancel"] += 1
        self.cancelled += job_ids
        for job in job_ids:
            self.jobs.pop(job, None)

    def runs(self, job, **more):
        self.jobs[job] = QueueEntry(RUNNING, "RUNNING", "", "c1", datetime.now(UTC), **more)

    def ends(self, job, verdict="FAILED", reason="", node="c1"):
        self.jobs[job] = QueueEntry(ENDED, verdict, reason, node, datetime.now(UTC))


class Factory:
    scheduler_address = "tls://10.0.0.1:8786"

    def __init__(self, manager):
        self.manager = manager

    def make(self, pool, *numbers):
        job = SimpleNamespace(job_id=None)

        async def start():
            await asyncio.sleep(0)
            job.job_id = self.manager.submit(numbers)

        job.start = start
        return job


class Reaper:
    def __init__(self):
        self.watched = []

    def watch(self, job_id):
        self.watched.append(job_id)

    def forget(self, job_id):
        self.watched.remove(job_id)


def pools(**fields):
    pool = {"cores": 4, "memory": "4GiB", "walltime": "1h", **fields}
    return Site.from_mapping(
        {"schema": 1, "name": "X", "resource_manager": "slurm", "pools": {"cpu": pool}}
    ).pools


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Run a scene, a coroutine function of (fleet, manager), and check that it ends well."""

    monkeypatch.setattr("dask_site.cluster.fleet._CLOSING_GRACE", 0.1)

    def run(scene, interval=0.05):
        async def staged():
            manager = Manager()
            manager.interval = interval
            folder = SimpleNamespace(logs=tmp_path)
            fleet = Fleet(Factory(manager), manager, folder, Reaper(), ["dask-x-cpu"])
            try:
                await scene(fleet, manager)
            finally:
                assert await fleet.stop()
                assert fleet._reaper.watched == []

        asyncio.run(staged())

    return run


async def until(condition, seconds=5):
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came true"
        await asyncio.sleep(0.01)


def states(fleet):
    return [record.state for record in fleet.records]


def test_others_who_look_do_not_make_it_ask_more(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 3)
        await until(lambda: manager.calls["look"] == 1)
        for _ in range(50):
            await fleet.look()
        assert manager.calls["look"] == 1
        assert states(fleet) == ["pending"] * 3

    play(scene, interval=2)


@pytest.mark.parametrize(("jobs", "sooner"), [(3, True), (30, False)])
def test_many_jobs_are_asked_for_no_more_often_while_they_end(play, jobs, sooner):
    asked = []

    async def scene(fleet, manager):
        def look(job_ids, job_names, plain=manager.look):
            asked.append(asyncio.get_running_loop().time())
            return plain(job_ids, job_names)

        manager.look = look
        fleet.submit(pools()["cpu"], jobs)
        await until(lambda: len(manager.jobs) == jobs)
        for n, job in enumerate(list(manager.jobs)):
            manager.runs(job)
            fleet.worker_joined(f"cpu-{n}", f"tls://{n}", "c1")
        await until(lambda: asked)

    play(scene, interval=3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses and (min(pauses) < 2) is sooner, pauses
    assert sooner or min(pauses) > 2.99


def test_without_jobs_nothing_is_asked(play):
    async def scene(fleet, manager):
        await asyncio.sleep(0.5)
        await fleet.look()
        assert not manager.calls

    play(scene)


def test_a_job_goes_its_way_with_its_times(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        expected = datetime.now(UTC) + timedelta(hours=2)
        await until(lambda: record.submitted)
        manager.jobs["1"] = QueueEntry(PENDING, "PENDING", "Resources", expected=expected)
        await until(lambda: record.reason == "Resources")
        assert record.expected_start == expected
        assert record.deadline is None
        manager.runs("1")
        await until(lambda: record.state == "starting")
        assert record.node == "c1"
        assert record.expected_start is None
        assert record.deadline - record.started == timedelta(hours=1)
        ends = record.started + timedelta(minutes=20)
        manager.runs("1", ends=ends)
        await until(lambda: record.deadline == ends)
        assert fleet.worker_joined("cpu-0", "tls://1", "10.0.0.7") is record
        assert record.state == "running"
        assert record.joined_at >= record.started
        assert record.node == "c1"
        assert fleet.job_of("tls://1") is record

    play(scene)


def test_the_name_of_the_node_that_a_worker_tells_is_taken(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        await until(lambda: fleet.records[0].job_id)
        fleet.worker_joined("cpu-0", "tls://1", "c7")
        assert fleet.records[0].node == "c7"

    play(scene, interval=2)


def test_those_who_want_to_know_hear_how_a_job_ended(play):
    heard, orphans = [], []

    async def scene(fleet, manager):
        fleet.on_ended = lambda record, *how: heard.append((record.name, record.verdict, *how))
        fleet.on_orphans = orphans.append
        fleet.submit(pools()["cpu"], 2)
        await until(lambda: len(manager.jobs) == 2)
        for n, job in enumerate(("1", "2")):
            manager.runs(job)
            fleet.worker_joined(f"cpu-{n}", f"tls://{n}", "c1")
        manager.ends("1", "NODE_FAIL", "NodeDown")
        fleet.worker_left("tls://1")
        manager.ends("2", "OUT_OF_MEMORY")
        await until(lambda: len(heard) == 2)

    play(scene)
    assert heard == [
        ("cpu-0", "NODE_FAIL", "NODE_FAIL", "NodeDown"),
        ("cpu-1", "OUT_OF_MEMORY", "OUT_OF_MEMORY", ""),
    ]
    assert orphans == [["tls://0"]]


@pytest.mark.parametrize("seen_pending", [True, False])
def test_a_job_that_is_queued_again_begins_anew(play, caplog, seen_pending):
    heard, orphans = [], []

    async def scene(fleet, manager):
        fleet.on_ended = lambda record, *how: heard.append(how)
        fleet.on_orphans = orphans.append
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        await until(lambda: record.job_id)
        manager.runs("1")
        fleet.worker_joined("cpu-0", "tls://1", "c1")
        await until(lambda: record.deadline)
        await asyncio.sleep(0.05)
        if seen_pending:
            manager.jobs["1"] = QueueEntry(PENDING, "PENDING", "BeginTime", restarts=1)
            fleet.worker_left("tls://1")
            await until(lambda: record.state == "pending")
            assert (record.deadline, record.joined) == (None, False)
        manager.runs("1", restarts=1)
        if not seen_pending:
            fleet._pace.changed()
            fleet._wake.set()
            await until(lambda: orphans)
            fleet.worker_left("tls://1")
        await until(lambda: record.state != "pending")
        fleet.worker_joined("cpu-0", "tls://2", "c1")
        await asyncio.sleep(0.3)
        assert record.state == "running"
        assert record.restarts == 1
        assert record.seconds > 0

    play(scene)
    assert [how[0] for how in heard[:-1]] == ["REQUEUED"]
    assert orphans[:-1] == ([] if seen_pending else [["tls://1"]])
    assert caplog.text.count("queued it again") == 1


def test_workers_of_a_node_that_was_cut_off_are_no_new_run(play, caplog):
    heard, orphans = [], []

    async def scene(fleet, manager):
        fleet.on_ended = lambda record, *how: heard.append(how)
        fleet.on_orphans = orphans.append
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        await until(lambda: record.job_id)
        manager.runs("1")
        fleet.worker_joined("cpu-0", "tls://1", "c1")
        await until(lambda: record.deadline)
        fleet.worker_left("tls://1")
        manager.jobs["1"] = QueueEntry(PENDING, "PENDING", "BeginTime", restarts=1)
        await until(lambda: record.state == "pending")
        spent = record.seconds
        fleet.worker_joined("cpu-0", "tls://1", "c1")
        await until(lambda: record.state == "pending")
        assert orphans == [["tls://1"]]
        assert record.seconds == spent
        fleet.worker_left("tls://1")

    play(scene)
    assert [how[0] for how in heard] == ["REQUEUED", "CANCELLED"]
    assert caplog.text.count("queued it again") == 1


def test_what_the_queue_has_forgotten_is_asked_of_the_accounting_once_for_all(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 5)
        await until(lambda: len(manager.jobs) == 5)
        for job in list(manager.jobs):
            del manager.jobs[job]
            manager.accounts[job] = QueueEntry(ENDED, "TIMEOUT", "", "c1")
        await until(lambda: states(fleet) == ["failed"] * 5)
        assert {r.verdict for r in fleet.records} == {"TIMEOUT"}
        assert manager.calls["verdicts"] == 1

    play(scene)


def test_an_accounting_that_never_answers_does_not_keep_a_job_for_ever(play):
    async def scene(fleet, manager):
        manager.accounts = None
        fleet.submit(pools()["cpu"], 1)
        await until(lambda: manager.jobs)
        manager.jobs.clear()
        await until(lambda: states(fleet) == ["failed"])
        assert fleet.records[0].verdict == UNKNOWN
        assert manager.calls["verdicts"] == 3

    play(scene)


def test_queue_and_accounting_take_turns():
    """So that one slow answer does not keep the other from being asked; never both in a slot."""
    manager, asked = Manager(), []
    inquiry = Inquiry(manager, ["x"], Pace(10, lambda: 1000.0))

    async def several():
        for _ in range(4):
            before = Counter(manager.calls)
            await inquiry.ask(["7"])
            asked.append((manager.calls - before).popitem())

    asyncio.run(several())
    assert asked == [("look", 1), ("verdicts", 1), ("look", 1), ("verdicts", 1)]


def test_an_answer_that_did_not_come_is_not_taken_for_an_empty_queue(play, caplog):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 2)
        await until(lambda: manager.calls["look"])
        manager.away = True
        before = manager.calls["look"]
        await until(lambda: manager.calls["look"] >= before + 3)
        assert states(fleet) == ["pending"] * 2
        manager.away = False
        await until(lambda: "answers again" in caplog.text)
        assert states(fleet) == ["pending"] * 2

    with caplog.at_level(logging.WARNING, "dask_site"):
        play(scene)
    said = [record.message for record in caplog.records]
    assert ["answer" in text for text in said] == [True, True], said


def test_failures_are_counted_until_a_worker_joins(play, caplog):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 3)
        await until(lambda: len(manager.jobs) == 3)
        manager.ends("1")
        manager.ends("2")
        await until(lambda: states(fleet).count("failed") == 2)
        assert fleet.failures_in_a_row("cpu") == 2
        manager.refuses = "sbatch: error: invalid partition specified: cpux"
        fleet.submit(pools()["cpu"], 20)
        await until(lambda: states(fleet).count("failed") == 22)
        # One refusal, whatever number was asked for; and those behind it were not tried.
        assert fleet.failures_in_a_row("cpu") == 3
        assert len(manager.scripts) <= 3 + 8
        assert all("invalid partition" in r.reason for r in fleet.records[3:])
        manager.runs("3")
        fleet.worker_joined("cpu-2", "tls://3", "c1")
        assert fleet.failures_in_a_row("cpu") == 0

    play(scene)
    assert caplog.text.count("invalid partition") == 1


def test_bad_luck_before_a_worker_joined_is_no_failure_of_the_pool(play, caplog):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 3)
        await until(lambda: len(manager.jobs) == 3)
        manager.ends("1", "PREEMPTED")
        manager.ends("2", "NODE_FAIL")
        await until(lambda: states(fleet).count("failed") == 2)
        assert fleet.failures_in_a_row("cpu") == 0
        manager.ends("3", "TIMEOUT")
        await until(lambda: states(fleet).count("failed") == 3)
        assert fleet.failures_in_a_row("cpu") == 1

    play(scene)
    assert caplog.text.count("Another one is asked for") == 2


def test_jobs_that_have_ended_are_not_looked_through_again(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 3)
        await until(lambda: len(manager.jobs) == 3)
        assert fleet.of("cpu") == fleet.records
        manager.ends("1")
        manager.ends("3")
        await until(lambda: states(fleet).count("failed") == 2)
        assert fleet.of("cpu") == [fleet.records[1]]
        assert fleet._present["cpu"] == [fleet.records[1]]
        assert len(fleet.records) == 3

    play(scene)


def join_and_end(fleet, manager, number, verdict="FAILED", computed=False):
    """Have the job of a number run, its worker join, and both end."""
    job, address = str(number + 1), f"tls://{number}"
    manager.runs(job)
    record = fleet.worker_joined(f"cpu-{number}", address, "c1")
    if computed:
        fleet.computed(record)
    manager.ends(job, verdict)
    fleet.worker_left(address)
    return until(lambda: states(fleet).count("failed") == number + 1)


def test_jobs_that_join_and_end_at_once_are_failures_of_the_pool(play, caplog):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 8)
        await until(lambda: len(manager.jobs) == 8)
        for n in range(3):
            await join_and_end(fleet, manager, n)
            assert fleet.failures_in_a_row("cpu") == n + 1
        assert all(record.counts for record in fleet.records[:3])
        for n, verdict in enumerate(("PREEMPTED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY"), 3):
            await join_and_end(fleet, manager, n, verdict)
            assert fleet.failures_in_a_row("cpu") == 3
        await join_and_end(fleet, manager, 7, computed=True)
        assert fleet.failures_in_a_row("cpu") == 0
        assert not fleet.records[7].counts

    play(scene)
    assert caplog.text.count("If the next ones end alike, the pool is paused.") == 3


def test_a_job_that_lived_for_a_while_or_was_asked_to_go_is_no_failure(play):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 2)
        await until(lambda: len(manager.jobs) == 2)
        manager.runs("1")
        record = fleet.worker_joined("cpu-0", "tls://0", "c1")
        record.joined_at -= timedelta(minutes=2)
        manager.ends("1")
        await until(lambda: states(fleet)[0] == "failed")
        manager.runs("2")
        ending = fleet.worker_joined("cpu-1", "tls://1", "c1")
        await fleet.end([ending])
        manager.ends("2")
        await until(lambda: states(fleet)[1] == "ended")
        assert fleet.failures_in_a_row("cpu") == 0

    play(scene)


def test_many_jobs_of_the_same_lot_are_told_briefly(play, caplog):
    async def scene(fleet, manager):
        fleet.submit(pools(submit="array")["cpu"], 200)
        await until(lambda: len(manager.jobs) == 200)
        for job in manager.jobs:
            manager.ends(job, reason="exit code 3")
        await until(lambda: states(fleet) == ["failed"] * 200)
        assert all("exit code 3" in r.reason for r in fleet.records)

    play(scene)
    assert len(caplog.records) == 4
    assert "More jobs of pool 'cpu' have the same trouble" in caplog.text


def test_a_job_that_was_taken_though_the_answer_got_lost_is_cancelled(play, caplog):
    async def scene(fleet, manager):
        manager.refuses = "sbatch: error: Batch job submission failed: Socket timed out"
        fleet.submit(pools()["cpu"], 1)
        await until(lambda: states(fleet) == ["failed"])
        manager.jobs["99"] = QueueEntry(PENDING, "PENDING")
        await until(lambda: manager.cancelled == ["99"])
        assert manager.calls["look"] >= 2  # a job is not condemned at first sight

    play(scene)
    assert "never confirmed" in caplog.text


def test_closing_finds_such_a_job_too(play):
    managers = []

    async def scene(fleet, manager):
        managers.append(manager)
        manager.refuses = "Socket timed out"
        fleet.submit(pools()["cpu"], 1)
        await until(lambda: states(fleet) == ["failed"])
        manager.jobs["99"] = QueueEntry(PENDING, "PENDING")

    play(scene, interval=1)
    assert managers[0].cancelled == ["99"]


def test_closing_takes_a_handful_of_questions(play):
    managers = []

    async def scene(fleet, manager):
        managers.append(manager)
        fleet.submit(pools(submit="array")["cpu"], 500)
        await until(lambda: len(manager.jobs) == 500)

    play(scene, interval=10)
    assert len(managers[0].cancelled) == 500
    assert managers[0].calls["cancel"] == 1
    assert managers[0].calls["look"] <= 2


def test_where_the_manager_cannot_be_asked_a_job_without_workers_has_ended(play, monkeypatch):
    monkeypatch.setattr("dask_site.cluster.fleet._DESERTED", 0.2)

    async def scene(fleet, manager):
        manager.can_look = False
        fleet.submit(pools()["cpu"], 2)
        await until(lambda: len(manager.jobs) == 2)
        fleet.worker_joined("cpu-0", "tls://0", "c1")
        fleet.worker_left("tls://0")
        await until(lambda: states(fleet) == ["failed", "pending"])
        assert manager.cancelled == ["1"]
        assert "did not come back" in fleet.records[0].reason
        assert not manager.calls["look"]

    play(scene)


@pytest.mark.parametrize("state", ["COMPLETING", "STAGE_OUT"])
def test_a_job_that_is_over_does_not_count_though_its_node_hangs(play, state):
    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        await until(lambda: record.job_id)
        manager.runs("1")
        fleet.worker_joined("cpu-0", "tls://0", "c1")
        manager.jobs["1"] = QueueEntry(RUNNING, state, "", "c1", datetime.now(UTC))
        await until(lambda: record.over)
        assert fleet.of("cpu") == [record]
        fleet.worker_left("tls://0")
        assert fleet.of("cpu") == []
        manager.jobs["1"] = QueueEntry(PENDING, "PENDING", "BeginTime", restarts=1)
        await until(lambda: fleet.of("cpu") == [record])
        assert not manager.cancelled

    play(scene)


def test_a_job_that_is_suspended_is_not_given_up(play, monkeypatch, caplog):
    monkeypatch.setattr("dask_site.cluster.fleet._LATE", 0.05)
    monkeypatch.setattr("dask_site.cluster.fleet._GIVEN_UP", 1)

    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        await until(lambda: record.job_id)
        manager.jobs["1"] = QueueEntry(RUNNING, "SUSPENDED", "", "c1", datetime.now(UTC))
        await until(lambda: fleet.late("cpu"))
        await asyncio.sleep(0.3)
        assert record.state == "starting"
        assert not manager.cancelled

    play(scene)
    assert not caplog.records


def test_a_job_without_workers_counts_no_more_until_they_come(play, monkeypatch, caplog):
    monkeypatch.setattr("dask_site.cluster.fleet._LATE", 1.0)
    monkeypatch.setattr("dask_site.cluster.fleet._GIVEN_UP", 100)

    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        (record,) = fleet.records
        await until(lambda: record.job_id)
        manager.runs("1")
        await until(lambda: record.state == "starting")
        assert fleet.of("cpu") == [record]
        await until(lambda: fleet.of("cpu") == [])
        await until(lambda: record.reason == "runs without a worker")
        assert fleet.late("cpu") == [record]
        fleet.worker_joined("cpu-0", "tls://0", "c1")
        assert fleet.of("cpu") == [record]
        # It took longer than was thought, so the next ones may too.
        assert fleet._patience_with("cpu") >= 3.0

    play(scene)
    assert caplog.text.count("without a worker") == 1


def test_a_job_whose_workers_never_come_is_given_up(play, monkeypatch, caplog):
    monkeypatch.setattr("dask_site.cluster.fleet._LATE", 0.5)

    async def scene(fleet, manager):
        fleet.submit(pools()["cpu"], 1)
        await until(lambda: manager.jobs)
        manager.runs("1")
        await until(lambda: states(fleet) == ["failed"])
        await until(lambda: manager.cancelled == ["1"])
        assert "did not come" in fleet.records[0].reason
        assert fleet.failures_in_a_row("cpu") == 1

    play(scene)
    assert caplog.text.count("has run for") == 1


def test_where_no_job_gets_its_workers_one_more_is_asked_for_at_a_time(play, monkeypatch):
    monkeypatch.setattr("dask_site.cluster.fleet._LATE", 0.1)
    monkeypatch.setattr("dask_site.cluster.fleet._GIVEN_UP", 100)

    async def scene(fleet, manager):
        pool = pools(max_jobs=4)["cpu"]
        fleet.submit(pool, 3)
        await until(lambda: len(manager.jobs) == 3)
        for job in [*manager.jobs]:
            manager.runs(job)
        await until(lambda: len(fleet.of("cpu")) == 2)
        await asyncio.sleep(0.3)
        assert len(fleet.of("cpu")) == 2
        fleet.submit(pool, 2)
        assert len(fleet.records) == 4, "no more than the pool may have"

    play(scene)


# -- arrays -----------------------------------------------------------------------------------


def test_an_array_has_a_record_for_each_element(play):
    async def scene(fleet, manager):
        pool = pools(submit="array")["cpu"]
        fleet.submit(pool, 1)
        fleet.submit(pool, 2500)
        await until(lambda: len(manager.jobs) == 2501)
        assert [len(numbers) for numbers in manager.scripts] == [1, 1000, 1000, 500]
        assert fleet._reaper.watched == ["1", "2", "3", "4"]
        by_name = {record.name: record.job_id for record in fleet.records}
        assert len(by_name) == 2501
        assert (by_name["cpu-0"], by_name["cpu-1"], by_name["cpu-1001"]) == ("1", "2_0", "3_0")
        assert by_name["cpu-2500"] == "4_499"
        manager.runs("2_1")
        fleet.worker_joined("cpu-2", "tls://2", "c1")
        await until(lambda: manager.calls["look"] > 1)
        assert fleet.records[2].state == "running"
        await fleet.end(fleet.of("cpu"))
        assert manager.calls["cancel"] == 1

    play(scene)


def test_called_off_elements_are_not_submitted(play):
    async def scene(fleet, manager):
        fleet.submit(pools(submit="array")["cpu"], 6)
        await fleet.end(fleet.records[2:4])
        await until(lambda: manager.jobs)
        assert manager.scripts == [(0, 1, 4, 5)]
        assert [r.job_id for r in fleet.records] == ["1_0", "1_1", "", "", "1_4", "1_5"]
        assert states(fleet)[2:4] == ["ended"] * 2

    play(scene)


def test_a_site_with_smaller_arrays_gets_smaller_ones(play, caplog):
    async def scene(fleet, manager):
        manager.most = 300
        fleet.submit(pools(submit="array")["cpu"], 1000)
        await until(lambda: states(fleet) == ["pending"] * 1000)
        assert [len(n) for n in manager.scripts] == [1000, 500, *[250] * 4]
        # It is not tried again.
        fleet.submit(pools(submit="array")["cpu"], 700)
        await until(lambda: states(fleet) == ["pending"] * 1700)
        assert sorted(len(n) for n in manager.scripts[6:]) == [200, 250, 250]

    play(scene)
    assert not caplog.records


def test_a_site_without_arrays_gets_single_jobs(play, caplog):
    async def scene(fleet, manager):
        manager.most = 1
        fleet.submit(pools(submit="array")["cpu"], 100)
        await until(lambda: states(fleet) == ["pending"] * 100)
        assert [len(n) for n in manager.scripts] == [100, 50, 25, 12, 6, 3, *[1] * 100]
        fleet.submit(pools(submit="array")["cpu"], 20)
        await until(lambda: states(fleet) == ["pending"] * 120)
        assert len(manager.scripts) == 126

    play(scene)
    (warning,) = [record.message for record in caplog.records]
    assert warning.endswith("leave `submit: array` out of the site file.")


def test_another_refusal_is_none_of_the_array(play, caplog):
    async def scene(fleet, manager):
        manager.refuses = "sbatch: error: Unable to open file /home/a/array-jobs/x.sh"
        fleet.submit(pools(submit="array")["cpu"], 100)
        await until(lambda: states(fleet) == ["failed"] * 100)
        assert len(manager.scripts) == 1
        assert fleet._array_most == 1000

    play(scene)
