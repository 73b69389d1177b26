"""The ledger: books computed by hand, and books of whatever may come."""

import json
import random
from dataclasses import replace

import pytest
from history_making import T0, cluster, history, job, row, span, traffic, usage, worker

from dask_site.history.ledger import PARTS, UNEXPLAINED, Ledger, close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.records import BUSY, IDLE, EndRecord
from dask_site.history.waits import waits


def parts(books):
    """Return what isn't zero, the unexplained included."""
    return {part: round(n, 6) for part, n, _ in books.rows() if abs(n) > 1e-6}


EVERYTHING = {
    "thread-cpu": 40,
    "thread-noncpu": 20,
    "deserialize": 3,
    "serialize": 2,
    "disk-read": 1,
    "disk-write": 4,
    "executor": 0.5,
    "other": 1.5,
    "failed": 5,
    "cancelled": 3,
}


def test_books_of_one_job_with_everything_in_them():
    # 4 cores for 100 s = 400. The worker has 3 threads and is there for 80 s = 240 thread-s:
    # 80 in tasks, 10 lost, 140 idle, 10 that nobody knows of.
    idle = {"no work": 50, "starved": 40, "transfer": 20, "paused": 10, "dispatch": 20}
    books = close_books(
        history(
            worker(start=15, end=95, threads=3, job="1", lost_seconds=10, lost_tasks=2),
            span(execute=EVERYTHING),
            usage(busy=90, idle=idle),
            accounting=[row(cores=4)],
        )
    )
    assert books.whole.allocated == 400
    assert parts(books.whole) == {
        "cpu": 40,
        "non-cpu": 20,
        "serialise": 5,
        "disk": 5,
        "other": 2,
        "failed": 8,
        "idle: no work": 50,
        "idle: starved": 40,
        "idle: transfer": 20,
        "idle: paused": 10,
        "idle: dispatch": 20,
        "start and stop": 80,
        "lost": 10,
        "no thread": 80,
        UNEXPLAINED: 10,
    }
    assert books.whole.idle == 140
    assert books.whole.share("cpu") == 0.1
    assert sum(share for _, _, share in books.whole.rows()) == pytest.approx(1)
    assert books.sources == {"accounting": 400}
    assert books.pools == {"cpu": books.whole}


def test_without_accounting_the_jobs_count_and_without_these_the_threads():
    work = [worker(start=10, end=90, job="1"), span(execute={"thread-cpu": 160}), usage(busy=160)]
    accounted = close_books(history(*work, job(started=0, ended=100), accounting=[row(end=102)]))
    assert accounted.sources == {"accounting": 204}
    recorded = close_books(history(*work, job(started=0, ended=100)))
    assert recorded.sources == {"the cluster's job records": 200}
    assert parts(recorded.whole) == {"cpu": 160, "start and stop": 40}
    bare = close_books(history(*work))
    assert bare.sources == {"the threads of its workers": 160}
    assert parts(bare.whole) == {"cpu": 160}
    # The accounting lags: it knows the job, and not yet that it runs.
    late = close_books(
        history(*work, job(started=0, ended=100), accounting=[row(start=None, end=None, cores=0)])
    )
    assert late.sources == recorded.sources


def test_tasks_are_split_over_pools_by_the_time_they_were_busy():
    books = close_books(
        history(
            worker("a", end=100, threads=2, pool="cpu"),
            worker("b", end=50, threads=1, pool="gpu"),
            span("x", {"thread-cpu": 80}),
            span("y", {"thread-noncpu": 40}),
            usage("cpu", busy=90, idle={"starved": 110}),
            usage("gpu", busy=30, idle={"no work": 20}),
        )
    )
    assert parts(books.pools["cpu"]) == {"cpu": 60, "non-cpu": 30, "idle: starved": 110}
    assert parts(books.pools["gpu"]) == {"cpu": 20, "non-cpu": 10, "idle: no work": 20}
    assert books.whole.allocated == 250
    assert [(s.name, s.total) for s in books.spans] == [(("x",), 80), (("y",), 40)]


def test_two_threads_of_one_core_are_half_a_core_second_each():
    books = close_books(
        history(
            worker(end=100, threads=4, job="1"),
            span(execute={"thread-cpu": 300}),
            usage(busy=300, idle={"starved": 100}),
            accounting=[row(cores=2)],
        )
    )
    assert parts(books.whole) == {"cpu": 150, "idle: starved": 50}
    assert books.spans[0].total == 150


def test_several_workers_of_a_job_and_one_that_the_nanny_restarted():
    # 4 cores, 2 workers. w-0 is killed at 40 and back at 50; w-1 comes at 20: 2 cores each.
    books = close_books(
        history(
            job("w", cores=4, started=0, ended=100, workers=2),
            worker("w-0", 0, 45, job="1", lost_seconds=6, expected=False),
            worker("w-0", 40, 40, job="1"),
            worker("w-0", 50, 100, job="1"),
            worker("w-1", 20, 100, job="1"),
            usage(busy=6, idle={"no work": 334}),
        )
    )
    # There: 40 + 50 + 80 s of 2 cores = 340 of 400; the restarted one is not counted twice.
    assert parts(books.whole) == {"idle: no work": 334, "start and stop": 60, "lost": 6}


def test_what_was_done_again_stands_beside_the_parts():
    books = close_books(
        history(
            worker("w0", 0, 40, threads=4, job="1", again_seconds=30, again_tasks=3),
            worker("w1", 50, 100, threads=4, job="1", again_seconds=1e6),
            usage(busy=300, idle={"starved": 60}),
            accounting=[row(cores=2)],
        )
    )
    # Two threads share a core, and nothing was computed longer than its worker was there.
    assert books.whole.again == (30 + 200) / 2
    assert sum(parts(books.whole).values()) == 200
    assert (books + books).whole.again == 230
    assert books.to_dict()["again"] == books.to_dict()["pools"]["cpu"]["again"] == 115


def test_workers_that_never_came_leave_their_cores_vacant():
    books = close_books(
        history(job(started=0, ended=100, workers=4, cores=4), worker("cpu-0-1", 0, 100, 1))
    )
    # 1 of 4 was there, without a sample of what it did.
    assert parts(books.whole) == {"start and stop": 300, "idle: unknown": 100}
    none = close_books(history(accounting=[row("9", start=0, end=50, cores=4)]))
    assert parts(none.whole) == {"start and stop": 200}


def test_jobs_that_never_started_wait_and_cost_nothing():
    past = history(
        job("cpu-0", "1", submitted=0, started=30, ended=100),
        job("cpu-1", "2", submitted=10, ended=60, state="failed", reason="refused"),
        job("cpu-2", "3", submitted=20, state="pending", reason="Priority"),
        accounting=[row("1", submit=-5, start=35), row("8", submit=90, start=None, end=None)],
    )
    books = close_books(past)
    assert books.whole.allocated == 130
    assert [(w.name, w.seconds, w.started) for w in waits(past)] == [
        ("cpu-0", 40, True),
        ("cpu-1", 50, False),
        ("cpu-2", 80, False),
        ("", 10, False),
    ]
    assert (books.beside.jobs, books.beside.never_started, books.beside.waited) == (4, 3, 180)


def test_a_running_cluster_counts_up_to_when_it_was_last_heard_of():
    past = history(
        job(started=0),
        worker(start=0, job="1", threads=2),
        span(
            execute={"thread-cpu": 50},
            tasks={"f": {"states": {"processing": 2, "memory": 10}}},
            done=False,
        ),
        usage(busy=150, idle={"dispatch": 50}),
        ended=False,
        seen=100,
    )
    books = close_books(past)
    # 100 thread-s are of tasks that run: 2 of them may have, for 100 s.
    assert parts(books.whole) == {"cpu": 50, "idle: dispatch": 50, "unfinished": 100}


def test_what_is_busy_beyond_tasks_that_can_have_run_is_unexplained():
    done = span(execute={"thread-cpu": 50}, tasks={"f": {"states": {"memory": 10}}})
    books = close_books(history(worker(end=100), done, usage(busy=150, idle={"starved": 50})))
    assert parts(books.whole) == {"cpu": 50, "idle: starved": 50, UNEXPLAINED: 100}


def test_clocks_may_differ_by_seconds():
    # The scheduler is 10 s behind: its worker seems to have been there before its job.
    books = close_books(
        history(
            worker(start=-5, end=85, job="1"),
            usage(idle={"no work": 180}),
            accounting=[row(start=0, end=100)],
        )
    )
    assert parts(books.whole) == {"idle: no work": 180, "start and stop": 20}
    # One that is noticed to be gone long after its job is cut.
    late = close_books(history(worker(start=10, end=400, job="1"), accounting=[row()]))
    assert parts(late.whole) == {"idle: unknown": 180, "start and stop": 20}


def test_of_several_runs_of_one_job_a_worker_is_of_the_one_at_its_time():
    books = close_books(
        history(
            worker("w", 10, 50, job="1"),
            worker("w", 610, 700, job="1"),
            usage(idle={"no work": 260}),
            accounting=[row(end=50), row(start=600, end=700), row(end=50)],
            seen=700,
        )
    )
    assert books.whole.allocated == 300
    assert parts(books.whole) == {"idle: no work": 260, "start and stop": 40}


def test_an_element_of_an_array_is_known_by_both_of_its_ids():
    element = job("cpu-1", "77_1", started=0, ended=100)
    there = worker("cpu-1", 0, 100, job="79")
    for accounting in ([], [row("77_1", raw="79")]):
        books = close_books(history(element, there, accounting=accounting))
        assert parts(books.whole) == {"idle: unknown": 200}


def test_the_session_in_which_the_scheduler_runs_is_not_the_clusters():
    session = row("5", cores=8)
    assert close_books(history(accounting=[session], job="5")).whole.allocated == 0
    # Unless its workers run in it: a batch run.
    batch = close_books(history(worker(end=100, job="5"), accounting=[session], job="5"))
    assert batch.whole.allocated == 800


def shared(elsewhere):
    """Return the books of a cluster in its user's job of 8 cores: 100 s, tasks of 100 core-s."""
    one = history(
        worker(end=100, threads=8, job="5"),
        span(execute={"thread-cpu": 100}),
        usage(busy=100, idle={"no work": 700}),
        accounting=[row("5", cores=8)],
        job="5",
    )
    return close_books(replace(one, elsewhere=elsewhere))


def test_of_several_clusters_in_one_job_that_has_it_which_was_started_last():
    assert parts(shared([]).whole) == {"cpu": 100, "idle: no work": 700}
    # Another was there from the 40th second to the 60th.
    found = shared([(T0 + 40, T0 + 60)])
    assert found.whole.allocated == 640
    assert parts(found.whole) == {"cpu": 100, "idle: no work": 540}
    found = shared([(T0 + 5, T0 + 200)])
    assert found.whole.allocated == 40
    assert parts(found.whole) == {"cpu": 40}
    assert sum(s.parts["cpu"] for s in found.spans) == 40


def test_in_a_job_of_another_cluster_nothing_is_allocated():
    found = shared([(0.0, 1e300)])
    assert found.whole.allocated == 0
    assert parts(found.whole) == {}


def test_more_than_was_allocated_is_a_negative_rest_and_never_a_negative_part():
    books = close_books(
        history(
            worker(end=100, lost_seconds=1e6),
            span(execute={"thread-cpu": 500}),
            usage(busy=100, idle={"no work": 150, "a new word": 7}),
        )
    )
    found = parts(books.whole)
    assert found["lost"] == 200  # not more than it was there
    assert found["idle: unknown"] == 7
    assert found[UNEXPLAINED] == -657


def test_spans_without_workers_are_not_hidden():
    books = close_books(history(span(execute={"thread-cpu": 5})))
    assert parts(books.whole) == {"cpu": 5, UNEXPLAINED: -5}
    assert books.whole.share("cpu") == 0


def test_nothing_and_threads_of_zero():
    assert parts(close_books(history()).whole) == {}
    idle = close_books(history(worker(end=100, threads=0, job="1"), accounting=[row()]))
    assert parts(idle.whole) == {"no thread": 200}


def test_words_that_shuffles_measure():
    words = {"p2p-get-output-cpu": 1, "p2p-get-output-noncpu": 2, "offload": 4, "mine": 8}
    books = close_books(history(worker(end=10), span(execute=words), usage(busy=15)))
    assert parts(books.whole) == {"cpu": 1, "non-cpu": 2, "other": 12, UNEXPLAINED: 5}


def test_network_and_spill_stand_beside():
    seconds = {"gather-dep.network": 7, "get-data.network": 6, "gather-dep.deserialize": 3}
    spill = {"memory-monitor.disk-write": 2, "get-data.disk-read": 1}
    sizes = {"memory-monitor.disk-write": 300, "memory-monitor.memory-read": 5}
    beside = close_books(history(traffic({**seconds, **spill}, sizes))).beside
    assert (beside.network_seconds, beside.spill_seconds, beside.spill_bytes) == (7, 3, 300)


def test_books_add_up():
    one = close_books(
        history(worker(end=100), span("x", {"thread-cpu": 60}), usage(busy=60, idle={"starved": 9}))
    )
    other = close_books(history(worker(end=50, pool="gpu"), span("x", {"serialize": 40})))
    both = sum([one, other], Ledger())
    assert both.clusters == 2
    assert both.whole.allocated == 300
    assert parts(both.whole) == {
        "cpu": 60,
        "serialise": 40,
        "idle: starved": 9,
        "idle: unknown": 60,
        UNEXPLAINED: 131,
    }
    assert set(both.pools) == {"cpu", "gpu"}
    (merged,) = both.spans
    assert (merged.name, merged.count, merged.id, merged.total) == (("x",), 2, "", 100)
    plain = json.loads(json.dumps(both.to_dict()))
    assert plain["allocated"] == 300
    assert sum(plain["parts"].values()) == pytest.approx(300)
    assert plain["pools"]["gpu"]["parts"][UNEXPLAINED] == pytest.approx(0)


def test_of_records_in_any_order_the_latest_counts():
    first = worker("a", 0, None)
    last = first.model_copy(update={"q": first.q + 1000, "busy": 9.0, "t": T0 + 5})
    old, new = usage(t=5, busy=1), usage(t=9, busy=2)
    end = EndRecord(v=1, c="c1", q=10**6, t=T0 + 9999, k="end", how="lost")
    for records in ([first, last, old, new, end], [end, new, old, last, first, last]):
        past = ClusterHistory.from_records("alice", records)
        assert [w.busy for w in past.workers] == [9]
        assert [u.threads[BUSY] for u in past.usage] == [2]
        assert [u.threads[BUSY] for u in past.samples] == [1, 2]
        assert past.seen == T0 + 9  # not when somebody found it silent
        assert (past.cluster.c, past.cluster.started, past.end) == ("c1", T0, end)
        assert past.owner == "alice"


def test_records_of_no_cluster_or_of_two_are_refused():
    with pytest.raises(ValueError, match=r"0 \(none\): group them"):
        ClusterHistory.from_records("alice", [])
    other = cluster().model_copy(update={"c": "c2"})
    with pytest.raises(ValueError, match=r"2 \(c1, c2\)"):
        ClusterHistory.from_records("alice", [cluster(), other])


def _anything(chance):
    """Return a history in which all may be wrong."""

    def time(least=-50.0):
        return chance.uniform(least, 1000)

    def one_of(*values):
        return chance.choice(values)

    pools = ["cpu", "gpu", None]
    ids = ["1", "2", "3_1", None]
    records, accounting = [], []
    for i in range(chance.randrange(8)):
        start, end = time(), one_of(None, time())
        times = {"busy": time(0), "lost_seconds": time(0), "job": one_of(*ids)}
        name = one_of("w0", f"w{i}", f"cpu-{i}-0", f"cpu-{i}")
        records.append(worker(name, start, end, one_of(0, 1, 2, 64), one_of(*pools), **times))
    for i in range(chance.randrange(5)):
        moments = {"started": one_of(None, time()), "ended": one_of(None, time())}
        held = {"workers": chance.randrange(5), "cores": one_of(0, 1, 8)}
        more = {"pool": one_of("cpu", "gpu"), **moments, **held}
        records.append(job(f"cpu-{i}", one_of(*ids), time(), **more))
    for _ in range(chance.randrange(4)):
        start = one_of(None, time())
        end = None if start is None else one_of(None, start + time(0))
        accounting.append(row(one_of("1", "2", "3_1"), time(), start, end, one_of(0, 1, 8)))
    words = ["thread-cpu", "thread-noncpu", "failed", "own", "disk-read", "serialize"]
    for _ in range(chance.randrange(4)):
        states = {"f": {"states": {"processing": chance.randrange(9)}}}
        execute = {word: time(0) for word in words if chance.random() < 0.7}
        records.append(span(one_of("a", "b"), execute, states, done=one_of(True, False)))
    for pool in pools:
        if chance.random() < 0.6:
            idle = {cause: time(0) for cause in (*IDLE, "odd") if chance.random() < 0.7}
            records.append(usage(pool, busy=time(0), idle=idle))
    chance.shuffle(records)
    return history(*records, accounting=accounting, seen=time(), ended=one_of(True, False))


def test_whatever_was_recorded_the_books_close_and_only_the_rest_is_negative():
    chance = random.Random(11)
    total, allocated = Ledger(), 0.0
    held = explained = 0
    for _ in range(300):
        books = close_books(_anything(chance))
        for each in (books.whole, *books.pools.values()):
            assert set(each.parts) == set(PARTS)
            assert sum(n for _, n, _ in each.rows()) == pytest.approx(each.allocated, abs=1e-6)
            assert all(n >= 0 for n in each.parts.values())
        assert sum(p.allocated for p in books.pools.values()) == pytest.approx(
            books.whole.allocated
        )
        assert sum(books.sources.values()) == pytest.approx(books.whole.allocated)
        in_spans = sum(s.total for s in books.spans)
        tasks = ("cpu", "non-cpu", "serialise", "disk", "other", "failed")
        assert in_spans == pytest.approx(sum(books.whole.of(part) for part in tasks), abs=1e-6)
        held += books.whole.allocated > 0
        explained += books.whole.unexplained < 0
        total, allocated = total + books, allocated + books.whole.allocated
    assert held > 200  # histories that say something
    assert explained > 50
    assert total.whole.allocated == pytest.approx(allocated)
    assert sum(n for _, n, _ in total.whole.rows()) == pytest.approx(allocated, abs=1e-6)
