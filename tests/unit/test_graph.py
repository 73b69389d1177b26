"""From graphs to restrictions: what each task needs, and which fused ones are taken apart."""

import os
import subprocess
import sys
import textwrap

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import Alias, DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import collections_to_expr
from dask.local import get_sync
from dask.utils import key_split
from four_pools import GIB, matcher, placer

from dask_site import NeedError, needs
from dask_site.placement.graph import inherit
from dask_site.placement.places import resources_by_pattern


def one(x):
    return x + 1


def two(x):
    return x * 2


def three(x):
    return x - 3


on_cpu = needs(pool="cpu")
on_highmem = needs(pool="highmem")
with_gpu = needs(gpu=1)


def graph_of(*collections):
    """Return the graph as it reaches the scheduler."""
    expr = collections_to_expr(collections, True).optimize()
    return convert_legacy_graph(expr.__dask_graph__())


def placed(*collections, around=None, by=None):
    """Return (restrictions by key prefix, graph) and check that the results are the same."""
    graph = graph_of(*collections)
    keys = list(graph)
    before = get_sync(dict(graph), keys)
    by_key = {}
    (by or placer()).place(graph, by_key, around)
    for result, expected in zip(get_sync(graph, keys), before, strict=True):
        assert str(result) == str(expected)
    found = {}
    for key in graph:
        restrictions = by_key.get(key)
        same = found.setdefault(key_split(key), [])
        if restrictions not in same:
            same.append(restrictions)
    return found, graph


def kinds(found):
    """Return what any task needs, without duplicates."""
    flat = [restrictions for same in found.values() for restrictions in same]
    return [restrictions for n, restrictions in enumerate(flat) if restrictions not in flat[:n]]


CPU, HIGHMEM = {"pool:cpu": 1}, {"pool:highmem": 1}


# -- fused tasks with parts for different pools --------------------------------------------------


def test_blockwise_fusion_is_taken_apart_by_need():
    x = da.ones(6, chunks=2).map_blocks(on_cpu(one)).map_blocks(on_highmem(two)).map_blocks(three)
    found, graph = placed(x)
    assert found == {"three": [HIGHMEM], "one": [CPU]}
    assert len(graph) == 6, "the fewest pieces: what needs nothing stays with what does"
    groups = {key[0] for key in graph}
    assert len(groups) == 2, "one group of tasks for all blocks"


def test_fusion_with_the_same_needs_stays():
    f, g = on_cpu(one), needs(memory="4GiB")(two)
    found, graph = placed(da.ones(6, chunks=2).map_blocks(f).map_blocks(three).map_blocks(g))
    assert found == {"two": [{"pool:cpu": 1, "MEMORY": 4 * GIB}]}
    assert len(graph) == 3


def test_a_diamond_is_taken_apart():
    x = da.arange(6, chunks=2).map_blocks(three)
    y = x.map_blocks(on_cpu(one)) + x.map_blocks(on_highmem(two))
    found, _ = placed(y)
    assert {str(CPU), str(HIGHMEM), "None"} == set(map(str, kinds(found)))
    assert found["three"] == [None], "what both use is computed once, where ordinary work runs"


def test_back_and_forth_between_two_pools():
    x = da.ones(4, chunks=2)
    for _ in range(3):
        x = x.map_blocks(on_cpu(one)).map_blocks(on_highmem(two))
    found, graph = placed(x)
    assert set(found) == {"one", "two"}
    assert found["one"] == [CPU]
    assert found["two"] == [HIGHMEM]
    assert len(graph) == 2 * 6


def test_low_level_fusion_of_reductions():
    x = da.ones((8, 8), chunks=2).map_blocks(on_cpu(one))
    total = da.reduction(
        x,
        chunk=on_highmem(lambda block, axis, keepdims: block.sum(axis=axis, keepdims=keepdims)),
        aggregate=with_gpu(lambda block, axis, keepdims: block.sum(axis=axis, keepdims=keepdims)),
        dtype=float,
        split_every=16,
    )
    found, graph = placed(total)
    assert sorted(map(str, kinds(found))) == ["{'GPU': 1}", str(CPU), str(HIGHMEM)]
    assert len([k for k in graph if "aggregate" in str(k)]) == 1


def test_bags_are_lazy_inside_a_task_and_solid_between_pools():
    bag = db.range(20, npartitions=4).map(on_cpu(one)).filter(bool).map(on_highmem(two))
    found, _ = placed(bag)
    assert kinds(found) == [HIGHMEM, CPU]
    nested = (
        db.range(20, npartitions=4)
        .map_partitions(on_cpu(lambda part: [[i] for i in part]))
        .map_partitions(lambda part: map(iter, part))
        .map_partitions(on_highmem(lambda part: [sum(p) for p in part]))
    )
    placed(nested)


def test_dataframe_fusion():
    frame = dd.from_pandas(pd.DataFrame({"a": range(8)}), npartitions=4)
    out = frame.map_partitions(on_cpu(one)).map_partitions(on_highmem(two)).optimize()
    found, _ = placed(out)
    assert found["one"] == [CPU]
    assert HIGHMEM in kinds(found)


@pytest.mark.parametrize("fuse", [False, True])
def test_delayed(fuse):
    with dask.config.set({"optimization.fuse.delayed": fuse}):
        end = dask.delayed(three)(dask.delayed(on_highmem(two))(dask.delayed(on_cpu(one))(1)))
        found, graph = placed(end)
    assert CPU in kinds(found)
    assert HIGHMEM in kinds(found)
    if fuse:
        alias = next(key for key, node in graph.items() if isinstance(node, Alias))
        by_key = placer().resources(graph)
        assert by_key[alias] == by_key[graph[alias].target], "a name stays where the result is"


def test_tasks_nested_in_arguments():
    nested = Task("k", sum, Task(None, list, Task(None, map, on_cpu(one), TaskRef("a"))))
    graph = {"a": DataNode("a", [1, 2]), "k": nested}
    by_key = {}
    assert placer().place(graph, by_key, None) == {}
    assert by_key == {"k": CPU}
    graph["k"] = Task(
        "k", on_highmem(sum), Task(None, list, Task(None, map, on_cpu(one), TaskRef("a")))
    )
    by_key = {}
    parts = placer().place(graph, by_key, None)
    assert list(parts.values()) == ["k"]
    assert sorted(map(str, by_key.values())) == [str(CPU), str(HIGHMEM)]
    assert get_sync(graph, "k") == 5


def test_fused_in_fused():
    inner = Task.fuse(
        Task("b", on_cpu(one), TaskRef("a")), Task("c", on_highmem(two), TaskRef("b"))
    )
    outer = Task.fuse(inner, Task("d", with_gpu(three), TaskRef("c")), key="outer-0123456789ab")
    again = Task.fuse(
        outer, Task("e", on_cpu(one), TaskRef("outer-0123456789ab")), key="again-0123456789ab"
    )
    graph = {"a": DataNode("a", 1), again.key: again}
    expected = get_sync(graph, again.key)
    by_key = {}
    parts = placer().place(graph, by_key, None)
    assert len(parts) == 3
    assert set(parts.values()) == {again.key}
    assert sorted(map(str, by_key.values())) == sorted(
        [str(CPU), str(HIGHMEM), "{'GPU': 1}", str(CPU)]
    )
    assert get_sync(graph, again.key) == expected == 2


def test_the_same_name_on_two_levels_and_twice():
    """Inner graphs have name spaces of their own."""
    first = Task.fuse(
        Task("a", on_cpu(one), TaskRef("x")), Task("b", on_highmem(two), TaskRef("a"))
    )
    task = Task(
        "out",
        first.func,
        {
            "a": Task("a", first.func, *first.args[:2], ("x",), TaskRef("q")),
            "b": Task("b", on_cpu(one), TaskRef("a")),
        },
        "b",
        ("q",),
        DataNode(None, 5),
    )
    graph = {"out": task}
    assert placer().place(graph, {}, None)
    assert get_sync(graph, "out") == 13


DIAMOND = """
    import dask.array as da
    from four_pools import placer
    from dask._task_spec import convert_legacy_graph
    from dask_site import needs

    def one(x): return x
    def two(x): return x
    def three(x): return x

    x = da.ones(6, chunks=2).map_blocks(three)
    y = x.map_blocks(needs(pool="cpu")(one)) + x.map_blocks(needs(pool="highmem")(two))
    graph = convert_legacy_graph(dict(y.__dask_optimize__(y.dask, y.__dask_keys__())))
    placer().place(graph, {}, None)
    print(sorted(map(str, graph)))
"""


def test_keys_of_pieces_are_the_same_in_every_process():
    outputs = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        code = [sys.executable, "-c", textwrap.dedent(DIAMOND)]
        outputs.add(
            subprocess.run(code, env=env, capture_output=True, check=True, text=True).stdout
        )
    assert len(outputs) == 1
    assert outputs.pop().count("(") == 9


def test_pieces_inherit_what_was_said_of_the_whole():
    x = da.ones(4, chunks=2).map_blocks(on_cpu(one)).map_blocks(on_highmem(two))
    graph = graph_of(x)
    order = {key: n for n, key in enumerate(graph)}
    annotations = {"retries": dict.fromkeys(graph, 3)}
    by_key = {key: {"MEMORY": GIB} for key in graph}
    parts = placer().place(graph, by_key, None)
    for values in (order, annotations["retries"], 5, None):
        inherit(parts, values)
    assert order.keys() == annotations["retries"].keys() == graph.keys()
    assert {tuple(r.items()) for r in by_key.values()} == {
        (("MEMORY", GIB), ("pool:cpu", 1)),
        (("MEMORY", GIB), ("pool:highmem", 1)),
    }


def test_a_part_that_has_no_pool_is_refused_and_nothing_changed():
    x = da.ones(4, chunks=2).map_blocks(on_cpu(one)).map_blocks(needs(gpu=9)(two))
    graph = graph_of(x)
    before, by_key = dict(graph), {}
    with pytest.raises(NeedError, match="'two' needs 9 GPUs in pool 'cpu'"):
        placer().place(graph, by_key, None)
    assert graph == before
    assert by_key == {}


# -- where needs could get lost, or leak ---------------------------------------------------------


def test_a_group_with_different_functions():
    """String keys share a group by their name alone."""
    graph = {
        "work-1": Task("work-1", one, 1),
        "work-2": Task("work-2", with_gpu(one), 1),
        ("work", 0): Task(("work", 0), on_highmem(one), 1),
        ("work", 1): Task(("work", 1), one, 1),
    }
    by_key = {}
    placer().place(graph, by_key, None)
    assert by_key == {"work-2": {"GPU": 1}, ("work", 0): HIGHMEM}


def test_functions_that_are_nodes_of_the_graph():
    graph = {
        "f": DataNode("f", with_gpu(one)),
        "table": DataNode("table", {"g": with_gpu(one), "x": 1}),
        "name": Alias("name", "f"),
        "a": Task("a", map, TaskRef("f"), [1]),
        "b": Task("b", dict.get, TaskRef("table"), "x"),
        "c": Task("c", on_highmem(two), TaskRef("f")),
        "d": Task("d", one, TaskRef("a")),
    }
    with pytest.raises(NeedError, match="'c' needs"):
        placer().place(graph, {}, None)
    del graph["c"]
    by_key = {}
    placer().place(graph, by_key, None)
    assert by_key == {"a": {"GPU": 1}, "b": {"GPU": 1}}


class Model:
    @with_gpu
    def infer(self, x):
        return x

    def fit(self, x):
        return x


def test_methods_of_delayed_objects():
    model = dask.delayed(Model())
    found, _ = placed(model.infer(1), model.fit(2))
    assert found["infer"] == [{"GPU": 1}]
    assert found["fit"] == [None]


def test_block_info_arrives():
    @with_gpu
    def where(block, block_info=None, block_id=None):
        return block + block_info[0]["array-location"][0][0] + 100 * block_id[0]

    x = da.zeros(6, chunks=2).map_blocks(where, dtype=float)
    found, _ = placed(x.map_blocks(on_highmem(one)))
    assert {"GPU": 1} in kinds(found)
    assert list(x.compute(scheduler="sync")) == [0, 0, 102, 102, 204, 204]


def test_large_graphs_of_several_collections_together():
    x = da.ones(4, chunks=2).map_blocks(with_gpu(one))
    bag = db.range(4, npartitions=2).map(on_highmem(two))
    found, _ = placed(x, bag, dask.delayed(on_cpu(three))(1))
    assert {"GPU": 1} in kinds(found)
    assert HIGHMEM in kinds(found)
    assert CPU in kinds(found)


# -- what is around, annotations, patterns -------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "around", "result"),
    [
        ({"gpu": 1}, {"pool:fat": 1}, {"pool:fat": 1, "GPU": 1}),
        ({"gpu": 1}, {"pool:cpu": 1}, {"GPU": 1}),
        ({"pool": "gpu"}, {"pool:cpu": 1}, {"pool:gpu": 1}),
        ({"pool": "gpu"}, {"pool:cpu": 1, "MEMORY": GIB}, {"MEMORY": GIB, "pool:gpu": 1}),
        ({"memory": 2 * GIB}, {"MEMORY": GIB}, {"MEMORY": 2 * GIB}),
        ({"memory": GIB}, {"MEMORY": 2 * GIB}, {"MEMORY": 2 * GIB}),
        ({"memory": 40 * GIB}, {"pool:cpu": 1}, {"MEMORY": 40 * GIB}),
    ],
)
def test_own_needs_come_before_what_is_around(own, around, result):
    graph = {"a": Task("a", needs(**own)(one), 1), "b": Task("b", one, 1)}
    for by_key, outside in (({}, around), ({"a": around}, None), ({}, lambda key: around)):
        p = placer()
        p.place(graph, by_key, outside)
        assert by_key["a"] == result
        assert by_key.get("b", outside) in (None, around)


def test_what_is_around_is_checked_too():
    with pytest.raises(NeedError, match="What is submitted here needs 9 GPUs"):
        placer().place({}, {}, {"GPU": 9})
    with pytest.raises(NeedError, match="An annotation needs 1 tape"):
        placer().place({}, {"a": {"tape": 1}}, None)


def test_patterns():
    p = placer()
    p.set_patterns({"mean_agg*": "highmem", "open_*": needs(memory="1GiB")})
    x = da.ones((8, 8), chunks=4).mean()
    found, _ = placed(x, by=p)
    assert found["mean_agg-aggregate"] == [HIGHMEM]
    graph = {
        "open_dataset-1": Task("open_dataset-1", with_gpu(one), 1),
        "reopen-1": Task("reopen-1", one, 1),
        ("open_x-1", 0): Task(("open_x-1", 0), one, 1),
    }
    assert p.resources(graph, {"pool:cpu": 1}) == {
        "open_dataset-1": {"GPU": 1, "MEMORY": GIB},
        "reopen-1": CPU,
        ("open_x-1", 0): {"pool:cpu": 1, "MEMORY": GIB},
    }
    p.set_patterns({"open_*": HIGHMEM})
    assert p.resources(graph, {"pool:cpu": 1})[("open_x-1", 0)] == HIGHMEM
    p.set_patterns({"open_*": None, "mean_agg*": None})
    assert p.resources(graph)[("open_x-1", 0)] == {}


def test_patterns_match_what_was_fused_away():
    p = placer()
    p.set_patterns({"two": HIGHMEM})
    x = da.ones(4, chunks=2).map_blocks(one).map_blocks(two).map_blocks(three)
    found, _ = placed(x, by=p)
    assert found == {"three": [HIGHMEM]}


def test_the_last_pattern_counts():
    p = placer()
    p.set_patterns({"work*": HIGHMEM, "*": CPU})
    graph = {"work-1": Task("work-1", one, 1)}
    assert p.resources(graph) == {"work-1": CPU}
    p.set_patterns({"work*": HIGHMEM})
    assert p.resources(graph) == {"work-1": HIGHMEM}


def test_prefixes_that_are_known_to_be_hungry():
    p = placer()
    graph = {k: Task(k, one, 1) for k in ("work-1", "vast-1", "rest-1")}
    assert p.resources(graph) == {"work-1": {}, "vast-1": {}, "rest-1": {}}
    p.hungry = lambda: {"work": 20 * GIB, "vast": 2**50}
    assert p.resources(graph) == {"work-1": {"MEMORY": 20 * GIB}, "vast-1": {}, "rest-1": {}}


def test_aliases_follow_their_target_over_several_names():
    graph = {
        "z": Alias("z", "y"),
        "y": Alias("y", "x"),
        "x": Task("x", needs(memory="100GiB")(one), 1),
        "w": Alias("w", "elsewhere"),
        "loop": Alias("loop", "loop"),
    }
    by_key = {}
    placer().place(graph, by_key, None)
    assert by_key == {
        "x": {"MEMORY": 100 * GIB},
        "y": {"pool:fat": 1},
        "z": {"pool:fat": 1},
    }


# -- what users write ----------------------------------------------------------------------------


def test_places():
    given = {
        "a": "highmem",
        "b": needs(gpu=1),
        "c": needs(gpu=1, memory="8GiB").need,
        "d": {"gpu": 1, "memory": "8GiB", "pool": "fat"},
        "e": {"GPU": 1, "MEMORY": GIB},
        "f": {"pool:cpu": 1},
        "g": None,
    }
    assert resources_by_pattern(given, matcher()) == {
        "a": HIGHMEM,
        "b": {"GPU": 1},
        "c": {"GPU": 1, "MEMORY": 8 * GIB},
        "d": {"pool:fat": 1, "GPU": 1, "MEMORY": 8 * GIB},
        "e": {"GPU": 1, "MEMORY": GIB},
        "f": CPU,
        "g": None,
    }


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"a": "highmen"}, ValueError, "Four pools has no pool 'highmen'.*mean 'highmem'"),
        ({"a": {"gpu": 9}}, NeedError, "Work named 'a' needs 9 GPUs"),
        ({"a": {"gpus": 1}}, TypeError, "'gpus' is nothing that workers have"),
        ({"a": {}}, ValueError, "asks for nothing"),
        ({"a": ""}, ValueError, "a pool's name"),
        ({"a": 3}, TypeError, "3 is no place. Write a pool's name"),
        ({3: "gpu"}, TypeError, "3 is no name of work"),
        ("gpu", TypeError, "'gpu' is no mapping from names"),
    ],
)
def test_places_that_make_no_sense(given, error, message):
    with pytest.raises(error, match=message):
        placer().set_patterns(given)


def test_a_graph_without_needs_is_left_alone():
    graph = graph_of(da.ones((8, 8), chunks=4).mean())
    before, by_key = dict(graph), {}
    assert placer().place(graph, by_key, {"pool:gpu": 1}) == {}
    assert graph == before
    assert by_key == {}


@pytest.mark.parametrize("as_function", [False, True])
def test_annotated_parts_of_a_gpu_add_up_exactly_too(as_function):
    graph = graph_of(dask.delayed(one)(1), dask.delayed(two)(2))
    given = {"GPU": 0.1}
    by_key = {} if as_function else dict.fromkeys(graph, given)
    placer().place(graph, by_key, (lambda _: given) if as_function else None)
    assert all((resources["GPU"] * 2**20).is_integer() for resources in by_key.values())
    assert by_key == dict.fromkeys(graph, needs(gpu=0.1).need.resources())
    assert given == {"GPU": 0.1}
    with pytest.raises(NeedError, match=r"needs 0\.1 GPU in pool 'cpu'"):
        placer().place(graph, {}, {"GPU": 0.1, "pool:cpu": 1})


def test_results_are_right_whatever_the_needs():
    """Chains and trees of functions with random needs, fused by Dask and taken apart here."""
    rng = np.random.default_rng(7)
    ways = [on_cpu, on_highmem, with_gpu, needs(memory="20GiB"), lambda f: f]
    for _ in range(15):
        arrays = [da.arange(8, chunks=4), da.ones(8, chunks=4)]
        for _ in range(8):
            f = ways[rng.integers(len(ways))]([one, two, three][rng.integers(3)])
            x = arrays[rng.integers(len(arrays))]
            y = arrays[rng.integers(len(arrays))]
            arrays.append((x + y).map_blocks(f) if rng.random() < 0.5 else x.map_blocks(f))
        _, graph = placed(*arrays[-3:])
        by_key = placer().resources(graph)
        m = matcher()
        assert all(m.fits(restrictions) for restrictions in by_key.values())
