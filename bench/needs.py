"""What it costs to find the needs in a graph: microseconds for each of its tasks."""

from __future__ import annotations

import functools
import statistics
import sys
import time

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask._task_spec import Task, TaskRef, convert_legacy_graph, fuse_linear_task_spec
from dask.base import collections_to_expr
from distributed.protocol import deserialize, serialize

from dask_site import Site, needs
from dask_site.placement.graph import Placer
from dask_site.placement.matching import Matcher

SITE = {
    "schema": 1,
    "name": "Bench",
    "resource_manager": "local",
    "default_pool": "cpu",
    "pools": {
        "cpu": {"cores": 4, "memory": "16GiB"},
        "highmem": {"cores": 4, "memory": "64GiB"},
        "gpu": {"cores": 8, "memory": "32GiB", "gpus": 2, "exclusive": True},
    },
}
TASKS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000


def work(x, *_, **__):
    return x


def keep(function):
    return function


def futures(need):
    function = need(work)
    return {f"work-{i}": Task(f"work-{i}", function, i, TaskRef("a"), k=1) for i in range(TASKS)}


def graph_of(collection):
    expr = collections_to_expr([collection], True).optimize()
    # As the scheduler gets it: nothing of it is shared with this process's objects.
    expr = deserialize(*serialize(expr))
    return convert_legacy_graph(expr.__dask_graph__())


def arrays(need):
    x = da.ones(TASKS // 2, chunks=1).map_blocks(np.sqrt).map_blocks(need(work), dtype=float)
    return graph_of((x + 1).sum(split_every=8))


def low_level_fusion(need):
    graph = {}
    for i in range(TASKS):
        graph["a", i] = Task(("a", i), work, i)
        graph["b", i] = Task(("b", i), functools.partial(need(work), k=1), TaskRef(("a", i)))
        graph["c", i] = Task(("c", i), work, TaskRef(("b", i)))
    return fuse_linear_task_spec(graph, {("c", i) for i in range(TASKS)})


def frames(need):
    parts = TASKS // 2
    table = dd.from_pandas(pd.DataFrame({"a": np.arange(parts)}), npartitions=parts)
    out = table.map_partitions(need(work), meta={"a": int}) + 1
    return graph_of(out.map_partitions(work, meta={"a": int}).a.optimize())


def bags(need):
    parts = TASKS // 2
    return graph_of(db.range(parts, npartitions=parts).map(work).map(need(work)))


def several_pools(need):
    if need is keep:
        return None
    x = da.ones(TASKS // 10, chunks=1).map_blocks(needs(pool="cpu")(work), dtype=float)
    return graph_of(x.map_blocks(needs(pool="highmem")(work), dtype=float))


GRAPHS = {
    "futures": futures,
    "arrays, blockwise fusion": arrays,
    "low-level fusion of three": low_level_fusion,
    "dataframes, Fused": frames,
    "bags": bags,
    "fused across pools, to be split": several_pools,
}


def microseconds(graph, runs=5):
    placer = Placer(Matcher(Site.from_mapping(SITE)))
    times = []
    for _ in range(runs):
        copy, by_key = dict(graph), {}
        begun = time.process_time()
        placer.place(copy, by_key, None)
        times.append((time.process_time() - begun) / len(graph) * 1e6)
    return statistics.median(times), len(by_key)


def main() -> None:
    dask.config.set({"dataframe.convert-string": False})
    print("microseconds of CPU for each task, where nothing in the process needs anything,")
    print("where only other graphs do, and where every graph does")
    print(f"{'graph':34} {'tasks':>8} {'nobody':>9} {'others':>9} {'all':>9}")
    rows = {}
    # Before anything in this process needs something.
    for name, make in GRAPHS.items():
        graph = make(keep)
        rows[name] = [graph, microseconds(graph)[0] if graph else float("nan")]
    needing = needs(gpu=1)
    needing(work)
    for name, make in GRAPHS.items():
        graph, nobody = rows[name]
        others = microseconds(graph)[0] if graph else float("nan")
        graph = make(needing)
        own, found = microseconds(graph)
        print(f"{name:34} {len(graph):8} {nobody:9.3f} {others:9.2f} {own:9.2f}  ({found} placed)")


if __name__ == "__main__":
    main()
