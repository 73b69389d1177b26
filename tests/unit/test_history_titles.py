"""A name that nobody gave tells nobody which cluster it is."""

import pytest

from dask_site.history.titles import title


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("3f2a91c0", "run.py", "Cluster"), "run.py"),
        (("3f2a91c0", "", "Cluster"), "3f2a91c0"),
        (("regrid", "run.py", "Cluster"), "regrid"),
        ((None, "", "scheduler"), "scheduler"),
    ],
)
def test_a_given_name_is_shown_else_the_program(given, shown):
    assert title(*given) == shown
