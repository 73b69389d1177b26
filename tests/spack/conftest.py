"""Tests with the real Spack: for who has a checkout of it, and of its packages.

DASK_SITE_SPACK and DASK_SITE_SPACK_PACKAGES name them, at the commits of spack/pins.yaml.
SPACK_PYTHON is a Python with clingo.
"""

import os
import shutil
from pathlib import Path

import pytest
from real_spack import NAMES, SPACK, Spack, lock


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
