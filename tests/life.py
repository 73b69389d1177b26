"""What an administrator does to a site, and what is seen of it then."""

import base64
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from nodes import ROOT, ansible, encoded, node, until

TOP = "/opt/dask-site"
STATE = "/home/dask-site/history"
UNITS = "/etc/systemd/system"
LOGIN = ("login1", "login2")
STARTED = """
cluster = Cluster(pools=["cpu"])
client = cluster.get_client()
cluster.scale(cpu=1)
cluster.wait_for_workers(cpu=1, timeout=120)
tell(release=os.environ["DASK_SITE_RELEASE"], job=[job.job_id for job in cluster.jobs][0])
while True:
    with pool("cpu"):
        seen = client.submit(lambda: os.environ["DASK_SITE_RELEASE"], pure=False).result()
    open("seen", "a").write(seen + "\\n")
    time.sleep(1)
"""
# A job that goes on importing from its release, and says which that is.
WORKING = """#!/bin/bash -l
#SBATCH --ntasks=1 --mem=250M --time=60 --array=1-20 --job-name=works --output=works-%a.out
module load dask-site
exec python -c '
import importlib, os, pkgutil, time, dask
for module in pkgutil.walk_packages(dask.__path__, "dask."):
    if not any(part in module.name for part in ("test", "dataframe", "array")):
        importlib.import_module(module.name)
        print(os.environ["DASK_SITE_RELEASE"], flush=True)
        time.sleep(8)
time.sleep(3600)
'
"""
# How long nobody answers, asked ten times a second: prints the time whenever somebody does.
ASKING = """
import http.client, socket, time
while True:
    connection = http.client.HTTPConnection("x", timeout=2)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(2)
    try:
        connection.sock.connect("/run/dask-history/history.sock")
        connection.request("GET", "/healthz")
        if connection.getresponse().status == 200:
            print(time.time(), flush=True)
    except OSError:
        pass
    finally:
        connection.close()
    time.sleep(0.1)
"""

MIGRATION = '''"""One column more."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.add_column("clusters", sa.Column("later", sa.Text, nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("clusters", "later")
'''


def play(name, *arguments, **variables):
    """Run a playbook as an administrator would; return status and output."""
    extra = [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
    done = ansible("ansible-playbook", name, *arguments, *extra)
    flat = " ".join((done.stdout + done.stderr).split())
    return done.returncode, flat


def current():
    """Return the name of the release that users have."""
    return node("login1").check_output(f"readlink {TOP}/current").removeprefix("releases/")


def released():
    """Return the names of all complete releases."""
    found = node("login1").check_output(f"ls -d {TOP}/releases/*/manifest.json").split()
    return [path.split("/")[-2] for path in found]


def serving(host, unit="dask-history"):
    """Return the release that a service's process is of."""
    pid = node(host).check_output(f"systemctl show --value -p MainPID {unit}")
    command = node(host).check_output(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
    return re.search(rf"{TOP}/releases/([^/]+)/", command)[1]


def version():
    """Return the version of the history, as its database says."""
    code = (
        f"import sqlite3; c = sqlite3.connect('file:{STATE}/history.db?mode=ro', uri=True); "
        "print(c.execute('select version_num from alembic_version').fetchone()[0])"
    )
    return node(writer()).check_output(f"python3 -c {shlex.quote(code)}")


def seen():
    """Return how often alice's running cluster has computed something."""
    return len(node("login1").check_output("cat /home/alice/seen").split())


def services_are_of(release):
    """Say whether all services are of a release."""
    units = ("dask-history", "dask-dashboards")
    return {serving(host, unit) for host in LOGIN for unit in units} == {release}


def writer():
    """Return the login node that writes the history."""
    return json.loads(node("login1").check_output(f"cat {STATE}/where.json"))["host"]


def clusters():
    """Return the clusters that the history knows, each with how many tasks it counts."""
    code = (
        f"import json, sqlite3; c = sqlite3.connect('file:{STATE}/history.db?mode=ro', uri=True); "
        "print(json.dumps(dict(c.execute('select id, tasks from clusters').fetchall())))"
    )
    return json.loads(node(writer()).check_output(f"python3 -c {shlex.quote(code)}"))


@dataclass
class Outage:
    """Seconds in which a service did not answer, at most, while something was done."""

    seconds: float = field(default=float("nan"))


@contextlib.contextmanager
def outage(host):
    """Ask the history of a host all the time; say afterwards how long it was away."""
    on, seen = node(host), Outage()
    asking = base64.b64encode(ASKING.encode()).decode()
    on.check_output(f"echo {asking} | base64 -d > /root/asking.py; rm -f /root/answers")
    pid = on.check_output("(exec python3 /root/asking.py > /root/answers 2>&1 & echo $!)")
    try:
        assert until(lambda: on.check_output("cat /root/answers"))
        yield seen
        time.sleep(1)
        times = [float(one) for one in on.check_output("cat /root/answers").split()]
        seen.seconds = max(b - a for a, b in itertools.pairwise(times))
    finally:
        on.run(f"kill {pid}; rm -f /root/asking.py /root/answers")


def working():
    """Return alice's twenty jobs: of each the node, when it started, and how often again."""
    asked = "squeue -h -r -n works -t RUNNING -O ArrayTaskID,NodeList,StartTime,RestartCnt"
    lines = node("login1").check_output(asked).splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def untouched(jobs, release):
    """See that alice's jobs run as they ran, each with what it began with."""
    assert working() == jobs
    said = node("login1").check_output("cat /home/alice/works-*.out").split("\n")
    assert set(said) == {release}, said


@pytest.fixture(scope="session")
def in_background_for_good(as_user, login1):
    """Start a script of a user that outlives the test; return its node and process."""
    started = []

    def start(user, code):
        as_user(user, f"echo {encoded(code)} | base64 -d > background.py; rm -f seen")
        command = "module load dask-site && exec setsid python background.py > background.log 2>&1"
        pid = as_user(user, f"({command}) < /dev/null > /dev/null 2>&1 & echo $!").stdout.strip()
        started.append(pid)
        log = f"/home/{user}/background.log"
        assert until(lambda: login1.run(f"grep FACTS {log}").rc == 0, 120), log
        return "login1", pid

    yield start
    for pid in started:
        login1.run(f"kill -KILL -- -{pid} 2>/dev/null; kill -KILL {pid}")


@pytest.fixture(scope="session")
def newer(tmp_path_factory):
    """The wheel of a release after this one, which keeps the history in another form."""
    copy = tmp_path_factory.mktemp("newer")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    package = copy / "src" / "dask_site"
    _replace(package / "__init__.py", r'__version__ = ".*"', '__version__ = "99.0"')
    _replace(package / "history" / "migrations" / "__init__.py", 'HEAD = "0003"', 'HEAD = "0004"')
    versions = package / "history" / "migrations" / "versions"
    (versions / "v0004_later.py").write_text(MIGRATION)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(
        command, cwd=copy, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1580601600"}
    )
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


def _replace(path, old, new):
    text, number = re.subn(old, new, path.read_text())
    assert number == 1, f"{path} has no {old}"
    path.write_text(text)
