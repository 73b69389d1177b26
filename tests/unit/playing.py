"""Runs playbooks on this machine, for tests of what roles and playbooks decide."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "roles"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
needs_ansible = pytest.mark.skipif(not PLAYBOOK.exists(), reason="ansible is not installed")


def a_play_of(role, tasks, **more):
    """Return a play of a file of a role's tasks, on this machine."""
    return {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.import_tasks": str(ROLES / role / "tasks" / tasks)}],
        **more,
    }


def run_playbook(folder, *arguments, **environment):
    """Run ansible-playbook in a folder; return status and output in one line."""
    ours = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [PLAYBOOK, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **ours, **environment},
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())
