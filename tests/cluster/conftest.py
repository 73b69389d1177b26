"""The containerised cluster of inventories/demo, with dask-site rolled out on it.

SUITE and CLUSTER in the environment pick the cluster, as everywhere.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.backend.base import CommandResult
from testinfra.host import Host

ROOT = Path(__file__).parents[2]
INVENTORY = ROOT / "inventories" / "demo"
# whatever the test runner set for itself
PLAIN = {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_NOCOLOR": "1",
}


def ansible(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Ansible on the demo inventory."""
    return subprocess.run(
        [Path(sys.executable).with_name(command), "-i", INVENTORY, *arguments],
        cwd=ROOT,
        env={**os.environ, **PLAIN},
        capture_output=True,
        text=True,
    )


@cache
def variables() -> dict[str, Any]:
    """Return the variables of a node that the tests need, with their values worked out."""
    wanted = "{{ {'folder': containers_folder, 'site': dask_site} | to_json }}"
    shown = ansible("ansible", "login1", "-m", "debug", "-a", f"msg={wanted}", "-o").stdout
    message = json.loads(shown[shown.index("{") :])["msg"]
    return message if isinstance(message, dict) else json.loads(message)


@cache
def node(name: str) -> Host:
    """Return a node, over SSH as root."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=f"{variables()['folder']}/ssh_config")


@pytest.fixture(scope="session", autouse=True)
def _rolled_out() -> None:
    """Without a cluster there is nothing to test."""
    if not Path(variables()["folder"], "ssh_config").exists():
        pytest.exit("no cluster stands: make cluster rollout", returncode=1)
    if not node("login1").file("/opt/dask-site/current").exists:
        pytest.exit("dask-site is not rolled out there: make rollout", returncode=1)


@pytest.fixture(scope="session")
def login1() -> Host:
    return node("login1")


@pytest.fixture(scope="session")
def site() -> dict[str, Any]:
    """The site description of the inventory."""
    return variables()["site"]


@pytest.fixture(scope="session")
def as_user() -> Callable[..., CommandResult]:
    """Run a command in a fresh login shell of a user: ``as_user("alice", "squeue")``."""

    def run(user: str, command: str, host: str = "login1") -> CommandResult:
        return node(host).run(f"runuser -l {user} -c {shlex.quote(command)}")

    return run
