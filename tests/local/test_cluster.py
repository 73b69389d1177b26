"""The life of a cluster: what it shows, what it leaves behind, how it says what went wrong."""

import asyncio
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time

import pytest
from distributed import Client
from machine import until
from places import count, here, slow

from dask_site import Cluster, Site, SiteError, pool
from dask_site.cluster.errors import ClusterError, PoolError


def processes_of(cluster_id):
    """Return the numbers of the processes whose command line names a cluster."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read()
            except OSError:
                continue
            if cluster_id.encode() in command:
                found.append(int(entry))
    return found


def changed(site, **pools):
    """Return the site with some pools' fields changed."""
    mapping = site.to_mapping()
    for name, fields in pools.items():
        mapping["pools"][name].update(fields)
    return Site.from_mapping(mapping)


def test_close_leaves_no_process_and_no_file(site, state_dir):
    before = {*os.listdir(state_dir), "waits.json"}  # how long the queue took is meant to stay
    with Cluster(site) as cluster:
        cluster.scale(cpu=2)
        cluster.wait_for_workers(timeout=60)
        (mine,) = set(os.listdir(state_dir)) - before
        assert processes_of(mine)
    assert {*os.listdir(state_dir), "waits.json"} == before
    assert until(lambda: processes_of(mine) == [], 10)
    assert cluster.status.name == "closed"
    cluster.close()


def test_keys_scripts_and_logs_are_private(cluster, state_dir):
    folder = cluster._folder.path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        if path.parent.name != "logs":
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    key = (folder / "tls" / "key.pem").read_text()
    for pid in processes_of(cluster._folder.cluster_id):
        with open(f"/proc/{pid}/cmdline") as file:
            assert key[60:90] not in file.read()


def test_a_stranger_is_refused(cluster):
    """Neither plain connections, nor no certificate, nor somebody else's gets in."""
    from distributed.security import Security

    address = cluster.scheduler_address
    assert address.startswith("tls://")
    with pytest.raises(OSError, match="Timed out|unexpected|closed"):
        Client(address.replace("tls://", "tcp://"), timeout="2s")
    with pytest.raises(OSError, match="Timed out|CERTIFICATE|certificate|closed"):
        Client(address, security=Security.temporary(), timeout="2s")
    with Client(address, security=cluster.security, timeout="10s") as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_workers_listen_with_tls_and_on_nothing_else(client):
    for address, info in client.scheduler_info(n_workers=-1)["workers"].items():
        assert address.startswith("tls://")
        assert info["nanny"].startswith("tls://")
        assert info["services"] == {}
        ports = {int(one.rpartition(":")[2]) for one in (address, info["nanny"])}
        assert listening(client, address) <= ports


def listening(client, worker):
    def ports():
        import psutil

        mine = psutil.Process().net_connections("tcp")
        return {one.laddr.port for one in mine if one.status == psutil.CONN_LISTEN}

    return client.run(ports, workers=[worker])[worker]


@pytest.mark.slow
def test_scaling_down_moves_results_and_computes_nothing_again(site, tmp_path):
    """distributed#4069: SpecCluster computes lost results again."""
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=4)
        cluster.wait_for_workers(timeout=60)
        futures = client.map(count, range(40), folder=str(tmp_path))
        client.gather(futures)
        assert len(os.listdir(tmp_path)) == 40
        cluster.scale(cpu=1)
        assert until(lambda: len(cluster.scheduler.workers) == 1)
        assert client.gather(futures) == list(range(40))
        assert len(os.listdir(tmp_path)) == 40, "results were computed again"
        assert until(lambda: [j.state for j in cluster.jobs].count("ended") == 3)
        assert {j.reason for j in cluster.jobs if j.state == "ended"} == {"COMPLETED"}


@pytest.mark.slow
def test_scale_down_by_worker_name_takes_the_whole_job(site):
    with Cluster(site) as cluster:
        cluster.scale(cpu=1, gpu=2)
        cluster.wait_for_workers(timeout=60)
        cluster.scale_down("gpu-0")
        assert until(lambda: len(cluster.scheduler.workers) == 1)
        assert cluster.target("gpu") == 0
        with pytest.raises(ValueError, match="No worker 'gpu-7' in cluster .*; it has cpu-0"):
            cluster.scale_down(["gpu-7"])


@pytest.mark.slow
def test_the_last_copy_is_never_thrown_away(site, tmp_path):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)
        future = client.submit(count, 1, folder=str(tmp_path))
        future.result()
        cluster.scale(cpu=0)
        assert until(lambda: cluster.target("cpu") == 1, 10), "the worker should have been kept"
        assert future.result() == 1
        assert len(os.listdir(tmp_path)) == 1


@pytest.mark.slow
def test_a_job_that_has_to_stay_stays_whole(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(gpu=2)
        cluster.wait_for_workers(timeout=60)
        held, other = sorted(cluster.scheduler.workers)
        future = client.submit(here, workers=[held], pure=False)
        future.result()
        cluster.scale(gpu=0)
        assert until(lambda: cluster.target("gpu") == 2, 10), "the job should have been kept"
        both = [client.submit(here, workers=[a], pure=False) for a in (held, other)]
        assert [one.result(timeout=30) for one in both] == ["gpu", "gpu"]
        cluster.wait_for_workers(timeout=10)
        del future, both
        assert until(lambda: not cluster.scheduler.tasks)
        cluster.scale(gpu=0)
        assert until(lambda: [job.state for job in cluster.jobs] == ["ended"])


@pytest.mark.slow
def test_a_job_ends_also_where_moving_its_results_fails(site, monkeypatch, caplog):
    with Cluster(site) as cluster, caplog.at_level(logging.WARNING, "dask_site"):
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)

        async def fails(**_):
            raise KeyError("a worker that has just left")

        with monkeypatch.context() as patched:
            patched.setattr(cluster.scheduler, "retire_workers", fails)
            cluster.scale(cpu=0)
            assert until(lambda: [job.state for job in cluster.jobs] == ["ended"])
        assert "Moving results off pool 'cpu'" in caplog.text


def test_jobs_summary_logs_and_representation(cluster, client):
    with pool("highmem"):
        client.gather(client.map(slow, range(4), pure=False))
    jobs = {job.name: job for job in cluster.jobs}
    assert jobs["gpu-0"].processes == 2
    assert jobs["gpu-0"].state == "running"
    assert "job" in repr(cluster.jobs)
    assert cluster.jobs.to_dicts()[0]["pool"] in cluster.pools
    assert cluster.jobs._repr_html_().count("<tr>") == len(jobs) + 1
    rows = {row.pool: row for row in cluster.summary}
    assert rows["highmem"].tasks >= 4
    assert rows["highmem"].busy_seconds >= 4 * 0.05
    assert rows["highmem"].longest == "slow"
    assert rows["cpu"].cost > 0
    assert rows["gpu"].gpu_hours > 0
    text = repr(cluster)
    assert "gpu *" in text
    assert "2/2" in text
    assert cluster.name in cluster._repr_html_()
    (title, log), *others = cluster.logs("highmem").items()
    assert not others
    assert title.startswith("highmem-0 (job ")
    assert "Start worker at" in log
    assert (
        len(cluster.logs(job="cpu-0", lines=2)[f"cpu-0 (job {jobs['cpu-0'].job_id})"].splitlines())
        == 2
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda c: c.scale(gpus=1),
            r"has no pool 'gpus'; it has cpu, highmem, gpu. Did you mean 'gpu'\?",
        ),
        (lambda c: c.scale(cpu=-1), r"scale\(cpu=-1\): a number of workers, 0 or more"),
        (lambda c: c.scale(cpu="2"), r"scale\(cpu='2'\): a number"),
        (lambda c: c.scale(cpu=99), r"takes 99 jobs; pool 'cpu' of Test machine allows 4"),
        (lambda c: c.logs("nope"), "has no pool 'nope'"),
        (lambda c: c.wait_for_workers(tape=1), "has no pool 'tape'"),
        (lambda c: c.wait_for_workers("gpu"), r"wait_for_workers\('gpu'\): a number of workers"),
        (lambda c: c.wait_for_workers(gpu=-1), r"wait_for_workers\(gpu=-1\): a number of workers"),
    ],
)
def test_mistakes_are_named(cluster, call, message):
    with pytest.raises(ValueError, match=message):
        call(cluster)


def test_waiting_for_workers_that_nobody_asked_for_is_an_error(site):
    with Cluster(site, pools=["cpu"]) as cluster:
        with pytest.raises(PoolError, match=r"asked for, 0 workers.*cluster.scale\(cpu=1\)"):
            cluster.wait_for_workers(cpu=1)
        with pytest.raises(PoolError, match=r"The cluster has, or has asked for, 0 workers, so 3"):
            cluster.wait_for_workers(3)
        cluster.scale(cpu=1)
        with pytest.raises(TimeoutError, match=r"After 0 s still waiting for cpu 0/1"):
            cluster.wait_for_workers(timeout=0)


@pytest.mark.slow
def test_scaling_up_while_a_worker_hands_its_results_over_asks_for_a_new_one(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2)
        cluster.wait_for_workers(timeout=60)
        futures = client.map(slow, range(20))
        client.gather(futures)
        cluster.scale(cpu=1)
        cluster.scale(cpu=3)
        cluster.wait_for_workers(timeout=60)
        assert len(cluster.scheduler.workers) == 3
        assert client.gather(futures) == list(range(20))


@pytest.mark.slow
def test_scaling_up_and_down_at_once_ends_where_the_last_call_wanted(site):
    async def main():
        async with Cluster(site, asynchronous=True) as cluster:
            for count in (2, 0, 2, 1):
                await cluster.scale(cpu=count)
            await cluster.wait_for_workers(timeout=60)
            await asyncio.sleep(3)
            return len(cluster.scheduler.workers), [j.state for j in cluster.jobs if j.live]

    assert asyncio.run(main()) == (1, ["running"])


@pytest.mark.slow
def test_closing_goes_on_after_it_was_interrupted(site, state_dir):
    cluster = Cluster(site)
    cluster.scale(cpu=2)
    cluster.wait_for_workers(timeout=60)
    folder = cluster._folder.path
    with pytest.raises(TimeoutError):
        cluster.close(timeout=0.01)
    cluster.close()
    assert cluster.status.name == "closed"
    assert until(lambda: processes_of(folder.name) == [], 10)
    assert not folder.exists()
    with pytest.raises(ClusterError, match="is closed"):
        cluster.scale(cpu=1)
    assert not folder.exists()


@pytest.mark.slow
def test_two_threads_may_close(site):
    from concurrent.futures import ThreadPoolExecutor

    cluster = Cluster(site)
    cluster.scale(cpu=1)
    cluster.wait_for_workers(timeout=60)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: cluster.close(), range(2)))
    assert cluster.status.name == "closed"
    assert until(lambda: processes_of(cluster._folder.cluster_id) == [], 10)


@pytest.mark.slow
def test_a_forked_child_leaves_the_cluster_to_its_parent(site):
    with Cluster(site) as cluster:
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)
        child = os.fork()
        if child == 0:
            cluster.close()
            os._exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        with cluster.get_client() as client:
            assert client.submit(here).result() == "cpu"


@pytest.mark.slow
def test_two_clusters_in_one_process_keep_their_own_pools(site):
    other = changed(site, cpu={"memory": "300MiB"})
    with Cluster(site) as first, Cluster(other) as second:
        first.scale(cpu=1)
        second.scale(cpu=1)
        for cluster, mebibytes in ((first, 512), (second, 300)):
            cluster.wait_for_workers(timeout=60)
            (worker,) = cluster.scheduler.workers.values()
            assert round(worker.memory_limit / 2**20) == mebibytes


def test_a_cancel_that_fails_is_tried_again(site, monkeypatch, caplog):
    with Cluster(site) as cluster, caplog.at_level(logging.WARNING, "dask_site"):
        cluster.scale(cpu=1)
        queue = cluster._fleet._queue
        cancel, calls = queue.cancel, []

        async def away_at_first(job_ids):
            calls.append(list(job_ids))
            if len(calls) < 3:
                raise ClusterError("Unable to contact slurm controller")
            await cancel(job_ids)

        monkeypatch.setattr(queue, "cancel", away_at_first)
        assert until(lambda: cluster.jobs[0].job_id)
        cluster.scale(cpu=0)
        assert until(lambda: calls)
        assert cluster.jobs[0].state == "closing"
        assert until(lambda: cluster.jobs[0].state == "ended")
        assert len(calls) == 3
        assert caplog.text.count("Could not cancel jobs") == 1


@pytest.mark.slow
def test_a_job_that_dies_before_its_worker_joins_is_told_with_its_output(site, caplog):
    broken = changed(site, highmem={"prologue": ["echo the module is not there >&2; exit 3"]})
    with Cluster(broken) as cluster, caplog.at_level(logging.WARNING, "dask_site"):
        cluster.scale(cpu=1, highmem=1)
        begun = time.monotonic()
        with pytest.raises(PoolError) as caught:
            cluster.wait_for_workers(timeout=60, highmem=1)
        assert time.monotonic() - begun < 10
        message = str(caught.value)
        assert "Pool 'highmem' can't bring 1 workers" in message
        assert "FAILED (exit code 3)" in message
        assert "the module is not there" in message
        assert "the module is not there" in caplog.text
        cluster.wait_for_workers(cpu=1, timeout=60)
        with cluster.get_client() as client:
            assert client.submit(here).result() == "cpu"


@pytest.mark.slow
def test_a_worker_killed_in_use_is_told(site, caplog):
    with Cluster(site) as cluster, caplog.at_level(logging.WARNING, "dask_site"):
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)
        os.killpg(int(cluster.jobs[0].job_id), signal.SIGKILL)
        assert until(lambda: cluster.jobs[0].state == "failed", 10)
        assert "ended while it was in use: FAILED (signal 9)" in caplog.text
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)


@pytest.mark.slow
def test_a_job_that_ends_well_before_its_worker_joins_is_told_too(site):
    silent = changed(site, highmem={"prologue": ["sleep 2; exit 0"]})
    with Cluster(silent) as cluster:
        cluster.scale(highmem=1)
        with pytest.raises(PoolError, match="ended before its worker joined: COMPLETED"):
            cluster.wait_for_workers()
        with pytest.raises(PoolError, match="The cluster can't bring 1 workers"):
            cluster.wait_for_workers(1)


@pytest.mark.slow
def test_a_worker_that_cannot_reach_the_scheduler_is_explained(site):
    # Run the script's own command with another port, where nobody listens.
    elsewhere = [
        "export DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=2s port=9",
        'sed -n "s,tls://127.0.0.1:[0-9][0-9]*,tls://127.0.0.1:$port,p" $0 | bash',
        "exit 1",
    ]
    lost = changed(site, cpu={"prologue": elsewhere})
    with Cluster(lost) as cluster:
        cluster.scale(cpu=1)
        with pytest.raises(PoolError) as caught:
            cluster.wait_for_workers(timeout=100)
    assert "could not reach the scheduler at tls://127.0.0.1" in str(caught.value)
    assert "scheduler: {interface: ...}" in str(caught.value)


def test_a_taken_port_is_told(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(
            ClusterError, match=rf"can't listen on port {number}.*in use.*Cluster\(port=0\)"
        ):
            Cluster(site, port=number)


def test_an_unknown_interface_is_told(site):
    mapping = site.to_mapping()
    mapping["scheduler"]["interface"] = "ib7"
    with pytest.raises(ClusterError, match=r"of ib7: .*ib7"):
        Cluster(mapping)


def test_a_folder_that_others_can_write_to_is_refused(site, tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    mapping = {**site.to_mapping(), "state_dir": str(open_to_all)}
    with pytest.raises(ClusterError, match="Others can write to .*chmod go-w"):
        Cluster(mapping)
    assert os.listdir(open_to_all) == []


def test_a_folder_below_somebody_elses_is_refused(site, tmp_path):
    """Its owner could exchange it for another with the same name, and run code as us."""
    foreign = tmp_path / "foreign"
    (foreign / "mine").mkdir(parents=True, mode=0o700)
    os.chown(foreign, 12345, 12345)
    with pytest.raises(ClusterError, match="belongs to user number 12345.*state_dir"):
        Cluster({**site.to_mapping(), "state_dir": str(foreign / "mine")})
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True, mode=0o700)
    shared.chmod(0o777)
    with pytest.raises(ClusterError, match=rf"Others can write to {shared} "):
        Cluster({**site.to_mapping(), "state_dir": str(shared / "mine")})
    shared.chmod(0o1777)
    Cluster({**site.to_mapping(), "state_dir": str(shared / "mine")}).close()
    assert os.listdir(shared / "mine") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 99999}, r"port=99999.*0 \(any free port\) to 65535"),
        ({"port": "8786"}, "port='8786'"),
        ({"silence_logs": "bogus"}, "one of debug, info"),
        ({"pools": "gpus"}, "has no pool 'gpus'.*Did you mean 'gpu'"),
    ],
)
def test_wrong_arguments_are_named(site, arguments, message):
    with pytest.raises(ValueError, match=message):
        Cluster(site, **arguments)


def test_a_number_is_no_site():
    with pytest.raises(TypeError, match=r"Cluster\(4\): a site file's path.*cluster.scale"):
        Cluster(4)


def test_an_unwritable_state_dir_is_told(site, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ClusterError, match="Cannot write .*state_dir"):
        Cluster({**site.to_mapping(), "state_dir": f"{blocked}/below"})


def test_without_a_site_file_it_says_where_it_looked(monkeypatch):
    import dask.config

    monkeypatch.setattr(dask.config, "config", {})
    with pytest.raises(SiteError, match="module load dask-site"):
        Cluster()


def test_a_mistake_in_the_configuration_is_shown_without_a_traceback(tmp_path):
    (tmp_path / "site.yaml").write_text("dask_site: {schema: 1, name: X, pool: {}}")
    done = subprocess.run(
        [sys.executable, "-c", "from dask_site import Cluster; Cluster()"],
        env={"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "dask_site.pool" in done.stderr
    assert "pools" in done.stderr


def test_users_configuration_comes_before_the_sites(site, tmp_path):
    site_dir, user_dir = tmp_path / "site", tmp_path / "home"
    for folder, text in (
        (site_dir, repr({"dask_site": site.to_mapping()})),
        (user_dir / ".config/dask", "{dask_site: {pools: {cpu: {memory: 300MiB}}}}"),
    ):
        folder.mkdir(parents=True)
        (folder / "site.yaml").write_text(
            text.replace("None", "null").replace("True", "true").replace("False", "false")
        )
    script = (
        "from dask_site import Site; s = Site.find(); print(s.pools['cpu'].memory // 2**20, s.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HOME": str(user_dir), "DASK_ROOT_CONFIG": str(site_dir), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["300", "Test", "machine"], done.stderr


def test_asynchronous_use(site):
    async def main():
        async with Cluster(site, asynchronous=True) as cluster:
            await cluster.scale(cpu=1)
            await cluster.wait_for_workers(timeout=60)
            async with Client(cluster, asynchronous=True) as client:
                return await client.submit(here)

    assert asyncio.run(main()) == "cpu"


SCRIPT = """
    import sys, time
    from dask_site import Cluster, Site
    if __name__ == "__main__":
        cluster = Cluster({mapping!r})
        cluster.scale(cpu=2, gpu=2)
        cluster.wait_for_workers(timeout=60)
        print(cluster._folder.cluster_id, flush=True)
        {end}
"""


@pytest.mark.parametrize(
    ("end", "signum"),
    [
        ("time.sleep(600)", signal.SIGKILL),
        pytest.param("time.sleep(600)", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("time.sleep(600)", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("time.sleep(600)", signal.SIGHUP, marks=pytest.mark.slow),
        ("raise ValueError('a mistake')", None),
        pytest.param("sys.exit(0)", None, marks=pytest.mark.slow),
    ],
)
def test_however_the_program_ends_no_job_and_no_file_stay(site, state_dir, end, signum):
    code = textwrap.dedent(SCRIPT).format(mapping=site.to_mapping(), end=end)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        cluster_id = program.stdout.readline().strip()
        assert cluster_id, program.stderr.read()
        if signum is not None:
            assert len(processes_of(cluster_id)) > 3
            program.send_signal(signum)
        program.wait(30)
        program.stderr.read()
    assert until(lambda: not processes_of(cluster_id)), processes_of(cluster_id)
    assert until(lambda: not (state_dir / cluster_id).exists())
