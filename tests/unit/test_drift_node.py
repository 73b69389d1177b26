"""What systemd says of a service, against what its rollout left."""

import base64
import hashlib
import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from programs import load

ROOT = Path(__file__).parents[2]
node = load(ROOT / "playbooks" / "files" / "drift_node.py")
UNIT = "dask-history.service"


@pytest.fixture
def told():
    """Return what systemd says of a service that has read its unit some seconds ago."""

    def say(ago=100.0, clock_ahead=0.0, **more):
        then = datetime.fromtimestamp(time.time() - ago + clock_ahead, UTC)
        return {
            "LoadState": "loaded",
            "UnitFileState": "enabled",
            "ActiveState": "active",
            "SubState": "running",
            "FragmentPath": f"/etc/systemd/system/{UNIT}",
            "StateChangeTimestampMonotonic": str(int((time.monotonic() - ago) * 1e6)),
            "StateChangeTimestamp": f"{then:%a %Y-%m-%d %H:%M:%S} UTC",
            **more,
        }

    return say


@pytest.fixture
def written(tmp_path):
    """Return a unit that was written some seconds ago."""

    def write(ago):
        unit = tmp_path / UNIT
        unit.write_text("# Release 1.0-a, site description 0\n")
        os.utime(unit, (time.time() - ago, time.time() - ago))
        return unit

    return write


def test_what_was_read_is_no_difference(told, written):
    assert list(node.unread(written(ago=105), told(ago=100))) == []


def test_what_was_written_later_is(told, written):
    unit = written(ago=50)
    assert list(node.unread(unit, told(ago=100))) == [
        (unit, f"written after {UNIT} read it: it runs with what stood there before")
    ]


def test_what_a_unit_says_that_it_reads_is_looked_at_too(told, written, tmp_path):
    unit, secret = written(ago=105), tmp_path / "secret"
    unit.write_text(f"# Written by a role\n# Reads {secret}\n# Reads {tmp_path}/none\n[Unit]\n")
    os.utime(unit, (time.time() - 105,) * 2)
    secret.touch()
    os.utime(secret, (time.time() - 105,) * 2)
    assert list(node.unread(unit, told(ago=100))) == []
    os.utime(secret, (time.time() - 50,) * 2)
    assert [path for path, _ in node.unread(unit, told(ago=100))] == [secret]


def test_a_clock_that_was_set_is_no_difference(told, written):
    # An hour ahead when it was rolled out, right by now.
    assert list(node.unread(written(ago=105 - 3600), told(ago=100, clock_ahead=3600))) == []
    # An hour behind then.
    assert list(node.unread(written(ago=105 + 3600), told(ago=100, clock_ahead=-3600))) == []


def test_a_reload_that_failed_is_told(told, written):
    ((_, what),) = node.unread(written(ago=105), told(ago=100, ReloadResult="exit-code"))
    assert "its last reload ended with exit-code" in what


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"LoadState": "masked"}, "the unit is masked"),
        ({"UnitFileState": "disabled"}, "the unit is disabled and not enabled"),
        ({"ActiveState": "failed", "SubState": "failed"}, "failed (failed) and not running"),
        ({"NeedDaemonReload": "yes"}, "changed since systemd read it"),
        ({"FragmentPath": "/run/systemd/system/x"}, "another unit in the place of"),
    ],
)
def test_a_service_that_is_not_as_it_was_left(told, monkeypatch, more, what):
    def shown(*command):
        assert command[-2:] == ("show", UNIT)
        return "\n".join(f"{key}={value}" for key, value in told(**more).items())

    monkeypatch.setattr(node, "run", shown)
    assert any(what in said for _, said in node.service(UNIT, False, "1.0-a"))
    monkeypatch.setattr(node, "run", lambda *_: shown("show", UNIT).replace(*_undone(more)))
    assert not any(what in said for _, said in node.service(UNIT, False, "1.0-a")), "the control"


def _undone(more):
    (key, value), *_ = more.items()
    right = {
        "LoadState": "loaded",
        "UnitFileState": "enabled",
        "ActiveState": "active",
        "NeedDaemonReload": "no",
        "FragmentPath": f"/etc/systemd/system/{UNIT}",
    }
    return f"{key}={value}", f"{key}={right[key]}"


def test_a_service_of_another_release_than_users_have(written):
    unit = written(ago=10)
    assert list(node.releases_of(unit, "0", "1.0-a")) == []
    ((_, what),) = node.releases_of(unit, "0", "2.0-b")
    assert what == "of release 1.0-a, and users have 2.0-b"
    ((_, what),) = node.releases_of(unit, str(os.getpid()), "1.0-a")
    assert "is not what the unit starts" in what


# -- Spack's store -------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    """A store with one package, as Spack describes what it installed."""
    prefix = tmp_path / "store" / "linux-x86_64" / "py-thing-1.0-abc"
    (prefix / "lib").mkdir(parents=True)
    (prefix / "lib").chmod(0o755)
    file, link = prefix / "lib" / "thing.py", prefix / "lib" / "other.py"
    file.write_text("print()\n")
    link.symlink_to("thing.py")
    sha1 = base64.b32encode(hashlib.sha1(file.read_bytes()).digest()).decode()
    described = {
        str(prefix): {},
        str(prefix / "lib"): {},
        str(file): {"hash": sha1, "size": 8},
        str(link): {"dest": "thing.py"},
    }
    for name, value in described.items():
        status = os.lstat(name)
        value.update(mode=status.st_mode, owner=status.st_uid, group=status.st_gid)
    (prefix / ".spack").mkdir()
    (prefix / ".spack" / "install_manifest.json").write_text(json.dumps(described))
    installs = {
        "abc": {"path": str(prefix), "installed": True},
        "def": {"path": "/usr", "installed": True},
        "ghi": {"path": str(tmp_path / "store" / "gone"), "installed": False},
    }
    index = tmp_path / "store" / ".spack-db" / "index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"database": {"version": "8", "installs": installs}}))
    return prefix


def differing(prefix):
    return {str(path.relative_to(prefix)): what for path, what in node.stored(prefix.parents[1])}


def test_a_store_as_it_was_installed_is_no_difference(store):
    assert differing(store) == {}


@pytest.mark.parametrize(
    ("command", "path", "what"),
    [
        ("echo 1 >> lib/thing.py", "lib/thing.py", "edited: its content has another hash"),
        (
            "ln -sf /tmp/x lib/other.py",
            "lib/other.py",
            "a link to /tmp/x, and Spack installed a link to thi",
        ),
        (
            "ln -sf /tmp/x lib/thing.py",
            "lib/thing.py",
            "a link to /tmp/x, and Spack installed a file",
        ),
        (
            "rm lib/other.py; touch lib/other.py",
            "lib/other.py",
            "a file, and Spack installed a link to thing.py",
        ),
        ("rm lib/thing.py", "lib/thing.py", "missing: Spack installed it"),
        (
            "rm lib/thing.py; mkdir lib/thing.py",
            "lib/thing.py",
            "a folder, and Spack installed a f",
        ),
        ("chmod o+w lib", "lib", "mode 0757, and another when Spack installed it"),
        ("chown 4711 lib/thing.py", "lib/thing.py", "owned by 4711, and was not when Spack"),
        ("rm -r .spack", ".spack/install_manifest.json", "can't be read: "),
    ],
)
def test_what_differs_in_a_store_is_told(store, command, path, what):
    if "chown" in command and os.geteuid():
        pytest.skip("only root gives files away")
    subprocess.run(["sh", "-c", command], cwd=store, check=True)
    told = differing(store)
    assert list(told) == [path] and told[path].startswith(what), told


def test_what_a_build_cache_brought_from_elsewhere_has_other_content(store):
    file = store / ".spack" / "install_manifest.json"
    file.write_text(file.read_text().replace(str(store), "/elsewhere/py-thing"))
    (store / "lib" / "thing.py").write_text("# another folder\n")
    assert differing(store) == {}
    (store / "lib" / "thing.py").unlink()
    assert differing(store) == {"lib/thing.py": "missing: Spack installed it"}


def test_a_store_without_its_index_is_told(store):
    index = store.parents[1] / ".spack-db" / "index.json"
    index.write_text("[]")
    ((path, what),) = node.stored(store.parents[1])
    assert path == index and what.startswith("can't be read: ")
