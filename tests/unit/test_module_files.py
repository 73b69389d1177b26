"""The module files of a release: for Lmod, for Environment Modules, and a script for neither."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "dask_environment"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
NAME = "1.0-0123abcd"
# As much of Environment Modules as the file uses.
TCL = """
proc module-whatis {text} {puts "whatis $text"}
proc conflict {name} {puts "conflict $name"}
proc prepend-path {name value} {puts "path $name $value"}
proc setenv {name value} {puts "set $name $value"; set ::env($name) $value}
proc module-info {what name} {return 1}
rename exec real_exec
proc exec {args} {puts "exec $args"}
source [lindex $argv 0]
catch {ModulesHelp}
"""


def tclsh():
    try:
        return subprocess.run(["tclsh"], input="", capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The files, for a centre whose name and folder are awkward."""
    if not PLAYBOOK.exists():
        pytest.skip("ansible is not installed")
    folder = tmp_path_factory.mktemp("release")
    (folder / "modulefiles" / "dask-site").mkdir(parents=True)
    site = yaml.safe_load((ROOT / "tests/golden/centre.yml").read_text())["dask_site"]
    site |= {"name": "Centre {of} \\ Töpfe", "state_dir": "${SCRATCH}/dask of $USER"}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "dask_site": site,
            "dask_environment_release": {"name": NAME, "path": str(folder)},
            "ansible_python_interpreter": sys.executable,
        },
        "tasks": [{"ansible.builtin.import_tasks": str(ROLE / "tasks" / "modules.yml")}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    for name in ("module.lua.j2", "module.tcl.j2", "activate.sh.j2"):
        (folder / name).symlink_to(ROLE / "templates" / name)
    subprocess.run(
        [PLAYBOOK, "-i", "localhost,", "play.yml"],
        check=True,
        cwd=folder,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
    )
    return folder


def text(release, name):
    return (release / name).read_text()


def test_all_three_set_the_same(release):
    lua = text(release, f"modulefiles/dask-site/{NAME}.lua")
    tcl = text(release, f"modulefiles/dask-site/{NAME}")
    shell = text(release, "activate.sh")
    for_roles = re.compile(r"(?<=__)(?:\" \.\. role \.\. \"|\$\{role\}|\$\{_dask_site_role\})")

    def names(pattern, said):
        found = re.findall(pattern, for_roles.sub("ROLE", said), flags=re.MULTILINE)
        return set(found) - {"PATH"}

    in_lua = names(r'setenv\("(\w+)"', lua)
    assert len(in_lua) == 9
    assert names(r"^\s*setenv (\w+)", tcl) == in_lua
    assert names(r'export "?(\w+)=', shell) == in_lua


def test_they_name_the_release_and_not_what_is_current(release):
    for name in (f"modulefiles/dask-site/{NAME}.lua", f"modulefiles/dask-site/{NAME}"):
        said = text(release, name)
        assert f"{release}/env/bin" in said and f"{release}/etc/dask" in said
        assert "current" not in said and "PYTHONPATH" not in said


@pytest.mark.skipif(not tclsh(), reason="tclsh is not installed")
def test_the_file_for_environment_modules_is_read(release, tmp_path):
    harness = tmp_path / "harness.tcl"
    harness.write_text(TCL)
    done = subprocess.run(
        ["tclsh", harness, release / "modulefiles" / "dask-site" / NAME],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "SCRATCH": "/s", "USER": "alice", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    keys = "/s/dask of alice/keys"
    said = done.stdout.splitlines()
    assert said[:3] == [
        "whatis Dask with the worker pools of Centre of  Töpfe",
        "conflict dask-site",
        f"path PATH {release}/env/bin",
    ]
    assert (
        f"exec env DASK_ROOT_CONFIG={release}/etc/dask {release}/env/bin/dask-site keys --quiet"
        in said
    )
    assert f"set DASK_SITE_KEYS {keys}" in said
    assert f"set DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY {keys}/key.pem" in said
    assert "from dask_site import Cluster" in done.stderr
