"""The life of a site after its first rollout, on a cluster of its own."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from nodes import ROOT, _rolled_out, as_user, encoded, login1, until

MIGRATION = '''"""One column more."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.add_column("clusters", sa.Column("later", sa.Text, nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("clusters", "later")
'''


@pytest.fixture(scope="module")
def in_background_for_good(as_user, login1):
    """Start a script of a user that outlives the test; return its node and process."""
    started = []

    def start(user, code):
        as_user(user, f"echo {encoded(code)} | base64 -d > background.py; rm -f seen")
        command = "module load dask-site && exec setsid python background.py > background.log 2>&1"
        pid = as_user(user, f"({command}) < /dev/null > /dev/null 2>&1 & echo $!").stdout.strip()
        started.append(pid)
        log = f"/home/{user}/background.log"
        assert until(lambda: login1.run(f"grep FACTS {log}").rc == 0, 120), log
        return "login1", pid

    yield start
    for pid in started:
        login1.run(f"kill -KILL -- -{pid} 2>/dev/null; kill -KILL {pid}")


@pytest.fixture(scope="session")
def newer(tmp_path_factory):
    """The wheel of a release after this one, which keeps the history in another form."""
    copy = tmp_path_factory.mktemp("newer")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    package = copy / "src" / "dask_site"
    _replace(package / "__init__.py", r'__version__ = ".*"', '__version__ = "99.0"')
    _replace(package / "history" / "migrations" / "__init__.py", 'HEAD = "0003"', 'HEAD = "0004"')
    versions = package / "history" / "migrations" / "versions"
    (versions / "v0004_later.py").write_text(MIGRATION)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(
        command, cwd=copy, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1580601600"}
    )
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


def _replace(path, old, new):
    text, number = re.subn(old, new, path.read_text())
    assert number == 1, f"{path} has no {old}"
    path.write_text(text)
