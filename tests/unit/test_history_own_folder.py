"""Which folder a user's records go to, and are read from, where others may make folders too."""

import os

import dask.config
import pytest
from history_making import history
from history_spooling import spooled

from dask_site.history import spool
from dask_site.history.source import SpoolSource
from dask_site.history.spool import SpoolWriter, own_folder

END = [{"k": "end", "t": 1.0, "how": "closed"}]
OTHER = 4_000_001


@pytest.fixture
def named(tmp_path):
    return tmp_path / "me"


def beside(named, number):
    return named.with_name(f"{named.name}.{number}")


def squat(path):
    path.mkdir(mode=0o700)
    os.chown(path, OTHER, OTHER)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")


def test_the_named_folder_is_used_where_it_is_mine_or_not_there(named):
    assert own_folder(named) == named
    named.mkdir()
    assert own_folder(named) == named


def test_an_own_folder_comes_before_a_name_that_is_free_again(named):
    beside(named, 2).mkdir()
    assert own_folder(named) == beside(named, 2)


def test_links_and_files_of_any_owner_are_passed_over(named, tmp_path):
    (tmp_path / "real").mkdir()
    named.symlink_to(tmp_path / "real")
    beside(named, 1).write_text("")
    beside(named, 2).symlink_to(tmp_path / "nowhere")
    assert own_folder(named) == beside(named, 3)


@as_root
def test_where_another_was_first_the_records_go_beside_it(named, caplog):
    squat(named)
    squat(beside(named, 1))
    for cluster in ("c1", "c2"):
        writer = SpoolWriter(named, cluster)
        assert writer.write(END) == [0]
        assert writer.folder == beside(named, 2)
    assert not list(named.iterdir())
    assert caplog.text.count(str(beside(named, 2))) == 1
    assert f"{named} is a folder and belongs to user number {OTHER}" in caplog.text


@as_root
def test_where_all_names_are_taken_it_is_one_that_nobody_knows(named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for number in range(1, 10):
        squat(beside(named, number))
    squat(named)
    writer = SpoolWriter(named, "c1")
    assert writer.write(END) == [0]
    assert writer.folder not in {named, *(beside(named, n) for n in range(1, 10))}
    assert writer.folder == own_folder(named)
    kept = tmp_path / "home/.dask-site/spool-name"
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_text("../../elsewhere")
    assert own_folder(named).parent == named.parent
    kept.parent.rename(tmp_path / "away")
    kept.parent.write_text("no folder")
    assert own_folder(named) == named  # nothing can be kept there


@as_root
def test_who_is_faster_only_delays_the_records(named, monkeypatch):
    make = spool._make_folder

    def too_late(folder):
        if folder == named:
            squat(named)
        make(folder)

    monkeypatch.setattr(spool, "_make_folder", too_late)
    writer = SpoolWriter(named, "c1")
    assert writer.write(END) == []
    assert writer.write(END, at_once=True) == [0]
    assert writer.folder == beside(named, 1)


@as_root
def test_where_all_names_are_taken_and_none_can_be_kept_it_says_whose_the_first_is(
    named, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    squat(named)
    for number in range(1, 10):
        squat(beside(named, number))
    writer = SpoolWriter(named, "c1")
    assert writer.write(END) == []
    assert f"{named} belongs to user number {OTHER}" in str(writer.problem)


@as_root
def test_what_was_recorded_beside_is_found_there(named):
    squat(named)
    spooled(named, history(name="mine"), "3f2a0001")
    assert [path.name for path in beside(named, 1).iterdir()] == ["3f2a0001.0.spool"]
    with dask.config.set({"dask-site.history.spool": str(named)}):
        source = SpoolSource()
    assert source.folder == beside(named, 1)
    assert [cluster.name for cluster in source.clusters()] == ["mine"]
    assert SpoolSource(named).clusters() == []  # whoever names a folder means it
