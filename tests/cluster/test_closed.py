"""Clusters that users start themselves, and another user of the same nodes who is after them."""

import json

from nodes import left_nothing, node

OPEN = """
import dask
comm = {"require-encryption": None, "default-scheme": "tcp"}
dask.config.set({f"distributed.comm.{key}": value for key, value in comm.items()})
"""
LOCAL = """
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    tell(address=cluster.scheduler_address, uid=os.getuid())
    time.sleep(600)
"""
ATTACK = """
import dask
from distributed import Client
from distributed.security import Security

def attempt(address, **how):
    try:
        with Client(address, timeout=5, **how) as client:
            return client.run_on_scheduler(os.getuid)
    except Exception as error:
        return type(error).__name__

dask.config.set({"distributed.comm.require-encryption": False})
host = "%s".partition("://")[2]
tell(
    with_his_key=attempt("tls://" + host),
    with_a_new_key=attempt("tls://" + host, security=Security.temporary()),
    without=attempt("tcp://" + host, security=Security()),
)
"""


OWNER = """
from distributed import Client
for _ in range(3):
    with Client("%s", timeout=20) as client:
        tell(uid=client.run_on_scheduler(os.getuid), worker=client.submit(where).result(timeout=30))
"""


def doors_of(user, host="login1"):
    """Return what the doctor finds open of a user, asked as the administrator."""
    command = (
        "runuser -l root -c 'module load dask-site && dask-site doctor security --everyone --json'"
    )
    found = json.loads(node(host).run(command).stdout)
    return [one["what"] for one in found if one["owner"] == user and one["level"] == "open"]


def test_nobody_else_runs_code_in_a_local_cluster(in_background, python):
    closed, *_ = in_background("alice", LOCAL)
    facts, result = python("bob", ATTACK % closed["address"])
    assert facts, result.stderr
    assert all(isinstance(name, str) for name in facts.values()), facts
    assert doors_of("alice") == []
    facts, result = python("alice", OWNER % closed["address"])
    assert facts["uid"] == closed["uid"], result.stderr


def test_what_the_attack_does_to_a_cluster_that_is_open(in_background, python):
    opened, *_ = in_background("alice", OPEN + LOCAL)
    facts, result = python("bob", ATTACK % opened["address"])
    assert facts["without"] == opened["uid"], result.stderr
    assert any("protocol without TLS" in what for what in doors_of("alice"))


def test_plain_jobqueue_is_closed_on_the_login_node_and_in_its_jobs(in_background, python):
    running, pid, _ = in_background(
        "alice",
        """
        from distributed import Client
        from dask_jobqueue import SLURMCluster
        if __name__ == "__main__":
            cluster = SLURMCluster()
            cluster.scale(jobs=1)
            with Client(cluster) as client:
                client.wait_for_workers(1, timeout=90)
                worker, info = client.scheduler_info()["workers"].popitem()
                host = client.submit(where).result(timeout=60)
                tell(address=cluster.scheduler_address, worker=worker, host=host)
                time.sleep(600)
        """,
    )
    for address in (running["address"], running["worker"]):
        assert address.startswith("tls://")
        facts, result = python("bob", ATTACK % address)
        assert facts, result.stderr
        assert all(isinstance(name, str) for name in facts.values()), facts
    facts, result = python("alice", OWNER % running["address"])
    assert facts["worker"] == running["host"], result.stderr
    for host in ("login1", running["host"]):
        assert doors_of("alice", host) == []
    node("login1").run(f"kill {pid}")
    node("login1").run("scancel -u alice")
    assert left_nothing("alice")


def test_the_key_is_its_owners_and_made_with_the_module(as_user):
    as_user("carol", "rm -rf ~/.dask-site/keys")
    loaded = as_user("carol", "module load dask-site && stat -c %a.%U .dask-site/keys/*")
    assert loaded.stdout.split() == ["600.carol", "600.carol"], loaded.stderr
    assert loaded.stderr == ""
    assert as_user("bob", "cat ~carol/.dask-site/keys/key.pem").rc != 0
    unloaded = as_user("carol", "module load dask-site; module unload dask-site; env | grep DASK_")
    assert unloaded.stdout == ""
    sourced = as_user(
        "carol",
        "rm -r .dask-site/keys; . /opt/dask-site/current/activate.sh; "
        'cmp "$DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY" .dask-site/keys/key.pem',
    )
    assert sourced.rc == 0, sourced.stderr
