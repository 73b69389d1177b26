"""Needs are matched with pools: which may run what, how many at once, and what is said if none."""

import pytest
from four_pools import GIB, POOLS, matcher

from dask_site import NeedError
from dask_site.cluster.resources import pool_restriction

CASES = {
    "nothing in particular": ({}, {"cpu": 4, "highmem": 4}),
    "memory that every pool has": ({"MEMORY": GIB}, {"cpu": 4, "highmem": 4}),
    "memory that limits how many run at once": (
        {"MEMORY": 6 * GIB},
        {"cpu": 2, "highmem": 4},
    ),
    "all memory of a worker": ({"MEMORY": 16 * GIB}, {"cpu": 1, "highmem": 4}),
    "memory that only a larger pool has": ({"MEMORY": 17 * GIB}, {"highmem": 3}),
    "memory that only an exclusive pool has": ({"MEMORY": 65 * GIB}, {"fat": 2}),
    "a GPU": ({"GPU": 1}, {"gpu": 1, "fat": 1}),
    "a tenth of a GPU": ({"GPU": 0.1}, {"gpu": 4, "fat": 2}),
    "a GPU and memory": ({"GPU": 1, "MEMORY": 20 * GIB}, {"fat": 1}),
    "no GPU, said in Dask's words": ({"GPU": 0}, {"cpu": 4, "highmem": 4}),
    "a pool": (pool_restriction("highmem"), {"highmem": 4}),
    "an exclusive pool": (pool_restriction("fat"), {"fat": 2}),
    "a pool and memory": ({"pool:highmem": 1, "MEMORY": 32 * GIB}, {"highmem": 2}),
    "a pool and half of a GPU": ({"pool:gpu": 1, "GPU": 0.5}, {"gpu": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_pools_for(case):
    restrictions, slots = CASES[case]
    found = matcher().shape(restrictions).slots
    assert found == slots
    assert list(found) == list(slots), "cheapest first"


def test_exclusive_pools_that_have_enough_do_not_all_take_what_open_ones_could_not():
    """A need for memory goes to the cheapest of them; the others are there for something else."""
    more = {**POOLS, "fatter": {"cores": 2, "memory": "1TiB", "exclusive": True}}
    found = matcher(pools=more).shape({"MEMORY": 100 * GIB}).slots
    assert list(found) == ["fat"]
    assert list(matcher(pools=more).shape({"MEMORY": 600 * GIB}).slots) == ["fatter"]


def test_ordinary_work_goes_to_the_default_pool_first():
    assert list(matcher(default_pool="highmem").ordinary.slots) == ["highmem", "cpu"]


def test_ten_tenths_of_a_gpu_are_one():
    pools = {**POOLS, "gpu": {"cores": 64, "memory": "64GiB", "gpus": 3, "exclusive": True}}
    assert matcher(pools=pools).shape({"GPU": 0.1}).slots["gpu"] == 30
    assert matcher(pools=pools).shape({"GPU": 0.3}).slots["gpu"] == 10


def test_the_same_needs_have_the_same_shape_in_any_order():
    m = matcher()
    assert m.shape({"GPU": 1, "MEMORY": 5}) is m.shape({"MEMORY": 5, "GPU": 1})
    assert m.shape(None) is m.shape({}) is m.ordinary


REFUSALS = {
    "gpus": (
        {"GPU": 3},
        "'f' needs 3 GPUs; no pool of Four pools has that. "
        "The most that one worker has is 1 GPU, in pool 'gpu'.",
    ),
    "memory": (
        {"MEMORY": 2**42},
        "'f' needs 4TiB of memory; no pool of Four pools has that. "
        "The most that one worker has is 512GiB of memory, in pool 'fat'.",
    ),
    "pool": (
        {"pool:gpus": 1},
        "'f' needs pool 'gpus'; no pool of Four pools has that. "
        "Its pools: cpu, highmem, gpu, fat. Did you mean 'gpu'?",
    ),
    "nothing like it": (
        {"pool:quantum": 1},
        "'f' needs pool 'quantum'; no pool of Four pools has that. "
        "Its pools: cpu, highmem, gpu, fat.",
    ),
    "pool without": (
        {"pool:cpu": 1, "GPU": 1},
        "'f' needs 1 GPU in pool 'cpu'; no pool of Four pools has that. "
        "No worker of pool 'cpu' has GPUs.",
    ),
    "too much of a pool": (
        {"pool:cpu": 1, "MEMORY": 17 * GIB},
        "'f' needs 17GiB of memory in pool 'cpu'; no pool of Four pools has that. "
        "The most that one worker of pool 'cpu' has is 16GiB of memory.",
    ),
    "two pools": (
        {"pool:cpu": 1, "pool:gpu": 1},
        "'f' needs pool 'cpu' and pool 'gpu'; no pool of Four pools has that. "
        "One task runs on one pool.",
    ),
    "something else": (
        {"tape": 1},
        "'f' needs 1 tape; no pool of Four pools has that. No worker has tape.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_largest_there_is(case):
    restrictions, message = REFUSALS[case]
    with pytest.raises(NeedError) as caught:
        matcher().check(restrictions, "'f'")
    assert str(caught.value) == message


def test_a_refusal_of_what_is_there_but_not_together_says_where_each_is():
    pools = {name: POOLS[name] for name in ("cpu", "highmem", "gpu")}
    with pytest.raises(NeedError) as caught:
        matcher(pools=pools, escalate=[]).check({"GPU": 1, "MEMORY": 60 * GIB}, "'f'")
    assert str(caught.value) == (
        "'f' needs 1 GPU and 60GiB of memory; no pool of Four pools has that. "
        "Each is there, but not in one pool: 1 GPU in 'gpu'; 60GiB of memory in 'highmem'."
    )


def test_escalation_keeps_the_gpu():
    m = matcher()
    assert m.escalate({}, "cpu", 20 * GIB) == "highmem"
    assert m.escalate({"GPU": 1}, "cpu", 20 * GIB) == "fat"
    assert m.escalate({"pool:cpu": 1}, "cpu", 20 * GIB) == "highmem"
    assert m.escalate({}, "highmem", 20 * GIB) == "fat"
    assert m.escalate({}, "fat", 20 * GIB) is None
    assert m.largest_memory() == ("fat", 512 * GIB)


@pytest.mark.parametrize(
    ("restrictions", "gib", "wanted"),
    [
        ({}, 10, {"MEMORY": 10 * GIB}),
        ({}, 40, {"MEMORY": 40 * GIB}),
        # No open pool has it, so it goes by `escalate`, not to whatever has the memory.
        ({}, 100, {"pool:fat": 1, "MEMORY": 104 * GIB}),
        ({}, 1000, None),
        ({"MEMORY": 20 * GIB}, 10, None),
        ({"MEMORY": 20 * GIB}, 30, {"MEMORY": 30 * GIB}),
        ({"pool:cpu": 1}, 10, {"pool:cpu": 1, "MEMORY": 10 * GIB}),
        ({"pool:cpu": 1}, 20, {"pool:highmem": 1, "MEMORY": 20 * GIB}),
        ({"pool:fat": 1}, 1000, None),
        ({"GPU": 1}, 20, {"pool:fat": 1, "GPU": 1, "MEMORY": 20 * GIB}),
    ],
)
def test_memory_that_inputs_take_is_asked_for_where_it_is(restrictions, gib, wanted):
    assert matcher().with_memory(restrictions, gib * GIB) == wanted
