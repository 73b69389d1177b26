"""What the locks, the recipes and the role say of Spack, held against Spack itself.

For who has a checkout of it, and of its packages: DASK_SITE_SPACK and DASK_SITE_SPACK_PACKAGES
name them, at the commits of spack/pins.yaml. SPACK_PYTHON is a Python with clingo.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_spack import NAMES, SPACK, Spack, lock

if missing := [name for name in NAMES if not os.environ.get(name)]:
    pytest.skip(
        f"{' and '.join(missing)} name no checkout: Spack is not asked", allow_module_level=True
    )

ENVIRONMENTS = sorted(path.parent.name for path in SPACK.glob("environments/*/spack.yaml"))
FILES = SPACK.parent / "roles" / "dask_environment" / "files"
pytestmark = pytest.mark.timeout(3600)

EMPTY = """
from spack_repo.builtin.build_systems.generic import Package
from spack.package import *


class Trifle(Package):
    \"\"\"A package of one file.\"\"\"

    homepage = "https://example.org"
    has_code = False
    version("1.0")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open(join_path(prefix.bin, "trifle"), "w") as file:
            file.write("one file\\n")
"""
BROKEN = EMPTY.replace("mkdirp(prefix.bin)", "which('sh')('-c', 'echo trifle.c:1: no; exit 3')")


@pytest.fixture(scope="session")
def checkouts():
    spack, packages = (Path(os.environ[name]).resolve() for name in NAMES)
    lock.check_pins(SPACK, {"spack": spack, "packages": packages})
    return spack, packages


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """What Spack remembers of all recipes, which takes it a minute to gather."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def new_spack(checkouts, cache, tmp_path_factory):
    """Make one more Spack."""
    return lambda: Spack(tmp_path_factory.mktemp("s"), cache, *checkouts)


@pytest.fixture
def copy(tmp_path):
    """The folder `spack`, to be written to."""
    path = tmp_path / "copy"
    return shutil.copytree(SPACK, path, ignore=shutil.ignore_patterns(".spack-env", "__pycache__"))


def recipes(folder, text):
    """Make a repository with the one recipe of Trifle."""
    path = folder / "spack_repo" / "trifles"
    (path / "packages" / "trifle").mkdir(parents=True)
    (path / "repo.yaml").write_text("repo: {namespace: trifles, api: v2.0}\n")
    (path / "packages" / "trifle" / "package.py").write_text(text)
    return path


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_lock_is_what_spack_makes_of_the_files(environment, copy, checkouts, cache, tmp_path):
    spack, packages = checkouts
    before = json.loads((SPACK / "environments" / environment / "spack.lock").read_text())
    variables = {**lock.settings(tmp_path, packages), "SPACK_USER_CACHE_PATH": str(cache)}
    made = json.loads(lock.concretize(environment, spack, copy, variables).read_text())
    assert made["concrete_specs"] == before["concrete_specs"]
    # in which order Spack writes them changes from run to run
    assert sorted(made["roots"], key=str) == sorted(before["roots"], key=str)


def test_spack_finds_no_fault_with_the_recipes(new_spack):
    names = [path.name.replace("_", "-") for path in SPACK.glob("spack_repo/*/packages/*")]
    assert "py-dask-site" in names
    new_spack()("audit", "packages", *names)


def test_the_recipe_of_dask_site_takes_its_sources_from_the_checkout(new_spack, tmp_path):
    """Of a clone, whose branch is called as the recipe says."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", SPACK.parent, clone], check=True)
    subprocess.run(["git", "-C", clone, "checkout", "-q", "-B", "main"], check=True)
    spack = new_spack()
    repositories = clone / "spack" / "spack_repo"
    spack.use(repositories / "dask_site", repositories / "dask_site_wheels")
    stage = tmp_path / "stage"
    spack("stage", "--path", stage, "py-dask-site@main")
    (project,) = Path(stage).rglob("src/dask_site/__init__.py")
    assert project.read_bytes() == (SPACK.parent / "src/dask_site/__init__.py").read_bytes()


def test_a_build_cache_is_taken_once_its_key_is_trusted(new_spack, tmp_path):
    cache, key = tmp_path / "cache", tmp_path / "site.pub"
    one, other = new_spack(), new_spack()
    repository = recipes(tmp_path, EMPTY)
    one.use(repository)
    other.use(repository)
    one("gpg", "create", "--export", key, "A Site", "admins@example.org")
    one("install", "trifle")
    one("mirror", "add", "--scope=system", "site", cache.as_uri())
    one("buildcache", "push", "--update-index", "site", "trifle")
    other("mirror", "add", "--scope=system", "site", cache.as_uri())
    other("install", "--cache-only", "trifle", fails=True)
    assert not list(other.store.rglob("trifle"))
    other("gpg", "trust", key)
    other("install", "--cache-only", "trifle")
    (file,) = other.store.rglob("bin/trifle")
    assert file.read_text() == "one file\n"


def test_what_fails_is_told_with_its_package_and_its_log(new_spack, tmp_path):
    spack = new_spack()
    spack.use(recipes(tmp_path, BROKEN))
    log = tmp_path / "build.log"
    done = subprocess.run(
        [sys.executable, FILES / "spack_build.py", log, spack.program, "install", "trifle"],
        env=spack.variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode
    said = done.stderr.splitlines()
    assert said[0] == "Spack could not install trifle."
    assert "    trifle.c:1: no" in said
    assert said[-1].endswith(str(log)) and "trifle" in log.read_text()
