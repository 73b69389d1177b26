"""A site with two login nodes, of which one is away at times."""

import contextlib

import pytest

from life import in_background_for_good, newer
from nodes import _rolled_out, as_user, login1, node, podman, python, until


def answers(name, command="true"):
    """Say whether a node can be reached, and a command succeeds there."""
    try:
        return node(name).run(command).rc == 0
    except RuntimeError:  # of ssh
        return False


@pytest.fixture
def away():
    """Take a node away, by whatever command of podman: ``with away("login2", "stop")``."""

    @contextlib.contextmanager
    def gone(name, how="stop"):
        podman(how, name)
        try:
            yield
        finally:
            podman("start", name)
            up = "systemctl is-active dask-history dask-dashboards dask-proxy"
            assert until(lambda: answers(name), 120), name
            until(lambda: answers(name, up), 60)

    return gone
