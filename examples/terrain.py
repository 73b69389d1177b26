"""What winter_sun.py computes, on plain NumPy arrays: slope, sunlight, streams, a figure."""

import math
import os

import matplotlib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

LATITUDE, DECLINATION = math.radians(37.5), math.radians(-23.44)
NORTH, EAST = 92.5, 73.6  # metres from one row, and one column, to the next
REACH = 5000  # metres: how far away a ridge can throw its shadow
HALO = (int(REACH / NORTH) + 1, int(REACH / EAST) + 1)  # that, in cells


def smooth(height):
    """Without the steps of whole metres in the data; for a tile with 4 cells around it."""
    return gaussian_filter(height, sigma=1)[4:-4, 4:-4]


def steepness(height):
    """How steep the ground is, in degrees; for a tile with 1 cell around it."""
    to_north, to_east = np.gradient(height, NORTH, EAST)
    return np.degrees(np.arctan(np.hypot(to_north, to_east)))[1:-1, 1:-1]


def facing(height):
    """Where the ground faces, in degrees clockwise from north; for a tile with 1 cell around it."""
    to_north, to_east = np.gradient(height, NORTH, EAST)
    return (np.degrees(np.arctan2(-to_east, -to_north)) % 360)[1:-1, 1:-1]


def sunlight(height, step=0.5):
    """Direct sunlight under a clear sky on 21 December, in kWh per m2 of ground.

    For a tile with HALO cells around it. NumPy stands in for what a GPU would do with CuPy.
    """
    print(f"tile on GPU {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}", flush=True)
    to_north, to_east = np.gradient(height, NORTH, EAST)
    total = np.zeros_like(height)
    for hour in np.arange(-12 + step / 2, 12, step):
        turn = math.radians(15 * hour)
        east = -math.cos(DECLINATION) * math.sin(turn)
        north = math.cos(LATITUDE) * math.sin(DECLINATION)
        north -= math.sin(LATITUDE) * math.cos(DECLINATION) * math.cos(turn)
        up = math.sin(LATITUDE) * math.sin(DECLINATION)
        up += math.cos(LATITUDE) * math.cos(DECLINATION) * math.cos(turn)
        if up < 0.01:
            continue  # night
        flat = math.hypot(east, north)
        lit = np.ones(height.shape, bool)
        for far in np.geomspace(100, REACH, 12).tolist():
            shift = -round(far * north / flat / NORTH), -round(far * east / flat / EAST)
            lit &= np.roll(height, shift, (0, 1)) < height + far * up / flat
        towards = (up - east * to_east - north * to_north) / np.sqrt(1 + to_east**2 + to_north**2)
        total += 1.406 * 0.7 ** (up**-0.678) * float(step) * lit * towards.clip(0)
    return total[HALO[0] : -HALO[0], HALO[1] : -HALO[1]]


def catchments(height, sun):
    """The area above every cell in km2, and its mean sunlight.

    Water leaves along the minimum spanning tree of the terrain, rooted at the edge of the map:
    the way with the lowest passes, so that no hollow needs to be filled.
    """
    cells, z = np.arange(height.size, dtype="i4").reshape(height.shape), height.ravel()
    sides = [(cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:])]
    corners = [(cells[:-1, :-1], cells[1:, 1:]), (cells[:-1, 1:], cells[1:, :-1])]
    rim = np.unique(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]))
    a, b = (np.concatenate([pair[i].ravel() for pair in sides + corners]) for i in (0, 1))
    weight = np.maximum(z[a], z[b]) - 0.1 * np.abs(z[a] - z[b])  # the steeper way first
    a, b, weight = np.r_[a, rim], np.r_[b, np.full_like(rim, z.size)], np.r_[weight, z[rim]]
    weight += 1 - weight.min()  # a weight of zero would be no edge
    graph = coo_array((weight, (a, b)), shape=(z.size + 1, z.size + 1))
    tree = minimum_spanning_tree(graph.tocsr())
    order, below = breadth_first_order(tree, z.size, directed=False)
    area, light = np.ones(z.size + 1).tolist(), [*sun.ravel().tolist(), 0.0]
    for cell, next_one in zip(order[:0:-1].tolist(), below[order[:0:-1]].tolist(), strict=True):
        area[next_one] += area[cell]
        light[next_one] += light[cell]
    area, light = np.array(area[:-1]), np.array(light[:-1])
    return [x.reshape(height.shape) for x in (area * NORTH * EAST / 1e6, light / area)]


def draw(height, steep, faces, sun, area, light, file):
    """Two maps and a compass; returns the table behind the compass."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LightSource
    from matplotlib.patheffects import withStroke

    plt.rcParams.update({"font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left"})
    figure = plt.figure(figsize=(16, 6.6), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 0.95))
    maps = [figure.add_subplot(grid[0]), figure.add_subplot(grid[1])]
    compass = figure.add_subplot(grid[2], projection="polar")
    lon, lat = height.lon.values, height.lat.values
    place = {"extent": (lon[0], lon[-1], lat[0], lat[-1]), "origin": "lower"}
    peak = np.unravel_index(height.values.argmax(), height.shape)
    unit = "kWh per m² and day"

    image = maps[0].imshow(sun, cmap="cividis", vmin=0, vmax=4.5, **place)
    figure.colorbar(image, ax=maps[0], shrink=0.85, aspect=30, extend="max", label=unit)
    maps[0].set_title("a  Direct sunlight on 21 December, clear sky")

    relief = LightSource(315, 45).hillshade(height.values[::-1], 2, EAST, NORTH)[::-1]
    maps[1].imshow(relief, cmap="gray", vmin=-0.6, vmax=1.1, **place)
    row, column = np.nonzero(area > 4)
    small_first = np.argsort(area[row, column])
    row, column = row[small_first], column[small_first]
    size, colour = area[row, column] ** 0.5 / 2.5, light[row, column]
    look = {"cmap": "plasma", "vmin": 1.6, "vmax": 2.3, "linewidths": 0}
    image = maps[1].scatter(lon[column], lat[row], s=size, c=colour, **look)
    figure.colorbar(image, ax=maps[1], shrink=0.85, aspect=30, extend="both", label=unit)
    maps[1].set_title("b  Streams, by sunlight on the ground above them")

    for axis in maps:
        axis.plot(lon[peak[1]], lat[peak[0]], "^", ms=10, mfc="w", mec="k")
        note = {"xytext": (8, 8), "textcoords": "offset points", "weight": "bold"}
        text = axis.annotate("Blanca Peak", (lon[peak[1]], lat[peak[0]]), **note)
        text.set_path_effects([withStroke(linewidth=3, foreground="w")])
        axis.set(xlabel="longitude / °", ylabel="latitude / °", aspect=NORTH / EAST)
        axis.set(xlim=(lon[0], min(lon[-1], -104.6)), ylim=(lat[0], lat[-1]))

    steep = pd.cut(steep.ravel(), [5, 15, 25, 35], labels=["5 to 15°", "15 to 25°", "25 to 35°"])
    faces = (faces.ravel() / 10).round() % 36 * 10
    rose = pd.DataFrame({"sun": sun.ravel(), "steep": steep, "facing": faces})
    rose = rose.pivot_table(index="facing", columns="steep", values="sun", observed=True)
    for colour, style, name in zip(
        ("#009E73", "#D55E00", "#0072B2"), ("-", "--", "-."), rose, strict=False
    ):
        line = rose[name].loc[[*rose.index, 0]]
        compass.plot(np.radians(line.index), line, style, color=colour, lw=2.5, label=name)
    compass.set(theta_zero_location="N", theta_direction=-1, rlabel_position=65, ylim=(0, 4))
    compass.set_yticks(range(1, 5))
    compass.set_xticks(np.radians(range(0, 360, 45)), ["N", "NE", "E", "SE", "S", "SW", "W", "NW"])
    compass.set_title(f"c  By slope, and where it faces\n    {unit}", x=-0.12, pad=12)
    compass.legend(title="slope", loc="lower center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    figure.suptitle(
        "The shortest day in the Sangre de Cristo Mountains of Colorado",
        fontsize=16,
        x=0.01,
        ha="left",
    )
    figure.savefig(file, dpi=120)
    return rose
