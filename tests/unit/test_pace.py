"""How often a resource manager is asked."""

import contextlib

import pytest

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.pace import Pace


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def ask(pace, clock, takes=0.0, error=None):
    with pace.question():
        clock.now += takes
        if error:
            raise error


def count(pace, clock, seconds, urgent=True, **how):
    """Ask whenever it is due, and return how often that was."""
    end, asked = clock.now + seconds, 0
    while clock.now < end:
        clock.now += pace.wait(urgent)
        pace.changed()  # something always happens
        if pace.open:
            with contextlib.suppress(ClusterError):
                ask(pace, clock, **how)
            asked += 1
    return asked


def test_it_is_asked_at_most_once_in_ten_seconds(clock):
    assert count(Pace(10, clock), clock, 3600, takes=0.05) <= 361


def test_the_first_question_comes_soon_after_a_change(clock):
    pace = Pace(10, clock)
    clock.now += 100
    pace.changed()
    assert pace.wait(urgent=True) == 1.5
    clock.now += 1.5
    ask(pace, clock)
    pace.changed()
    assert not pace.open
    assert pace.wait(urgent=True) == 10


def test_with_nothing_on_its_way_it_is_asked_seldom(clock):
    pace = Pace(10, clock)
    ask(pace, clock)
    assert pace.wait(urgent=False) == 30


def test_a_slow_manager_gets_ten_times_the_rest(clock):
    pace = Pace(10, clock)
    ask(pace, clock, takes=4)
    assert pace.wait(urgent=True) == 40
    clock.now += 40
    ask(pace, clock, takes=0.1)
    assert pace.wait(urgent=True) == pytest.approx(9.9)


def test_a_manager_that_is_away_is_asked_more_and_more_seldom(clock):
    pace = Pace(10, clock)
    pauses = []
    for _ in range(6):
        with pytest.raises(ClusterError):
            ask(pace, clock, error=ClusterError("away"))
        pace.changed()
        pauses.append(pace.wait(urgent=True))
        clock.now += pauses[-1]
    assert pauses == [20, 40, 80, 120, 120, 120]
    ask(pace, clock)
    assert pace.wait(urgent=True) == 10


def test_this_machine_may_be_asked_at_any_time(clock):
    pace = Pace(0.5, clock)
    pace.changed()
    assert pace.wait(urgent=True) == 0.5
