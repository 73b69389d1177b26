"""The folders of the history's role: made where root may, and refused where it may not."""

import grp
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).parents[2] / "roles" / "dask_history"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders to others"),
    pytest.mark.skipif(not PLAYBOOK.exists(), reason="ansible is not installed"),
]


def play(folder, base):
    """Run the tasks that make the folders below `base`; return status and output."""
    site = {"history": {"state": f"{base}/state", "spool": f"{base}/spool/$USER"}}
    named = {"dask_site": site, "dask_site_root": "/opt/x", "dask_history_user": "daemon"}
    book = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars/main.yml")],
        "vars": {**named, "dask_history_uid": pwd.getpwnam("daemon").pw_uid},
        "tasks": [{"ansible.builtin.import_tasks": str(ROLE / "tasks/folders.yml")}],
    }
    file = folder / "play.yml"
    file.write_text(yaml.safe_dump([book]))
    done = subprocess.run(
        [PLAYBOOK, "-i", "localhost,", file],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_NOCOLOR": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def looks(path):
    status = path.stat()
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    return owner.pw_name, group.gr_name, mode


@pytest.mark.slow
def test_folders_are_made_left_alone_and_refused_with_the_command(tmp_path):
    base = tmp_path / "shared"
    base.mkdir()
    status, said = play(tmp_path, base)
    assert status == 0, said
    assert looks(base / "spool") == ("root", "daemon", "3773")
    assert looks(base / "state") == ("daemon", "daemon", "0755")
    status, said = play(tmp_path, base)
    assert status == 0 and "changed=0" in said, "what the administrator has made is left alone"
    # As where a file server takes root for nobody: nothing can be made there.
    status, said = play(tmp_path, "/proc/shared")
    assert status != 0
    flat = " ".join(said.replace("\\n", " ").split())
    assert "has to be a folder of root and the group daemon with the mode 3773" in flat
    assert "install -d -o root -g 1 -m 3773 /proc/shared/spool" in flat
