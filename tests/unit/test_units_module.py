"""What the module that looks at units puts back, and what it takes for unread."""

import os
import time
from types import SimpleNamespace

import pytest
from playing import ROLES, ROOT, needs_ansible

from programs import load

pytestmark = needs_ansible
units = load(ROLES / "dask_site" / "library" / "dask_site_units.py")
drift = load(ROOT / "playbooks" / "files" / "drift_node.py")
HERE, BEFORE = "2.0-b", "1.0-a"


@pytest.fixture
def host(tmp_path):
    """Two files that describe services, as this release and the one before have them."""
    files = [tmp_path / "etc" / name for name in ("broker.service", "nginx.conf")]
    kept = tmp_path / "kept"
    (kept / BEFORE).mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    for file in files:
        file.write_text(f"{HERE} {file.name}")
        (kept / BEFORE / file.name).write_text(f"{BEFORE} {file.name}")
    return SimpleNamespace(files=files, kept=kept)


def asking(host, check_mode=False, **given):
    def fail_json(msg):
        raise SystemExit(msg)

    files = [str(file) for file in host.files]
    params = {"kept": str(host.kept), "leaves": HERE, "takes": BEFORE, "files": files, **given}
    return SimpleNamespace(params=params, check_mode=check_mode, fail_json=fail_json)


def texts(files):
    return [file.read_text() for file in files]


def test_what_describes_services_is_kept_and_replaced(host):
    assert units.put_back(asking(host)) == host.files
    assert texts(host.files) == [f"{BEFORE} {file.name}" for file in host.files]
    kept = [host.kept / HERE / file.name for file in host.files]
    assert texts(kept) == [f"{HERE} {file.name}" for file in host.files]
    assert {file.stat().st_mode & 0o777 for file in [*host.files, *kept]} == {0o644}
    assert len(list(host.kept.rglob("*"))) == 6, "and nothing half-written lies there"
    assert units.put_back(asking(host, leaves=BEFORE, takes=HERE)) == host.files
    assert texts(host.files) == [f"{HERE} {file.name}" for file in host.files]


def test_a_run_that_was_interrupted_does_not_lose_what_it_kept(host, monkeypatch):
    broker, nginx = host.files
    replaced = type(broker).replace

    def interrupted(path, target):
        replaced(path, target)
        if target == nginx:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(broker), "replace", interrupted)
        units.put_back(asking(host))
    assert texts(host.files) == [f"{HERE} broker.service", f"{BEFORE} nginx.conf"]
    units.put_back(asking(host))
    assert texts(host.files) == [f"{BEFORE} {file.name}" for file in host.files]
    assert (host.kept / HERE / "nginx.conf").read_text() == f"{HERE} nginx.conf"


def test_what_was_kept_longer_ago_is_kept_anew(host):
    """Also of a file that both releases have alike by now."""
    _, nginx = host.files
    (host.kept / HERE).mkdir()
    (host.kept / HERE / nginx.name).write_text("as it was when this release was left before")
    nginx.write_text("the same")
    (host.kept / BEFORE / nginx.name).write_text("the same")
    units.put_back(asking(host))
    assert (host.kept / HERE / nginx.name).read_text() == "the same"


def test_a_release_that_was_never_here_changes_nothing(host):
    with pytest.raises(SystemExit, match=r"3\.0-c has no broker\.service: .* nothing was changed"):
        units.put_back(asking(host, takes="3.0-c"))
    assert texts(host.files) == [f"{HERE} {file.name}" for file in host.files]
    assert not (host.kept / HERE).exists()


def test_in_check_mode_it_only_says_so(host):
    assert units.put_back(asking(host, check_mode=True)) == host.files
    assert texts(host.files) == [f"{HERE} {file.name}" for file in host.files]
    assert not (host.kept / HERE).exists()


@pytest.mark.parametrize(("later", "unread"), [(-1, False), (0, False), (0.9, False), (1.1, True)])
def test_what_was_written_after_a_service_began(tmp_path, later, unread):
    file, began = tmp_path / "x", time.time() - 60.25
    told = time.strftime("%a %Y-%m-%d %H:%M:%S UTC", time.gmtime(began))
    monotonic = str(int((time.monotonic() - 60.25) * 1e6))
    has = {"Since": told, "SinceMonotonic": monotonic}
    file.write_text("")
    os.utime(file, (began + later, began + later))
    given = [str(file), str(tmp_path / "none")]
    assert units.read_at(has, "Since") == pytest.approx(began, abs=0.05)
    assert units.written_after(given, units.read_at(has, "Since")) == [str(file)] * unread
    says = {"StateChangeTimestamp": told, "StateChangeTimestampMonotonic": monotonic}
    drifted = list(drift.unread(file, {"ActiveState": "active", **says}))
    assert bool(drifted) == unread, "a rollout mends what drift tells"
    never = units.read_at({"Since": "", "SinceMonotonic": "0"}, "Since")
    assert units.written_after(given, never) == []
