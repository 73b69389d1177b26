"""The module files of a release: for Lmod, for Environment Modules, and a script for neither."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from playing import PLAYBOOK, ROOT, a_play_of, run_playbook

ROLE = ROOT / "roles" / "dask_environment"
NAME = "1.0-0123abcd"
# Modules print what sets the environment, here of a Python.
SET_AND_TELL = "import json, os, sys; exec(sys.stdin.read()); print(json.dumps(dict(os.environ)))"
KEYS = "#!/bin/sh\necho $DASK_ROOT_CONFIG $* >> $0.asked\n"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The files, for a centre whose name and folder are awkward."""
    if not PLAYBOOK.exists():
        pytest.skip("ansible is not installed")
    folder = tmp_path_factory.mktemp("release")
    (folder / "modulefiles" / "dask-site").mkdir(parents=True)
    site = yaml.safe_load((ROOT / "tests/golden/centre.yml").read_text())["dask_site"]
    site |= {"name": "Centre {of} \\ Töpfe", "state_dir": "${SCRATCH}/dask of $USER"}
    of_release = {"name": NAME, "path": str(folder)}
    given = {"dask_site": site, "dask_environment_release": of_release}
    play = a_play_of("dask_environment", "modules.yml", vars=given)
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    for name in ("module.lua.j2", "module.tcl.j2", "activate.sh.j2"):
        (folder / name).symlink_to(ROLE / "templates" / name)
    status, said = run_playbook(folder, "-i", "localhost,", "play.yml")
    assert status == 0, said
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


@pytest.mark.skipif(not shutil.which("modulecmd"), reason="no Environment Modules here")
def test_environment_modules_load_it(release):
    program = release / "env" / "bin" / "dask-site"
    program.parent.mkdir(parents=True)
    program.write_text(KEYS)
    program.chmod(0o755)

    def module(*arguments, **environment):
        known = {"PATH": "/usr/bin:/bin", "SCRATCH": "/s", "USER": "alice", "LC_ALL": "C.UTF-8"}
        known |= {"MODULEPATH": str(release / "modulefiles"), "HOME": "/nowhere", **environment}
        done = subprocess.run(
            ["modulecmd", "python", *arguments], capture_output=True, text=True, env=known
        )
        assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
        return done

    set_and_told = [sys.executable, "-c", SET_AND_TELL]
    loaded = module("load", "dask-site").stdout
    made = subprocess.run(set_and_told, input=loaded, capture_output=True, text=True, check=True)
    found = json.loads(made.stdout)
    assert found["PATH"].split(":")[0] == f"{release}/env/bin"
    assert found["DASK_ROOT_CONFIG"] == f"{release}/etc/dask"
    assert found["DASK_SITE_KEYS"] == (keys := "/s/dask of alice/keys")
    assert found["DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY"] == f"{keys}/key.pem"
    asked = program.with_name("dask-site.asked").read_text()
    assert asked == f"{release}/etc/dask keys --quiet\n"
    told = module("help", "dask-site").stderr
    assert "Dask for Centre of  Töpfe" in told and "from dask_site import Cluster" in told
