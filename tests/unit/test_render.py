"""The rendered files: word for word as in tests/golden, and read by those who use them.

After a wanted change: ``dask-site render site tests/golden/centre.yml > tests/golden/site.yaml``,
and the same for jobqueue.
"""

from pathlib import Path

import dask.config
import pytest
import yaml

from dask_site.render import render_jobqueue_yaml, render_site_yaml
from dask_site.site import Site

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def site():
    return Site.load(GOLDEN / "centre.yml")


@pytest.mark.parametrize(
    ("render", "name"), [(render_site_yaml, "site.yaml"), (render_jobqueue_yaml, "jobqueue.yaml")]
)
def test_golden_files(site, render, name):
    assert render(site) == (GOLDEN / name).read_text()


def test_the_site_reads_back(site):
    assert Site.from_text(render_site_yaml(site)) == site


def test_each_pool_has_a_whole_section(site):
    sections = yaml.safe_load(render_jobqueue_yaml(site))["jobqueue"]
    assert list(sections) == ["slurm", "cpu", "highmem", "gpu"]
    assert sections["slurm"] == sections["cpu"]
    assert sections["gpu"]["queue"] == "gpu"
    assert sections["gpu"]["memory"] == "476GiB"
    assert sections["highmem"]["walltime"] == "1-00:00:00"
    assert {frozenset(section) for section in sections.values()} == {frozenset(sections["slurm"])}


def test_plain_dask_jobqueue_finds_a_pool(site):
    from dask_jobqueue.slurm import SLURMCluster

    content = yaml.safe_load(render_jobqueue_yaml(site))
    with dask.config.set(content):
        options = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
        with SLURMCluster(
            config_name="gpu", interface="lo", scheduler_options=options, protocol="tcp"
        ) as cluster:
            script = cluster.job_script()
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH --mem=476G\n" in script, "not more than the 512GB that there are"
    assert "#SBATCH -t 12:00:00" in script
    assert "#SBATCH --hint=nomultithread" in script
    assert "module load cuda" in script


@pytest.mark.parametrize("manager", ["sge", "pbs", "lsf", "htcondor", "oar"])
def test_every_resource_manager_has_its_sections(manager):
    pool = {"queue": "q", "cores": 2, "memory": "4GiB", "walltime": "36h"}
    site = Site.from_mapping(
        {"schema": 1, "name": "x", "resource_manager": manager, "pools": {"cpu": pool}}
    )
    sections = yaml.safe_load(render_jobqueue_yaml(site))["jobqueue"]
    assert list(sections) == [manager, "cpu"]
    assert sections["cpu"]["cores"] == 2


def test_one_machine_has_no_sections():
    pool = {"cores": 1, "memory": "1GiB"}
    site = Site.from_mapping(
        {"schema": 1, "name": "x", "resource_manager": "local", "pools": {"cpu": pool}}
    )
    assert yaml.safe_load(render_jobqueue_yaml(site)) == {"jobqueue": {}}


def test_clocks_are_quoted(site):
    text = render_site_yaml(site) + render_jobqueue_yaml(site)
    clocks = [line.split(": ")[1] for line in text.splitlines() if "walltime:" in line]
    assert set(clocks) == {"'04:00:00'", "'1-00:00:00'", "'12:00:00'"}
