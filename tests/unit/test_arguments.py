"""What the arguments of a cluster mean."""

import pytest

from dask_site.cluster.arguments import seconds_from


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (90, 90),
        ("2 min", 120),
        ("10min", 600),
        ("3 mins ", 180),
        ("2 minutes", 120),
        ("1.5 h", 5400),
        ("30s", 30),
        ("500 ms", 0.5),
    ],
)
def test_durations_as_people_write_them(given, seconds):
    assert seconds_from("idle", given) == seconds


@pytest.mark.parametrize(
    "given", [0, -1, "soon", "5 mints", "min", "5 admin", float("inf"), [], {}]
)
def test_what_is_no_duration_is_refused_by_name(given):
    with pytest.raises(ValueError, match=r'^adapt\(idle=.*\): a time such as "2 min" or 120\.$'):
        seconds_from("idle", given)
