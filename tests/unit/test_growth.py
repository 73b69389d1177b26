"""Pools grow by what is wanted for a while."""

from dask_site.scaling.growth import Growth


def follow(*looks, there=0, least=0, first=True):
    """Return what a pool gets, look by look; what it gets is there at the next."""
    growth = Growth(["cpu"])
    given = []
    for wanted in looks:
        there = growth.lasting("cpu", wanted, there, least, first)
        given.append(there)
    return given


def test_the_first_worker_comes_at_once_and_the_others_after_three_looks():
    assert follow(6, 6, 6, 6) == [1, 1, 6, 6]


def test_what_one_look_wants_and_the_next_does_not_is_never_asked_for():
    assert follow(6, 1, 1, 40, 1, 1) == [1, 1, 1, 1, 1, 1]


def test_it_grows_by_the_least_that_the_last_looks_wanted():
    assert follow(6, 4, 5, 9, 9) == [1, 1, 4, 4, 5]


def test_fewer_are_wanted_at_once():
    assert follow(0, there=5) == [0]
    assert follow(3, there=5) == [3]


def test_bounds_from_below_hold_at_once():
    assert follow(4, least=4) == [4]


def test_what_is_too_much_for_cheaper_pools_is_so_for_a_while():
    assert follow(2, 0, 1, 2, first=False) == [0, 0, 0, 0]
    assert follow(2, 2, 1, first=False) == [0, 0, 1]
