"""One of two login nodes is away: what a rollout does, what users have, how it comes back.

In this order: each test begins where the last ended.
"""

import json
import shlex
import subprocess
import tempfile
from urllib.parse import urlsplit

import pytest

from life import (
    LOGIN,
    STARTED,
    TOP,
    clusters,
    current,
    play,
    services_are_of,
    serving,
    version,
    writer,
)
from nodes import ROOT, node, until

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
WORK = """
with Cluster(pools=["cpu"]) as cluster, cluster.get_client() as client:
    cluster.scale(cpu=1)
    with pool("cpu"):
        tell(sum=client.submit(sum, range(10)).result())
"""


def other(name):
    return next(one for one in LOGIN if one != name)


def told(user, host, command):
    """Return what a command of dask-site says to a user on a node."""
    loaded = f"module load dask-site && dask-site {command} --json"
    return json.loads(node(host).check_output(f"runuser -l {user} -c {shlex.quote(loaded)}"))


def looked_at(user, host):
    """Return the dashboard of a user's one cluster, as a browser gets it through a node."""
    said = told(user, host, "dashboards")
    (cluster,) = (one for one in said["dashboards"] if not one["silent"])
    origin, word = said["origin"], urlsplit(said["login"]).fragment
    address = node(host).check_output("hostname -I").split()[0]
    with tempfile.NamedTemporaryFile() as jar:
        curl = ["curl", "-skL", "--max-time", "20", "-b", jar.name, "-c", jar.name]
        curl += ["--resolve", f"*:{urlsplit(origin).port}:{address}"]
        for name, value in {"Site": "none", "Mode": "navigate", "Dest": "document"}.items():
            curl += ["-H", f"Sec-Fetch-{name}: {value}"]
        sent = ["-H", f"Origin: {origin}", "--data-urlencode", f"word={word}", f"{origin}/login"]
        subprocess.run([*curl, "-o", "/dev/null", *sent], check=True)
        shown = subprocess.run([*curl, cluster["url"]], check=True, capture_output=True, text=True)
    return shown.stdout


@pytest.fixture(scope="module")
def before():
    """The release of the first rollout."""
    return current()


def test_the_node_that_is_left_has_all_that_users_need(away, python, in_background_for_good):
    in_background_for_good("alice", STARTED)
    assert "Dask" in looked_at("alice", "login2"), "the control: through the other, while it is up"
    known = len(told("bob", "login1", "history ls"))
    with away("login2", "kill"):
        assert until(lambda: writer() == "login1", 120), "it writes the history"
        facts, result = python("bob", WORK)
        assert facts["sum"] == 45, result.stderr
        assert until(lambda: len(told("bob", "login1", "history ls")) == known + 1, 120)
        assert "Dask" in looked_at("alice", "login1")


def test_it_comes_back_by_itself(before):
    assert until(lambda: services_are_of(before), 60)
    assert told("bob", "login2", "history ls") == told("bob", "login1", "history ls")
    assert "Dask" in looked_at("alice", "login2")


def test_who_writes_the_history_dies_and_nothing_is_lost(away):
    # login1 has alice's scheduler.
    node("login1").check_output("systemctl stop dask-history")
    assert until(lambda: writer() == "login2", 120)
    node("login1").check_output("systemctl start dask-history")
    known = clusters()
    with away("login2", "kill"):
        assert until(lambda: writer() == "login1", 120)
        assert until(lambda: all(clusters().get(one, -1) >= n for one, n in known.items()), 60)
        assert set(clusters()) == set(known), "none twice"


def test_a_rollout_without_one_of_them_stops_before_anything_changes(before, newer, away):
    with away("login2"):
        status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
        assert status != 0 and "login2" in said and "unreachable=1" in said
        assert current() == before
        assert {serving("login1"), serving("login1", "dask-dashboards")} == {before}


def test_one_is_left_out_and_gets_it_later(before, newer, away):
    with away("login2"):
        status, said = play(
            "playbooks/upgrade.yml", "--limit", "!login2", dask_environment_wheel=newer
        )
        assert status == 0, said
        newest = current()
        assert newest != before and serving("login1") == newest and version() == "0004"
    # It has started with what it had, which does not know this form of the history.
    assert node("login2").check_output(f"readlink {TOP}/current") == f"releases/{newest}"
    assert told("bob", "login2", "history ls") == told("bob", "login1", "history ls")
    assert version() == "0004" and writer() == "login1"
    status, said = play("site.yml", "--limit", "login2", dask_environment_wheel=newer)
    assert status == 0, said
    assert until(lambda: services_are_of(newest), 60)
    status, said = play("playbooks/drift.yml", dask_environment_wheel=newer)
    assert status == 0, said


def test_going_back_without_one_of_them_is_refused(newer, away):
    newest = current()
    with away("login2"):
        status, said = play("playbooks/rollback.yml")
        assert status != 0 and "unreachable=1" in said
        assert current() == newest and serving("login1") == newest and version() == "0004"


def test_both_go_back_together(before):
    status, said = play("playbooks/rollback.yml")
    assert status == 0, said
    assert current() == before and services_are_of(before) and version() == "0003"
    report = ROOT / "out" / "drift.json"
    assert play("playbooks/drift.yml")[0] == 0, report.read_text()
