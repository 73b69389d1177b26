"""What placement relies on of dask's graphs that is not its public interface.

A failure here names what changed upstream; the module that relies on it is named in each test.
"""

import inspect

import cloudpickle
import dask
import dask.array as da
import dask.bag as db
import distributed
from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    List,
    Set,
    Task,
    TaskRef,
    Tuple,
    _execute_subgraph,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask.base import collections_to_expr
from dask.utils import key_split, methodcaller
from distributed import Scheduler
from distributed.scheduler import _materialize_graph
from distributed.utils import iscoroutinefunction

VERSION = f"dask {dask.__version__}, distributed {distributed.__version__}"


def inc(x):
    return x + 1


def test_what_a_task_is_made_of():
    """placement/finder.py: func, args and kwargs hold all that a task calls."""
    task = Task("k", inc, TaskRef("a"), List(TaskRef("b")), kw=Dict({"c": TaskRef("c")}))
    assert task.func is inc, VERSION
    assert task.args[0] == TaskRef("a"), VERSION
    assert task.args[1].args == (TaskRef("b"),), VERSION
    assert task.dependencies == {"a", "b", "c"}, VERSION
    for container in (List, Tuple, Set, Dict):
        assert issubclass(container, Task), VERSION
    data = DataNode("d", inc)
    assert (data.value, data.typ) == (inc, type(inc)), VERSION
    alias = Alias("x", "y")
    assert (alias.key, alias.target) == ("x", "y"), VERSION
    assert issubclass(distributed.Future, TaskRef), VERSION


def test_what_a_fused_task_is_made_of():
    """placement/unfuse.py: an inner graph, its result, the names of its inputs, and the inputs."""
    a, b = Task("a", inc, TaskRef("x")), Task("b", inc, TaskRef("a"))
    task = Task.fuse(a, b, key="fused")
    assert task.func is _execute_subgraph, VERSION
    assert task.args == ({"a": a, "b": b}, "b", ("x",), TaskRef("x")), VERSION
    assert task.key == "fused", VERSION
    assert task({"x": 1}) == 3, VERSION
    wanted = ["inner_dsk", "outkey", "inkeys", "dependencies"]
    assert list(inspect.signature(_execute_subgraph).parameters) == wanted, VERSION
    assert "_data_producer" in inspect.signature(Task).parameters, VERSION


def fused_tasks(collection):
    expr = collections_to_expr([collection], True).optimize()
    graph = convert_legacy_graph(expr.__dask_graph__())
    return [t for t in graph.values() if isinstance(t, Task) and t.func is _execute_subgraph]


def test_every_optimiser_fuses_into_such_tasks():
    """placement/unfuse.py"""
    import dask.dataframe as dd
    import pandas as pd

    frame = dd.from_pandas(pd.DataFrame({"a": [1, 2]}), npartitions=2)
    graph = {"a": Task("a", inc, 1), "b": Task("b", inc, TaskRef("a"))}
    fused = fuse_linear_task_spec(graph, {"b"})
    assert sorted(type(t).__name__ for t in fused.values()) == ["Alias", "Task"], VERSION
    assert fused_tasks(da.ones(4, chunks=2).map_blocks(inc)), VERSION
    assert fused_tasks(db.range(4, npartitions=2).map(inc)), VERSION
    assert fused_tasks(frame.map_partitions(inc).map_partitions(inc).optimize()), VERSION


def test_references_are_renamed_and_nothing_else():
    """placement/unfuse.py"""
    task = Task("k", inc, TaskRef("a"), List(TaskRef("b"), 1), kw=TaskRef("c"))
    renamed = task.substitute({"a": "x", "b": ("y", 0), "c": "z"})
    assert renamed.dependencies == {"x", ("y", 0), "z"}, VERSION
    assert (renamed.key, renamed.func) == ("k", inc), VERSION
    assert task.dependencies == {"a", "b", "c"}, VERSION


def test_bags_hand_on_lazy_iterators_inside_of_fused_tasks():
    """placement/unfuse.py: why the result of a part is made solid."""
    (task, *_) = fused_tasks(db.range(4, npartitions=2).map(inc).map(inc))
    graph, out, *_ = task.args
    inner = [key for key in graph if key != out]
    values = {}
    for key in inner:
        values[key] = graph[key]({k: values[k] for k in graph[key].dependencies})
    assert hasattr(type(values[inner[-1]]), "__next__"), VERSION


def test_methods_of_delayed_objects_are_called_by_name():
    """placement/graph.py"""
    graph = convert_legacy_graph(dict(dask.delayed("text").upper().dask))
    (call,) = [t for t in graph.values() if isinstance(t, Task)]
    assert type(call.func) is methodcaller, VERSION
    assert call.func.method == "upper", VERSION
    assert isinstance(graph[call.args[0].key], DataNode), VERSION


def test_prefixes_of_names():
    """placement/graph.py, placement/unfuse.py: names of parts, and patterns for names."""
    token = dask.tokenize.tokenize("x")
    assert key_split(f"mean_agg-aggregate-{token}") == "mean_agg-aggregate", VERSION
    assert key_split((f"work-{token}", 0)) == "work", VERSION
    assert key_split(f"work-{token}_.0") == "work", VERSION


def test_the_scheduler_hands_graphs_and_annotations_to_one_method():
    """upstream/schedulers.py: needs are written down there, before anything knows the graph."""
    parameters = inspect.signature(Scheduler._create_taskstate_from_graph).parameters
    wanted = {
        "dsk",
        "keys",
        "ordered",
        "user_priority",
        "annotations_by_type",
        "global_annotations",
    }
    assert wanted <= parameters.keys(), VERSION
    expr = collections_to_expr([dask.delayed(inc)(1)])
    graph, annotations = _materialize_graph(expr, validate=False)
    assert type(graph) is dict, VERSION
    assert annotations["resources"] == {}, VERSION
    source = inspect.getsource(Scheduler.update_graph)
    assert source.index("_find_lost_dependencies") < source.index("_create_taskstate_from_graph")
    parameters = list(inspect.signature(Scheduler._find_lost_dependencies).parameters)
    assert parameters == ["self", "dsk", "keys"], VERSION
    # A graph that is refused leaves nothing: its keys are desired after this method's beginning.
    source = inspect.getsource(Scheduler._create_taskstate_from_graph)
    assert "client_desires_keys" in source, VERSION


def test_annotations_of_single_keys_win_over_those_of_the_submission():
    """upstream/schedulers.py"""
    source = inspect.getsource(Scheduler._apply_annotations)
    assert source.index("global_annotations.items()") < source.index("annotations_by_type.items()")


def test_what_looks_like_a_coroutine_function_is_one():
    """placement/needs.py"""

    async def later():
        pass

    class Wrapped:
        def __init__(self):
            self.__name__, self.__code__ = "later", later.__code__
            self.__defaults__ = self.__kwdefaults__ = None

        def __call__(self):
            return later()

    assert iscoroutinefunction(Wrapped()), VERSION


def test_cloudpickle_tells_what_it_pickles_by_value():
    """placement/needs.py"""
    assert set(cloudpickle.list_registry_pickle_by_value()) == set(), VERSION


def test_inner_graphs_may_have_names_of_any_kind():
    """placement/unfuse.py gives nodes names such as ``work-1234/inner#3``."""
    task = Task(
        "k",
        _execute_subgraph,
        {"a/b#1": Task("a", inc, TaskRef(("x", 0))), "#": Task("b", inc, TaskRef("a/b#1"))},
        "#",
        (("x", 0),),
        DataNode(None, 1),
    )
    assert task() == 3, VERSION
