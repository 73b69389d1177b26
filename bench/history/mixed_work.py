"""One cluster of some kind, for `against_sacct.py` and `day.py`; runs on a login node, as a user.

python mixed_work.py KIND [LENGTH]

KIND is the name of a function here. Tasks, pauses and the walltime of `walltime` are LENGTH times
as long as given here (1); the walltimes of the site's pools stay.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

from dask_site import Cluster, Site, needs
from dask_site.history.naming import span

LENGTH = int(sys.argv[2]) if len(sys.argv) > 2 else 1


def work(x, seconds):
    """Compute for half of the time, but not for more than a second, and wait for the rest."""
    computing = min(seconds / 2, 1.0)
    end = time.perf_counter() + computing
    while time.perf_counter() < end:
        x += 1
    time.sleep(seconds - computing)
    return x


def hoard(nbytes):
    """Use more memory than the job has, faster than the nanny looks."""
    return len(bytearray(os.urandom(1) * nbytes))


def changed(**values):
    """Return the site with some values of its default pool changed."""
    site = Site.find().to_mapping()
    site["pools"][site["default_pool"]].update(values)
    return Site.from_mapping(site)


def busy(client, tasks=40, name="work"):
    """Have half a second done so many times."""
    with span(name):
        return client.map(work, range(tasks), seconds=0.5 * LENGTH, pure=False)


def pause(seconds):
    """Do nothing."""
    time.sleep(seconds * LENGTH)


def pools():
    """Two pools that follow the work."""
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration=5 * LENGTH)
        first = busy(client, 60, "first")
        with span("second"):
            second = client.map(needs(gpu=1)(work), range(20), seconds=0.5 * LENGTH, pure=False)
        client.gather(first + second)


def cancelled():
    """Somebody cancels a job whose worker is at work."""
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(2)
        client.wait_for_workers(2)
        futures = busy(client, 80)
        pause(5)
        job = next(job for job in cluster.jobs if job.job_id)
        subprocess.run(["scancel", job.job_id], check=True)
        client.gather(futures)


def walltime():
    """Slurm ends a job of dask-jobqueue by its walltime; those of `Cluster` go before that."""
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    with SLURMCluster(walltime=f"{LENGTH}:00") as cluster, Client(cluster) as client:
        cluster.scale(1)
        client.wait_for_workers(1)
        futures = busy(client, 400)
        pause(105)
        del futures


def memory():
    """A worker that uses more than its job has is ended by its nanny."""
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(1)
        client.wait_for_workers(1)
        futures = busy(client, 20)
        with span("hoard"), contextlib.suppress(Exception):
            client.submit(hoard, 2 * 2**30, retries=0).result(timeout=60 * LENGTH)
        client.gather(futures)


def kernel():
    """The kernel ends the processes of a job that uses more than it has."""
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    options = ["--mem=300M"]
    with (
        SLURMCluster(job_extra_directives=options) as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(1)
        client.wait_for_workers(1)
        client.submit(hoard, 2**29)
        pause(30)


def pending():
    """The job would start tomorrow; nobody waits for it."""
    with Cluster(changed(directives=["--begin=now+1day"])) as cluster:
        cluster.scale(2)
        pause(15)


def killed():
    """The scheduler dies without a word."""
    cluster = Cluster()
    client = cluster.get_client()
    cluster.scale(2)
    client.wait_for_workers(2)
    futures = busy(client, 200)
    pause(20)
    print(len(futures), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def plain():
    """A cluster of dask-jobqueue."""
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    with SLURMCluster() as cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2)
        client.gather(busy(client, 80))


def requeued():
    """The job goes back to the queue and starts again."""
    with Cluster(changed(directives=["--requeue"])) as cluster, cluster.get_client() as client:
        cluster.scale(1)
        client.wait_for_workers(1)
        futures = busy(client, 60)
        pause(5)
        job = next(job for job in cluster.jobs if job.job_id)
        subprocess.run(["scontrol", "requeue", job.job_id], check=True)
        client.gather(futures)


def idle():
    """Workers that nobody uses."""
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(2)
        client.wait_for_workers(2)
        pause(40)


def notebook():
    """Someone computes now and then, and thinks in between."""
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.adapt(target_duration=5 * LENGTH)
        for number in range(6):
            client.gather(busy(client, 30, f"cell {number}"))
            pause(20)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
