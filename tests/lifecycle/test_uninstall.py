"""The last day of a site."""

import re

import pytest

from life import STATE, current, play, services_are_of
from nodes import ROOT, node, until

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
NODES = ("login1", "login2", "c1", "c2", "m1", "g1")


def left(host):
    """Return what is on a node that was not there before the rollout, and the other way round."""
    script = (ROOT / "molecule" / "lifecycle" / "list.sh").read_text()
    return node(host).check_output(f"({script}) | diff /root/before - | grep '^[<>]' || true")


def test_nothing_is_removed_by_mistake(alices):
    before = current()
    status, said = play("playbooks/uninstall.yml")
    assert status != 0 and "dask_uninstall_confirm='Demo Cluster'" in said
    confirmed = {"dask_uninstall_confirm": "'Demo Cluster'"}
    status, said = play("playbooks/uninstall.yml", **confirmed)
    assert status != 0 and re.search(r"job \d+ of alice, running", said), said
    confirmed["dask_uninstall_running"] = "true"
    status, said = play("playbooks/uninstall.yml", "--check", **confirmed)
    assert status == 0, said
    assert current() == before and services_are_of(before)


def test_an_uninstall_leaves_nothing_but_data_and_then_nothing(alices):
    host, pid = alices
    node(host).run(f"kill -INT -- -{pid}; kill -INT {pid}; scancel -u alice")
    assert until(lambda: not node("login1").check_output("squeue -h -u alice"), 120)
    assert until(lambda: node(host).run(f"ps {pid}").rc != 0, 60)
    confirmed = {"dask_uninstall_confirm": "'Demo Cluster'"}
    status, said = play("playbooks/uninstall.yml", **confirmed)
    assert status == 0, said
    for host in NODES:
        data = re.compile(r"[<>] (/home/dask-site|/etc/dask-site|dask-(history|dashboards|proxy):)")
        account = re.compile(r"[<>] /etc/(passwd|group|g?shadow|sub[ug]id)-? |[<>] /etc f? ?")
        other = [line for line in left(host).splitlines() if not data.match(line)]
        assert [line for line in other if not account.match(line)] == [], host
    assert node("login1").file(f"{STATE}/history.db").exists
    status, said = play("playbooks/uninstall.yml", **confirmed, dask_uninstall_data="true")
    assert status == 0, said
    for host in NODES:
        account = re.compile(r"[<>] /etc/(passwd|group|g?shadow|sub[ug]id)-? ")
        other = [line for line in left(host).splitlines() if not account.match(line)]
        assert other == [], host
