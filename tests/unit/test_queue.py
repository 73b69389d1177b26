"""What the resource manager prints, read right; what it refuses, explained."""

import asyncio
import os
import stat

import pytest

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.fleet import _words_of
from dask_site.cluster.hints import pending_hint, submission_hint
from dask_site.cluster.queue import ENDED, PENDING, RUNNING, QueueEntry, SlurmQueue, queue_for, run


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put recorded answers of Slurm's commands on PATH."""

    def put(**answers):
        for name, script in answers.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def look(*job_ids):
    return asyncio.run(SlurmQueue().look(list(job_ids), ["dask-x-cpu"]))


def test_squeue_is_read(commands):
    commands(
        squeue="""cat <<'END'
12|PENDING|(Resources)|
13|RUNNING|c1|c1
14|COMPLETING|c1|c1
15|TIMEOUT|(TimeLimit)|c2
16|PENDING|(Nodes required for job are DOWN, DRAINED or reserved for jobs in higher partitions)|
17|PENDING|(None)|
END"""
    )
    seen = look("12", "13")
    assert seen["12"] == QueueEntry(PENDING, "PENDING", "Resources")
    assert seen["13"] == QueueEntry(RUNNING, "RUNNING", "", "c1")
    assert seen["14"].phase == RUNNING
    assert seen["15"] == QueueEntry(ENDED, "TIMEOUT", "", "c2")
    assert "DRAINED" in seen["16"].reason
    assert seen["17"].reason == ""


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("FAILED|3:0|c1", QueueEntry(ENDED, "FAILED", "exit code 3", "c1")),
        ("FAILED|0:9|c1", QueueEntry(ENDED, "FAILED", "signal 9", "c1")),
        ("CANCELLED by 1001|0:0|None assigned", QueueEntry(ENDED, "CANCELLED", "by 1001", "")),
        ("OUT_OF_MEMORY|0:125|m1", QueueEntry(ENDED, "OUT_OF_MEMORY", "signal 125", "m1")),
        ("TIMEOUT|0:0|c2", QueueEntry(ENDED, "TIMEOUT", "", "c2")),
    ],
)
def test_a_job_that_squeue_has_forgotten_is_found_in_the_accounting(commands, line, entry):
    commands(squeue="true", sacct=f"echo '{line}'")
    assert look("7")["7"] == entry


def test_a_job_that_nobody_knows_has_ended(commands):
    commands(squeue="true", sacct="echo 'accounting is off' >&2; exit 1")
    assert look("7")["7"].verdict == "UNKNOWN"


def test_a_manager_that_is_away_speaks_for_itself(commands):
    commands(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
        look("7")


def test_a_manager_that_is_not_there_is_named():
    with pytest.raises(ClusterError, match="no-such-command: No such file.*Is this a login node"):
        asyncio.run(run(["no-such-command"]))


def test_a_manager_that_hangs_is_given_up():
    with pytest.raises(ClusterError, match=r"sleep did not answer in 0.2 s"):
        asyncio.run(run(["sleep", "60"], timeout=0.2))


def test_jobs_are_cancelled_in_one_call(commands, tmp_path):
    commands(scancel=f'echo "$@" >> {tmp_path}/calls', qdel=f'echo "$@" >> {tmp_path}/calls')
    asyncio.run(SlurmQueue().cancel(["1", "2", "3"]))
    asyncio.run(queue_for("sge", "qdel").cancel(["4", "5"]))
    asyncio.run(SlurmQueue().cancel([]))
    assert (tmp_path / "calls").read_text().split("\n") == ["--quiet 1 2 3", "4 5", ""]


REFUSAL = """Command exited with non-zero exit code.
Exit code: 1
Command:
sbatch /home/alice/.dask-site/ab/jobs/gpu-0.sh
stdout:

stderr:
sbatch: error: invalid partition specified: gpux
sbatch: error: Batch job submission failed: Invalid partition name specified

"""


def test_the_managers_own_words_are_kept():
    words = _words_of(RuntimeError(REFUSAL))
    assert words.startswith("sbatch: error: invalid partition specified: gpux")
    assert "stdout" not in words
    assert "sinfo -s" in submission_hint(words)


def test_every_refusal_gets_some_advice():
    assert "dask-site pools" in submission_hint("something new")


@pytest.mark.parametrize("reason", ["", "Priority", "Resources", "Dependency"])
def test_where_waiting_is_all_there_is_to_do_nothing_is_said(reason):
    assert pending_hint(reason) == ""


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("ReqNodeNotAvail, UnavailableNodes:g1", "sinfo -R"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "drained"),
        ("PartitionTimeLimit", "never start"),
        ("QOSMaxJobsPerUserLimit", "QOS"),
        ("AssocGrpCPUMinutesLimit", "account"),
    ],
)
def test_a_reason_that_needs_somebody_gets_advice(reason, said):
    assert said in pending_hint(reason)


def test_the_output_of_a_job_is_its_own(tmp_path):
    """Not that of job 112 or of a cluster whose id has a 12 in it."""
    from types import SimpleNamespace

    from dask_site.cluster.fleet import Fleet
    from dask_site.cluster.records import JobRecord

    for name in ("dask-ab12cd34-cpu-12.out", "dask-ab12cd34-cpu-112.out", "dask-ab12cd34-cpu.o12"):
        (tmp_path / name).write_text(f"{name}\n")
    fleet = Fleet.__new__(Fleet)
    fleet._folder = SimpleNamespace(logs=tmp_path)
    text = fleet.output(JobRecord("cpu-0", "cpu", job_id="12"))
    assert text == "dask-ab12cd34-cpu-12.out\ndask-ab12cd34-cpu.o12\n"
