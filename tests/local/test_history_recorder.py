"""The recorder on real clusters: what it wrote is compared with what was done."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import dask
import distributed
import pytest
from dask.base import tokenize
from dask_jobqueue import SLURMCluster
from dask_jobqueue.local import LocalCluster as LocalQueue
from distributed import Client, LocalCluster, wait

from dask_site.history import recorder
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.naming import span
from dask_site.history.pace import pace
from dask_site.history.recorder import recorder_of
from dask_site.history.scripts import whole
from dask_site.history.spool import read_spool

SETTINGS = {
    "distributed.scheduler.preload": ["dask_site.history.preload"],
    "distributed.worker.preload": ["dask_site.history.job_id"],
    "distributed.diagnostics.computations.nframes": 1,
    "dask-site.history.interval": 1,
}
QUIET = {"dashboard_address": ":0", "silence_logs": 50}


def histories(folder):
    """Return the histories of all clusters by id; no line may be bad."""
    records = {}
    for path in sorted(Path(folder).iterdir()):
        reading = read_spool(path)
        for record, _ in reading:
            records.setdefault(record.c, []).append(record)
        assert reading.bad == 0, reading.why
    return {name: ClusterHistory.from_records("me", found) for name, found in records.items()}


def the_history(folder):
    (history,) = histories(folder).values()
    return history


def states(history):
    """Return how many tasks of each span and prefix are in each state."""
    return {
        (each.name, prefix): dict(tasks.states)
        for each in history.spans
        for prefix, tasks in each.tasks.items()
    }


@pytest.fixture
def folder(tmp_path):
    with dask.config.set({**SETTINGS, "dask-site.history.spool": str(tmp_path / "spool")}):
        yield tmp_path / "spool"


def local(**more):
    return LocalCluster(
        **{"n_workers": 1, "threads_per_worker": 2, "processes": False, **QUIET, **more}
    )


def loud():
    """Return a cluster that does not silence pytest's log handlers."""
    return local(silence_logs=False)


def double(x):
    return 2 * x


def odd_fails(x):
    if x % 2:
        raise ValueError(f"{x} is odd\x00\ud800")
    return x


def total(values):
    return sum(values)


def test_spans_workers_and_errors_are_all_accounted_for(folder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with local(n_workers=3) as cluster, Client(cluster) as client:
        with span("outer", "inner"):
            wait(client.map(double, range(700)))
        with span("failing"):
            futures = client.map(odd_fails, range(600))
            wait([*futures, client.submit(total, futures)])
        client.submit(double, 1, pure=False).result()
        ids = {ws.server_id for ws in cluster.scheduler.workers.values()}
        name = cluster.name
    history = the_history(folder)
    assert states(history) == {
        (("outer", "inner"), "double"): {"forgotten": 700},
        (("failing",), "odd_fails"): {"forgotten": 600},
        (("failing",), "total"): {"forgotten": 1},
        (("default",), "double"): {"forgotten": 1},
    }
    outer = next(each for each in history.spans if each.name == ("outer",))
    inner = next(each for each in history.spans if each.name == ("outer", "inner"))
    assert inner.parent == outer.id
    assert inner.done and inner.enqueued <= inner.start <= inner.stop
    assert inner.code.startswith("test_history_recorder.py:")
    assert inner.code.endswith("wait(client.map(double, range(700)))")
    # Not `total`: it failed because they did.
    (error,) = history.errors
    assert (error.prefix, error.exception, error.count) == ("odd_fails", "ValueError", 300)
    assert "is odd" in error.message
    assert {w.id for w in history.workers} == ids
    for worker in history.workers:
        assert (worker.threads, worker.job, worker.pool) == (2, "4711", None)
        assert worker.expected and worker.ended is not None and worker.lost_tasks == 0
    assert history.cluster.kind == "LocalCluster"
    assert history.cluster.name == name
    assert history.cluster.job == "4711"
    assert history.end.how == "closed"


def test_what_threads_did_adds_up_to_what_workers_held(folder):
    with local(n_workers=2) as cluster, Client(cluster) as client:
        time.sleep(1.5)
        slow = client.submit(time.sleep, 3, pure=False)
        time.sleep(1)
        cluster.scale(1)
        wait(slow)
    history = the_history(folder)
    held = sum(w.threads * (w.ended - w.started) for w in history.workers)
    (usage,) = history.usage
    assert sum(usage.threads.values()) == pytest.approx(held, rel=0.001)
    assert 2 < usage.threads["busy"] < 4
    assert usage.threads["starved"] > 4
    assert usage.threads["no work"] > 3
    assert sum(w.busy for w in history.workers) == pytest.approx(usage.threads["busy"], abs=0.1)


def test_workers_that_die_take_their_tasks_along(folder):
    local_processes = local(processes=True, threads_per_worker=1)
    with local_processes as cluster, Client(cluster) as client:
        futures = client.map(time.sleep, [30 + i / 1e6 for i in range(5)])
        deadline = time.monotonic() + 20
        while not any(w.executing for w in list(cluster.scheduler.workers.values())):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
        given = sum(len(w.processing) for w in cluster.scheduler.workers.values())
        client.run(os._exit, 1, on_error="ignore")
        client.wait_for_workers(1)
        time.sleep(1.5)
        del futures
    dead, alive = the_history(folder).workers
    assert not dead.expected
    assert dead.lost_tasks == given > 0
    assert 1 < dead.lost_seconds < 10
    assert alive.id != dead.id


def test_results_that_leave_with_a_worker_are_done_again(folder):
    local_processes = local(processes=True, threads_per_worker=1)
    with local_processes as cluster, Client(cluster) as client:
        futures = client.map(time.sleep, [0.5 + i / 1e6 for i in range(3)])
        wait(futures)
        time.sleep(1.5)
        client.run(os._exit, 1, on_error="ignore")
        wait(futures)
        time.sleep(1.5)
    dead, alive = the_history(folder).workers
    assert (dead.expected, dead.lost_tasks, dead.again_tasks) == (False, 0, 3)
    assert dead.again_seconds == pytest.approx(1.5, abs=0.5)
    # Its results leave with it too, but nobody wants them any more.
    assert (alive.expected, alive.again_tasks) == (True, 0)


def test_workers_that_come_and_go_between_two_looks(folder):
    async def main():
        async with distributed.Scheduler(port=0, dashboard=False) as scheduler:
            recorder = recorder_of(scheduler)
            recorder._next_sample = float("inf")
            async with distributed.Worker(scheduler.address, nthreads=3):
                pass
            recorder._next_sample = 0
            recorder._beat()

    import asyncio

    asyncio.run(main())
    history = the_history(folder)
    (worker,) = history.workers
    assert worker.threads == 3
    assert worker.started < worker.ended
    (usage,) = history.usage
    held = 3 * (worker.ended - worker.started)
    assert sum(usage.threads.values()) == pytest.approx(held, abs=0.01)


def test_two_clusters_in_one_process_keep_apart(folder):
    with local() as one, local() as two:
        with Client(one) as client:
            client.gather(client.map(double, range(10)))
        with Client(two) as client:
            client.gather(client.map(double, range(20)))
        ids = [recorder_of(c.scheduler).cluster_id for c in (one, two)]
    found = histories(folder)
    assert [sum(states(found[name])[("default",), "double"].values()) for name in ids] == [10, 20]
    assert {found[name].end.how for name in ids} == {"closed"}
    assert {found[name].cluster.name for name in ids} == {one.name, two.name}


def test_jobs_are_asked_for_and_written_when_they_change(folder):
    job = {"name": "cpu-0", "pool": "cpu", "state": "pending", "submitted": 1.0}
    with local() as cluster:
        recorder = recorder_of(cluster.scheduler)
        recorder.jobs = lambda: [dict(job)]
        time.sleep(2.5)
        job["state"] = "ended"
    records = [record for path in folder.iterdir() for record, _ in read_spool(path)]
    assert [record.state for record in records if record.k == "job"] == ["pending", "ended"]


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition()


def test_jobs_of_plain_dask_jobqueue_are_recorded_the_never_started_ones_too(
    folder, tmp_path, monkeypatch
):
    """A queue that takes jobs and never starts them."""
    for name, text in {"sbatch": "echo Submitted batch job $$", "scancel": "true"}.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with SLURMCluster(
        cores=4,
        processes=2,
        memory="8GiB",
        walltime="1-02:00:00",
        interface="lo",
        job_extra_directives=["--comment=token=abc"],
        scheduler_options={"dashboard_address": ":0"},
        silence_logs=50,
    ) as cluster:
        cluster.scale(jobs=2)
        eventually(
            lambda: len(cluster.workers) == 2 and all(j.job_id for j in cluster.workers.values())
        )
        eventually(lambda: {job.state for job in the_history(folder).jobs} == {"pending"})
        cluster.scale(jobs=1)
        eventually(
            lambda: sorted(j.state for j in the_history(folder).jobs) == ["ended", "pending"]
        )
        script = cluster.job_script()
        ids = {job.job_id for job in cluster.workers.values()}
    history = the_history(folder)
    assert (history.cluster.kind, history.end.how) == ("SLURMCluster", "closed")
    assert len({job.id for job in history.jobs}) == 2 and ids < {job.id for job in history.jobs}
    for job in history.jobs:
        assert (job.state, job.started, job.pool) == ("ended", None, None)
        assert job.ended >= job.submitted
        assert (job.cores, job.workers, job.memory, job.walltime) == (4, 2, 8 * 2**30, 93600)
    (kept,) = history.scripts
    assert {job.script for job in history.jobs} == {kept.id}
    assert "token=***" in kept.text
    one = whole(kept.text, "--name dummy-name").replace("token=***", "token=abc")
    assert one == script
    waited = close_books(history).beside
    assert (waited.jobs, waited.never_started) == (2, 2)


def test_jobs_that_come_and_go_between_two_records_of_an_old_cluster(folder):
    with LocalQueue(
        cores=1, processes=1, memory="1GiB", interface="lo", silence_logs=50,
        scheduler_options={"dashboard_address": ":0"},
    ) as cluster:  # fmt: skip
        cluster.scale(jobs=1)
        eventually(lambda: the_history(folder).jobs)
        recorder = recorder_of(cluster.scheduler)
        recorder._begun -= 1e6
        written = len(the_history(folder).jobs)
        time.sleep(2)  # until the next record is far away
        cluster.scale(jobs=2)
        eventually(lambda: len(cluster.workers) == 2)
        time.sleep(3)
        cluster.scale(jobs=1)
        eventually(lambda: len(cluster.workers) == 1)
        assert len(the_history(folder).jobs) == written == 1
    assert len(the_history(folder).jobs) == 2


def test_submissions_of_plain_dask_jobqueue_that_are_refused(folder, tmp_path, monkeypatch):
    command = tmp_path / "sbatch"
    command.write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # distributed 2026.8 can't close such a cluster without an AssertionError.
    with (
        contextlib.suppress(AssertionError),
        SLURMCluster(
            cores=1,
            memory="1GiB",
            interface="lo",
            scheduler_options={"dashboard_address": ":0"},
            silence_logs=50,
        ) as cluster,
    ):
        cluster.scale(jobs=1)
        eventually(lambda: [job.state for job in the_history(folder).jobs] == ["failed"])
    (job,) = the_history(folder).jobs
    assert (job.id, job.started, job.reason) == (None, None, "its submission was refused")


def test_jobs_of_plain_dask_jobqueue_that_run_are_told_by_their_workers(folder):
    with LocalQueue(
        cores=1, processes=1, memory="1GiB", interface="lo", silence_logs=50,
        scheduler_options={"dashboard_address": ":0"},
    ) as cluster, Client(cluster) as client:  # fmt: skip
        cluster.scale(jobs=1)
        client.wait_for_workers(1, timeout=120)
        eventually(lambda: [job.state for job in the_history(folder).jobs] == ["running"])
    history = the_history(folder)
    (job,) = history.jobs
    assert job.started is not None and job.ended >= job.started
    assert close_books(history).beside.never_started == 0


def test_no_folder_to_write_to_harms_nobody(folder, tmp_path, caplog):
    for each in (folder, *(folder.with_suffix(f".{number}") for number in range(1, 10))):
        each.write_text("a file is in the way")
    with loud() as cluster, Client(cluster) as client:
        assert client.submit(double, 4).result() == 8
        time.sleep(2.5)
    told = [r.message for r in caplog.records if "history of this cluster" in r.message]
    assert len(told) == 1
    assert str(folder) in told[0]


def test_it_can_be_switched_off(folder):
    with dask.config.set({"dask-site.history.enabled": False}), local() as cluster:
        assert recorder_of(cluster.scheduler) is None
    assert not folder.exists()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("spool", "somewhere", "absolute path"),
        ("interval", "soon", "a number of seconds, 1 to 3600"),
        ("interval", 0, "a number of seconds, 1 to 3600"),
    ],
)
def test_bad_settings_are_named_and_harm_nobody(folder, caplog, key, value, says):
    with dask.config.set({f"dask-site.history.{key}": value}), loud() as cluster:
        assert recorder_of(cluster.scheduler) is None
    (told,) = [r.message for r in caplog.records if "not recorded" in r.message]
    assert f"dask-site.history.{key}" in told
    assert says in told


def test_a_recorder_that_fails_is_no_trouble(folder, caplog, monkeypatch):
    from dask_site.history.workers import Workers

    monkeypatch.setattr(Workers, "sample", lambda *_: 1 / 0)
    with loud() as cluster, Client(cluster) as client:
        for number in range(8):
            assert client.submit(double, number).result() == 2 * number
            time.sleep(0.3)
    assert len([r for r in caplog.records if "Recording the history" in r.message]) == 1


# -- ends -----------------------------------------------------------------------------------

PROGRAM = """
    import json, os, signal, sys, time
    import dask
    from distributed import Client, LocalCluster, wait
    dask.config.set(json.loads(sys.argv[1]))

    def work(x):
        time.sleep(0.005)
        return x

    if __name__ == "__main__":
        {before}
        cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                               dashboard_address=':0', silence_logs=50)
        client = Client(cluster)
        futures = client.map(work, range(20_000))
        wait(futures[:100])
        print("up", flush=True)
        {after}
"""
COUNTING = """
        while True:
            done = sum(f.status == "finished" for f in futures)
            print(time.time(), done, flush=True)
            time.sleep(0.02)
"""

FORKING = """
        pid = os.fork()
        if not pid:
            sys.exit(0)
        os._exit(os.waitpid(pid, 0)[1])
"""


def program(tmp_path, folder, before="pass", after="time.sleep(60)"):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(before=before, after=textwrap.dedent(after)))
    settings = {**SETTINGS, "dask-site.history.spool": str(folder)}
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_an_end_and_ends_the_process_as_before(tmp_path, folder, name):
    process = program(tmp_path, folder)
    process.send_signal(signal.Signals[name])
    assert process.wait(10) == -signal.Signals[name]
    history = the_history(folder)
    assert history.end.how == name
    counted = sum(sum(tasks.values()) for tasks in states(history).values())
    assert counted == 20_000


@pytest.mark.slow
def test_handlers_of_the_program_still_run(tmp_path, folder):
    before = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"
    process = program(tmp_path, folder, before)
    process.terminate()
    assert process.wait(30) == 3
    assert the_history(folder).end.how == "SIGTERM"


@pytest.mark.slow
def test_signals_that_are_ignored_stay_ignored(tmp_path, folder):
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = program(tmp_path, folder, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    assert the_history(folder).end is None
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "how"),
    [
        ("raise KeyError('x')", "exit: KeyError"),
        ("sys.exit(0)", "exit"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", "exit: KeyboardInterrupt"),
        ("client.close(); cluster.close()", "closed"),
        # A fork's end is not the cluster's.
        (FORKING, None),
    ],
)
def test_ends_without_a_signal(tmp_path, folder, after, how):
    process = program(tmp_path, folder, after=after)
    assert process.wait(60) is not None
    end = the_history(folder).end
    assert (end.how if end else None) == how


@pytest.mark.slow
def test_the_command_dask_scheduler_is_recorded_too(tmp_path, folder):
    config = tmp_path / "config.yaml"
    settings = {**SETTINGS, "dask-site.history.spool": str(folder)}
    with dask.config.set(settings):
        config.write_text(json.dumps({k: dask.config.get(k) for k in ("dask-site", "distributed")}))
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"],
        env={**os.environ, "DASK_CONFIG": str(config)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (folder.exists() and histories(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    process.wait(20)
    history = the_history(folder)
    assert history.cluster.kind == "scheduler"
    assert history.end.how == "SIGTERM"


@pytest.mark.slow
def test_killing_the_scheduler_loses_less_than_one_tick(tmp_path):
    for turn in range(5):
        folder = tmp_path / f"spool{turn}"
        process = program(tmp_path, folder, after=COUNTING)
        lines = []
        stop = time.monotonic() + 2 + 0.37 * turn
        while time.monotonic() < stop:
            lines.append(process.stdout.readline())
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        counted = [
            (float(when), int(n))
            for when, n in (x.split() for x in lines if x.count(" ") == 1 and "." in x)
        ]
        history = the_history(folder)
        recorded = sum(t.get("memory", 0) for t in states(history).values())
        # At least what was done a tick (1 s, and what a busy machine adds) before the last count.
        before = [n for when, n in counted if when < counted[-1][0] - 1.6]
        assert recorded >= (before[-1] if before else 0)
        assert recorded <= counted[-1][1] + 50
        assert history.end is None


# -- size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "age", "rest"),
    [(5, 0, 5), (5, 600, 10), (5, 1200, 15), (5, 1e6, 30), (30, 600, 30), (60, 600, 60)],
)
def test_the_older_a_cluster_the_longer_from_one_record_to_the_next(interval, age, rest):
    assert pace(interval, age) == rest


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cluster_with_nothing_to_do_says_that_it_is_there(folder, monkeypatch, workers):
    monkeypatch.setattr(recorder, "_STILL", 0.5)
    with local(n_workers=workers):
        time.sleep(4)
        (path,) = folder.iterdir()
        said = [found.t for found, _ in read_spool(path)]
    apart = [later - earlier for earlier, later in itertools.pairwise(said)]
    assert len(set(said)) >= 3 and max(apart) < 3.0, apart


@pytest.mark.slow
def test_a_thousand_spans_are_all_there_and_cost_little_once_done(folder):
    with local() as cluster, Client(cluster) as client:
        futures = []
        for number in range(1000):
            with span(f"s{number:03}"):
                # distributed keeps tasks of one group in one span, and names groups by keys.
                key = (f"double-{tokenize(number)}", 0)
                futures.append(client.submit(double, number, key=key))
        wait(futures)
        time.sleep(3)
        recorder = recorder_of(cluster.scheduler)
        before, begun = recorder.seconds, time.monotonic()
        time.sleep(4)
        assert (recorder.seconds - before) / (time.monotonic() - begun) < 0.02
        futures.clear()
    history = the_history(folder)
    assert Counter(len(each.tasks) for each in history.spans) == {1: 1000}
    assert {each.tasks["double"].states.get("forgotten") for each in history.spans} == {1}
    assert all(each.done for each in history.spans)
    assert all(sum(each.execute.values()) > 0 for each in history.spans)


def test_small_prefixes_are_put_together(folder):
    with local() as cluster, Client(cluster) as client, span("many"):
        graph = {(f"name{i}x", 0): (double, i) for i in range(500)}
        graph |= {("heavy", i): (double, i) for i in range(100)}
        client.get(graph, list(graph))
    (found,) = [each for each in the_history(folder).spans if each.name == ("many",)]
    assert len(found.tasks) <= 300
    assert sum(sum(tasks.states.values()) for tasks in found.tasks.values()) == 600
    assert sum(found.tasks["heavy"].states.values()) == 100
    assert "(others)" in found.tasks


# -- names ----------------------------------------------------------------------------------


def test_spans_are_named(folder):
    with span("a", "b") as inner:
        assert dask.get_annotations()["span"]["name"] == ("a", "b")
        assert dask.get_annotations()["span"]["ids"][-1] == inner
    assert not dask.get_annotations()


@pytest.mark.parametrize("bad", ["", "   ", "a\nb", "x" * 201])
def test_names_that_no_page_could_show(bad):
    with pytest.raises(ValueError, match="can't name a span"), span("a", bad):
        pass


def test_a_name_must_be_a_text():
    with pytest.raises(TypeError, match=r'span\("5"\)'), span(5):
        pass


def test_spans_are_not_nested_for_ever():
    names = [str(i) for i in range(20)]
    with span(*names), pytest.raises(ValueError, match="21 levels"), span("more"):
        pass
