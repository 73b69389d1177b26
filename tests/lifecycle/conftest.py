"""The life of a site after its first rollout, on a cluster of its own."""

import pytest

from life import (
    STARTED,
    TOP,
    WORKING,
    current,
    in_background_for_good,
    newer,
    play,
    released,
    working,
)
from nodes import _rolled_out, as_user, login1, node, until

# What comes of what; each file alone makes what it needs of the ones before.
ORDER = ("upgrade", "rollback", "tags", "services", "drift", "prune", "uninstall")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")))


@pytest.fixture(scope="session")
def before():
    """The release of the first rollout."""
    return min(released())


@pytest.fixture(scope="session")
def upgraded(before, newer):
    """Two releases: users have the newer, unless somebody has gone back since. Returns its name."""
    if not node("login1").file(f"{TOP}/previous").is_symlink:
        status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
        assert status == 0, said
    return max(released())


@pytest.fixture
def given_back(before, upgraded):
    """Users have the first release, and there is a newer one."""
    if current() != before:
        status, said = play("playbooks/rollback.yml", dask_release=before)
        assert status == 0, said


@pytest.fixture(scope="session")
def alices(in_background_for_good):
    """A cluster of alice that computes all the time: its node and process."""
    return in_background_for_good("alice", STARTED)


@pytest.fixture(scope="session")
def twenty_jobs(login1):
    """Twenty jobs of alice, all running, of the release that users have by now."""
    login1.check_output(f"cat > /home/alice/works.sh <<'E'\n{WORKING}E")
    login1.check_output("runuser -l alice -c 'sbatch --partition=standard works.sh'")
    assert until(lambda: len(working()) == 20, 120)
    assert until(lambda: login1.run("grep -L . /home/alice/works-*.out").stdout == "", 120)
    yield current()
    login1.run("scancel --name works; rm -f /home/alice/works*")
