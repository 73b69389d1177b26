"""What old clusters left in a spool folder goes, and nothing else."""

import os
import time

import pytest

from dask_site.history.spool import SUFFIX, SpoolWriter
from dask_site.history.tidying import KEPT, tidy

DAY = 86400
NOW = time.time()


@pytest.fixture
def make(tmp_path):
    def make(name, age, size=10):
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW - age, NOW - age))
        return path

    return make


def tidied(folder, most_bytes=1000):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return tidy(descriptor, SUFFIX, most_bytes, NOW)
    finally:
        os.close(descriptor)


def test_old_files_go(tmp_path, make):
    make("a.0.spool", KEPT + 1)
    make("b.0.spool", KEPT - 60)
    make("notes.txt", 2 * KEPT)
    assert tidied(tmp_path) == ["a.0.spool"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.0.spool", "notes.txt"]


def test_a_full_folder_gives_away_its_oldest_after_a_day(tmp_path, make):
    make("a.0.spool", 3 * DAY, 300)
    make("b.0.spool", 2 * DAY, 300)
    make("c.0.spool", DAY / 2, 300)
    assert tidied(tmp_path) == ["a.0.spool", "b.0.spool"]
    make("d.0.spool", DAY / 2, 900)
    assert tidied(tmp_path) == []


def test_links_and_folders_stay(tmp_path, make):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "l.0.spool").symlink_to(elsewhere)
    os.utime(tmp_path / "l.0.spool", (0, 0), follow_symlinks=False)
    (tmp_path / "f.0.spool").mkdir()
    os.utime(tmp_path / "f.0.spool", (0, 0))
    assert tidied(tmp_path) == []


def test_a_new_cluster_tidies(tmp_path, make):
    tmp_path.chmod(0o700)
    old = make("a.0.spool", KEPT + 1)
    writer = SpoolWriter(tmp_path, "new")
    assert writer.write([{"k": "end", "t": 1.0, "how": "closed"}]) == [0]
    writer.close()
    assert not old.exists()
