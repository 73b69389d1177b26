"""Nodes, jobs and workers that die in all the ways that Slurm knows; no task fails for it."""

import contextlib
import time

import pytest
from test_scaling import SITE

from nodes import ended, node, podman, until

# They take the longest, waiting for Slurm to notice.
pytestmark = pytest.mark.suite("trixie")

WORK = (
    SITE
    + """
import collections

def noted(i, folder, seconds=0.3):
    time.sleep(seconds)
    open(f"{folder}/{i}-{time.time_ns()}", "w").close()
    return where()

def folder_for_notes():
    import tempfile
    return tempfile.mkdtemp(dir=os.path.expanduser("~"))

def happenings(cluster):
    return [[e.cause, e.pool, e.node, e.how, e.did] for e in cluster.scheduler.judge.events]
"""
)

LONG = (
    WORK
    + """
if __name__ == "__main__":
    folder = folder_for_notes()
    with Cluster(pools="cpu") as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration="5 s")
        futures = client.map(noted, range(TASKS), folder=folder, seconds=SECONDS, pure=False)
        until(lambda: workers_by_pool(cluster)["cpu"] >= 2, 60)
        tell(jobs=[[j.job_id, j.node] for j in cluster.jobs], folder=folder)
        nodes = client.gather(futures)
        print("RESULTS " + json.dumps({
            "nodes": dict(collections.Counter(nodes)), "files": len(os.listdir(folder)),
            "jobs": len(cluster.jobs), "events": happenings(cluster),
            "states": {j.job_id: [j.state, j.verdict] for j in cluster.jobs}}), flush=True)
"""
)


@pytest.fixture
def long_work(in_background):
    """Start many tasks on the pool cpu: returns (facts, a function that waits for the end)."""
    import json

    def start(user, tasks, seconds):
        code = LONG.replace("TASKS", str(tasks)).replace("SECONDS", str(seconds))
        facts, _, log = in_background(user, code)

        def finish(patience=150):
            assert until(lambda: "RESULTS " in node("login1").run(f"cat {log}").stdout, patience), (
                node("login1").run(f"cat {log}").stdout
            )
            text = node("login1").run(f"cat {log}").stdout
            results = json.loads(text.split("RESULTS ", 1)[1].splitlines()[0])
            return {**results, "said": text}

        return facts, finish

    return start


@contextlib.contextmanager
def out_of_service(name, how):
    podman(how, name)
    try:
        yield
    finally:
        podman({"kill": "start", "pause": "unpause"}[how], name)
        if not until(lambda: up(name), 60):
            # The controller asks after a node that it lost only now and then; a daemon that
            # starts says so itself.
            node(name).run("systemctl restart slurmd")
        assert until(lambda: up(name), 120), node("login1").check_output("sinfo -N -l")


def up(name):
    state = node("login1").check_output(f"sinfo -h -n {name} -p standard -o %t").strip()
    return state in {"idle", "mix", "alloc"}


HUNGRY = (
    WORK
    + """
def hungry(i, megabytes):
    block = bytearray(megabytes << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return where(), len(block)

if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        futures = [client.submit(hungry, i, 1500 if i % 5 == 0 else 10, pure=False)
                   for i in range(20)]
        results = client.gather(futures)
        tell(results=results, events=happenings(cluster))
"""
)


@pytest.mark.parametrize("killer", ["its nanny", "the kernel"])
def test_what_runs_out_of_memory_goes_on_where_there_is_more(python, login1, killer):
    """The job itself lives on."""
    before = ""
    if killer == "the kernel":
        if login1.run("grep -q proctrack/cgroup /etc/slurm/slurm.conf").rc:
            pytest.skip("this machine's control groups don't reach into containers")
        before = "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=False;"
    facts, result = python("alice", HUNGRY, before=before)
    assert result.rc == 0, result.stderr
    large = [where for where, size in facts["results"] if size > 1 << 30]
    assert len(large) == 4
    assert set(large) == {"m1"}
    assert {event[0] for event in facts["events"]} == {"memory"}
    told = " ".join(event[3] for event in facts["events"])
    # A nanny looks ten times a second; the kernel may come first.
    assert killer in told or (killer, "the kernel" in told) == ("its nanny", True)
    assert killer == "its nanny" or "its nanny" not in told


def test_what_nobody_has_memory_for_fails_with_the_story(python):
    facts, result = python(
        "alice",
        WORK
        + """
def hungry(i):
    block = bytearray(6 << 30)
    for at in range(0, len(block), 4096):
        block[at] = 1

if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        good = client.map(sleepy, range(20), pure=False)
        bad = client.submit(hungry, 1)
        error = bad.exception()
        tell(kind=type(error).__name__, text=str(error), good=len(client.gather(good)))
""",
    )
    assert result.rc == 0, result.stderr
    assert facts["kind"] == "TaskOutOfMemory"
    assert "highmem" in facts["text"]
    assert "m1" in facts["text"]
    assert facts["good"] == 20


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_node_that_is_lost_costs_no_task(long_work, how):
    facts, finish = long_work("alice", 240, 1.0)
    nodes = {where for _, where in facts["jobs"] if where}
    lost = "c1" if "c1" in nodes else "c2"
    with out_of_service(lost, how):
        results = finish(240)
    assert sum(results["nodes"].values()) == 240
    # Slurm itself queues the jobs of a lost node again.
    assert {event[0] for event in results["events"]} <= {"pardon", "unknown"}
    assert results["events"], results


def test_preempted_jobs_are_replaced_and_blame_nobody(long_work, login1):
    facts, finish = long_work("alice", 120, 0.5)
    login1.check_output(
        "sbatch -p urgent --account=root -N 2 --exclusive -t 1 -o /dev/null --wrap 'sleep 15'"
    )
    first = facts["jobs"][0][0]
    assert until(lambda: ended(first), 60)
    results = finish()
    assert sum(results["nodes"].values()) == 120
    assert "PREEMPTED" in {verdict for _, verdict in results["states"].values()}
    assert {event[0] for event in results["events"]} <= {"pardon", "unknown"}


def test_a_node_that_is_drained_under_its_workers_costs_nothing(long_work, login1):
    facts, finish = long_work("bob", 240, 0.5)
    first = facts["jobs"][0][1] or "c1"
    login1.check_output(f"scontrol update nodename={first} state=drain reason=disks")
    try:
        results = finish()
    finally:
        login1.check_output(f"scontrol update nodename={first} state=resume")
    assert sum(results["nodes"].values()) == results["files"] == 240
    assert results["events"] == []
    assert "paused" not in results["said"]


def test_a_walltime_in_the_middle_of_a_task_is_nobodys_fault(python):
    """Of a task that nobody knows yet, no worker can tell that it won't be in time."""
    facts, result = python(
        "carol",
        WORK
        + """
def slow_at_first(folder):
    tries = len(os.listdir(folder))
    open(f"{folder}/{tries}", "w").close()
    time.sleep(1 if tries else 120)
    return tries

if __name__ == "__main__":
    site = changed(cpu={"walltime": "00:01:00"})
    with Cluster(site, pools="cpu") as cluster, cluster.get_client() as client:
        others = client.map(sleepy, range(8), pure=False)
        tries = client.submit(slow_at_first, folder_for_notes(), pure=False).result()
        until(lambda: any(job.verdict in {"TIMEOUT", "CANCELLED"} for job in cluster.jobs), 60)
        tell(tries=tries, others=len(client.gather(others)), events=happenings(cluster),
             verdicts=[job.verdict for job in cluster.jobs])
""",
    )
    assert result.rc == 0, result.stderr
    assert (facts["tries"], facts["others"]) == (1, 8)
    # Slurm lets a job run on for up to a minute: it may be us who end it.
    assert {"TIMEOUT", "CANCELLED"} & {*facts["verdicts"]}
    assert {event[0] for event in facts["events"]} == {"pardon"}


def test_jobs_that_an_administrator_ends_are_replaced(long_work, login1):
    facts, finish = long_work("carol", 360, 0.5)
    login1.check_output(f"scancel {facts['jobs'][0][0]}")
    time.sleep(3)
    login1.check_output(f"scancel --signal=KILL --full {facts['jobs'][1][0]}")
    results = finish()
    assert sum(results["nodes"].values()) == 360
    assert results["jobs"] >= len(facts["jobs"]) + 1


def test_workers_that_are_killed_cost_no_task(long_work):
    _, finish = long_work("bob", 300, 0.3)
    for strike in range(5):
        where = node(("c1", "c2")[strike % 2])
        # The youngest process of the job: the worker, not its nanny.
        where.run("pkill -KILL -n -u bob -f 'dask_site.cluster.worker'")
        time.sleep(1.5)
    results = finish()
    assert sum(results["nodes"].values()) == 300
    killed = [event for event in results["events"] if "signal 9" in event[3]]
    assert len(killed) >= 3, results["events"]


def test_slurm_away_for_a_while_is_told_once_and_nothing_stops(long_work):
    _, finish = long_work("alice", 900, 0.5)
    ctl = node("ctl")
    ctl.check_output("systemctl stop slurmctld")
    try:
        time.sleep(45)  # longer than a quiet cluster goes without a question
    finally:
        ctl.check_output("systemctl start slurmctld")
    results = finish()
    assert sum(results["nodes"].values()) == 900
    assert results["said"].count("The resource manager does not answer") == 1
