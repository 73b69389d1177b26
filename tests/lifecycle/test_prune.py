"""Releases that nobody uses any more."""

import json
import re

import pytest

from life import TOP, play
from nodes import node, until

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)


def test_releases_go_that_nobody_uses(before, given_back):
    login = node("login1")
    newest = login.check_output(f"readlink {TOP}/previous").removeprefix("releases/")
    for name in ("0.0.1-gone", "0.0.2-runs", "0.0.3-waits", "0.0.4-loaded", "0.0.5-works"):
        folder = f"{TOP}/releases/{name}"
        manifest = json.dumps({"release": name, "built": "2020-01-01T00:00:00+00:00"})
        login.check_output(f"mkdir {folder} && echo '{manifest}' > {folder}/manifest.json")
        login.check_output(f"ln -s ../../releases/{name} {TOP}/modulefiles/dask-site/{name}.lua")
    waits = f"#!/bin/sh\n{TOP}/releases/0.0.3-waits/env/bin/python x\n"
    login.check_output("cat > /tmp/waits.sh <<'E'\n" + waits + "E")
    login.check_output("runuser -l alice -c 'sbatch --hold /tmp/waits.sh'")
    wrap = "--wrap='module load dask-site/0.0.4-loaded; python x'"
    login.check_output(f'runuser -l alice -c "sbatch --hold {wrap}"')
    # What its processes don't show, its script does: they may come to it later.
    works = f"#!/bin/sh\nsleep 900\n{TOP}/releases/0.0.5-works/env/bin/python x\n"
    login.check_output("cat > /tmp/works.sh <<'E'\n" + works + "E")
    login.check_output("runuser -l alice -c 'sbatch -p standard --mem=100M -J later /tmp/works.sh'")
    inside = f"cd {TOP}/releases/0.0.2-runs && (setsid sleep 900 > /dev/null 2>&1 & echo $!)"
    process = node("c1").check_output(inside)
    try:
        running = "squeue -h -u alice -n later -t RUNNING"
        assert until(lambda: login.check_output(running), 120)
        status, said = play("playbooks/prune.yml", "--check", dask_environment_keep=2)
        assert status == 0, said
        assert login.file(f"{TOP}/releases/0.0.1-gone").exists
        status, said = play("playbooks/prune.yml", dask_environment_keep=2)
        assert status == 0, said
        kept = set(login.check_output(f"ls {TOP}/releases").split())
        used = {"0.0.2-runs", "0.0.3-waits", "0.0.4-loaded", "0.0.5-works"}
        assert kept == {before, newest, *used}
        assert not login.file(f"{TOP}/modulefiles/dask-site/0.0.1-gone.lua").is_symlink
        told = (r"process \d+ of root on c1", r"job \d+ of alice, pending")
        for why in (*told, r"job \d+ of alice, running"):
            assert re.search(why, said), said
    finally:
        login.run("scancel --user alice --state PENDING; scancel --user alice --name later")
        node("c1").run(f"kill {process}")
    left = "squeue -h -u alice -t PENDING; squeue -h -u alice -n later"
    assert until(lambda: not login.check_output(left))
    status, said = play("playbooks/prune.yml", dask_environment_keep=2)
    assert set(login.check_output(f"ls {TOP}/releases").split()) == {before, newest}, said
