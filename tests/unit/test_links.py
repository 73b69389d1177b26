"""What users load, moved from one release to another."""

import os
from pathlib import Path

import pytest

from programs import load

ROOT = Path(__file__).parents[2]
links = load(ROOT / "roles" / "dask_environment" / "files" / "links.py")


@pytest.fixture
def site(tmp_path):
    """Two releases, and where their links go."""
    for name in ("1.0-a", "2.0-b"):
        folder = tmp_path / "site" / "releases" / name / "modulefiles" / "dask-site"
        folder.mkdir(parents=True)
        (folder / f"{name}.lua").write_text(name)
    return tmp_path / "site", tmp_path / "tree" / "of modules" / "dask-site"


def linked(site, release, *, check=False):
    links.main(*site, release, check)
    root, modules = site
    found = [root / "current", root / "previous", modules / "default"]
    return [str(link.readlink()) if link.is_symlink() else None for link in found]


def test_each_release_comes_in_the_place_of_the_one_before(site, capsys):
    _, modules = site
    assert linked(site, "1.0-a") == ["releases/1.0-a", None, "1.0-a.lua"]
    assert linked(site, "2.0-b") == ["releases/2.0-b", "releases/1.0-a", "2.0-b.lua"]
    assert (modules / "default").read_text() == "2.0-b"
    assert (modules / "1.0-a.lua").read_text() == "1.0-a", "who asks for it still gets it"
    capsys.readouterr()
    linked(site, "2.0-b")
    assert capsys.readouterr().out == ""
    assert linked(site, "1.0-a") == ["releases/1.0-a", "releases/2.0-b", "1.0-a.lua"]
    assert not [path for folder in site for path in folder.glob(".*")]


def test_a_look_changes_nothing(site, capsys):
    linked(site, "1.0-a")
    capsys.readouterr()
    assert linked(site, "2.0-b", check=True) == ["releases/1.0-a", None, "1.0-a.lua"]
    assert capsys.readouterr().out.count("\n") == 4


def test_a_fresh_host_has_none_of_it(site, capsys):
    assert linked(site, "1.0-a", check=True) == [None, None, None]
    assert f"{site[0] / 'current'} -> releases/1.0-a" in capsys.readouterr().out


def test_what_is_no_link_is_never_replaced(site):
    (site[0] / "current").mkdir()
    with pytest.raises(OSError, match="is no link: move it away"):
        links.main(*site, "1.0-a", check=False)
    assert list(site[0].iterdir()) and not site[1].exists()


def test_what_an_interrupted_run_left_is_no_obstacle(site):
    linked(site, "1.0-a")
    (site[0] / ".current.new").symlink_to("nowhere")
    assert linked(site, "2.0-b")[0] == "releases/2.0-b"


def test_a_strict_umask_shuts_nobody_out(site):
    before = os.umask(0o077)
    try:
        linked(site, "1.0-a")
    finally:
        os.umask(before)
    assert {folder.stat().st_mode & 0o777 for folder in (site[1], site[1].parent)} == {0o755}


def test_a_folder_that_others_may_write_to_is_told_and_mended(site, capsys):
    linked(site, "1.0-a")
    site[1].chmod(0o777)
    capsys.readouterr()
    linked(site, "1.0-a", check=True)
    assert capsys.readouterr().out == f"{site[1]}: mode 0755\n"
    assert site[1].stat().st_mode & 0o777 == 0o777
    linked(site, "1.0-a")
    assert site[1].stat().st_mode & 0o777 == 0o755
