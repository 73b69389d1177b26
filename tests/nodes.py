"""The nodes of inventories/demo with dask-site on them: what runs and is asked there, fixtures.

SUITE and CLUSTER in the environment pick the cluster, as everywhere.
"""

import base64
import json
import os
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.backend.base import CommandResult
from testinfra.host import Host

ROOT = Path(__file__).parents[1]
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
    wanted = (
        "{{ {'folder': containers_folder, 'cluster': containers_cluster, 'site': dask_site}"
        " | to_json }}"
    )
    shown = ansible("ansible", "login1", "-m", "debug", "-a", f"msg={wanted}", "-o").stdout
    message = json.loads(shown[shown.index("{") :])["msg"]
    return message if isinstance(message, dict) else json.loads(message)


@cache
def node(name: str) -> Host:
    """Return a node, over SSH as root."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=f"{variables()['folder']}/ssh_config")


PREAMBLE = """
import json, os, sys, time
from dask_site import Cluster, needs, pool

def where(*_):
    return os.uname().nodename

def tell(**facts):
    print("FACTS " + json.dumps(facts), flush=True)
"""


def encoded(code):
    text = PREAMBLE + textwrap.dedent(code)
    return base64.b64encode(text.encode()).decode()


def until(condition, seconds=45):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def queue_of(user):
    return node("login1").check_output(f"squeue -h -u {user}")


def folders_of(user):
    """Return what clusters have left in a user's folder; waits and the key are meant to stay."""
    command = f"ls -A /home/{user}/.dask-site 2>/dev/null | grep -vx 'waits.json\\|keys' || true"
    return node("login1").check_output(command)


def ended(job):
    """Return how a job ended in Slurm's accounting; empty while it has not."""
    command = f"sacct -X -n -P -j {job} -o State"
    states = node("login1").check_output(command).split("\n")
    return [state.split()[0] for state in states if state and state not in {"RUNNING", "PENDING"}]


def podman(*arguments):
    """Run podman on a container of the cluster: ``podman("kill", "c1")``."""
    *command, name = arguments
    cluster = variables()["cluster"]
    subprocess.run(["podman", *command, f"{cluster}-{name}"], check=True, capture_output=True)


def left_nothing(user):
    return until(lambda: not queue_of(user) and not folders_of(user))


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


@pytest.fixture(scope="session")
def python(as_user):
    """Run a script as a user would: ``python("alice", code)`` returns (facts, result)."""

    def run(user, code, host="login1", before=""):
        command = (
            f"echo {encoded(code)} | base64 -d > script.py; {before} module load dask-site && "
            "timeout 150 python script.py"
        )
        result = as_user(user, command, host)
        facts = {}
        for line in result.stdout.splitlines():
            if line.startswith("FACTS "):
                facts.update(json.loads(line.removeprefix("FACTS ")))
        return facts, result

    return run


@pytest.fixture
def in_background(as_user, login1):
    """Start a script of a user and wait until it has told FACTS; it is killed in the end."""
    started = []

    def start(user, code, host="login1"):
        log = f"/tmp/{user}-{time.time_ns()}.log"
        as_user(user, f"echo {encoded(code)} | base64 -d > background.py", host)
        command = f"module load dask-site && exec setsid python background.py > {log} 2>&1"
        pid = as_user(user, f"({command}) < /dev/null > /dev/null 2>&1 & echo $!", host).stdout
        started.append((host, pid.strip()))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            text = node(host).run(f"cat {log}").stdout
            if "FACTS " in text:
                return json.loads(text.split("FACTS ", 1)[1].splitlines()[0]), pid.strip(), log
            time.sleep(0.5)
        raise AssertionError(text)

    yield start
    for host, pid in started:
        node(host).run(f"kill -KILL -- -{pid} 2>/dev/null; kill -KILL {pid}")
