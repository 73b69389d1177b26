"""Work for a pool without workers gathers until it is worth a job."""

import pytest

from dask_site.scaling.gather import Gathering


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("ready", "spread", "lead", "goes_on"),
    [
        pytest.param(2.0, 60.0, 10.0, True, id="drops"),
        pytest.param(0.0, 60.0, 10.0, True, id="drops that have not begun to fall"),
        pytest.param(12.0, 60.0, 10.0, False, id="worth it"),
        pytest.param(2.0, 5.0, 10.0, False, id="nearly all"),
        pytest.param(0.0, 0.0, 10.0, False, id="all at once, behind a barrier"),
        pytest.param(2.0, 0.0, 10.0, False, id="no more comes"),
    ],
)
def test_when_work_gathers(ready, spread, lead, goes_on):
    assert Gathering(Clock()).goes_on("gpu", ready, spread, lead, 30.0) is goes_on


def test_it_does_not_gather_for_ever():
    gathering = Gathering(clock := Clock())
    seen = []
    for clock.now in range(0, 70, 10):
        seen.append(gathering.goes_on("gpu", 2.0, 600.0, 10.0, 30.0))
    assert seen == [True, True, True, False, True, True, True]


def test_time_before_the_first_drop_does_not_count():
    gathering = Gathering(clock := Clock())
    for clock.now in range(0, 100, 10):
        assert gathering.goes_on("gpu", 0.0, 600.0, 10.0, 30.0)
    assert gathering.goes_on("gpu", 1.0, 600.0, 10.0, 30.0)
