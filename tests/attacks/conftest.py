"""Real users of the containerised cluster: alice has clusters, bob and carol are after them."""

import json
from pathlib import Path

import naive
import pytest
from attacked import LOCAL, TALLY, ended_by, link_to_id, started, started_in_a_job
from visiting import PORT, Visitor

from nodes import _rolled_out, as_user, in_background, login1, node, python, site, until, variables


def pytest_collection_modifyitems(items):
    """Have attacks on one Debian suite: they are after nginx and Dask, not after Slurm."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.suite("bookworm"))


def pytest_terminal_summary(terminalreporter):
    """Say how much was tried, and how much of it got through."""
    if TALLY.tried or TALLY.open:
        terminalreporter.section("attacks")
        terminalreporter.write_line(TALLY.said())
        for what in TALLY.through:
            terminalreporter.write_line(f"got through: {what}")


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """The certificate of who vouches for the proxies, which a site's browsers know."""
    state = variables()["site"]["dashboards"]["state"]
    path = tmp_path_factory.mktemp("authority") / "site.pem"
    path.write_text(node("login1").check_output(f"cat {state}/public/site.pem") + "\n")
    return path


@pytest.fixture(scope="session")
def address():
    """Return the address of a node."""
    return lambda name="login1": node(name).check_output("hostname -i").split()[0]


@pytest.fixture(scope="session")
def dashboards(as_user):
    """Ask for a user's dashboards as he would: ``dashboards("alice")``."""

    def ask(user, host="login1", more=""):
        command = f"module load dask-site && dask-site dashboards --json {more}"
        result = as_user(user, command, host)
        assert result.rc == 0, result.stderr
        return json.loads(result.stdout)

    return ask


@pytest.fixture(scope="session")
def stranger(authority, address):
    """Make a browser in which nobody is logged in."""
    domain = variables()["site"]["dashboards"]["domain"]
    return lambda host="login1", port=PORT: Visitor(address(host), authority, domain, port=port)


@pytest.fixture(scope="session")
def browser(stranger, dashboards):
    """Make a browser in which a user is logged in: ``browser("bob")``."""

    def make(user, host="login1"):
        visitor = stranger(host)
        answer = visitor.log_in(dashboards(user, host)["login"])
        assert answer.status == 303, answer.text
        return visitor

    return make


@pytest.fixture(scope="module")
def alices():
    """Two clusters of alice's, by where their schedulers are: ``login`` and ``job``."""
    host = node("login1")
    ended_by("alice", "here")
    host.run("scancel -u alice")
    found = {"login": started("alice", LOCAL, "here")}
    found["job"], _ = started_in_a_job("alice", LOCAL, "attacked")
    for facts in found.values():
        facts["id"] = link_to_id(facts["link"])
    yield found
    ended_by("alice", "here")
    host.run("scancel -u alice")
    assert until(lambda: not host.check_output("squeue -h -u alice"))


@pytest.fixture(scope="module")
def ids(alices):
    """The ids of alice's clusters."""
    return {where: facts["id"] for where, facts in alices.items()}


# Of a module, not of all: a user has 20 sessions, and tests open more.
@pytest.fixture(scope="module")
def alice(browser):
    return browser("alice")


@pytest.fixture(scope="module")
def bob(browser):
    return browser("bob")


@pytest.fixture(scope="module")
def unprotected():
    """Dashboards without this project, on ports of their own."""
    naive.begin()
    yield
    naive.end()
