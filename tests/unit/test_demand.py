"""What work there is, by kind."""

from types import SimpleNamespace as Some

from dask_site.placement.matching import Shape
from dask_site.scaling.demand import Cell, merged

CPU = Shape((), {"cpu": 1})
GPU = Shape((("GPU", 1),), {"gpu": 1})


def cell(name, shape=CPU, timed=False, **count):
    one = Cell(shape, Some(name=name, timed=timed, seconds=0.001 if name == "getitem" else 0.5))
    one.count.update({state.replace("_", "-"): n for state, n in count.items()})
    one.waiting = {f"{name}-{n}": None for n in range(one.count["waiting"])}
    return one


def look(cells):
    return merged(cells, lambda prefix: prefix.timed, lambda prefix: prefix.seconds)


def test_names_that_occur_once_are_one_kind_of_work():
    known = [cell("known", timed=True, queued=1), cell("many", waiting=2)]
    ones = [cell(f"sim_{n}", queued=1) for n in range(60)]
    ones += [cell(f"run_{n}", no_worker=1) for n in range(40)]
    ones += [cell(f"post_{n}", GPU, waiting=1) for n in range(50)]
    found = look([cell("getitem", queued=1), *ones, *known])
    assert found[:2] == known
    short, cpu, gpu = found[2:]
    assert (short.prefix.name, short.unfinished) == ("getitem", 1)
    assert (cpu.shape, cpu.count["queued"], cpu.count["no-worker"]) == (CPU, 60, 40)
    assert (gpu.shape, gpu.count["waiting"], gpu.unfinished) == (GPU, 50, 50)
    assert list(gpu.waiting) == [f"post_{n}-0" for n in range(50)]


def test_a_few_kinds_of_which_there_is_one_stay_what_they_are():
    ones = [cell(f"step_{n}", queued=1) for n in range(20)]
    assert look(ones) == ones
