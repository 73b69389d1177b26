"""Pools that follow the work, on a real Slurm: what is asked for, what it costs, what is said."""

import itertools
import json
import time

import pytest

from nodes import left_nothing, node, queue_of, until

SITE = """
import dask
from dask_site import Site

def changed(**pools):
    '''Return the site with some values of its pools changed.'''
    site = Site.find().to_mapping()
    for name, values in pools.items():
        site["pools"][name].update(values)
    return site

def jobs_by_pool(cluster):
    return {name: sum(j.pool == name for j in cluster.jobs) for name in cluster.pools}

def workers_by_pool(cluster):
    return {n: sum(len(j.workers) for j in cluster.jobs if j.pool == n) for n in cluster.pools}

def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.2)
    return condition()

def sleepy(x, seconds=0.3):
    time.sleep(seconds)
    return where()
"""

# Notes each call of squeue and sacct, then makes it.
COUNTING = """
mkdir -p ~/counted && rm -f ~/counted/calls
for tool in squeue sacct; do
  printf '#!/bin/sh\\ndate "+%%s.%%N $0" >> ~/counted/calls\\nexec /usr/bin/%s "$@"\\n' $tool \
    > ~/counted/$tool
  chmod +x ~/counted/$tool
done
export PATH=~/counted:$PATH;
"""


def test_three_pools_come_for_their_work_and_go_after_it(python):
    facts, result = python(
        "alice",
        SITE
        + """
if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration="5 s")
        first = [dask.delayed(sleepy, pure=False)(i) for i in range(16)]
        second = [dask.delayed(needs(gpu=1)(sleepy), pure=False)(x) for x in first[:6]]
        last = dask.delayed(needs(memory="2GiB")(sleepy), pure=False)(second)
        futures = client.compute([*first, *second, last])
        nodes = client.gather(futures)
        jobs = jobs_by_pool(cluster)
        del futures
        drained = until(lambda: not any(workers_by_pool(cluster).values()), 90)
        tell(nodes=nodes, jobs=jobs, drained=drained)
""",
    )
    assert result.rc == 0, result.stderr
    assert "g1" not in facts["nodes"][:16]
    assert set(facts["nodes"][16:22]) == {"g1"}
    assert facts["nodes"][22] == "m1"
    assert facts["jobs"]["gpu"] == 1, "two workers come with one job"
    assert 1 <= facts["jobs"]["cpu"] <= 6
    assert facts["jobs"]["highmem"] <= 2
    assert facts["drained"]
    assert left_nothing("alice")


def test_slurm_is_asked_seldom(python, as_user):
    facts, result = python(
        "alice",
        SITE
        + """
if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration="2 s", idle="2 s")
        for _ in range(3):
            client.gather(client.map(sleepy, range(40), pure=False))
            with pool("gpu"):
                client.gather(client.map(sleepy, range(8), pure=False))
            until(lambda: not any(workers_by_pool(cluster).values()), 30)
        tell(closing=time.time(), jobs=len(cluster.jobs))
""",
        before=COUNTING,
    )
    assert result.rc == 0, result.stderr
    calls = as_user("alice", "cat ~/counted/calls").stdout.split("\n")
    times = [float(line.split()[0]) for line in calls if line]
    open_ones = [t for t in times if t < facts["closing"]]
    assert facts["jobs"] >= 6
    gaps = [b - a for a, b in itertools.pairwise(open_ones)]
    assert min(gaps) > 9.5, "at most one call in ten seconds"
    assert len(times) - len(open_ones) <= 5, "a handful while it closes"


def test_a_pending_job_is_explained_with_slurms_own_reason(python, login1):
    login1.check_output("scontrol update nodename=g1 state=drain reason=test")
    try:
        facts, result = python(
            "bob",
            SITE
            + """
if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        future = client.submit(needs(gpu=1)(sleepy), 1)
        until(lambda: any(j.reason for j in cluster.jobs), 30)
        explained = cluster.explain(future)
        tell(text=repr(explained), html=explained._repr_html_(), json=explained.to_dict())
""",
        )
        assert result.rc == 0, result.stderr
    finally:
        login1.check_output("scontrol update nodename=g1 state=resume")
    assert "pending" in facts["text"]
    assert "DRAINED" in facts["text"]
    assert "1 GPU" in facts["text"]
    assert facts["json"]["pools"][2]["pending"] == 1
    assert "<table>" in facts["html"]
    assert until(lambda: "idle" in login1.check_output("sinfo -h -n g1 -o %t"))


def test_a_user_asks_from_another_shell_what_a_cluster_waits_for(in_background, as_user, login1):
    login1.check_output("scontrol update nodename=m1 state=drain reason=test")
    try:
        facts, *_ = in_background(
            "alice",
            SITE
            + """
if __name__ == "__main__":
    cluster = Cluster()
    client = cluster.get_client()
    cluster.adapt(backlog=1, target_duration="1 s")
    futures = client.map(needs(memory="2GiB")(sleepy), range(50))
    until(lambda: any(j.reason for j in cluster.jobs), 30)
    time.sleep(3)
    tell(jobs=jobs_by_pool(cluster), target=cluster.target("highmem"))
    time.sleep(600)
""",
        )
        assert facts["target"] == 2
        assert facts["jobs"]["highmem"] == 1, "one waits in the queue at a time, as was asked for"
        shown = as_user("alice", "module load dask-site; dask-site explain")
        assert shown.rc == 0, shown.stderr
        assert "highmem" in shown.stdout
        assert "DRAINED" in shown.stdout
        shown = as_user("alice", "module load dask-site; dask-site explain --json")
        assert json.loads(shown.stdout)
        strangers = as_user("bob", "module load dask-site; dask-site explain")
        assert "highmem" not in strangers.stdout
    finally:
        login1.check_output("scontrol update nodename=m1 state=resume")


def test_a_pool_that_slurm_refuses_is_paused_with_its_words(python):
    facts, result = python(
        "alice",
        SITE
        + """
if __name__ == "__main__":
    from dask_site.cluster.errors import PoolError
    with Cluster(changed(gpu={"queue": "nowhere"})) as cluster, cluster.get_client() as client:
        future = client.submit(needs(gpu=1)(sleepy), 1)
        began = time.time()
        paused = until(lambda: "paused" in repr(cluster.explain()), 30)
        tell(paused=paused, seconds=time.time() - began, text=repr(cluster.explain()),
             others=client.submit(sleepy, 2).result(), jobs=jobs_by_pool(cluster))
""",
    )
    assert result.rc == 0, result.stderr
    assert facts["paused"]
    assert "invalid partition" in facts["text"].lower()
    assert "cluster.resume('gpu')" in facts["text"]
    assert facts["jobs"]["gpu"] == 3
    assert facts["others"] in {"c1", "c2", "m1"}
    assert result.stderr.count("Pool 'gpu' is paused") == 1


def test_many_jobs_are_one_array(python, login1):
    before = login1.check_output("sacct -X -n -a -o JobID%30").split()
    facts, result = python(
        "carol",
        SITE
        + """
if __name__ == "__main__":
    site = changed(cpu={"submit": "array", "max_jobs": 6})
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=4)
        cluster.wait_for_workers(timeout=90)
        jobs = [[j.job_id, j.state, j.node] for j in cluster.jobs]
        names = sorted(w.name for w in cluster.scheduler.workers.values())
        with pool("cpu"):
            nodes = client.gather(client.map(sleepy, range(24), pure=False))
        logs = {name: len(text) for name, text in cluster.logs("cpu").items()}
        cluster.scale(cpu=2)
        shrunk = until(lambda: workers_by_pool(cluster)["cpu"] == 2, 30)
        tell(jobs=jobs, names=names, nodes=nodes, logs=logs, shrunk=shrunk)
""",
    )
    assert result.rc == 0, result.stderr
    assert len({number.split("_")[0] for number, *_ in facts["jobs"]}) == 1
    assert {state for _, state, _ in facts["jobs"]} == {"running"}
    assert facts["names"] == ["cpu-0", "cpu-1", "cpu-2", "cpu-3"]
    assert set(facts["nodes"]) <= {"c1", "c2"}
    assert all(size > 100 for size in facts["logs"].values()), facts["logs"]
    assert facts["shrunk"]
    assert left_nothing("carol")
    after = set(login1.check_output("sacct -X -n -a -o JobID%30").split()) - set(before)
    assert len(after) == 4


def test_jobs_hand_over_before_their_walltime(python, login1):
    """Tasks of 2 s through jobs of 1 min: none is cut off, none is computed twice."""
    facts, result = python(
        "alice",
        SITE
        + """
def timed(i, folder):
    time.sleep(2)
    open(f"{folder}/{i}-{time.time_ns()}", "w").close()
    return i

if __name__ == "__main__":
    import tempfile
    folder = tempfile.mkdtemp(dir=os.path.expanduser("~"))
    site = changed(cpu={"walltime": "00:01:00", "max_jobs": 3})
    with Cluster(site, pools="cpu") as cluster, cluster.get_client() as client:
        cluster.adapt(cpu=2, target_duration="5 s")
        futures = client.map(timed, range(80), folder=folder)
        done = sorted(client.gather(futures))
        tell(done=done == list(range(80)), files=len(os.listdir(folder)),
             jobs=[j.job_id for j in cluster.jobs])
""",
    )
    assert result.rc == 0, result.stderr
    assert facts["done"]
    assert facts["files"] == 80
    assert len(facts["jobs"]) >= 4
    numbers = ",".join(facts["jobs"])
    states = login1.check_output(f"sacct -X -n -P -j {numbers} -o State").split("\n")
    assert set(states) == {"COMPLETED"}, "none was there when Slurm ended it"


def test_the_wait_of_the_queue_is_hidden_behind_the_work_before(python):
    facts, result = python(
        "alice",
        SITE
        + """
if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration="10 s")
        before = [dask.delayed(sleepy, pure=False)(i, 1.0) for i in range(60)]
        barrier = dask.delayed(len)(before)
        after = [dask.delayed(needs(gpu=1)(sleepy), pure=False)(barrier) for _ in range(4)]
        done = client.compute(barrier)
        futures = client.compute(after)
        done.result()
        tell(there=workers_by_pool(cluster)["gpu"], nodes=client.gather(futures))
""",
    )
    assert result.rc == 0, result.stderr
    assert facts["there"] == 2
    assert set(facts["nodes"]) == {"g1"}


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_nothing_stays_however_a_program_ends(in_background, end):
    _, pid, _ = in_background(
        "bob",
        SITE
        + """
if __name__ == "__main__":
    cluster = Cluster(changed(cpu={"submit": "array"}))
    client = cluster.get_client()
    cluster.adapt(target_duration="1 s")
    futures = client.map(sleepy, range(400), seconds=1, pure=False)
    until(lambda: sum(workers_by_pool(cluster).values()) > 1)
    tell(ready=True)
    time.sleep(600)
""",
    )
    assert queue_of("bob")
    node("login1").run(f"kill -{'TERM' if end == 'exit' else 'KILL'} {pid}")
    started = time.monotonic()
    assert left_nothing("bob")
    assert time.monotonic() - started < 60
