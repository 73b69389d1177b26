"""A site description that changes, and each tag alone."""

import json
import re
import shutil

import pytest

from life import LOGIN, STATE, UNITS, play
from nodes import INVENTORY, ROOT, node, variables

# Each of these is a whole rollout, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
TAGS = ("dask_environment", "dask_pools", "dask_history", "dask_dashboards", "dask_acceptance")


@pytest.fixture
def edited(given_back):
    """The variables of a site that has got one more pool; the site is put back afterwards."""
    site = json.loads(json.dumps(variables()["site"]))
    site["pools"]["evening"] = {**site["pools"]["cpu"], "description": "added later"}
    yield "-e", json.dumps({"dask_site": site})
    status, said = play("site.yml", "--tags", "dask_pools")
    assert status == 0, said


def changed(said):
    return {int(number) for number in re.findall(r"changed=(\d+)", said)}


def started():
    units = ("dask-history", "dask-dashboards")
    asked = "systemctl show --value -p ExecMainStartTimestampMonotonic "
    return [node(host).check_output(asked + unit) for host in LOGIN for unit in units]


def test_each_tag_leaves_what_a_whole_rollout_leaves(edited):
    began = started()
    for tag in ("dask_history", "dask_dashboards"):
        status, said = play("site.yml", "--tags", tag, *edited)
        assert status != 0 and "--tags dask_pools, which brings it to users and services" in said
    assert started() == began, "nothing was touched"
    status, said = play("site.yml", "--tags", "dask_pools", *edited)
    assert status == 0 and changed(said) != {0}, said
    assert not set(started()) & set(began), "the services read it too"
    told = node("login1").check_output(
        "runuser -l alice -c 'module load dask-site && dask-site pools --json'"
    )
    assert "evening" in json.loads(told)
    for tags in (*(("--tags", tag) for tag in TAGS), ()):
        status, said = play("site.yml", *tags, *edited)
        assert status == 0 and changed(said) == {0}, (tags, said)
    status, said = play("playbooks/drift.yml", *edited)
    assert status == 0, said
    assert json.loads((ROOT / "out" / "drift.json").read_text())["differences"] == []


def test_a_node_that_has_left_a_group_has_its_service_no_more(given_back, tmp_path, monkeypatch):
    site = variables()  # which asks the inventory
    smaller = shutil.copytree(INVENTORY, tmp_path / "demo")
    hosts = (smaller / "hosts.yml").read_text()
    without = re.sub(
        r"(?m)^(dask_(history|dashboards)):\n.*\n.*$", r"\1: {hosts: {login1: }}", hosts
    )
    (smaller / "hosts.yml").write_text(without)
    asked = "systemctl is-active dask-history dask-dashboards dask-proxy || true"
    with monkeypatch.context() as patch:
        patch.setattr("nodes.INVENTORY", smaller)
        status, said = play("site.yml", "--tags", "dask_history,dask_dashboards")
        assert status == 0, said
        assert node("login2").check_output(asked).split() == ["inactive"] * 3
        assert not node("login2").file(f"{UNITS}/dask-history.service").exists
        assert node("login1").check_output(asked).split() == ["active"] * 3
        for data in (STATE, site["site"]["dashboards"]["state"]):
            assert node("login2").file(data).is_directory
        status, said = play("site.yml", "--tags", "dask_history,dask_dashboards")
        assert status == 0 and changed(said) == {0}, said
    status, said = play("site.yml", "--tags", "dask_history,dask_dashboards")
    assert status == 0, said
    assert node("login2").check_output(asked).split() == ["active"] * 3
