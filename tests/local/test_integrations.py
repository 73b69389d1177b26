"""What other systems of a site take from `integrations`, run by those systems."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from machine import SITE

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "integrations" / "reframe" / "dask_site_checks.py"


@pytest.fixture
def reframe(tmp_path):
    """Run the checks with ReFrame, on this machine as the site."""
    config = tmp_path / "site.yaml"
    config.write_text(yaml.safe_dump({"dask_site": SITE}))

    def run(*options, prepare="true"):
        command = ["-c", CHECK, "-r", "--nocolor", "--prefix", tmp_path / "out", *options]
        command += ["-S", f"prepare={prepare}", "--report-file", tmp_path / "report.json"]
        done = subprocess.run(
            [Path(sys.executable).with_name("reframe"), *command],
            cwd=tmp_path,
            env={**os.environ, "DASK_CONFIG": str(config), "PATH": _path()},
            capture_output=True,
            text=True,
        )
        (case,) = json.loads((tmp_path / "report.json").read_text())["runs"][0]["testcases"]
        return done, case

    return run


def _path():
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.slow
def test_reframe_tries_all_pools_of_the_site(reframe):
    done, case = reframe("-S", "wait=120")
    assert done.returncode == 0, done.stdout
    assert case["result"] == "pass"
    (figure,) = case["perfvalues"].values()
    assert 0 < figure[0] < 120 and figure[-2] == "s"


@pytest.mark.slow
def test_reframe_says_which_pool_does_not_work(reframe):
    done, case = reframe("-S", "pools=cpu,tape", "-S", "wait=60")
    assert done.returncode == 1
    assert case["result"] == "fail" and case["fail_phase"] == "sanity"
    assert "pools do not work" in done.stdout and "tape" in done.stdout


@pytest.mark.slow
def test_reframe_fails_where_dask_can_not_be_loaded(reframe):
    done, case = reframe(prepare="module load nothing-of-this-name; exit 1")
    assert done.returncode == 1 and case["result"] == "fail"


def test_prometheus_is_told_where_the_history_is():
    from dask_site.sitefile.parts import History

    (job,) = yaml.safe_load((ROOT / "integrations" / "prometheus" / "dask-site.yml").read_text())
    port = History.model_fields["port"].default
    assert job["metrics_path"] == "/metrics" and job["scheme"] == "https"
    assert all(one.endswith(f":{port}") for one in job["static_configs"][0]["targets"])
