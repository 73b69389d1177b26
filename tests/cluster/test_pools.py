"""dask_site.Cluster on a real Slurm, as its users run it: real jobs on real partitions."""

import contextlib
import json

import pytest

from nodes import folders_of, left_nothing, node, queue_of, until

# -- what it is for ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["login1", "login2"])
def test_three_pools_in_one_cluster_and_nothing_left_behind(python, host):
    facts, result = python(
        "alice",
        """
        if __name__ == "__main__":
            with Cluster() as cluster, cluster.get_client() as client:
                cluster.scale(cpu=2, highmem=1, gpu=2)
                cluster.wait_for_workers(timeout=90)
                named = {}
                for name in cluster.pools:
                    with pool(name):
                        found = client.gather(client.map(where, range(20), pure=False))
                    named[name] = sorted(set(found))
                unnamed = sorted(set(client.gather(client.map(where, range(200), pure=False))))
                with pool("gpu"):
                    gpus = client.gather(client.map(
                        lambda i: (time.sleep(0.05), os.environ["CUDA_VISIBLE_DEVICES"])[1],
                        range(20), pure=False))
                tell(named=named, unnamed=unnamed, gpus=sorted(set(gpus)),
                     address=cluster.scheduler_address,
                     workers=[w.address for w in cluster.scheduler.workers.values()],
                     jobs=[[j.job_id, j.pool, j.node, j.state] for j in cluster.jobs])
                print(cluster, cluster.summary, sep="\\n")
        """,
        host,
    )
    assert result.rc == 0, result.stderr
    assert set(facts["named"]["cpu"]) <= {"c1", "c2"}
    assert facts["named"]["highmem"] == ["m1"]
    assert facts["named"]["gpu"] == ["g1"]
    assert "g1" not in facts["unnamed"]
    assert "m1" in facts["unnamed"]
    assert facts["gpus"] == ["0", "1"]
    assert {a.split(":")[0] for a in [facts["address"], *facts["workers"]]} == {"tls"}
    assert {job[3] for job in facts["jobs"]} == {"running"}
    assert left_nothing("alice")
    for number, pool, where, _ in facts["jobs"]:
        command = f"sacct -X -n -P -j {number} -o Partition,NodeList,State,AllocTRES"
        partition, there, state, tres = node("login1").check_output(command).split("|")
        assert partition == {"cpu": "standard"}.get(pool, pool)
        assert there == where
        assert state == "COMPLETED", "jobs end by themselves when their cluster closes"
        assert ("gres/gpu=2" in tres) == (pool == "gpu")


def test_every_collection_goes_where_persist_stands(python):
    facts, result = python(
        "alice",
        """
        import dask, dask.array as da, dask.bag as db, dask.dataframe as dd
        import numpy as np, pandas as pd, xarray as xr
        from distributed import wait, futures_of

        def work(salt):  # other keys each time: what is in memory is not computed again
            frame = pd.DataFrame({"key": np.arange(100) % 5, "value": np.arange(100.0) + salt})
            data = xr.DataArray(da.random.random((20, 40), chunks=(5, 40)), dims=("time", "x"))
            return {
                "delayed": dask.delayed(sum)([dask.delayed(abs)(-i) for i in range(8)]),
                "array": da.random.random((400, 400), chunks=100).sum(axis=0),
                "dataframe": dd.from_pandas(frame, npartitions=5).map_partitions(lambda p: p + 1),
                "shuffle": dd.from_pandas(frame, npartitions=5).shuffle("key"),
                "bag": db.from_sequence(range(salt, salt + 20), npartitions=5).map(lambda x: x + 1),
                "xarray": data.mean("x"),
            }

        def places(client, done):
            wait(futures_of(done))
            workers = client.scheduler_info(n_workers=-1)["workers"]
            held = client.who_has(done).values()
            return sorted({workers[a]["name"].split("-")[0] for row in held for a in row})

        if __name__ == "__main__":
            with Cluster() as cluster, cluster.get_client() as client:
                cluster.scale(cpu=1, highmem=1, gpu=2)
                cluster.wait_for_workers(timeout=90)
                open_, named = {}, {}
                for kind, collection in work(0).items():
                    open_[kind] = places(client, collection.persist())
                for kind, collection in work(1000).items():
                    with pool("gpu"):
                        named[kind] = places(client, collection.persist())
                tell(open=open_, named=named)
        """,
    )
    assert result.rc == 0, result.stderr
    assert all(places == ["gpu"] for places in facts["named"].values())
    assert all("gpu" not in places for places in facts["open"].values())
    assert len(facts["open"]) == 6


def test_scaling_down_computes_nothing_again(python, login1):
    facts, result = python(
        "alice",
        """
        def mark(i):
            with open(os.path.expanduser(f"~/marks/{i}-{time.time_ns()}"), "w"):
                return i

        if __name__ == "__main__":
            os.makedirs(os.path.expanduser("~/marks"), exist_ok=True)
            with Cluster() as cluster, cluster.get_client() as client:
                cluster.scale(cpu=3)
                cluster.wait_for_workers(timeout=90)
                futures = client.map(mark, range(40))
                client.gather(futures)
                cluster.scale(cpu=1)
                while len(cluster.scheduler.workers) > 1:
                    time.sleep(0.1)
                tell(results=client.gather(futures))
                deadline = time.time() + 20
                while [j.state for j in cluster.jobs].count("ended") < 2 and time.time() < deadline:
                    time.sleep(0.2)
                tell(jobs=[[j.state, j.reason] for j in cluster.jobs])
        """,
    )
    assert result.rc == 0, result.stderr
    assert facts["results"] == list(range(40))
    assert login1.check_output("ls /home/alice/marks | wc -l; rm -r /home/alice/marks") == "40"
    assert sorted(facts["jobs"]) == [
        ["ended", "COMPLETED"],
        ["ended", "COMPLETED"],
        ["running", ""],
    ]


def test_plain_dask_jobqueue_finds_the_pools(python):
    facts, result = python(
        "bob",
        """
        from dask_jobqueue import SLURMCluster
        from distributed import Client

        if __name__ == "__main__":
            with SLURMCluster(config_name="gpu", interface="eth0") as c, Client(c) as client:
                c.scale(jobs=1)
                client.wait_for_workers(2, timeout=60)
                tell(where=client.submit(where).result())
        """,
    )
    assert result.rc == 0, result.stderr
    assert facts["where"] == "g1"


def test_another_account_is_charged_for_its_own_user(python):
    facts, result = python(
        "carol",
        """
        if __name__ == "__main__":
            with Cluster(pools=["cpu"]) as cluster:
                cluster.scale(1)
                cluster.wait_for_workers(timeout=60)
                tell(job=cluster.jobs[0].job_id)
        """,
    )
    assert result.rc == 0, result.stderr
    assert node("login1").check_output(f"sacct -X -n -P -j {facts['job']} -o Account") == "biology"


# -- strangers --------------------------------------------------------------------------------

RUNNING = """
if __name__ == "__main__":
    cluster = Cluster()
    cluster.scale(cpu=1)
    cluster.wait_for_workers(timeout=60)
    worker, = cluster.scheduler.workers.values()
    tell(scheduler=cluster.scheduler_address, worker=worker.address, nanny=worker.nanny,
         folder=str(cluster._folder.path))
    time.sleep(300)
"""
# The module's settings would protect it too.
UNPROTECTED = """
import dask
from distributed import LocalCluster
comm = {"require-encryption": None, "default-scheme": "tcp"}
dask.config.set({f"distributed.comm.{key}": value for key, value in comm.items()})
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, host="0.0.0.0", dashboard_address=":0")
    tell(scheduler=cluster.scheduler_address)
    time.sleep(300)
"""
STRANGER = """
import asyncio
import dask
dask.config.set({{"distributed.comm.require-encryption": None}})  # his own would stop him
from distributed.core import connect
from distributed.security import Security
from distributed import Client

async def attack(address, security, scheme):
    address = scheme + address.split("://")[1]
    async with Client(address, security=security, timeout="3s", asynchronous=True) as client:
        return await client.run_on_scheduler(lambda: os.getuid())

async def knock(address, security, scheme):
    arguments = security.get_connection_args("client") if security else {{}}
    comm = await connect(scheme + address.split("://")[1], timeout=3, **arguments)
    await comm.write({{"op": "identity", "reply": True}})
    return str(await asyncio.wait_for(comm.read(), 3))

def outcome(attempt):
    try:
        return "in: " + str(asyncio.run(attempt))
    except BaseException as error:
        return "out: " + type(error).__name__

if __name__ == "__main__":
    tried = {{}}
    for address in {addresses!r}:
        plain, foreign = (Security(), "tcp://"), (Security.temporary(), "tls://")
        for kind, (security, scheme) in (("plain", plain), ("foreign", foreign)):
            way = attack if address == {addresses!r}[0] else knock
            tried[kind + " " + address] = outcome(way(address, security, scheme))
    tell(tried=tried)
"""


def test_a_stranger_is_refused_by_scheduler_worker_and_nanny(python, in_background):
    mine, _, _ = in_background("alice", RUNNING)
    addresses = [mine["scheduler"], mine["worker"], mine["nanny"]]
    facts, result = python("bob", STRANGER.format(addresses=addresses))
    assert len(facts["tried"]) == 6, result.stderr
    assert all(said.startswith("out: ") for said in facts["tried"].values()), facts


def test_the_same_attack_succeeds_where_nothing_protects(python, in_background, as_user):
    """The control: without it the test above could pass by accident."""
    theirs, _, _ = in_background("alice", UNPROTECTED)
    facts, result = python("bob", STRANGER.format(addresses=[theirs["scheduler"]]))
    alice = as_user("alice", "id -u").stdout.strip()
    assert f"in: {alice}" in facts["tried"].values(), result.stderr


def test_nobody_else_reads_keys_scripts_or_logs(as_user, in_background, login1):
    mine, _, _ = in_background("alice", RUNNING)
    login1.run("chmod 755 /home/alice")  # not what protects
    try:
        for path in ("", "/tls/key.pem", "/jobs/cpu-0.sh", "/logs"):
            for user in ("bob", "carol"):
                assert "Permission denied" in as_user(user, f"cat {mine['folder']}{path}").stderr
        assert "PRIVATE KEY" in as_user("alice", f"cat {mine['folder']}/tls/key.pem").stdout
        everything = login1.check_output(
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; scontrol show job"
        )
        assert "PRIVATE KEY" not in everything
    finally:
        login1.run("chmod 700 /home/alice")


def test_nothing_of_a_cluster_shows_itself_over_http(in_background):
    in_background("alice", RUNNING)
    for name in ("login1", "c1", "c2"):
        listening = node(name).run("ss -Hltnp | grep -E 'python|dask'").stdout.splitlines()
        for line in listening:
            address = line.split()[3]
            host, _, port = address.rpartition(":")
            asked = node(name).run(
                f'timeout 3 python3 -c "import urllib.request as u; '
                f"print(u.urlopen('http://127.0.0.1:{port}/status').status)\""
            )
            assert asked.rc != 0, line
            if "127.0.0.1" not in host:
                plain = node(name).run(
                    f'timeout 3 python3 -c "import urllib.request as u; '
                    f"print(u.urlopen('http://{name}:{port}/health').status)\""
                )
                assert plain.rc != 0, line


# -- when something goes wrong ----------------------------------------------------------------

TROUBLED = """
if __name__ == "__main__":
    begun = time.time()
    with Cluster({site!r}) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1, {pool}={count})
        try:
            cluster.wait_for_workers(timeout={patience}, {pool}={count})
            tell(error="")
        except Exception as error:
            tell(error=type(error).__name__ + ": " + str(error), after=time.time() - begun)
        cluster.wait_for_workers(cpu=1, timeout=60)
        tell(still=client.submit(where).result(),
             jobs=[[j.pool, j.state, j.reason] for j in cluster.jobs])
"""


@pytest.fixture
def troubled(python, site):
    """Run a cluster of which one pool is described wrongly; the others must go on."""

    def run(pool="gpu", count=2, patience=20, **fields):
        changed = json.loads(json.dumps(site))
        changed["pools"][pool].update(fields)
        code = TROUBLED.format(site=changed, pool=pool, count=count, patience=patience)
        facts, result = python("alice", code)
        assert facts["still"] in {"c1", "c2", "m1"}, result.stderr
        return facts, result.stderr

    return run


def test_an_unknown_partition_is_told_in_slurms_words(troubled):
    facts, said = troubled(queue="gpux")
    assert "PoolError: Pool 'gpu' can't bring 2 workers" in facts["error"]
    assert "invalid partition specified: gpux" in facts["error"]
    assert "sinfo -s" in facts["error"]
    assert "Traceback" not in said
    assert "invalid partition specified: gpux" in said
    assert facts["after"] < 10


def test_more_memory_than_any_node_has_is_told(troubled):
    facts, _ = troubled("highmem", count=1, memory="500TiB")
    assert "Requested node configuration is not available" in facts["error"] or (
        "Memory specification can not be satisfied" in facts["error"]
    )
    assert "what the pool asks for" in facts["error"] or "that much memory" in facts["error"]


def test_a_walltime_over_the_limit_is_told(troubled):
    facts, said = troubled("highmem", count=1, walltime="3-00:00:00", patience=8)
    text = facts["error"] + said
    assert "PartitionTimeLimit" in text or "time limit" in text.lower(), text
    assert "sinfo -o '%P %l'" in text


def test_a_drained_node_is_told_and_the_job_starts_when_it_is_back(in_background, login1):
    ctl = node("ctl")
    ctl.check_output("scontrol update nodename=g1 state=drain reason='fan broken'")
    try:
        _, _, log = in_background(
            "alice",
            """
            if __name__ == "__main__":
                with Cluster() as cluster:
                    cluster.scale(gpu=2)
                    tell(started=True)
                    cluster.wait_for_workers(timeout=120)
                    tell(joined=[j.node for j in cluster.jobs])
            """,
        )
        assert until(lambda: "drained or reserved" in login1.run(f"cat {log}").stdout, 20)
        assert "pool 'gpu', job" in login1.run(f"cat {log}").stdout
        assert "sinfo -R" in login1.run(f"cat {log}").stdout
    finally:
        ctl.check_output("scontrol update nodename=g1 state=resume")
    assert until(lambda: 'FACTS {"joined": ["g1"]}' in login1.run(f"cat {log}").stdout, 60)
    assert left_nothing("alice")


def test_a_job_that_dies_before_its_worker_joins_is_told_with_its_output(troubled):
    # Told at once; three tries, of whose end the queue tells once in ten seconds, pause the pool.
    facts, said = troubled(prologue=["echo no such compiler >&2", "exit 3"], patience=90)
    assert facts["error"].startswith("PoolError")
    assert "ended before its worker joined: FAILED (exit code 3)" in facts["error"]
    assert "no such compiler" in facts["error"]
    assert "no such compiler" in said
    assert ["gpu", "failed"] in [job[:2] for job in facts["jobs"]]


def test_a_taken_port_is_told(python):
    _, result = python(
        "alice",
        """
        import socket
        if __name__ == "__main__":
            with socket.create_server(("", 0)) as taken:
                Cluster(port=taken.getsockname()[1])
        """,
    )
    assert result.rc == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "ClusterError: The scheduler can't listen on port" in last
    assert "Cluster(port=0) takes any free port" in last


def test_full_storage_is_told_and_leaves_nothing_half_written(python, as_user, site):
    full = {**site, "state_dir": "/dev/shm/alice"}
    as_user("alice", "mkdir -m 700 /dev/shm/alice; cat /dev/zero > /dev/shm/alice/filler")
    try:
        _, result = python("alice", f"if __name__ == '__main__': Cluster({full!r})")
        left = as_user("alice", "ls -A /dev/shm/alice").stdout.split()
    finally:
        as_user("alice", "rm -r /dev/shm/alice")
    assert result.rc == 1
    assert "No space left on device. Free some space there" in result.stderr
    assert left == ["filler"]


def test_without_the_module_it_says_what_to_load(as_user):
    result = as_user(
        "alice",
        "/opt/dask-site/current/env/bin/python -c 'from dask_site import Cluster; Cluster()'",
    )
    assert result.rc == 1
    assert "module load dask-site" in result.stderr


@pytest.mark.parametrize("signal", ["KILL", "TERM", "INT", "HUP"])
def test_however_the_program_ends_no_job_stays(in_background, as_user, signal):
    _, pid, _ = in_background("alice", RUNNING)
    assert queue_of("alice")
    as_user("alice", f"kill -{signal} {pid}")
    assert left_nothing("alice"), queue_of("alice") + folders_of("alice")


def test_a_job_whose_number_never_came_back_is_cancelled_by_name(python):
    """The program was killed while sbatch ran: only the job's name tells whose it is."""
    facts, result = python(
        "alice",
        """
        import subprocess
        from dask_site.cluster.queue import SlurmQueue
        if __name__ == "__main__":
            submit = ["sbatch", "--parsable", "--wrap", "sleep 600"]
            numbers = [subprocess.check_output([*submit, "-J", name], text=True).strip()
                       for name in ("dask-0000-cpu", "dask-0000-gpu", "mine")]
            _, by_name = SlurmQueue().cancel_commands(["dask-0000-cpu", "dask-0000-gpu"])
            tell(code=subprocess.run(by_name).returncode, numbers=numbers)
        """,
    )
    first, second, other = facts["numbers"]
    try:
        assert facts["code"] == 0, result.stderr
        assert until(lambda: queue_of("alice").split()[0:1] == [other])
        assert first not in queue_of("alice")
        assert second not in queue_of("alice")
    finally:
        node("login1").run(f"scancel {other}")
    assert left_nothing("alice")


def test_a_dead_node_is_told_and_the_rest_goes_on(in_background, login1):
    """Needs slurmctld's own verdict on the node: half a minute."""
    _, _, log = in_background(
        "alice",
        """
        if __name__ == "__main__":
            with Cluster() as cluster, cluster.get_client() as client:
                cluster.scale(cpu=1, highmem=1)
                cluster.wait_for_workers(timeout=90)
                tell(running=True)
                while not any(j.state == "pending" for j in cluster.jobs):
                    time.sleep(0.2)
                tell(still=client.submit(where, pure=False).result())
        """,
    )
    m1 = node("m1")
    # The daemon and its jobs, all at once, as when the power goes.
    m1.run("systemctl kill -s KILL slurmd; systemctl stop slurmd; pkill -KILL -u alice")
    try:
        assert until(lambda: '"still": "c' in login1.run(f"cat {log}").stdout, 90), login1.run(
            f"cat {log}"
        ).stdout
        said = login1.run(f"cat {log}").stdout
        assert "was taken off its node, and the resource manager queued it again" in said
        assert "Pool 'highmem', job" in said
    finally:
        m1.run("systemctl start slurmd")
        with contextlib.suppress(Exception):
            until(lambda: "idle" in login1.run("sinfo -h -p highmem -o %T").stdout, 60)
    assert left_nothing("alice")


def test_a_controller_that_is_away_stops_nobody(in_background, login1):
    _, _, log = in_background(
        "alice",
        """
        if __name__ == "__main__":
            with Cluster() as cluster, cluster.get_client() as client:
                cluster.scale(cpu=1)
                cluster.wait_for_workers(timeout=60)
                tell(running=True)
                while not os.path.exists("/tmp/controller-is-away"):
                    time.sleep(0.2)
                cluster.scale(highmem=1)
                tell(still=client.submit(where, pure=False).result())
                while not any(j.state == "failed" for j in cluster.jobs):
                    time.sleep(0.2)
                tell(refused=[j.reason for j in cluster.jobs if j.state == "failed"])
                while os.path.exists("/tmp/controller-is-away"):
                    time.sleep(0.2)
                tell(done=True)
        """,
    )
    ctl = node("ctl")
    ctl.check_output("systemctl stop slurmctld")
    try:
        login1.check_output("touch /tmp/controller-is-away")
        assert until(lambda: '"refused"' in login1.run(f"cat {log}").stdout, 90)
        text = login1.run(f"cat {log}").stdout
        assert '"still": "c' in text
        assert "Unable to contact" in text or "connect" in text.lower()
    finally:
        ctl.check_output("systemctl start slurmctld")
        login1.check_output("rm /tmp/controller-is-away")
    assert until(lambda: '"done"' in login1.run(f"cat {log}").stdout)
    assert left_nothing("alice")
