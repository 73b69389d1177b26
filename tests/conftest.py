"""For all tests: a second try for those on real systems, and a real PostgreSQL server."""

import glob
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ACCOUNT = "postgres"
REAL = {"local", "cluster", "attacks"}


def pytest_collection_modifyitems(items):
    """Let tests of real clusters, all on a machine's few cores, fail once; it is told in the end.

    What is wrong fails twice. Without it, of thousands of waits one too long fails all.
    """
    for item in items:
        if REAL.intersection(item.path.relative_to(item.config.rootpath).parts):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter):
    again = terminalreporter.stats.get("rerun", ())
    if again:
        terminalreporter.section("failed at the first try, and were tried again")
    for report in again:
        terminalreporter.line(report.nodeid)
        terminalreporter.line("    " + "\n    ".join(report.longreprtext.splitlines()[-8:]))


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

    data, options = folder / "data", f"-k {folder} -c listen_addresses= -c fsync=off"
    try:
        run("initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
        try:
            names = (f"history{number}" for number in itertools.count())

            def make():
                name = next(names)
                run("createdb", "-h", folder, "-U", ACCOUNT, name)
                return f"postgresql+psycopg://{ACCOUNT}@/{name}?host={folder}"

            yield make
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
