"""What a comparison with the rollout hands on, and what it lets nobody see of that."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from playing import PLAYBOOK, ROOT, needs_ansible, run_playbook

pytestmark = needs_ansible
MIRROR, PORTAL = "hush-of-the-mirror", "hush-of-the-portal"
# Whoever reads the inventory also looks what all processes were started with.
LISTING = """#!/bin/sh
ps -ww -eo args >> {seen}
cat {hosts}
"""


@pytest.fixture
def centre(tmp_path):
    """A centre on this machine with a release of no content, and secrets; returns its folder."""
    release = tmp_path / "shared" / "releases" / "1.0-a"
    (release / "env").mkdir(parents=True)
    (release / "manifest.json").write_text(json.dumps({"release": "1.0-a", "dask_site": "1.0"}))
    (tmp_path / "shared" / "current").symlink_to("releases/1.0-a")
    (tmp_path / "dask_site-1.0-py3-none-any.whl").write_bytes(b"any")
    site = yaml.safe_load((ROOT / "tests/golden/centre.yml").read_text())["dask_site"]
    host = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "dask_site": site,
        "dask_site_root": str(tmp_path / "shared"),
        "dask_environment_wheel": str(tmp_path / "dask_site-1.0-py3-none-any.whl"),
        "dask_environment_python": sys.executable,
        "dask_drift_report": str(tmp_path / "told.json"),
        "dask_environment_register_modulepath": False,
        "dask_environment_spack_mirrors": {"centre": f"https://dask:{MIRROR}@mirror/"},
    }
    (tmp_path / "hosts.json").write_text(
        json.dumps(
            {
                "_meta": {"hostvars": {"localhost": host}},
                "dask_environment": {"hosts": ["localhost"]},
            }
        )
    )
    inventory = tmp_path / "inventory"
    (inventory / "group_vars" / "all").mkdir(parents=True)
    listing = inventory / "hosts"
    listing.write_text(LISTING.format(seen=tmp_path / "seen", hosts=tmp_path / "hosts.json"))
    listing.chmod(0o755)
    (tmp_path / "password").write_text("open")
    vault = inventory / "group_vars" / "all" / "vault.yml"
    vault.write_text(yaml.safe_dump({"dask_dashboards_secrets": {"portal": PORTAL}}))
    subprocess.run(
        [PLAYBOOK.with_name("ansible-vault"), "encrypt", vault],
        check=True,
        capture_output=True,
        env={**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password")},
    )
    return tmp_path


def drift(centre, *arguments, **environment):
    """Return what it said, in one line, and all that processes were started with meanwhile."""
    given = ("-i", centre / "inventory", *arguments, ROOT / "playbooks" / "drift.yml")
    _, said = run_playbook(centre, *given, TMPDIR=str(centre), **environment)
    return said, (centre / "seen").read_text()


def test_secrets_are_in_no_list_of_processes_and_no_file_is_left(centre):
    said, seen = drift(centre, ANSIBLE_VAULT_PASSWORD_FILE=str(centre / "password"))
    assert "all of it: " in said, said
    assert "--check --diff" in seen, "the run that was looked for"
    assert PORTAL not in said + seen
    assert MIRROR not in seen
    assert not list(centre.glob("dask-drift-*"))


def test_a_vault_that_it_can_not_open_is_told_without_what_was_handed_on(centre):
    said, seen = drift(centre, "--vault-password-file", centre / "password")
    assert "docs/admin/drift.md" in said and "no vault secrets" in said, said
    assert PORTAL not in said + seen
    assert MIRROR not in seen
    assert not list(centre.glob("dask-drift-*"))
