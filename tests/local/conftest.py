"""Real clusters of local processes: no container, no root."""

import os

import pytest
from machine import SITE

from dask_site import Cluster, Site


@pytest.fixture(scope="session", autouse=True)
def _import_path():
    """Let workers import the test modules, whose functions they run."""
    here = os.path.dirname(__file__)
    # What a user may have exported must not open the workers.
    os.environ["DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"] = "['distributed.http.worker.prometheus']"
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])


@pytest.fixture(autouse=True)
def _hearing(caplog):
    """Undo what silent clusters of tests before left of the level of pytest's own handler."""
    caplog.handler.setLevel(0)


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="session")
def site(state_dir):
    return Site.from_mapping({**SITE, "state_dir": str(state_dir)})


@pytest.fixture(scope="module")
def cluster(site):
    """Three pools with their workers, shared by the tests of a module that do not change it."""
    with Cluster(site) as cluster:
        cluster.scale(cpu=2, highmem=1, gpu=2)
        cluster.wait_for_workers(timeout=120)
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with cluster.get_client() as client:
        yield client
