"""What the playbooks decide, tried with hosts of this machine."""

import json
import re
import sys

import pytest
import yaml
from playing import ROOT, needs_ansible, run_playbook

pytestmark = [pytest.mark.slow, needs_ansible]
HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
# nobody answers there
AWAY = {"ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.fixture
def play(tmp_path):
    """Run plays on an inventory; return status and output in one line."""

    def run(plays, groups, *arguments):
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups, sort_keys=False))
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        return run_playbook(tmp_path, "-i", "hosts.yml", *arguments, "play.yml")

    return run


def a_play(hosts, *tasks):
    return {"hosts": hosts, "gather_facts": False, "tasks": list(tasks)}


PUT_BACK = {"import_playbook": str(ROOT / "playbooks" / "put_back.yml")}
PUBLISH = a_play("dask_environment", {"debug": {"msg": "the links move"}})


def playbook(name, count=None):
    """Return a playbook's first plays, with what it includes found from anywhere."""
    plays = yaml.safe_load((ROOT / "playbooks" / name).read_text())[:count]
    return [play for play in plays if "import_playbook" not in play]


# -- the way back -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), None),
        (("--limit", "!login2"), None),
        (("--limit", "!login1"), "login1 moves the links, and is left out of this run"),
        (("--limit", "c1"), "login1 moves the links, and is left out of this run"),
        (("--limit", "!login1", "-e", "dask_environment_build_host=login2"), None),
        (("-e", "dask_environment_build_host=x"), "x moves the links, and is no host of the"),
    ],
)
def test_services_go_back_with_the_links_or_not_at_all(play, arguments, told):
    groups = {
        "dask_environment": {"hosts": {"login1": HERE, "login2": HERE, "c1": HERE}},
        "dask_history": {"hosts": {"login1": None, "login2": None}},
    }
    moving = a_play("rollback_links:dask_history", {"debug": {"msg": "it moves"}})
    status, said = play([*playbook("rollback.yml", 1), moving], groups, *arguments)
    assert (status != 0) is bool(told) and ("it moves" not in said) is bool(told), said
    assert (told or "") in said


# -- what goes ----------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A site on this machine with three releases, of which the oldest may go."""
    root = tmp_path / "site"
    for number in (1, 2, 3):
        release = root / "releases" / f"{number}.0-a"
        release.mkdir(parents=True)
        said = {"release": release.name, "built": f"2026-01-0{number}T00:00:00+00:00"}
        (release / "manifest.json").write_text(json.dumps(said))
    (root / "current").symlink_to("releases/3.0-a")
    (root / "previous").symlink_to("releases/2.0-a")
    (root / ".removed-0.9-a").mkdir()
    return root


LAPTOP = yaml.safe_load((ROOT / "inventories/laptop/group_vars/all/site.yml").read_text())
SITE = LAPTOP["dask_site"]


def released(root):
    return sorted(path.name for path in (root / "releases").iterdir())


def of_site(root, **more):
    """Return variables of a site on this machine, as an argument of Ansible."""
    known = {
        "dask_site": SITE,
        "dask_site_root": str(root),
        "dask_environment_python": sys.executable,
        "dask_environment_keep": 1,
        "ansible_become": False,
        **more,
    }
    return "-e", json.dumps(known)


def test_who_is_left_out_keeps_all_releases(play, old):
    groups = {
        "dask_environment": {"hosts": {"login1": HERE, "c1": HERE}},
        "dask_history": {"hosts": {"login1": None}},
    }
    plays = playbook("prune.yml", 1)
    status, said = play(plays, groups, *of_site(old), "--limit", "!c1")
    assert status == 0 and "Nothing is removed: c1 may use any release" in said, said
    assert released(old) == ["1.0-a", "2.0-a", "3.0-a"]
    assert not (old / ".removed-0.9-a").exists(), "that is none any more"
    status, said = play(plays, groups, *of_site(old))
    assert status == 0 and "Nothing is removed" not in said, said
    assert released(old) == ["2.0-a", "3.0-a"]


def test_an_uninstall_leaves_nobody_out_by_mistake(play, old):
    groups = {
        "dask_environment": {"hosts": {"login1": HERE, "c1": HERE}},
        "dask_dashboards": {"hosts": {"login1": None}},
    }
    plays = [*playbook("uninstall.yml", 2), a_play("all", {"debug": {"msg": "it goes"}})]
    meant = {"dask_uninstall_confirm": SITE["name"]}
    status, said = play(plays, groups, *of_site(old, **meant), "--limit", "login1")
    assert status != 0 and "Nothing was removed: this run leaves out c1" in said, said
    meant["dask_uninstall_partly"] = True
    status, said = play(plays, groups, *of_site(old, **meant), "--limit", "login1")
    assert status == 0 and "it goes" in said, said
    meant["dask_environment_build_host"] = "login"
    status, said = play(plays, groups, *of_site(old, **meant))
    assert status != 0 and "dask_environment_build_host is login, which is no host" in said, said


# -- which site ---------------------------------------------------------------------------------


def role(name, tasks):
    return {"include_role": {"name": name, "tasks_from": tasks, "rolespec_validate": False}}


def test_what_module_files_say_of_the_site_makes_another_release(play, tmp_path):
    (tmp_path / "dask_site-1.0-py3-none-any.whl").write_bytes(b"any")
    groups = {"dask_environment": {"hosts": {"login1": HERE}}}
    tell = {"debug": {"msg": "NAME={{ dask_environment_release.name }}="}}
    identify = a_play("dask_environment", role("dask_environment", "release"), tell)
    wheel = {"dask_environment_wheel": str(tmp_path / "dask_site-1.0-py3-none-any.whl")}

    def named(**said):
        site = {"dask_site": {**SITE, **said}}
        status, out = play([identify], groups, *of_site(tmp_path, **wheel, **site))
        assert status == 0, out
        return re.search(r"NAME=(\S+)=", out)[1]

    more = {"more": {"cores": 1, "memory": "1GiB"}}
    assert named() == named(pools=SITE["pools"] | more), "those are read from the site file"
    assert named() != named(state_dir="/project/$USER/.dask-site") != named(name="Other")


def test_the_place_of_another_site_is_refused(play, old):
    (old / "releases/3.0-a/etc/dask").mkdir(parents=True)
    described = old / "releases/3.0-a/etc/dask/site.yaml"
    described.write_text("dask_site: {name: North}\n")
    groups = {"dask_environment": {"hosts": {"login1": HERE}}}
    release = {"name": "3.0-a", "path": str(old / "releases/3.0-a")}
    known = {"dask_environment_release": release}
    look = a_play("dask_environment", role("dask_environment", "preflight"))
    status, said = play([look], groups, *of_site(old, **known))
    assert status != 0 and f"{old} on login1 is that of the site 'North'" in said, said
    status, said = play([look], groups, *of_site(old, **known, dask_environment_rename=True))
    assert status == 0, said
    described.write_text(f"dask_site: {{name: {SITE['name']}}}\n")
    status, said = play([look], groups, *of_site(old, **known))
    assert status == 0, said


# -- where a service failed ---------------------------------------------------------------------


@pytest.mark.parametrize("group", ["dask_history", "dask_dashboards"])
def test_a_host_that_goes_away_on_the_way_keeps_the_links_where_they_are(play, group):
    groups = {
        "dask_environment": {"hosts": {"login1": HERE, "login2": AWAY, "c1": HERE}},
        "dask_history": {"hosts": {"login1": None}},
        "dask_dashboards": {"hosts": {"login1": None}},
    }
    groups[group]["hosts"]["login2"] = None
    moving = a_play(group, {"ping": {}})
    status, said = play([moving, PUT_BACK, PUBLISH], groups)
    assert status != 0 and "the links move" not in said
    assert "login2 can't be reached any more" in said and "Users keep what they have." in said
    status, said = play([moving, PUT_BACK, PUBLISH], groups, "--limit", "!login2")
    assert status == 0 and "the links move" in said, "it was left out on purpose"


@pytest.mark.parametrize(
    ("former", "told"),
    [
        (None, "Users keep what they have."),
        ("", "Users have nothing yet."),
        ("2.0-b", "Users keep what they have, release 2.0-b."),
    ],
)
def test_what_users_have_is_told_as_far_as_it_is_known(play, former, told):
    groups = {
        "dask_environment": {"hosts": {"login1": HERE, "login2": HERE}},
        "dask_history": {"hosts": {"login1": None, "login2": None}},
    }
    facts = {"site_failed": "login2: Start the service: it failed"}
    if former is not None:
        facts |= {"dask_environment_former": former, "dask_environment_release": {"name": "2.0-b"}}
    failing = a_play("login2", {"set_fact": facts})
    status, said = play([failing, PUT_BACK, PUBLISH], groups)
    assert status != 0 and "the links move" not in said
    assert f"login2: Start the service: it failed. {told}" in said, said


def test_in_check_mode_the_others_are_compared(play):
    hosts = {"login1": HERE, "login2": HERE}
    groups = {"dask_environment": {"hosts": hosts}, "dask_history": {"hosts": dict(hosts)}}
    failing = a_play("login2", {"set_fact": {"site_failed": "login2: it failed"}})
    status, said = play([failing, PUT_BACK, PUBLISH], groups, "--check")
    assert status != 0 and said.count("the links move") == 1


def test_in_check_mode_no_play_ends_with_the_first_host_that_fails(play):
    """`any_errors_fatal` is never templated: whatever is not false is true."""
    for path in (ROOT / "site.yml", *ROOT.glob("playbooks/*.yml")):
        for entry in yaml.safe_load(path.read_text()):
            assert entry.get("any_errors_fatal", True) is True, path
    hosts = {"login1": HERE, "login2": HERE}
    groups = {"dask_environment": {"hosts": hosts}}
    (limit,) = set(re.findall(r"max_fail_percentage: .*", (ROOT / "site.yml").read_text()))
    task = {"fail": {"msg": "it failed"}, "when": "inventory_hostname == 'login1'"}
    failing = a_play("dask_environment", task) | yaml.safe_load(limit)
    status, said = play([failing, PUBLISH], groups)
    assert status != 0 and "the links move" not in said
    status, said = play([failing, PUBLISH], groups, "--check")
    assert status != 0 and said.count("the links move") == 1
