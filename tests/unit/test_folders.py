"""Folders that a rollout takes for services, and an uninstall removes: never those of others."""

import os
import pwd
import shutil

import pytest
import yaml
from playing import ROLES, a_play_of, needs_ansible, run_playbook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders to others"),
    needs_ansible,
]
ME, OTHER = (pwd.getpwnam(name) for name in ("daemon", "nobody"))


@pytest.fixture
def tasks(tmp_path):
    """Run a file of a role's tasks for a site below a folder; return status and output."""

    def run(role, name):
        shared = tmp_path / "shared"
        site = {
            "history": {"state": f"{shared}/history", "spool": f"{shared}/spool/$USER"},
            "dashboards": {"state": f"{shared}/dashboards"},
        }
        known = {
            "dask_site": site,
            "dask_site_root": "/opt/x",
            "_dask_site_kept": str(tmp_path / "kept"),
            "_dask_dashboards_made_here": {},
        }
        for of in ("history", "dashboards"):
            known |= {f"dask_{of}_user": ME.pw_name, f"dask_{of}_uid": ME.pw_uid}
        known |= {"dask_dashboards_proxy_user": ME.pw_name, "dask_environment_uninstall_data": True}
        values = [str(ROLES / role / "vars/main.yml")]
        play = a_play_of(role, name, vars_files=values, vars=known)
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        return run_playbook(tmp_path, "-i", "localhost,", "play.yml")

    return run


def folder(path, owner, mode, *inside):
    path.mkdir(parents=True)
    for name in inside:
        (path / name).mkdir()
    os.chown(path, owner.pw_uid, owner.pw_gid)
    path.chmod(mode)
    return path


def looks(path):
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


ALL = [
    ("dask_history", "folders.yml", "history"),
    ("dask_history", "folders.yml", "spool"),
    ("dask_dashboards", "state.yml", "dashboards"),
]


@pytest.mark.parametrize(("role", "name", "which"), ALL)
def test_a_folder_with_something_of_others_is_refused(tasks, tmp_path, role, name, which):
    taken = folder(tmp_path / "shared" / which, OTHER, 0o750, "theirs")
    before = looks(taken)
    status, said = tasks(role, name)
    assert status != 0, said
    assert f"{taken} has {taken}/theirs in it and is not of" in said
    assert looks(taken) == before
    shutil.rmtree(taken / "theirs")
    status, said = tasks(role, name)
    assert status == 0, said


def test_the_services_own_folders_are_theirs(tasks, tmp_path):
    folder(tmp_path / "shared" / "dashboards", ME, 0o755, "theirs")
    status, said = tasks("dask_dashboards", "state.yml")
    assert status == 0, said
    state = folder(tmp_path / "shared" / "history", ME, 0o777, "theirs")
    status, said = tasks("dask_history", "folders.yml")
    assert status == 0, said
    assert looks(state) == (ME.pw_uid, ME.pw_gid, 0o755)


DATA = [("dask_history", "history"), ("dask_dashboards", "dashboards")]


@pytest.mark.parametrize(("role", "which"), DATA)
def test_data_goes_where_it_is_as_the_rollout_left_it(tasks, tmp_path, role, which):
    data = folder(tmp_path / "shared" / which, OTHER, 0o755, "inside")
    status, said = tasks(role, "uninstall_data.yml")
    assert status == 0 and data.exists() and f"{data}: has not the owner" in said, said
    os.chown(data, ME.pw_uid, ME.pw_gid)
    status, said = tasks(role, "uninstall_data.yml")
    assert status == 0 and not data.exists() and "has not the owner" not in said, said


def test_of_what_is_kept_only_what_the_rollout_put_there_goes(tasks, tmp_path):
    kept = tmp_path / "kept"
    for name in ("1.0-a/dask-history.service", "2.0-b/dask-dashboards.service", "tls/history.pem"):
        (kept / name).parent.mkdir(parents=True)
        (kept / name).write_text("")
    for name in ("made", "accepted", "history.key"):
        (kept / name).write_text("")
    status, said = tasks("dask_environment", "uninstall_kept.yml")
    assert status == 0, said
    assert sorted(path.name for path in kept.iterdir()) == ["history.key", "tls"]
    assert f"{kept}/history.key {kept}/tls: not of the rollout, and left" in said
