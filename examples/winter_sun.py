"""The shortest day in the Rocky Mountains: where the sun reaches, which streams rise in the shade.

Three kinds of nodes, each for what it is good at:

cpu      tile by tile: read, convert, smooth, find how steep the ground is and where it faces
gpu      tile by tile, with its surroundings: follow the sun over the day, ridge by ridge
highmem  the whole terrain at once: where water runs, and the sunlight on all the ground above it

Usage: python winter_sun.py trinidad.nc winter_sun.png
"""

import re
import sys
from collections import Counter

import dask
import numpy as np
import terrain
import xarray as xr

from dask_site import Cluster, needs


def main(data, figure):
    cluster = Cluster()
    client = cluster.get_client()
    client.upload_file(terrain.__file__)

    feet = xr.open_dataset(data)["data"].sel(lon=slice(-105.6, None))  # no flat west
    metres = feet.chunk(lat=101, lon=161) * 0.3048
    tiles = {
        "boundary": "nearest",
        "trim": False,
        "chunks": metres.chunks,
        "meta": np.empty((0, 0), "f4"),
    }
    sunlight = needs(gpu=1)(terrain.sunlight)
    catchments = needs(pool="highmem")(terrain.catchments)

    height = metres.data.map_overlap(terrain.smooth, depth=4, **tiles).persist()
    steep = height.map_overlap(terrain.steepness, depth=1, **tiles).persist()
    faces = height.map_overlap(terrain.facing, depth=1, **tiles).persist()
    sun = height.map_overlap(sunlight, depth=terrain.HALO, **tiles).persist()
    streams = dask.delayed(catchments)(height, sun).persist()
    print(cluster.explain(), "\n")

    height, steep, faces, sun, (area, light) = dask.compute(height, steep, faces, sun, streams)
    height = metres.copy(data=height)
    rose = terrain.draw(height, steep, faces, sun, area, light, figure)

    peak = feet.where(feet == feet.max(), drop=True)
    where = f"{peak.lat.item():.3f}° N, {-peak.lon.item():.3f}° W"
    print(f"\nThe highest cell has {peak.item() * 0.3048:.0f} m, at {where}.")
    print("Mean direct sunlight on 21 December by slope and the direction that it faces, kWh/m²:")
    rose = rose.loc[[0, 90, 180, 270]].T.set_axis(["N", "E", "S", "W"], axis=1)
    print(rose.round(2).to_string())
    for job, log in cluster.logs("gpu").items():
        print(f"\n{job}: {dict(Counter(re.findall(r'tile on (GPU .*)', log)))} tiles")
    print(f"\n{cluster.jobs}\n\n{cluster.summary}\n\nFigure: {figure}")
    cluster.close()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["trinidad.nc", "winter_sun.png"]))
