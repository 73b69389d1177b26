"""What a function needs is said once, travels with it, and is found in whatever holds it."""

import asyncio
import functools
import inspect
import itertools
import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import dask
import numpy as np
import pytest
import toolz
from dask._task_spec import DataNode, Dict, List, Task, TaskRef
from dask.base import tokenize
from dask.utils import funcname
from distributed.utils import iscoroutinefunction

from dask_site import needs
from dask_site.placement.finder import NeedFinder
from dask_site.placement.needs import Need, NeedingFunction

GPU = Need(gpu=1)
BIG = Need(memory=2**36)


@needs(gpu=1)
def infer(x, scale=1):
    """Infer."""
    return x * scale


@needs(memory="64GiB")
def wide(x):
    return x


def plain(x):
    return x


class Model:
    def __init__(self, by=2):
        self.by = by

    @needs(gpu=1)
    def infer(self, x):
        return x * self.by

    @staticmethod
    @needs(gpu=1)
    def static(x):
        return x

    @classmethod
    @needs(gpu=1)
    def of_class(cls, x):
        return x


class Pipeline:
    """A callable that holds functions."""

    __slots__ = ("step",)

    def __init__(self, step):
        self.step = step

    def __call__(self, x):
        return self.step(x)


def found(thing):
    return set(NeedFinder().task(Task("key", thing, 1)))


# -- saying it ---------------------------------------------------------------------------------


def test_a_function_with_needs_is_called_as_before():
    assert infer(2, scale=3) == 6
    assert infer.__name__ == "infer"
    assert infer.__doc__ == "Infer."
    assert list(inspect.signature(infer).parameters) == ["x", "scale"]
    assert repr(infer) == "<infer with needs: 1 GPU>"


def test_methods():
    model = Model()
    assert model.infer(3) == 6
    assert Model.infer(model, 3) == 6
    assert Model.static(3) == model.static(3) == model.of_class(3) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, 'needs() asks for nothing: write gpu=1, memory="64GiB" or pool="highmem".'),
        ({"gpu": 0}, 'needs() asks for nothing: write gpu=1, memory="64GiB" or pool="highmem".'),
        ({"gpu": -1}, "needs(gpu=-1): a number of GPUs, such as 1 or 0.5."),
        ({"gpu": "1"}, "needs(gpu='1'): a number of GPUs, such as 1 or 0.5."),
        ({"gpu": True}, "needs(gpu=True): a number of GPUs, such as 1 or 0.5."),
        ({"gpu": float("nan")}, "needs(gpu=nan): a number of GPUs, such as 1 or 0.5."),
        ({"pool": ""}, "needs(pool=''): a pool's name, such as 'gpu'."),
        ({"pool": 3}, "needs(pool=3): a pool's name, such as 'gpu'."),
    ],
)
def test_what_makes_no_sense_is_refused(asked, message):
    with pytest.raises(ValueError) as caught:
        needs(**asked)
    assert str(caught.value) == message


@pytest.mark.parametrize("memory", ["64G", "64", 0, -1, True, "lots", 1.5])
def test_memory_without_a_clear_unit_is_refused(memory):
    with pytest.raises(ValueError, match=r"needs\(memory="):
        needs(memory=memory)


@pytest.mark.parametrize("parts", [(0.1, 0.2), (1 / 3, 0.1, 0.5), (0.7, 0.2, 1e-9)])
def test_parts_of_a_gpu_leave_all_of_it_behind(parts):
    """A worker subtracts what begins, adds what ends, and compares."""
    taken = [needs(gpu=part).need.resources()["GPU"] for part in parts]
    assert all(0 < amount <= max(part, 1e-6) for amount, part in zip(taken, parts, strict=True))
    for begun, ended in itertools.product(itertools.permutations(taken), repeat=2):
        left = 1.0
        for amount in begun:
            left -= amount
        for amount in ended:
            left += amount
        assert left == 1


@pytest.mark.parametrize("gpus", [0.1, 0.3, 0.333333, 0.5, 1, 1.7, 12])
def test_gpus_are_shown_as_they_were_written(gpus):
    assert str(needs(gpu=gpus).need) == f"{gpus} GPU{'s' if gpus > 1 else ''}"


def test_only_functions_are_decorated():
    with pytest.raises(TypeError, match="Model is a class"):
        needs(gpu=1)(Model)
    with pytest.raises(TypeError, match="3 is none"):
        needs(gpu=1)(3)
    with pytest.raises(TypeError, match="goes below @staticmethod"):
        needs(gpu=1)(staticmethod(plain))
    with pytest.raises(TypeError):
        needs(1)


def test_a_coroutine_function_stays_one():
    @needs(gpu=1)
    async def run(x):
        return x

    assert iscoroutinefunction(run)
    assert iscoroutinefunction(functools.partial(run, 1))
    assert iscoroutinefunction(needs(memory="1GiB")(run))
    assert asyncio.run(run(3)) == 3
    assert not iscoroutinefunction(infer)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (infer, "infer"),
        (needs(gpu=1)(np.sqrt), "sqrt"),
        (needs(gpu=1)(functools.partial(plain, 1)), "plain"),
        (needs(gpu=1)(lambda x: x), "lambda"),
        (needs(gpu=1)(np.vectorize(plain)), "plain"),
        (functools.partial(infer, scale=2), "infer"),
        (Model().infer, "infer"),
    ],
)
def test_the_names_of_dask_stay_readable(function, name):
    assert funcname(function) == name
    assert dask.delayed(function)(1).key.startswith(f"{name}-")


# -- travelling --------------------------------------------------------------------------------


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("thing", [infer, Model().infer, functools.partial(infer, scale=2)])
def test_it_is_pickled_by_reference_like_a_function_of_its_module(dumps, thing):
    data = dumps(thing)
    assert len(data) < 200
    assert pickle.loads(data)(2) == thing(2)
    assert found(pickle.loads(data)) == {GPU}


def test_a_decorated_global_stays_what_it_is():
    assert pickle.loads(pickle.dumps(infer)) is infer


def test_what_cannot_be_imported_is_pickled_itself():
    local = needs(gpu=1)(lambda x: x + 1)
    back = pickle.loads(cloudpickle.dumps(local))
    assert back(1) == 2
    assert found(back) == {GPU}
    other = needs(memory="64GiB")(np.linalg.norm)
    assert found(pickle.loads(pickle.dumps(other))) == {BIG}


MAIN = """
    import sys, functools
    import cloudpickle
    from dask.base import tokenize
    from dask_site import needs

    @needs(gpu=1)
    def fall(x):
        return fall(x - 1) if x else "down"

    class Model:
        @needs(gpu=1)
        def infer(self, x):
            return fall(x)

    def bare(x):
        return x

    if sys.argv[1] == "token":
        print(tokenize(fall), tokenize(needs(gpu=1)(bare)), tokenize(functools.partial(fall, 1)))
    else:
        sys.stdout.buffer.write(cloudpickle.dumps([fall, Model().infer, functools.partial(fall)]))
"""


def run_main(what):
    # As a script of the user's: its functions are those of __main__.
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MAIN), what], capture_output=True, check=True
    ).stdout


def test_functions_of_main_travel_to_another_process_with_their_needs():
    """Also one that calls itself: its globals hold the function that is being pickled."""
    functions = pickle.loads(run_main("pickle"))
    for function in functions:
        assert function(3) == "down"
        assert found(function) == {GPU}


def test_a_token_is_the_same_in_every_process():
    assert run_main("token") == run_main("token")


def test_a_token_differs_by_function_and_need_alone():
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        same = {tokenize(needs(gpu=1)(plain)) for _ in range(3)}
        assert len(same) == 1
        tokens = [
            tokenize(f)
            for f in (
                plain,
                needs(gpu=1)(plain),
                needs(gpu=0.5)(plain),
                needs(pool="gpu")(plain),
                needs(memory=2**30)(plain),
                needs(memory=2**30 + 1)(plain),
                needs(gpu=1)(needs(memory=2**30)(plain)),
                needs(gpu=1)(functools.partial(plain, 1)),
                infer,
                Model().infer,
                Model(3).infer,
            )
        ]
    assert len(set(tokens)) == len(tokens)


# -- finding it --------------------------------------------------------------------------------


def closing_over(function):
    return lambda x: function(x) + 1


def calls_by_name(x):
    return infer(x) + 1


def calls_by_name_inside(x):
    return sorted(x, key=lambda y: infer(y) + 1)


def has_another(model):
    return model.infer(1)


def drives(x):
    from distributed import worker_client

    with worker_client() as client:
        return client.submit(infer, x).result()


@functools.wraps(infer)
def wraps(x):
    return infer(x)


@functools.lru_cache
def cached(x):
    return infer(x)


HOLDERS = {
    "itself": infer,
    "partial": functools.partial(infer, scale=2),
    "partial of partial": functools.partial(functools.partial(infer, 1), scale=2),
    "partial with it as an argument": functools.partial(map, infer),
    "closure": closing_over(infer),
    "closure of closure": closing_over(closing_over(functools.partial(infer))),
    "called by its name": calls_by_name,
    "called by its name inside": calls_by_name_inside,
    "default": lambda x, f=infer: f(x),
    "keyword default": lambda x, *, f=infer: f(x),
    "wraps": wraps,
    "lru_cache": cached,
    "lru_cache of it": functools.lru_cache(infer),
    "vectorize": np.vectorize(infer),
    "curry": toolz.curry(infer)(scale=2),
    "compose": toolz.compose(plain, infer),
    "compose, first": toolz.compose(infer, plain),
    "method": Model().infer,
    "static method": Model.static,
    "class method": Model.of_class,
    "callable with slots": Pipeline(infer),
    "callable that holds a callable": Pipeline(Pipeline(functools.partial(infer))),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_found_in_a_function(name):
    assert found(HOLDERS[name]) == {GPU}


def test_found_in_what_a_task_is_given():
    finder = NeedFinder()
    tasks = {
        "argument": Task("k", plain, infer),
        "keyword": Task("k", plain, f=infer),
        "list": Task("k", plain, [1, [plain, infer]]),
        "tuple": Task("k", plain, (1, infer)),
        "set": Task("k", plain, {infer}),
        "dict": Task("k", plain, {"f": {"g": infer}}),
        "node": Task("k", plain, DataNode(None, infer)),
        "List": Task("k", plain, List(TaskRef("a"), infer)),
        "Dict": Task("k", plain, Dict({"a": TaskRef("a"), "b": infer})),
        "nested task": Task("k", plain, Task(None, infer, TaskRef("a"))),
        "fused": Task.fuse(Task("k", plain, TaskRef("a")), Task("a", infer, TaskRef("b"))),
        "batch of joblib": Task("k", plain, tasks=[(infer, (1,), {}), (infer, (2,), {})]),
        "dask's methodcaller": Task("k", dask.utils.methodcaller("infer"), Model(), 1),
    }
    for name, task in tasks.items():
        assert set(finder.task(task)) == {GPU}, name


def test_all_that_is_nested_counts():
    both = needs(gpu=1)(wide)
    assert found(both) == {GPU, BIG}
    assert set(NeedFinder().task(Task("k", wide, infer))) == {GPU, BIG}


def test_what_needs_nothing():
    finder = NeedFinder()
    for function in (
        plain,
        np.sum,
        np.add,
        sum,
        str.upper,
        functools.partial(plain),
        Model,
        drives,
    ):
        assert not finder.task(Task("k", function, 1, TaskRef("x"), a="b"))


def test_an_attribute_is_no_global_name():
    assert found(has_another) == set()
    assert found(lambda model: [model.infer(infer(1))]) == {GPU}


def test_a_function_that_submits_work_itself_does_not_run_it():
    """A task that waits for another keeps what it took: it would wait for itself."""
    assert found(drives) == set()
    assert found(lambda x, f=infer: drives(f)) == {GPU}  # hands it to an ordinary function


def test_recursion_ends():
    def fall(x):
        return fall(x - 1) if x else infer(x)

    nested = []
    nested.append(nested)
    table = {}
    table["self"] = [table, fall]
    assert found(fall) == {GPU}
    assert not NeedFinder().task(Task("k", plain, nested))
    assert set(NeedFinder().task(Task("k", plain, table))) == {GPU}
    deep = infer
    for _ in range(5000):
        deep = [deep]
    NeedFinder().task(Task("k", plain, deep))


class Trap:
    """Tells when somebody looks at it, as a lazy object would load its data."""

    looked = ()

    def __getattribute__(self, name):
        Trap.looked = (*Trap.looked, name)
        raise RuntimeError(f"somebody asked for {name}")


class CallableTrap(Trap):
    def __call__(self):
        return 1


class MappingTrap(dict):
    def values(self):
        raise RuntimeError("somebody read all of it")

    __iter__ = items = keys = __len__ = __getitem__ = values


class ListTrap(list):
    def __iter__(self):
        raise RuntimeError("somebody read all of it")

    __len__ = __getitem__ = __iter__


def test_no_code_of_the_users_runs():
    finder = NeedFinder()
    trapped_dict = MappingTrap()
    dict.__setitem__(trapped_dict, "f", infer)
    trapped_list = ListTrap()
    list.append(trapped_list, infer)
    tasks = []
    for thing in (Trap(), CallableTrap()):
        tasks += [Task("k", plain, DataNode(None, thing)), Task("k", plain, [thing, (thing,)])]
    Trap.looked = ()  # Dask looks
    for task in tasks:
        assert not finder.task(task)
    assert set(finder.find(trapped_dict)) == {GPU}
    assert set(finder.find(trapped_list)) == {GPU}
    assert Trap.looked == ()


def test_mappings_that_are_no_dicts_are_left_alone():
    """Their values may be files: zarr's groups, h5py's, fsspec's stores."""
    from collections.abc import Mapping

    class Store(Mapping):
        def __getitem__(self, key):
            raise RuntimeError("somebody read the file")

        __iter__ = __len__ = __getitem__

    assert not NeedFinder().task(Task("k", plain, Store()))


def test_data_in_a_graph_is_not_searched_through():
    import time

    rows = [{"a": [i, str(i)], "b": (i, {"c": None})} for i in range(200_000)]
    begun = time.perf_counter()
    NeedFinder().task(DataNode("k", rows))
    NeedFinder().task(Task("k", plain, list(range(1_000_000))))
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    pickle.loads(pickle.dumps(rows))
    assert took < (time.perf_counter() - begun) / 2, "unpickling it takes longer"


def test_the_same_function_object_is_looked_at_once():
    finder = NeedFinder()
    assert finder.find(infer) is finder.find(infer)
    assert isinstance(infer, NeedingFunction)
