"""Bundles: what goes into them, how they are unpacked, and addresses that lead out of a site."""

import hashlib
import json
import subprocess
import sys
import tarfile
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest

from programs import load

ROOT = Path(__file__).parents[2]


make = load(ROOT / "bundle" / "make.py")
outside = load(ROOT / "roles" / "dask_site" / "files" / "outside.py")


# -- what goes into them ------------------------------------------------------------------------


def test_targets():
    target = make.Target.of("3.11:36")
    assert (target.python, target.glibc, target.machine) == ("3.11", 36, "x86_64")
    names = {str(tag) for tag in target.tags()}
    assert {
        "cp311-cp311-manylinux_2_36_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp39-abi3-manylinux_2_28_x86_64",
        "py3-none-any",
    } <= names
    assert not [name for name in names if "manylinux_2_37" in name or name.startswith("cp312")]


@pytest.mark.parametrize("text", ["", "3.11", "3:36", "3.11:", "3.11:2.36", "x.y:36", "3.11.2:36"])
def test_what_is_no_target(text):
    with pytest.raises(ArgumentTypeError, match=r"write PYTHON:GLIBC, 3\.11:36"):
        make.Target.of(text)


@pytest.fixture
def locked(tmp_path):
    """A folder with wheels for several machines, and a lock of some of them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    names = [
        "a_b-1.0-py3-none-any.whl",
        "c-2.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "c-2.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        "c-2.0-cp311-cp311-manylinux_2_38_x86_64.whl",
        "d-3.0-cp38-abi3-manylinux_2_28_x86_64.whl",
        "e-4.0-py3-none-any.whl",
    ]
    lines = []
    for name in names:
        (folder / name).write_text(name)
        parts = name.split("-")
        pin = f"{parts[0].replace('_', '-')}=={parts[1]}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        lines.append(f"{pin} \\\n    --hash=sha256:{digest}\n")
    lock = tmp_path / "lock.txt"
    lock.write_text("".join(lines[:5]))
    return folder, lock


def test_wheels_are_those_of_the_lock_that_run_on_the_target(locked):
    folder, lock = locked
    found = {wheel.name for wheel in make.wheels(folder, lock, make.Target("3.11", 36))}
    assert found == {
        "a_b-1.0-py3-none-any.whl",
        "c-2.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d-3.0-cp38-abi3-manylinux_2_28_x86_64.whl",
    }
    newer = {wheel.name for wheel in make.wheels(folder, lock, make.Target("3.13", 41))}
    assert newer - found == {"c-2.0-cp313-cp313-manylinux_2_28_x86_64.whl"}


def test_a_wheel_that_is_missing_is_named(locked):
    folder, lock = locked
    with pytest.raises(make.BundleError, match=r"no wheel for Python 3\.12 of c==2\.0$"):
        make.wheels(folder, lock, make.Target("3.12", 36))
    (folder / "a_b-1.0-py3-none-any.whl").write_text("something else")
    with pytest.raises(make.BundleError, match=r"no wheel for Python 3\.11 of a-b==1\.0$"):
        make.wheels(folder, lock, make.Target("3.11", 36))


def test_the_same_files_make_the_same_tar(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "text").write_text("text")
    (folder / "program").write_text("program")
    (folder / "program").chmod(0o700)
    (folder / "link").symlink_to("inner/text")
    (folder / "twin").hardlink_to(folder / "program")

    def written(name):
        tar = make.Tar(tmp_path / name, "top/")
        tar.add("here", folder)
        tar.text("said", "said")
        return tar.end().read_bytes(), tar.sums

    first = written("1.tar")
    (folder / "inner" / "text").touch()
    (folder / "inner" / "text").chmod(0o600)
    assert written("2.tar") == first
    with tarfile.open(tmp_path / "1.tar") as tar:
        modes = {entry.name: (entry.mode, entry.uid, entry.linkname) for entry in tar}
        assert tar.extractfile("top/here/twin").read() == b"program"
    assert modes == {
        "top/here/inner/text": (0o644, 0, ""),
        "top/here/link": (0o755, 0, "inner/text"),
        "top/here/program": (0o755, 0, ""),
        "top/here/twin": (0o755, 0, ""),
        "top/said": (0o644, 0, ""),
    }
    assert first[1]["said"] == hashlib.sha256(b"said").hexdigest()
    assert "here/link" not in first[1]


def given(**paths):
    empty = dict.fromkeys(make.SPACK)
    return Namespace(**{**empty, "spack_key": [], **paths})


def test_what_spack_needs_has_to_be_there(tmp_path):
    (tmp_path / "file").write_text("")
    assert make.spack_parts(given()) == {}
    both = {"spack": tmp_path / "file", "spack_packages": tmp_path / "file"}
    parts = make.spack_parts(given(**both, spack_cache=tmp_path))
    assert set(parts) == {"spack.tar.gz", "packages.tar.gz", "cache"}
    for wrong, told in (
        ({"spack": tmp_path}, "--spack: .* is no file"),
        ({**both, "spack_cache": tmp_path / "file"}, "--spack-cache: .* is no folder"),
        ({**both, "spack_key": [tmp_path / "none"]}, "--spack-key: .*none is no file"),
        ({"spack_cache": tmp_path}, "Spack takes both, --spack and --spack-packages"),
    ):
        with pytest.raises(make.BundleError, match=told):
            make.spack_parts(given(**wrong))


def test_the_lock_of_the_control_machine_is_a_part_of_that_of_development():
    entries = make.wheelhouse.entries
    control = {pin: set(hashes) for pin, _, hashes in entries(make.CONTROL.read_text())}
    dev = (ROOT / "requirements" / "dev.txt").read_text()
    known = {pin: set(hashes) for pin, _, hashes in entries(dev)}
    assert control.items() <= known.items()
    names = {pin.split("==")[0] for pin in control}
    assert {"ansible", "ansible-core", "hatchling", "editables", "pydantic"} <= names


# -- how they are unpacked ----------------------------------------------------------------------


@pytest.fixture
def unpacked(tmp_path):
    """What a bundle looks like up to the point where `install` makes an environment."""
    (tmp_path / "control").mkdir()
    (tmp_path / "install").write_bytes((ROOT / "bundle" / "install").read_bytes())
    (tmp_path / "install").chmod(0o755)
    (tmp_path / "bundle.json").write_text(json.dumps({"targets": [{"python": "2.7"}]}, indent=1))
    names = ("install", "bundle.json")
    sums = (hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names)
    lines = (f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    return tmp_path


def install(folder, *arguments):
    return subprocess.run([folder / "install", *arguments], capture_output=True, text=True, cwd="/")


def test_a_damaged_bundle_installs_nothing(unpacked):
    with (unpacked / "bundle.json").open("a") as file:
        file.write(" ")
    done = install(unpacked)
    assert done.returncode == 1
    assert "bundle.json: FAILED" in done.stderr
    assert "install: this bundle is damaged, or was changed: unpack it again" in done.stderr
    (unpacked / "bundle.json").unlink()
    assert install(unpacked).returncode == 1
    assert not (unpacked / "checkout").exists()


def test_a_python_that_has_no_wheels_is_refused_with_those_that_have(unpacked):
    done = install(unpacked, sys.executable)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1
    assert f"is Python {version}, and the bundle has wheels for 2.7 only" in done.stderr
    done = install(unpacked, "/nowhere/python3")
    assert done.returncode == 1
    assert "/nowhere/python3 does not run here; name a Python" in done.stderr


def test_what_install_says_of_itself(unpacked):
    done = install(unpacked, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ./install [PYTHON]")
    assert install(unpacked, "--frobnicate").returncode == 2


# -- what leads out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/spack/spack.git",
        "git@github.com:spack/spack.git",
        "HTTPS://example.org/",
        "ssh://git@example.org:22/x",
        "http://8.8.8.8/",
        "http://[2606:4700::1111]/",
        "http://[broken",
        "s3://bucket/cache",
        "oci://ghcr.io/site/cache",
        "postgresql+psycopg://user@db.elsewhere.net/history",
        "http://example.org.evil.net/",
        "http://notexample.org/",
        "http://user@mirror.site.test@evil.net/",
    ],
)
def test_what_leads_out_of_the_site(text):
    assert outside.leads_out(text, [".site.test", "example.com"])


@pytest.mark.parametrize(
    "text",
    [
        "/srv/spack.tar.gz",
        "file:///srv/cache",
        "https://mirror/cache",
        "http://localhost:8080/",
        "http://10.1.2.3/",
        "http://[fd00::1]/",
        "http://mirror.site.test/",
        "https://EXAMPLE.com./x",
        "git@mirror.site.test:spack.git",
        "git@gitlab:spack.git",
        "s3://cache.site.test/spack",
        "postgresql+psycopg://history@db/history",
        "postgresql:///history?host=/run/postgresql",
        "4h",
        "cpu: https",
        "me@example.org",
        "",
    ],
)
def test_what_stays_within_it(text):
    assert not outside.leads_out(text, [".site.test", "example.com"])


def test_each_address_is_told_with_its_name():
    values = {
        "dask_site": {"dashboards": {"oidc": {"issuer": "https://id.example.org"}}, "schema": 1},
        "mirrors": {"a": "https://mirror/", "b": "https://mirror.spack.io/"},
        "several": ["/srv", "s3://x"],
    }
    done = subprocess.run(
        [sys.executable, outside.__file__],
        input=json.dumps({"values": values, "local": []}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "dask_site.dashboards.oidc.issuer: https://id.example.org",
        "mirrors.b: https://mirror.spack.io/",
        "several[1]: s3://x",
    ]
