"""Slurm's accounting, from rows that real clusters gave (22.05 and 24.11)."""

import os
import stat
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import history_making as made
import pytest

from dask_site.history import sheets
from dask_site.history.accounting import (
    Accountant,
    AskError,
    Question,
    Told,
    asker,
    due,
    verdict,
    waiting,
)
from dask_site.history.accounting.refreshing import REFUSED
from dask_site.history.accounting.sacct import Sacct, elements, parse
from dask_site.history.costs import Tariff
from dask_site.history.ledger import close_books
from dask_site.history.records import parse as parse_record
from dask_site.history.source import Found
from dask_site.history.store import Store
from dask_site.history.store.claims import Claim
from dask_site.history.waits import waits
from dask_site.site import Site
from dask_site.web.cluster_tables import job_table

ROWS = Path(__file__).with_name("sacct_rows")
OLD = (ROWS / "slurm_22_05.txt").read_text()
NEW = (ROWS / "slurm_24_11.txt").read_text()
BOB = 2002
GIB = 2**30


def told(text=OLD):
    return {t.job.run: t for t in parse(text)}


def job(number, text=OLD):
    (found,) = (t.job for t in parse(text) if t.job.id == number)
    return found


def test_a_job_with_its_step():
    found = job("134")
    assert (found.user, found.account, found.state) == ("bob", "physics", "COMPLETED")
    assert (found.submit, found.start, found.end) == (1795476687, 1795476687, 1795476722)
    assert (found.cores, found.gpus, found.memory, found.billing) == (1, 0, GIB, 1)
    assert found.max_rss == 183627776
    assert found.cpu_seconds == pytest.approx(0.972)
    assert found.energy is None, "no meters: not 0 J"
    assert (found.nodes, found.reason, found.exit_code) == ("c1", "", "0:0")


def test_gpus_and_units_that_are_billed():
    found = job("139")
    assert (found.cores, found.gpus, found.memory, found.billing) == (2, 2, 2 * GIB, 2)


def test_jobs_that_never_started_have_no_start():
    found = job("145")
    assert (found.start, found.cores, found.nodes) == (None, 0, "")
    assert found.end == 1795476701
    assert (found.state, found.reason) == ("CANCELLED", "cancelled by its user")
    assert job("165").reason == "cancelled by user 0"


def test_a_start_without_cores_is_none():
    line = (
        "123|123|2001|alice|physics|1795475853|1795475853|1795475853|1795475853|FAILED|None|1:0|"
        "None assigned||00:00:00||0"
    )
    (found,) = parse(line)
    assert (found.job.start, found.job.end, found.job.state) == (None, 1795475853, "FAILED")


def test_both_runs_of_a_requeued_job_with_the_steps_of_each():
    first, second = (t.job for t in parse(OLD) if t.job.id == "158")
    assert (first.state, second.state) == ("REQUEUED", "COMPLETED")
    assert (first.end - first.start, second.end - second.start) == (5, 34)
    assert (first.max_rss, second.max_rss) == (180965376, 183271424)
    assert first.run != second.run


def test_states_of_a_job_that_did_not_end_well():
    assert (job("159").state, job("159").exit_code) == ("OUT_OF_MEMORY", "0:125")
    assert job("162").state == "TIMEOUT"
    states = Counter(t.job.state for t in parse(NEW))
    assert states["NODE_FAIL"] and states["PREEMPTED"]


def test_elements_of_arrays_and_parts_of_several():
    assert job("160_4").raw == "160"
    assert job("160_0").raw == "166"
    assert [list(some) for some in elements("161_[0-1,6]")] == [[0, 1], [6]]
    assert [list(some) for some in elements("1_[0-8:4%2]")] == [[0, 4, 8]]
    assert list(elements("1_[...]")) == []
    assert (job("163+0").raw, job("163+1").raw) == ("163", "164")
    assert job("163+1").memory == 200 * 2**20


def test_what_still_runs_has_no_end():
    line = (
        "162|162|2002|bob|physics|1795477035|1795477035|1795477036|Unknown|RUNNING|None|0:0|c1|"
        "billing=1,cpu=1,mem=300M,node=1|00:00:00||"
    )
    (found,) = parse(line)
    assert (found.job.start, found.job.end, found.job.cpu_seconds) == (1795477036, None, None)


@pytest.mark.parametrize(
    ("tres", "cores", "gpus", "memory"),
    [
        ("cpu=4,mem=8G,gres/gpu=1,billing=4,energy=0", 4, 1, 8 * GIB),
        ("cpu=4,mem=1.50G,gres/gpu:a100=2,gres/gpu:v100=1", 4, 3, 3 * GIB // 2),
        ("cpu=4,gres/gpu:a100=2,gres/gpu=2", 4, 2, 0),
        ("cpu=4,mem=1T,energy=18446744073709551614", 4, 0, 1024 * GIB),
        ("cpu=-4,mem=lots,gres/gpu=", 0, 0, 0),
    ],
)
def test_resources_as_slurm_writes_them(tres, cores, gpus, memory):
    line = f"1|1|5|u|a|9|9|10|20|COMPLETED|None|0:0|c1|{tres}|1-02:03:04||18446744073709551614"
    (found,) = parse(line)
    assert (found.job.cores, found.job.gpus, found.job.memory) == (cores, gpus, memory)
    assert found.job.energy is None
    assert found.job.cpu_seconds in (None, 93784)


def test_lines_that_are_not_saccts_are_passed_over():
    assert parse("") == []
    assert parse("sacct: error\n1|2|3\n" + "|" * 16 + "\n" + "x|y|-1" + "|" * 14) == []
    assert len(parse(OLD)) == len({t.job.run for t in parse(OLD)})


def test_a_job_cannot_forge_others_by_its_name():
    row = "7|7|2002|bob|p|9|9|10|20|COMPLETED|None|0:0|c1|cpu=1|00:01.000||0"
    (found,) = parse(f"{row}|a|b", named=True)
    assert found.name == "a|b"
    assert parse(f"{row}|a\n{row.replace('2002', '0')}", named=True)[0].uid == 2002


# -- the verdict ---------------------------------------------------------------------------------


def test_the_verdict_is_what_tells_most_of_those_that_ended_last():
    def ended(state, end=100.0, **values):
        return made.row(state=state, end=end, **values)

    assert verdict([]) is None
    assert verdict([ended("COMPLETED")]) is None
    assert verdict([ended("COMPLETED"), ended("TIMEOUT"), ended("CANCELLED")]) == "TIMEOUT"
    assert verdict([ended("NODE_FAIL", 10), ended("CANCELLED", 1000)]) == "CANCELLED"
    assert verdict([ended("TIMEOUT"), made.row("2", end=None, state="RUNNING")]) is None
    assert verdict([made.row(start=None, state="CANCELLED")]) is None
    session = ended("OUT_OF_MEMORY", number="5")
    assert verdict([ended("TIMEOUT", 900), session], own="5") == "OUT_OF_MEMORY"
    assert verdict([job("162")]) == "TIMEOUT"


# -- what the rows show of ledgers ---------------------------------------------------------------


def test_a_session_counts_for_as_long_as_its_cluster_was_there():
    # A notebook's job of an hour, in which a cluster was there for 100 s.
    session = made.row("5", start=-1000, end=2600, cores=4)
    there = made.worker(end=100, threads=4, job="5")
    past = made.history(there, accounting=[session], job="5")
    assert close_books(past).whole.allocated == 400


def test_a_job_that_was_queued_again_waited_twice():
    first, second = (t.job for t in parse(OLD) if t.job.id == "158")
    asked = made.job("cpu-0", "158", submitted=first.submit - made.T0)
    for accounting in ([first, second], [second, first]):
        past = made.history(asked, accounting=accounting)
        found = waits(past)
        assert [(w.seconds + w.held, w.started) for w in found] == [(1, True), (122, True)]
        assert [w.held for w in found] == [0, 121], "Slurm lets it start two minutes later only"
        assert close_books(past).whole.allocated == 5 + 34


def test_a_job_that_the_manager_says_never_started_did_not():
    asked = made.job("cpu-0", "145", submitted=0, started=5)
    never = replace(job("145"), submit=made.T0, end=made.T0 + 11)
    past = made.history(asked, accounting=[never])
    (wait,) = waits(past)
    assert (wait.started, wait.seconds) == (False, 11)
    assert close_books(past).whole.allocated == 0


def shown(past):
    """Return the jobs of a history as the command line and the page show them."""
    rows = sheets.sheet(Found(past, Tariff()), "jobs").rows
    page = [
        {key.removesuffix("_s"): value for key, value in row.items()}
        for row in job_table(past).rows
    ]
    keys = ("state", "started", "ended", "ran", "node", "exit_code", "cores")
    both = [[tuple(row[key] for key in keys) for row in some] for some in (rows, page)]
    assert both[0] == both[1]
    return both[0]


def test_a_job_whose_end_the_accounting_does_not_know_yet_does_not_run():
    asked = made.job("cpu-0", "7", started=10, ended=40, node="n1", state="ended")
    row = made.row("7", start=10, end=None, state="RUNNING", nodes="n1")
    assert [one[0] for one in shown(made.history(asked, accounting=[row]))] == ["ended"]
    asked = made.job("cpu-0", "7", started=10, node="n1")
    assert [one[0] for one in shown(made.history(asked, accounting=[row]))] == ["RUNNING"]


def test_each_run_of_a_job_that_was_queued_again_is_shown_as_it_went():
    asked = made.job("cpu-0", "7", started=400, ended=1000, node="n2", state="ended")
    first = made.row("7", start=10, end=310, state="NODE_FAIL", exit_code="1:0", nodes="n1")
    second = made.row("7", submit=311, start=400, end=1000, exit_code="0:0", nodes="n2")
    t = made.T0
    runs = [
        ("NODE_FAIL", t + 10, t + 310, 300, "n1", "1:0", 2),
        ("COMPLETED", t + 400, t + 1000, 600, "n2", "0:0", 2),
    ]
    for accounting in ([first, second], [second, first]):
        assert shown(made.history(asked, accounting=accounting, seen=1000)) == runs
        assert shown(made.history(accounting=accounting, seen=1000)) == runs
    still = replace(second, end=None, state="RUNNING")
    past = made.history(
        asked.model_copy(update={"ended": None}), accounting=[first, still], seen=900, ended=False
    )
    assert shown(past)[1] == ("RUNNING", t + 400, None, 500, "n2", "0:0", 2)


def test_what_the_accounting_says_of_a_job_that_never_started_is_shown():
    asked = made.job("cpu-0", "145", state="pending", reason="Priority")
    never = replace(job("145"), submit=made.T0, end=made.T0 + 11, eligible=made.T0)
    ended = ("CANCELLED", None, made.T0 + 11, None, "", "0:0", 2)
    assert shown(made.history(asked, accounting=[never])) == [ended]
    assert shown(made.history(accounting=[never])) == [(*ended[:-1], 0)]


def test_of_a_job_that_the_accounting_does_not_know_to_run_the_cluster_counts():
    asked = made.job("cpu-0", "7", started=40, node="n1")
    behind = made.row("7", start=None, end=None, state="PENDING", cores=0)
    for accounting in ([behind], []):
        (only,) = shown(made.history(asked, accounting=accounting, ended=False))
        assert only == ("running", made.T0 + 40, None, 60, "n1", "", 2)


def test_a_worker_that_came_and_went_unseen_was_in_one_of_the_jobs():
    # Ended by the kernel half a second after it came; its nanny then started another.
    unseen = made.worker("gone-1.5", 1.5, 2.0, threads=1, pool=None, id="gone-1.5")
    there = made.worker("w", 4, 100, threads=2, job="1")
    past = made.history(unseen, there, accounting=[made.row()])
    assert close_books(past).whole.allocated == 200
    assert close_books(made.history(unseen)).whole.allocated == 0.5


# -- asking again and again ------------------------------------------------------------------------


class Slurm:
    """Answers from captured rows, as they were at some moment."""

    def __init__(self, text=OLD):
        self.text = text
        self.questions = []
        self.down = None
        self.names = {}

    def __call__(self, question):
        self.questions.append(question)
        if self.down:
            raise AskError(self.down)
        rows = parse(self.text)
        if question.names:
            return [
                Told(t.job, t.uid, self.names[t.job.id])
                for t in rows
                if self.names.get(t.job.id) in question.names
            ]
        wanted = set(question.jobs)
        return [t for t in rows if {t.job.raw, t.job.id.split("_")[0].split("+")[0]} & wanted]


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/history.db") as opened:
        yield opened


START = 1795476680.0


def record(k, t=START, **values):
    return {**made.base(k, t), **values}


def put(store, *jobs, owner=BOB, cluster="c1", now=START + 60, ended=True, workers=(), **values):
    records = [record("cluster", started=START, kind="Cluster", **values)]
    for n, number in enumerate(jobs):
        asked = {"name": f"cpu-{n}", "pool": "cpu", "state": "running", "submitted": START}
        records.append(record("job", id=number, **asked))
    for n, number in enumerate(workers):
        there = {"started": START, "seen": START, "threads": 1, "job": number}
        records.append(record("worker", id=f"w{n}", name=f"w{n}", **there))
    if ended:
        records.append(record("end", START + 50, how="closed"))
    store.ingest(owner, [parse_record({**r, "c": cluster}) for r in records], now=now)


def test_jobs_are_asked_for_until_they_have_ended_and_once_more(store):
    put(store, "134", "145", now=START + 40)
    slurm = Slurm("")
    accountant = Accountant(store, slurm)
    first = accountant.refresh(START + 60)
    assert (first.asked, first.kept, first.unknown) == (2, 0, 2)
    slurm.text = OLD
    early = accountant.refresh(START + 70)
    assert (early.asked, early.next) == (0, pytest.approx(START + 120, abs=1))
    assert len(slurm.questions) == 1, "never more than once a minute"
    second = accountant.refresh(START + 130)
    assert (second.asked, second.kept) == (2, 2)
    assert accountant.refresh(START + 200).asked == 0
    assert accountant.refresh(START + 500).asked == 2
    for later in (1000, 5000, 100_000):
        assert accountant.refresh(START + later).asked == 0, "settled"
    rows = {row.id: row for row in store.load("c1").accounting}
    assert rows["134"].cores == 1
    assert rows["145"].start is None
    assert [s.account for s in store.clusters()] == ["physics"]
    # Another process takes it up where this one was, and asks for nothing.
    assert Accountant(store, Slurm()).refresh(START + 1000).asked == 0


@pytest.mark.parametrize(
    ("how", "own", "seen", "shown"),
    [
        ("SIGTERM", "162", 0, "TIMEOUT"),
        ("SIGTERM", "162", -301, "SIGTERM"),  # the signal came long before
        ("SIGTERM", None, 0, "SIGTERM"),  # it ran elsewhere
        ("closed", "162", 0, "closed"),
        ("SIGINT", "134", -400, "SIGINT"),  # a job that ended by itself
    ],
)
def test_the_manager_knows_why_a_signal_came(store, how, own, seen, shown):
    moment = 1795477106.0 + seen
    records = [
        record("cluster", started=START, kind="Cluster", job=own),
        record(
            "worker", moment, id="w", name="w", started=START, seen=moment, threads=1, job="162"
        ),
        record("end", moment, how=how),
    ]
    store.ingest(BOB, [parse_record({**r, "c": "c1"}) for r in records], now=moment)
    Accountant(store, Slurm()).refresh(moment + 100)
    assert [row.id for row in store.load("c1").accounting][-1:] == ["162"]
    (found,) = store.clusters()
    assert (found.how, found.state, found.ended) == (shown, "ended", moment)


def test_what_the_manager_forgets_stays(store):
    put(store, "134")
    slurm = Slurm()
    accountant = Accountant(store, slurm)
    accountant.refresh(START + 100)
    # Steps are purged before their jobs.
    slurm.text = "\n".join(line for line in OLD.splitlines() if ".batch" not in line)
    accountant.refresh(START + 1000)
    slurm.text = ""
    accountant.refresh(START + 2000)
    (row,) = store.load("c1").accounting
    assert row.max_rss == 183627776


def test_a_cluster_with_very_many_jobs_takes_no_longer_for_each():
    rows = [made.row(str(n), end=None, state="RUNNING", asked=START) for n in range(10_000)]
    claim = Claim("c1", "", "Cluster", BOB, START, START, jobs={row.id for row in rows}, rows=rows)
    diary = due.Diary()
    diary.asked([("c1", row.id) for row in rows], [], START)
    begun = time.process_time()
    assert diary.unsettled(claim, START + 60)
    assert len(diary.due([claim], START + 10_000)) == len(rows)
    assert time.process_time() - begun < 2


def test_only_what_has_changed_is_written_and_the_account_stays(store, monkeypatch):
    put(store, "134", "145", ended=False)
    slurm = Slurm(OLD.replace("1795476722", "Unknown").replace("COMPLETED", "RUNNING"))
    accountant = Accountant(store, slurm)
    accountant.refresh(START + 60)
    before = {row.id: row for row in store.load("c1").accounting}
    assert before["134"].state == "RUNNING" != before["145"].state
    written = []
    real = store.put_accounting
    monkeypatch.setattr(
        store, "put_accounting", lambda name, rows: (written.append(rows), real(name, rows))
    )
    slurm.text = OLD
    accountant.refresh(START + 130)
    assert [[row.id for row in rows] for rows in written] == [["134"]]
    after = {row.id: row for row in store.load("c1").accounting}
    assert (after["134"].state, after["145"]) == ("COMPLETED", before["145"])
    assert [s.account for s in store.clusters()] == ["physics"]


def test_runs_of_a_requeued_job_are_all_kept(store):
    put(store, "158")
    Accountant(store, Slurm()).refresh(START + 1000)
    rows = store.load("c1").accounting
    assert sorted(row.end - row.start for row in rows) == [5, 34]


def test_arrays_are_asked_for_by_one_number(store):
    elements_of = [f"160_{n}" for n in range(5)] + [f"161_{n}" for n in range(8)]
    put(store, *elements_of, workers=["166", "160"])
    slurm = Slurm()
    accountant = Accountant(store, slurm)
    accountant.refresh(START + 1000)
    assert sorted(slurm.questions[0].jobs) == ["160", "161", "166"]
    rows = {row.id: row for row in store.load("c1").accounting}
    assert {f"160_{n}" for n in range(5)} <= rows.keys()
    # Those that Slurm shows as one row, 161_[0-1,6], and none that it doesn't.
    assert {name for name in rows if name.startswith("161")} == {"161_0", "161_1", "161_6"}


def test_all_parts_of_a_job_of_several(store):
    put(store, workers=["163"])
    Accountant(store, Slurm()).refresh(START + 1000)
    assert {row.id for row in store.load("c1").accounting} == {"163+0", "163+1"}


def test_the_job_of_another_user_is_refused_and_counted(store):
    put(store, "134", owner=2001)
    slurm = Slurm()
    accountant = Accountant(store, slurm)
    done = accountant.refresh(START + 100)
    assert (done.refused, done.kept) == (1, 0)
    assert store.load("c1").accounting == []
    assert store.refusals(2001) == {(2001, REFUSED): 1}
    accountant.refresh(START + 5000)
    assert len(slurm.questions) == 1, "not asked for again"


def test_a_number_that_was_given_twice_is_that_of_its_time(store):
    old = OLD.splitlines()[0].replace("17954", "17154")
    put(store, "134")
    Accountant(store, Slurm(old)).refresh(START + 100)
    assert store.load("c1").accounting == []


def test_what_is_no_number_of_a_job_is_not_asked_for(store):
    put(store, "123.pbs01", "-1", "134", workers=["12345678901234567"])
    slurm = Slurm()
    Accountant(store, slurm).refresh(START + 100)
    assert slurm.questions == [Question(jobs=("134",))]


def test_a_day_without_answers_is_caught_up_with(store, caplog):
    put(store, "134", "145", "158", ended=False)
    slurm = Slurm()
    slurm.down = "slurm_persist_conn_open: failed"
    accountant = Accountant(store, slurm)
    now, waits = START + 60, []
    while now < START + 86400:
        done = accountant.refresh(now)
        assert done.problem == slurm.down
        waits.append(round(done.next - now))
        now = done.next + 1
    assert waits == sorted(waits)
    assert waits[-1] == 1800
    assert len(caplog.records) == 1, "said once"
    slurm.down = None
    assert accountant.refresh(now).kept == 4
    assert accountant.refresh(now + 1).problem is None


def test_slow_answers_are_asked_for_seldom(store):
    put(store, "134")
    times = iter([0.0, 30.0])
    done = Accountant(store, Slurm(), clock=lambda: next(times)).refresh(START + 60)
    assert done.next == START + 60 + 30 + 600


def test_what_could_not_have_been_started_yet_was_not_in_the_queue():
    never, normal = job("165"), job("145")
    assert (never.eligible, normal.eligible) == (None, normal.submit)
    past = made.history(accounting=[never, normal])
    found = {w.job: w for w in waits(past)}
    assert (found["165"].held, found["165"].seconds) == (428, 0), "it depended on another"
    assert (found["145"].held, found["145"].seconds) == (0, 11)
    late = made.row("7", submit=0, start=90, end=100, eligible=made.T0 + 60)
    (wait,) = waits(made.history(made.job(number="7"), accounting=[late]))
    assert (wait.eligible, wait.held, wait.seconds) == (made.T0 + 60, 60, 30)
    assert close_books(made.history(accounting=[late])).beside.waited == 30


@pytest.mark.parametrize("named", [{"name": "7dc7eb69"}, {"name": "terrain", "label": "7dc7eb69"}])
def test_jobs_that_nobody_wrote_down_are_found_by_name(store, named):
    put(store, "134", **named, ended=False)
    slurm = Slurm()
    slurm.names = {"134": "dask-7dc7eb69-cpu", "140": "dask-7dc7eb69-cpu", "117": "x"}
    # The name of bob's cluster, on carol's job.
    slurm.names["136"] = "dask-7dc7eb69-cpu"
    accountant = Accountant(store, slurm)
    accountant.refresh(START + 100)
    assert not any(q.names for q in slurm.questions), "while it runs it knows itself"
    store.end("c1", "silent", START + 100)
    found = accountant.refresh(START + 200)
    assert slurm.questions[-1].names == ("dask-7dc7eb69-cpu",)
    assert (found.kept, found.refused) == (2, 1), "one is new, one has a pool now"
    rows = {row.id: row for row in store.load("c1").accounting}
    assert rows["140"].pool == "cpu"
    assert rows.keys() == {"134", "140"}
    accountant.refresh(START + 1000)
    accountant.refresh(START + 2000)
    assert sum(bool(q.names) for q in slurm.questions) == 1, "once"


def test_many_jobs_come_in_turns(store):
    for n in range(3):
        put(store, *(str(1000 + 600 * n + i) for i in range(600)), cluster=f"many{n}")
    slurm = Slurm()
    accountant = Accountant(store, slurm)
    first = accountant.refresh(START + 100)
    assert (first.asked, first.waiting) == (1000, 800)
    second = accountant.refresh(START + 200)
    assert second.asked >= 800
    assert not set(slurm.questions[0].jobs[:200]) & set(slurm.questions[1].jobs[:800])


def test_nobody_waits_for_anothers_many_jobs(store):
    for n in range(5):
        put(store, *(str(1000 + 600 * n + i) for i in range(600)), owner=1, cluster=f"many{n}")
    put(store, "134", "145")
    slurm = Slurm()
    Accountant(store, slurm).refresh(START + 100)
    assert {"134", "145"} <= set(slurm.questions[0].jobs)
    assert {row.id for row in store.load("c1").accounting} == {"134", "145"}


def test_a_silent_clusters_jobs_are_asked_for_soon(store):
    put(store, "134", ended=False)
    running = OLD.splitlines()[0].replace("1795476722", "Unknown").replace("COMPLETED", "RUNNING")
    slurm = Slurm(running)
    accountant = Accountant(store, slurm)
    now = START + 60
    while now < START + 20_000:
        accountant.refresh(now)
        now += 61
    assert len(slurm.questions) < 60, "the longer it runs the more seldom"
    slurm.text = OLD
    store.end("c1", "silent", now)
    for _ in range(2):
        accountant.refresh(now := now + 61)
    assert [row.state for row in store.load("c1").accounting] == ["COMPLETED"]


def test_a_cluster_that_was_deleted_is_asked_for_no_more(store):
    put(store, "134")
    slurm = Slurm("")
    accountant = Accountant(store, slurm)
    accountant.refresh(START + 100)
    store.forget("c1")
    assert accountant.refresh(START + 1000).asked == 0


def test_a_manager_whose_accounting_is_not_read_says_so(store):
    put(store, "134")
    pools = {"cpu": {"cores": 1, "memory": "1GiB", "walltime": "1h"}}
    site = Site.from_mapping(
        {
            "schema": 1,
            "name": "S",
            "resource_manager": "sge",
            "default_pool": "cpu",
            "pools": pools,
        }
    )
    accountant = Accountant(store, asker(site))
    done = accountant.refresh(START + 100)
    assert done.kept == 0
    assert "sge" in done.problem
    assert accountant.refresh(START + 200).problem == done.problem


def test_more_clusters_than_are_looked_at_at_once_wait_in_the_store(store, monkeypatch):
    monkeypatch.setattr(waiting, "_MOST", 3)
    monkeypatch.setattr(waiting, "_PART", 2)
    for n in range(10):
        put(store, str(1000 + n), cluster=f"many{n}", now=START + n // 2)
    put(store, "134", owner=2001, cluster="another")
    slurm = Slurm("")
    slurm.down = "slurm_persist_conn_open: failed"
    accountant = Accountant(store, slurm)
    assert accountant.refresh(START + 100).asked == 4, "three of one user, and the other's one"
    slurm.down = None
    rows = [OLD.splitlines()[0].replace("134", str(1000 + n)) for n in range(10)]
    slurm.text = "\n".join(rows)
    for n in range(1, 12):
        accountant.refresh(START + 1000 * n)
    known = [c.id for c in store.clusters() if store.load(c.id).accounting]
    assert sorted(known) == [f"many{n}" for n in range(10)]


def test_what_is_heard_of_again_is_looked_at_again(store):
    put(store, "134")
    slurm = Slurm()
    accountant = Accountant(store, slurm)
    for n in range(1, 5):
        accountant.refresh(START + 1000 * n)
    assert accountant.refresh(START + 5000).asked == 0
    more = {"q": 10**6, "id": "145", "name": "cpu-1", "pool": "cpu", "state": "running"}
    asked = {**record("job", START + 5050, submitted=START, **more), "c": "c1"}
    store.ingest(BOB, [parse_record(asked)], now=START + 5060)
    assert accountant.refresh(START + 5100).asked == 1
    assert {row.id for row in store.load("c1").accounting} == {"134", "145"}


def test_the_diary_forgets_what_was_asked_for_first(monkeypatch):
    monkeypatch.setattr(due, "_REMEMBERED", 3)
    diary = due.Diary()
    pairs = [("c1", str(n)) for n in range(5)]
    assert diary.refuse(pairs) == set(pairs)
    assert len(diary.refuse(pairs)) == 2


# -- sacct -----------------------------------------------------------------------------------------


def command(folder, script):
    path = folder / "sacct"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path),)


def test_sacct_is_asked_plainly_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCT_FORMAT", "User")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    script = f'echo "$@" > {tmp_path}/args; env > {tmp_path}/env; cat {ROWS}/slurm_22_05.txt'
    ask = Sacct(command(tmp_path, script))
    assert len(ask(Question(jobs=("134", "135")))) == len(parse(OLD))
    arguments = (tmp_path / "args").read_text()
    assert "--jobs=134,135" in arguments
    assert "JobName" not in arguments
    assert "Comment" not in arguments
    environment = (tmp_path / "env").read_text().splitlines()
    assert {"TZ=UTC", "SLURM_TIME_FORMAT=%s"} <= set(environment)
    assert not any(line.startswith("SACCT_") for line in environment)
    ask(Question(names=("dask-1-cpu",), since=0.0))
    assert "--starttime=1970-01-01T00:00:00" in (tmp_path / "args").read_text()


def test_sacct_that_fails_hangs_or_is_not_there(tmp_path):
    question = Question(jobs=("1",))
    with pytest.raises(AskError, match="slurmdbd"):
        Sacct(command(tmp_path, "echo slurmdbd is down >&2; exit 1"))(question)
    with pytest.raises(AskError, match="did not answer"):
        Sacct(command(tmp_path, "exec sleep 60"), timeout=0.2)(question)
    with pytest.raises(AskError, match="on PATH"):
        Sacct((os.fspath(tmp_path / "none"),))(question)
