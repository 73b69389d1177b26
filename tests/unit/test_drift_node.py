"""What systemd says of a service, against what its rollout left."""

import os
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
