"""Variables of an inventory: names nobody knows, secrets of a vault, a base for sites."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PASSWORD = "correct horse"


def ansible(command, *arguments, **options):
    plain = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [BIN / command, *map(str, arguments)],
        env={**os.environ, **plain},
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )
    return done.returncode, done.stdout + done.stderr


# -- names --------------------------------------------------------------------------------------


def findings(names, renamed=()):
    pools = {"cpu": {"cores": 1, "memory": "1GiB"}}
    site = {"schema": 1, "name": "x", "resource_manager": "local", "pools": pools}
    done = subprocess.run(
        [sys.executable, ROOT / "roles" / "dask_site" / "files" / "checks.py"],
        input=json.dumps({"names": names, "renamed": dict(renamed), "dask_site": site}),
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return []
    said = done.stderr.splitlines()
    assert "no effect" in said[0] and "docs/reference.md" in said[-1]
    return said[1:-1]


def test_every_variable_that_there_is_is_known():
    specs = ROOT.glob("roles/*/meta/argument_specs.yml")
    entries = [e for s in specs for e in yaml.safe_load(s.read_text())["argument_specs"].values()]
    names = {name for entry in entries for name in entry.get("options", {})}
    assert len(names) > 50
    assert findings([*names, "dask_release", "dask_uninstall_confirm"]) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dask_enviroment_python", "no role knows it; dask_environment_python is meant?"),
        ("dask_environment_pyhton", "no role knows it; dask_environment_python is meant?"),
        ("dask_history_frobnicate", "no role knows it"),
        ("dask_sites", None),
        ("dask_of_our_own", None),
    ],
)
def test_names_that_no_role_knows(name, told):
    assert findings([name]) == ([f"{name}: {told}"] if told else [])


def test_a_name_of_before_is_told_what_to_write_instead():
    told = "write dask_environment_python, since 2.0"
    assert findings(["dask_py"], {"dask_py": told}) == [f"dask_py: {told}"]


def test_a_rollout_with_such_a_name_changes_nothing(tmp_path):
    status, said = ansible(
        "ansible-playbook",
        *("-i", ROOT / "inventories" / "example", "site.yml"),
        *("-e", "dask_enviroment_python=/usr/bin/python3.12"),
    )
    assert status != 0
    assert "Nothing was changed: these variables would have no effect." in said
    assert "dask_enviroment_python: no role knows it; dask_environment_python is meant?" in said


# -- secrets ------------------------------------------------------------------------------------

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [{vars}, {vault}]
  tasks:
    - ansible.builtin.include_vars: {role}/vars/main.yml
    - ansible.builtin.include_tasks: {role}/tasks/secrets.yml
"""


@pytest.fixture
def put(tmp_path):
    """Put secrets of a vault, on this machine; return status and what was said."""

    def run(dashboards, secrets, *arguments):
        me = Path.home().owner()
        known = {
            "dask_dashboards_user": me,
            "dask_dashboards_proxy_user": me,
            "dask_site_root": "/opt/dask-site",
            "dask_site": {"dashboards": dashboards},
        }
        (tmp_path / "vars.yml").write_text(yaml.safe_dump(known))
        (tmp_path / "password").write_text(PASSWORD)
        vault = tmp_path / "vault.yml"
        vault.write_text(yaml.safe_dump({"dask_dashboards_secrets": secrets}))
        with_password = ("--vault-password-file", tmp_path / "password")
        status, said = ansible("ansible-vault", "encrypt", vault, *with_password)
        assert status == 0, said
        assert vault.read_text().startswith("$ANSIBLE_VAULT;")
        role = ROOT / "roles" / "dask_dashboards"
        play = tmp_path / "play.yml"
        play.write_text(PLAY.format(vars=tmp_path / "vars.yml", vault=vault, role=role))
        return ansible("ansible-playbook", "-i", "localhost,", play, *with_password, *arguments)

    return run


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to the services")
def test_secrets_of_a_vault_come_into_their_files_and_nowhere_else(put, tmp_path):
    place, key = tmp_path / "etc" / "oidc.secret", tmp_path / "tls.key"
    dashboards = {"oidc": {"secret": str(place)}, "key": str(key), "certificate": "/x.pem"}
    secrets = {"oidc": "hunter2-of-oidc", "key": "-----BEGIN-hunter2-----\n"}
    status, said = put(dashboards, secrets, "--diff", "-vvv")
    assert status == 0, said
    assert place.read_text() == "hunter2-of-oidc" and key.read_text() == secrets["key"]
    assert place.stat().st_mode & 0o777 == key.stat().st_mode & 0o777 == 0o400
    assert "hunter2" not in said
    status, said = put(dashboards, secrets)
    assert status == 0 and "changed=0" in said


@pytest.mark.parametrize("name", ["oidc", "portal", "key", "frob"])
def test_a_secret_without_a_file_is_refused(put, name):
    status, said = put({"domain": "dask.example.org"}, {name: "hunter2"})
    flat = " ".join(said.split())
    assert status != 0 and "hunter2" not in said
    assert f"dask_dashboards_secrets has {name}, and dask_site.dashboards names no file" in flat


# -- several sites ------------------------------------------------------------------------------


def test_sites_share_a_base(tmp_path):
    base = tmp_path / "base" / "group_vars" / "all"
    site = tmp_path / "north" / "group_vars" / "all"
    for folder in (base, site):
        folder.mkdir(parents=True)
    (tmp_path / "base" / "hosts.yml").write_text("dask_environment:\n")
    (tmp_path / "north" / "hosts.yml").write_text("dask_environment: {hosts: {n1: }}\n")
    text = (ROOT / "docs" / "admin" / "sites.md").read_text()
    of_base, of_site = (part.split("```", 1)[0] for part in text.split("```yaml\n")[1:3])
    (base / "centre.yml").write_text(of_base)
    (site / "site.yml").write_text(of_site)
    (site / "play.yml").write_text("")
    play = tmp_path / "play.yml"
    play.write_text("- hosts: all\n  gather_facts: false\n  roles: [dask_site]\n")
    both = ("-i", tmp_path / "base", "-i", tmp_path / "north")
    status, said = ansible("ansible-playbook", *both, play)
    assert status == 0, said
    shown = ansible("ansible", *both, "n1", "-m", "debug", "-a", "msg={{ dask_site | to_json }}")[1]
    found = json.loads(json.loads("{" + shown.split("{", 1)[1])["msg"])
    assert found["name"] == "North" and set(found["pools"]) == {"cpu", "gpu"}
    assert found["pools"]["cpu"]["walltime"] == "8h" and found["pools"]["cpu"]["cores"] == 64
