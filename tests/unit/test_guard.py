"""Hooks that fail are switched off for their object, with one warning."""

import logging

import pytest

from dask_site.cluster.guard import guarded, nothing


class Stock:
    def double(self, x, *, by=2):
        return x * by


class Ours(Stock):
    broken = False

    @guarded(Stock.double, "it only doubles")
    def double(self, x, *, by=2):
        """Double, and add one."""
        if self.broken:
            raise KeyError("why")
        return super().double(x, by=by) + 1

    @guarded(nothing, "nobody is told")
    def tell(self, x):
        if self.broken:
            raise KeyError("why")
        return x


def test_a_hook_that_works_is_only_called():
    assert Ours().double(2, by=3) == 7
    assert Ours().tell(1) == 1
    assert (Ours.double.__name__, Ours.double.__doc__) == ("double", "Double, and add one.")


def test_a_hook_that_fails_once_is_switched_off_for_its_object_alone(caplog):
    broken, other = Ours(), Ours()
    broken.broken = True
    assert broken.double(2, by=3) == 6
    broken.broken = False
    assert broken.double(2) == 4, "it stays off"
    assert other.double(2) == 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == "Ours.double went wrong and is switched off; it only doubles."
    assert record.exc_info[0] is KeyError


def test_each_hook_is_told_of_by_itself(caplog):
    broken = Ours()
    broken.broken = True
    for _ in range(3):
        assert broken.double(2) == 4
        assert broken.tell(1) is None
    assert len(caplog.records) == 2


def test_what_fails_without_us_too_is_raised():
    broken = Ours()
    broken.broken = True
    with pytest.raises(TypeError):
        broken.double(object())
