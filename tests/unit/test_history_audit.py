"""The audit log: it does not grow for ever, and no note gets lost on the way."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dask_site.services.access import Viewer
from dask_site.services.audit import AuditLog

ADMIN = Viewer("root", 0, admin=True)


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "login1.example.org")
    return AuditLog(tmp_path, largest=1000, kept=3)


def noted(folder):
    """Return the numbers that were noted, the oldest file first."""
    files = [*sorted(folder.glob("login1-2*T*.jsonl")), folder / "login1.jsonl"]
    return [json.loads(line)["n"] for file in files for line in file.read_text().splitlines()]


def test_full_files_go_beside_and_the_oldest_of_them_go(log, tmp_path):
    others = ["login1-gpu.jsonl", "login1-gpu-20200101T000000000000.jsonl", "login2.jsonl"]
    for name in (*others, "login1-2020-01.jsonl", "login1-2020-02.jsonl"):
        (tmp_path / name).write_text("x\n")
    before = os.umask(0)
    try:
        for n in range(100):
            log.note(ADMIN, "look", n=n)
    finally:
        os.umask(before)
    own = [path for path in tmp_path.iterdir() if path.name not in others]
    assert len(own) == 4 and all((tmp_path / name).exists() for name in others)
    assert {stat.S_IMODE(path.stat().st_mode) for path in own} == {0o600}
    assert all(path.stat().st_size < 1200 for path in own)
    numbers = noted(tmp_path)
    assert numbers == list(range(numbers[0], 100)) and len(numbers) > 20


def test_no_note_is_lost_where_several_write(tmp_path, log):
    logs = [AuditLog(tmp_path, largest=1000, kept=1000) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: logs[n % 2].note(ADMIN, "look", n=n), range(400)))
    assert sorted(noted(tmp_path)) == list(range(400))


def test_a_note_matters_more_than_the_size(log, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(13, "not now")

    for n in range(5):
        log.note(ADMIN, "look", n=n)
    log._largest = 100
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        log.note(ADMIN, "look", n=5)
    assert noted(tmp_path) == list(range(6))
    assert "can't be put aside" in caplog.text
    log.note(ADMIN, "look", n=6)
    assert noted(tmp_path) == list(range(7))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_in_its_place_is_refused(log, tmp_path):
    target = tmp_path / "target"
    target.write_text("x" * 5000)
    (tmp_path / "login1.jsonl").symlink_to(target)
    with pytest.raises(OSError):
        log.note(ADMIN, "look", n=1)
    assert target.read_text() == "x" * 5000
    assert (tmp_path / "login1.jsonl").is_symlink()
