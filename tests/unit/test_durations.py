"""How long the next task of a kind takes, from those that were computed."""

from collections import defaultdict

import pytest

from dask_site.scaling.durations import Durations


class Prefix:
    """What distributed counts of the tasks of one name."""

    def __init__(self):
        self.state_counts = defaultdict(int)
        self.all_durations = defaultdict(float)
        self.duration_average = self.max_exec_time = -1

    def computed(self, *seconds):
        self.state_counts["memory"] += len(seconds)
        self.all_durations["compute"] += sum(seconds)
        self.duration_average = seconds[-1]
        self.max_exec_time = max(self.max_exec_time, *seconds)

    def runs_for(self, seconds):
        self.max_exec_time = max(seconds, self.max_exec_time)
        self.duration_average = -1


@pytest.fixture
def prefix():
    return Prefix()


def test_a_few_are_too_few(prefix):
    durations = Durations()
    assert durations.mean(prefix) is None
    prefix.computed(1, 1)
    assert durations.mean(prefix) is None
    prefix.computed(4)
    assert durations.mean(prefix) == 2


@pytest.mark.parametrize("each_look", [1, 7, 5000])
def test_short_calls_of_before_are_forgotten(prefix, each_look):
    durations = Durations()
    for _ in range(5000 // each_look):
        prefix.computed(*[0.005] * each_look)
        durations.mean(prefix)
    assert durations.mean(prefix) == pytest.approx(0.005)
    for _ in range(12):
        prefix.computed(2)
        durations.mean(prefix)
    assert durations.mean(prefix) > 0.7
    for _ in range(40):
        prefix.computed(2, 2)
        durations.mean(prefix)
    assert durations.mean(prefix) == pytest.approx(2, rel=0.05)


def test_tasks_of_one_name_that_differ_do_not_make_it_swing(prefix):
    durations = Durations()
    looks = []
    for _ in range(200):
        prefix.computed(0.1, 1.9)
        looks.append(durations.mean(prefix))
        prefix.computed(0.1)
        prefix.computed(1.9)
        looks.append(durations.mean(prefix))
    assert max(abs(look - 1) for look in looks[50:]) < 0.15


def test_one_short_task_that_was_delayed_makes_no_hours_of_thousands(prefix):
    durations = Durations()
    for _ in range(40):
        prefix.computed(*[0.001] * 10)
        durations.mean(prefix)
    prefix.computed(0.6)
    assert durations.mean(prefix) < 0.003


def test_one_that_runs_for_longer_than_the_others_is_one_more_of_them(prefix):
    durations = Durations()
    prefix.computed(*[0.2] * 15)
    prefix.runs_for(1.4)
    assert durations.mean(prefix) == pytest.approx((15 * 0.2 + 1.4) / 16)
    prefix.computed(1.6)
    assert durations.mean(prefix) == pytest.approx((15 * 0.2 + 1.6) / 16)


def test_tasks_that_are_far_longer_than_the_first_are_known_before_they_end(prefix):
    durations = Durations()
    prefix.computed(0.1, 0.1, 0.1)
    prefix.runs_for(3600)
    assert durations.mean(prefix) > 600


def test_what_took_long_once_says_nothing_of_what_runs_now(prefix):
    durations = Durations()
    prefix.computed(600)
    for _ in range(200):
        prefix.computed(*[0.5] * 10)
        durations.mean(prefix)
    prefix.runs_for(1.1)
    assert durations.mean(prefix) == pytest.approx(0.5)
    prefix.runs_for(700)
    assert durations.mean(prefix) > 30


def test_data_of_that_name_was_never_computed(prefix):
    durations = Durations()
    prefix.state_counts["memory"] = 5
    assert durations.mean(prefix) is None
    prefix.runs_for(2)
    assert durations.mean(prefix) > 0
