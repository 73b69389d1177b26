"""The examples run, with real data, and do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from machine import SITE

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def elevation():
    """Return the data of the demo, from where the demo keeps it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("DASK_SITE_CACHE") or Path(home) / "dask-site") / "data"
    subprocess.run([EXAMPLES / "fetch-data", cache], check=True)
    return cache / "trinidad.nc"


@pytest.fixture
def corner(elevation, tmp_path):
    """Return a part of the data around Blanca Peak, small enough for a test."""
    import xarray as xr

    with xr.open_dataset(elevation) as data:
        part = data[["data"]].sel(lon=slice(-105.6, -105.3), lat=slice(37.45, 37.7))
        part.to_netcdf(tmp_path / "corner.nc")
    return tmp_path / "corner.nc"


@pytest.fixture
def terrain(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import terrain

    return terrain


@pytest.mark.slow
def test_winter_sun_uses_each_pool_for_its_part(corner, tmp_path):
    site = tmp_path / "site.yaml"
    pools = {**SITE["pools"], "highmem": {**SITE["pools"]["highmem"], "exclusive": True}}
    described = {**SITE, "pools": pools, "state_dir": str(tmp_path)}
    site.write_text(yaml.safe_dump({"dask_site": described}))
    figure = tmp_path / "figure.png"
    run = subprocess.run(
        [sys.executable, EXAMPLES / "winter_sun.py", corner, figure],
        env={**os.environ, "DASK_CONFIG": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "The highest cell has 4321 m, at 37.577° N, 105.486° W." in run.stdout

    summary = run.stdout[run.stdout.index("core-h") :]
    mostly = dict(re.findall(r"^(\w+) .* s  (\S+) \(", summary, re.MULTILINE))
    assert mostly["highmem"] == "catchments"
    assert mostly["gpu"].endswith("sunlight")
    assert "cpu" in mostly
    assert not {"catchments", "sunlight"} & set(mostly["cpu"].split("-"))
    tiles = [int(n) for n in re.findall(r"'GPU \d': (\d+)", run.stdout)]
    # Tiles this small may all end up with one of the two workers.
    assert sum(tiles) == 3 * 3

    png = figure.read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 100_000


def test_sunlight_on_a_plain_is_what_the_formula_says(terrain):
    plain = np.full((140, 160), 2000, "f4")
    light = terrain.sunlight(plain)
    sine = np.sin(terrain.LATITUDE) * np.sin(terrain.DECLINATION) + np.cos(
        terrain.LATITUDE
    ) * np.cos(terrain.DECLINATION) * np.cos(np.radians(np.arange(-180, 180, 0.1)))
    sine = sine[sine > 0.01]
    expected = (1.406 * 0.7 ** (sine**-0.678) * sine).sum() * 0.1 / 15
    assert light.shape == (140 - 2 * terrain.HALO[0], 160 - 2 * terrain.HALO[1])
    assert light == pytest.approx(expected, rel=0.02)


def test_a_wall_in_the_south_takes_the_sun_away(terrain):
    ground = np.zeros((140, 160), "f4")
    ground[:62] = 5000  # rows go north
    assert terrain.sunlight(ground)[-1].max() < 0.2 * terrain.sunlight(0 * ground)[-1].max()


def test_all_ground_drains_over_the_edge_and_valleys_gather_it(terrain):
    rows, columns = np.mgrid[:40, :41]
    valley = (np.abs(columns - 20) + 0.1 * rows).astype("f4")  # runs down to row 0
    area, light = terrain.catchments(valley, np.ones_like(valley))
    cell = terrain.NORTH * terrain.EAST / 1e6
    assert area[0, 20] == area.max()
    assert area[0, 20] > 0.5 * valley.size * cell
    edge = np.concatenate([area[0], area[-1], area[1:-1, 0], area[1:-1, -1]])
    assert edge.sum() >= valley.size * cell * 0.999
    assert light == pytest.approx(1)
