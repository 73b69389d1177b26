"""Pools become job scripts of every resource manager, by dask-jobqueue's own classes."""

import re
import subprocess
from types import SimpleNamespace

import pytest
from distributed.security import Security

from dask_site import Site
from dask_site.cluster.folder import ClusterFolder
from dask_site.cluster.gpus import dask_setup, share
from dask_site.cluster.jobs import JobFactory, _exactly


def make_site(manager, **pool):
    fields = {
        "queue": "gpuq",
        "cores": 32,
        "memory": "500GiB",
        "gpus": 4,
        "processes": 4,
        "walltime": "1d",
        **pool,
    }
    return Site.from_mapping(
        {
            "schema": 1,
            "name": "X",
            "resource_manager": manager,
            "account": "physics",
            "prologue": ["umask 077"],
            "pools": {"gpu": fields},
        }
    )


@pytest.fixture
def script(tmp_path):
    def render(site, *numbers):
        tmp_path.chmod(0o700)
        folder = ClusterFolder(tmp_path, "abcd1234")
        security = folder.security()
        factory = JobFactory(site, "tls://10.0.0.1:8786", folder, security)
        job = factory.make(site.pools["gpu"], *(numbers or (0,)))
        with job.job_file() as path, open(path) as file:
            text = file.read()
        # HTCondor's script is a submit description, which is not written by job_file alone.
        return text.replace(str(tmp_path), "DIR").replace(folder.cluster_id, "ID")

    return render


@pytest.mark.parametrize(
    ("manager", "lines"),
    [
        (
            "slurm",
            [
                "#SBATCH -J dask-ID-gpu",
                "#SBATCH -p gpuq",
                "#SBATCH -A physics",
                "#SBATCH --cpus-per-task=32",
                "#SBATCH --mem=512000M",
                "#SBATCH -t 1-00:00:00",
                "#SBATCH --gres=gpu:4",
            ],
        ),
        ("sge", ["#$ -q gpuq", "#$ -P physics", "#$ -l h_rt=24:00:00", "#$ -l gpu=4"]),
        (
            "pbs",
            [
                "#PBS -q gpuq",
                "#PBS -A physics",
                "#PBS -l select=1:ncpus=32:mem=512000mb:ngpus=4",
                "#PBS -l walltime=24:00:00",
            ],
        ),
        (
            "lsf",
            [
                "#BSUB -q gpuq",
                '#BSUB -P "physics"',
                "#BSUB -n 32",
                "#BSUB -W 24:00",
                '-gpu "num=4"',
            ],
        ),
        ("oar", ["#OAR -q gpuq", "#OAR --project physics", "walltime=24:00:00"]),
    ],
)
def test_job_script(script, manager, lines):
    text = script(make_site(manager))
    for line in lines:
        assert line in text
    assert "umask 077" in text
    assert "export DASK_SITE_POOL=gpu" in text
    command = text.strip().splitlines()[-1]
    assert "-m dask_site.cluster.worker tls://10.0.0.1:8786 --name gpu-0 --nthreads 8" in command
    assert "--nworkers 4" in command
    assert re.search(r"--resources \S*pool:gpu=1000000\b", command)
    assert "--preload dask_site.faults.blackbox" in command
    assert "--preload-nanny dask_site.faults.blackbox" in command
    assert "--tls-key DIR/ID/tls/key.pem" in command
    assert "PRIVATE KEY" not in text


@pytest.mark.parametrize("manager", ["slurm", "sge", "pbs", "lsf", "oar", "local"])
def test_the_workers_take_the_place_of_the_shell(script, manager):
    """Where only the script's own process is told that its job ends, it has to be them."""
    last = script(make_site(manager)).strip().splitlines()[-1]
    assert last.startswith("exec ")
    assert "-m dask_site.cluster.worker" in last


def test_htcondor_submit_description(script):
    text = script(make_site("htcondor", queue=None, directives=["requirements = HasLustre"]))
    assert "RequestMemory" in text
    assert "request_gpus = 4" in text
    assert "requirements = HasLustre" in text


def test_an_array_is_one_script_whose_elements_know_their_names(script):
    text = script(make_site("slurm", directives=["--output=/elsewhere"]), 5, 6, 8)
    assert "#SBATCH --array=0-1,3" in text
    lines = [line for line in text.splitlines() if re.search(r" (-o|-e|--output|--error)\b", line)]
    # The last one counts.
    assert lines[-2:] == [
        "#SBATCH --output=DIR/ID/logs/dask-ID-gpu-%A_%a.out",
        "#SBATCH --error=DIR/ID/logs/dask-ID-gpu-%A_%a.err",
    ]
    (name,) = re.findall(r"--name (\S+)", text)
    named = [
        subprocess.check_output(
            ["bash", "-c", f"echo {name}"], env={"SLURM_ARRAY_TASK_ID": n}, text=True
        )
        for n in "013"
    ]
    assert named == ["gpu-5\n", "gpu-6\n", "gpu-8\n"]


@pytest.mark.parametrize(
    ("memory", "asked"), [("191500MiB", 191500), ("512GB", 488281), ("1100.5MiB", 1100)]
)
@pytest.mark.parametrize(("manager", "line"), [("slurm", "--mem={}M\n"), ("pbs", ":mem={}mb:")])
def test_a_job_asks_for_no_more_memory_than_the_pool_has(script, manager, line, memory, asked):
    """A job that asks for one MiB more than Slurm's RealMemory never starts."""
    assert line.format(asked) in script(make_site(manager, memory=memory))


def test_the_workers_of_a_job_share_all_memory_of_the_pool(script):
    text = script(make_site("slurm", memory="191500MiB", gpus=0, processes=1))
    assert "--memory-limit 187.01GiB " in text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1_000_000, "1000000"), (412_316_860_416, "412316860416"), (0.5, "0.5"), (2.0, "2")],
)
def test_resources_are_written_exactly(amount, text):
    assert _exactly(amount) == text
    assert float(text) == amount


def test_slurm_options_of_a_pool(script):
    text = script(
        make_site(
            "slurm",
            account="biology",
            qos="long",
            constraint="a100&nvlink",
            reservation="course",
            directives=["--exclusive"],
            scratch="/scratch",
            interface="ib0",
        )
    )
    assert "#SBATCH -A biology" in text
    assert "#SBATCH --qos=long" in text
    assert "#SBATCH --constraint='a100&nvlink'" in text
    assert "#SBATCH --reservation=course" in text
    assert "#SBATCH --exclusive" in text
    assert "--local-directory /scratch" in text
    assert "--interface ib0" in text


def test_a_pool_without_a_queue_does_not_take_the_one_of_plain_dask_jobqueue(script):
    import dask

    with dask.config.set({"jobqueue.slurm.queue": "other", "jobqueue.slurm.account": "else"}):
        text = script(make_site("slurm", queue=None))
    assert "#SBATCH -p" not in text


def test_the_folder_refuses_one_that_was_put_there_before(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "abcd1234").mkdir()
    with pytest.raises(RuntimeError, match="File exists"):
        ClusterFolder(tmp_path, "abcd1234")


def test_files_of_the_folder_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    folder = ClusterFolder(tmp_path, "abcd1234")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RuntimeError, match="No space left on device. Free some space there"):
        folder.write("jobs/a.sh", "text")
    assert list(folder.jobs.iterdir()) == []


def test_security_needs_encryption(tmp_path):
    tmp_path.chmod(0o700)
    security = ClusterFolder(tmp_path, "abcd1234").security()
    assert isinstance(security, Security)
    assert security.require_encryption
    assert security.get_tls_config_for_role("worker")["key"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("visible", "index", "processes", "mine"),
    [
        ("0,1,2,3", 0, 4, "0"),
        ("0,1,2,3", 3, 4, "3"),
        ("4,5,6,7", 1, 2, "6,7"),
        ("GPU-a,GPU-b", 1, 2, "GPU-b"),
        ("0", 1, 2, "0"),
    ],
)
def test_share_of_gpus(visible, index, processes, mine):
    assert share(visible, index, processes) == mine


def test_the_preload_leaves_a_job_without_gpus_alone(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("DASK_SITE_PROCESSES", "2")
    dask_setup(SimpleNamespace(name="cpu-0-1"))
    import os

    assert "CUDA_VISIBLE_DEVICES" not in os.environ
