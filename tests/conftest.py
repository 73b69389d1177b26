"""For all tests: a second try for those on real systems, an end to those that hang, PostgreSQL."""

import faulthandler
import glob
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import pytest_timeout

ACCOUNT = "postgres"
REAL = {"local", "cluster", "attacks"}
# Seconds for a part of a test, far above its own limit: what doesn't even end at that is stuck.
STUCK = 1000
STDERR = pytest.StashKey[int]()


def pytest_configure(config):
    # Later on it is captured, and what is captured is lost with the process.
    config.stash[STDERR] = os.dup(2)
    if not hasattr(config, "workerinput"):  # of several processes the one that tells
        config.pluginmanager.register(Again(config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if getattr(item, "execution_count", 1) > 1:
        # A failure stops the timer, which was to serve all tries.
        settings = pytest_timeout._get_item_settings(item)
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
    end_if_stuck(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    end_if_stuck(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    end_if_stuck(item)


def end_if_stuck(item):
    """Let a part of a test that never ends cost minutes, and tell where each thread stood."""
    faulthandler.dump_traceback_later(STUCK, exit=True, file=item.config.stash[STDERR])


def pytest_runtest_logfinish():
    faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(items):
    """Let tests of real clusters, all on a machine's few cores, fail once; it is told in the end.

    What is wrong fails twice. Without it, of thousands of waits one too long fails all.
    """
    for item in items:
        if REAL.intersection(item.path.relative_to(item.config.rootpath).parts):
            item.add_marker(pytest.mark.flaky(reruns=1))


class Again:
    """Tells what is tried again, at once: who stops a run that hangs wants to know."""

    def __init__(self, config):
        self.plugins = config.pluginmanager

    @property
    def terminal(self):
        return self.plugins.getplugin("terminalreporter")

    def pytest_runtest_logreport(self, report):
        if report.outcome == "rerun":
            self.terminal.line("")
            self.tell(report)

    def pytest_terminal_summary(self):
        again = self.terminal.stats.get("rerun", ())
        if again:
            self.terminal.section("failed at the first try, and were tried again")
        for report in again:
            self.tell(report)

    def tell(self, report):
        self.terminal.line(report.nodeid)
        self.terminal.line("    " + "\n    ".join(report.longreprtext.splitlines()[-8:]))


@pytest.fixture(scope="session")
def new_postgresql():
    """Return a function that makes an empty database and returns its URL."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]))
    if not found:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    as_account = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        try:
            person = pwd.getpwnam(ACCOUNT)
        except KeyError:
            pytest.skip(f"PostgreSQL does not run as root, and there is no account {ACCOUNT!r}")
        as_account = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # not in pytest's, which is only ours
    if as_account:
        os.chown(folder, as_account["user"], as_account["group"])

    def run(program, *arguments):
        command = [f"{found[-1]}/{program}", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **as_account)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    options = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    # Nobody has a password, so only who may enter the folder gets in.
    trust = ("--auth-local=trust", "--auth-host=scram-sha-256")
    try:
        run("initdb", "-D", data, "-U", ACCOUNT, *trust, "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
        try:
            names = (f"history{number}" for number in itertools.count())

            def make():
                name = next(names)
                run("createdb", "-h", folder, "-p", port, "-U", ACCOUNT, name)
                return f"postgresql+psycopg://{ACCOUNT}@/{name}?host={folder}&port={port}"

            yield make
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
