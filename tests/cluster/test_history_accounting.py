"""What Slurm's accounting says of real jobs, and a ledger that closes against it."""

import base64
import io
import tarfile
import time

import pytest

from dask_site.history.accounting import Accountant
from dask_site.history.accounting.refreshing import REFUSED
from dask_site.history.accounting.sacct import Sacct
from dask_site.history.ledger import close_books
from dask_site.history.reading import read_spool
from dask_site.history.store import Store
from dask_site.history.waits import waits
from nodes import ended, left_nothing, node, until, variables

RECORDED = (
    "export DASK_DASK_SITE__HISTORY__ENABLED=True"
    " DASK_DASK_SITE__HISTORY__SPOOL=$HOME/accounted"
    """ DASK_DISTRIBUTED__SCHEDULER__PRELOAD='["dask_site.history.preload"]'"""
    """ DASK_DISTRIBUTED__WORKER__PRELOAD='["dask_site.history.job_id"]';"""
    " rm -rf $HOME/accounted;"
)
WORK = """
import subprocess
from dask_site import Site

def nap(x):
    time.sleep(0.5)
    return x

if __name__ == "__main__":
    site = Site.find().to_mapping()
    site["pools"]["highmem"]["directives"] = ["--begin=now+1day"]
    with Cluster(Site.from_mapping(site)) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2, highmem=1)
        client.wait_for_workers(2)
        futures = client.map(nap, range(40))
        time.sleep(4)
        jobs = [job.job_id for job in cluster.jobs if job.pool == "cpu"]
        subprocess.run(["scancel", jobs[0]], check=True)
        client.gather(futures)
        tell(jobs=jobs, cancelled=jobs[0])
"""


@pytest.fixture
def sacct():
    config = f"{variables()['folder']}/ssh_config"
    settings = ("TZ=UTC", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0")
    return Sacct(("ssh", "-F", config, "root@login1", "env", *settings, "sacct"))


def spool_of(user, folder):
    """Return the spool files that a user's clusters wrote into a folder."""
    tar = node("login1").check_output(f"tar -C /home/{user}/{folder} -cf - . | base64 -w0")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(tar))) as files:
        spools = [member for member in files.getmembers() if member.name.endswith(".spool")]
        return [files.extractfile(spool).read() for spool in spools]


def core_seconds(jobs):
    numbers = ",".join(jobs)
    command = f"sacct -a -n -X -P -D -o CPUTimeRAW -j {numbers}"
    return sum(int(line) for line in node("login1").check_output(command).split())


def meter(job, joules):
    """Write the energy of a job's batch step where slurmdbd does that for a node with a meter."""
    steps = "demo_step_table s join demo_job_table j on s.job_db_inx = j.job_db_inx"
    step = f"j.id_job = {int(job)} and s.id_step = -5"
    written = f"update {steps} set s.consumed_energy = {joules} where {step}; select row_count()"
    assert node("ctl").check_output(f"mysql -N slurm_acct_db -e '{written}'") == "1"


def test_the_books_of_a_cluster_close_against_sacct(python, sacct, tmp_path):
    facts, result = python("alice", WORK, before=RECORDED)
    assert result.rc == 0, result.stderr
    assert left_nothing("alice")
    assert until(lambda: all(ended(job) for job in facts["jobs"]))
    (metered,) = set(facts["jobs"]) - {facts["cancelled"]}
    meter(metered, joules=5000)
    (content,) = spool_of("alice", "accounted")
    path = tmp_path / "spool"
    path.write_bytes(content)
    records = [record for record, _ in read_spool(path)]
    uid = int(node("login1").check_output("id -u alice"))

    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        store.ingest(uid, records)
        accountant = Accountant(store, sacct)
        done = accountant.refresh(time.time())
        assert done.problem is None
        assert done.refused == 0
        (summary,) = store.clusters()
        assert summary.account == "physics"
        history = store.load(summary.id)

    rows = {row.id: row for row in history.accounting}
    assert {row.id: row.energy for row in rows.values() if row.energy} == {metered: 5000}
    assert rows[facts["cancelled"]].state == "CANCELLED"
    assert rows[facts["cancelled"]].reason == "cancelled by its user"
    never = [row for row in rows.values() if row.start is None]
    assert [wait.pool for wait in waits(history) if not wait.started] == ["highmem"] * len(never)
    assert never

    ledger = close_books(history)
    # Also of a job that came for the one that was cancelled.
    assert rows.keys() >= set(facts["jobs"])
    assert ledger.whole.allocated == pytest.approx(core_seconds(rows), rel=0.01)
    assert ledger.sources.keys() == {"accounting"}
    assert abs(ledger.whole.share("unexplained")) < 0.1

    # The same records of somebody else: nobody has another's jobs.
    with Store(f"sqlite:///{tmp_path}/other.db") as store:
        store.ingest(uid + 1, records)
        done = Accountant(store, sacct).refresh(time.time())
        assert done.kept == 0
        assert done.refused == len(rows)
        assert store.refusals(uid + 1) == {(uid + 1, REFUSED): len(rows)}
        assert store.load(summary.id).accounting == []
