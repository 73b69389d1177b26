"""What the resource manager prints, read right; what it refuses, explained."""

import asyncio
import os
import stat
import subprocess
from datetime import UTC, datetime
from types import SimpleNamespace

import psutil
import pytest

from dask_site.cluster import output, reaper
from dask_site.cluster.errors import ClusterError
from dask_site.cluster.hints import pending_hint, submission_hint
from dask_site.cluster.queue import (
    ENDED,
    PENDING,
    RUNNING,
    UNKNOWN,
    QueueEntry,
    SlurmQueue,
    queue_for,
    run,
)
from dask_site.cluster.submission import words_of


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


def line(job, state, why, node="", code=0, restarts=0, start="N/A", end="N/A"):
    """Return a line as squeue 22.05 and 24.11 write it for our --Format."""
    fields = ((job, 40), (state, 24), (code, 16), (restarts, 12), (start, 24), (end, 24))
    return "".join(f"{text:<{width}}|" for text, width in (*fields, (node, 120))) + f"{why:<240}"


def printing(*lines):
    return "cat <<'END'\n" + "\n".join(lines) + "\nEND"


def at(seconds):
    return datetime.fromtimestamp(seconds, UTC)


def test_squeue_is_read(commands):
    away = "(Nodes required for job are DOWN, DRAINED or reserved for jobs in higher partitions)"
    commands(
        squeue=printing(
            line("12", "PENDING", "(Resources)", start=1795448940, end=1795449540),
            line("13", "RUNNING", "c1", "c1", start=1795446590, end=1795450190),
            line("14", "COMPLETING", "c1", "c1"),
            line("15", "TIMEOUT", "(TimeLimit)", "c2", start=1795446590, end=1795446600),
            line("16", "PENDING", away, restarts=2),
            line("17_3", "PENDING", "(None)"),
        )
    )
    seen = look("12", "13")
    assert seen["12"] == QueueEntry(PENDING, "PENDING", "Resources", expected=at(1795448940))
    assert seen["13"] == QueueEntry(
        RUNNING, "RUNNING", "", "c1", started=at(1795446590), ends=at(1795450190)
    )
    assert seen["14"].phase == RUNNING
    assert seen["15"] == QueueEntry(
        ENDED, "TIMEOUT", "", "c2", started=at(1795446590), ends=at(1795446600)
    )
    assert seen["16"].reason == away.strip("()")
    assert seen["16"].restarts == 2
    assert seen["17_3"].reason == ""


@pytest.mark.parametrize(
    ("state", "code", "why", "reason"),
    [
        ("FAILED", 768, "(NonZeroExitCode)", "exit code 3"),
        ("FAILED", 139, "(JobLaunchFailure)", "signal 11"),
        ("FAILED", 9, "(None)", "signal 9"),
        ("FAILED", "3:0", "(NonZeroExitCode)", "exit code 3"),
        ("FAILED", 0, "(JobLaunchFailure)", "JobLaunchFailure"),
        ("NODE_FAIL", 0, "(NodeDown)", "NodeDown"),
        ("OUT_OF_MEMORY", 125, "(OutOfMemory)", ""),
        ("COMPLETED", 0, "(None)", ""),
    ],
)
def test_squeue_tells_how_a_job_ended(commands, state, code, why, reason):
    commands(squeue=printing(line("7", state, why, "c1", code)))
    assert look("7")["7"] == QueueEntry(ENDED, state, reason, "c1")


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED", "STAGE_OUT", "SOMETHING_NEW"])
def test_a_state_that_is_new_to_us_is_not_an_end(commands, state):
    commands(squeue=printing(line("7", state, "c1", "c1")))
    assert look("7")["7"].phase == RUNNING


def test_the_users_own_settings_do_not_change_the_answer(commands, tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    commands(squeue=f"env > {tmp_path}/environment")
    look("7")
    seen = (tmp_path / "environment").read_text().splitlines()
    assert "SLURM_TIME_FORMAT=%s" in seen
    assert not any(name.startswith("SQUEUE_") for name in seen)


def verdicts(*job_ids):
    return asyncio.run(SlurmQueue().verdicts(job_ids))


@pytest.mark.parametrize(
    ("told", "entry"),
    [
        ("FAILED|3:0|c1", QueueEntry(ENDED, "FAILED", "exit code 3", "c1")),
        ("FAILED|0:9|c1", QueueEntry(ENDED, "FAILED", "signal 9", "c1")),
        ("CANCELLED by 1001|0:0|None assigned", QueueEntry(ENDED, "CANCELLED", "by 1001", "")),
        ("OUT_OF_MEMORY|0:125|m1", QueueEntry(ENDED, "OUT_OF_MEMORY", "", "m1")),
        ("TIMEOUT|0:0|c2", QueueEntry(ENDED, "TIMEOUT", "", "c2")),
        ("RUNNING|0:0|c2", QueueEntry(RUNNING, "RUNNING", "", "c2")),
    ],
)
def test_the_accounting_tells_how_a_job_ended(commands, told, entry):
    commands(sacct=f"echo '7|{told}|Unknown|None'")
    assert verdicts("7") == {"7": entry}


def test_the_accounting_is_asked_once_for_all_elements_of_an_array(commands, tmp_path):
    commands(
        sacct=f'echo "$@" >> {tmp_path}/calls\n'
        + printing(
            "7_0|COMPLETED|0:0|c1|100|200", "7_1|FAILED|1:0|c2|100|200", "8|TIMEOUT|0:0|c1||"
        )
    )
    found = verdicts("7_0", "7_1", "8")
    assert found["7_0"] == QueueEntry(ENDED, "COMPLETED", "", "c1", at(100), at(200))
    assert found["8"].verdict == "TIMEOUT"
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert "--jobs=7,8 " in call


def test_where_no_accounts_are_kept_jobs_just_ended(commands, tmp_path):
    commands(
        sacct=f"echo >> {tmp_path}/calls; echo 'Slurm accounting storage is disabled' >&2; exit 1"
    )
    queue = SlurmQueue()
    for _ in range(2):
        assert asyncio.run(queue.verdicts(["7"]))["7"].verdict == UNKNOWN
    assert len((tmp_path / "calls").read_text()) == 1


def test_an_accounting_that_is_away_says_nothing(commands):
    commands(sacct="echo 'Connection refused' >&2; exit 1")
    with pytest.raises(ClusterError, match="Connection refused"):
        verdicts("7")


def test_a_manager_that_is_away_speaks_for_itself(commands):
    commands(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
        look("7")


def test_a_manager_that_is_not_there_is_named():
    with pytest.raises(ClusterError, match="no-such-command: No such file.*Is this a login node"):
        asyncio.run(run(["no-such-command"]))


def test_a_manager_that_hangs_is_given_up_and_leaves_no_process():
    with pytest.raises(ClusterError, match=r"sleep did not answer in 0.2 s"):
        asyncio.run(run(["sleep", "60.25"], timeout=0.2))
    assert not [p for p in psutil.Process().children() if "60.25" in p.cmdline()]


def test_jobs_are_cancelled_in_one_call(commands, tmp_path):
    commands(scancel=f'echo "$@" >> {tmp_path}/calls', qdel=f'echo "$@" >> {tmp_path}/calls')
    asyncio.run(SlurmQueue().cancel(["1", "2", "3"]))
    asyncio.run(queue_for("sge", "qdel").cancel(["4", "5"]))
    asyncio.run(SlurmQueue().cancel([]))
    asyncio.run(SlurmQueue().cancel(["7_0", "8", "7_2", "7_1", "7_9"]))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["--quiet 1 2 3", "4 5", "--quiet 8 7_[0-2,9]"]


def test_a_name_that_could_not_be_cancelled_does_not_spare_the_others(commands, tmp_path):
    commands(scancel=f'echo "$@" >> {tmp_path}/calls; case $* in *-cpu) exit 1;; esac')
    _, by_name = SlurmQueue().cancel_commands(["dask-x-cpu", "dask-x-gpu"])
    assert subprocess.run(by_name).returncode == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.rpartition("--name=")[2] for call in calls] == ["dask-x-cpu", "dask-x-gpu"]
    _, by_name = SlurmQueue().cancel_commands(["dask-x-gpu"])
    assert subprocess.run(by_name).returncode == 0


@pytest.mark.parametrize(("away", "rounds"), [(0, 2), (4, 5), (99, 6)])
def test_the_reaper_goes_on_while_the_manager_is_away(
    commands, tmp_path, monkeypatch, away, rounds
):
    """By number a failure says nothing: a job may have ended by itself."""
    commands(
        scancel=f'echo "$@" >> {tmp_path}/calls; case $* in *--name=*) '
        f"test $(grep -c name= {tmp_path}/calls) -gt {away};; *) exit 1;; esac"
    )
    (tmp_path / "keys").mkdir()
    slept = []
    monkeypatch.setattr(reaper, "time", SimpleNamespace(sleep=slept.append))
    cancel, by_name = SlurmQueue().cancel_commands(["dask-x-cpu"])
    plan = {"folder": str(tmp_path / "keys"), "cancel": cancel, "by_name": by_name}
    reaper._clean_up(plan, {"7"})
    assert len(slept) == rounds
    assert (tmp_path / "calls").read_text().count("--quiet 7\n") == rounds
    assert not (tmp_path / "keys").exists()


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
    words = words_of(RuntimeError(REFUSAL))
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
    """Not that of job 112 or of a cluster whose id has a 12 in it, or of an array's element."""
    for name in (
        *("dask-ab12cd34-cpu-12.out", "dask-ab12cd34-cpu-112.out", "dask-ab12cd34-cpu.o12"),
        *(
            "dask-ab12cd34-cpu-12_4.out",
            "dask-ab12cd34-cpu-4_12.out",
            "dask-ab12cd34-cpu-12_41.err",
        ),
    ):
        (tmp_path / name).write_text(f"{name}\n")
    assert output.read(tmp_path, "12") == "dask-ab12cd34-cpu-12.out\ndask-ab12cd34-cpu.o12\n"
    assert output.read(tmp_path, "12_4") == "dask-ab12cd34-cpu-12_4.out\n"
    assert output.read(tmp_path, "") == ""
