"""What the doctor makes of what it sees."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import pytest
from click.testing import CliRunner

from another import as_another
from dask_site.cli import main
from dask_site.doctor import command, folders
from dask_site.doctor.findings import Finding, Level, is_python, of_listener
from dask_site.doctor.listeners import Listener, listeners
from dask_site.doctor.probing import Answer, Speech

ME = os.getuid()
MINE = 4_000_011
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
ROW = "   0: {} 00000000:0000 {} 00000000:00000000 00:00000000 00000000  {}        0 {} 1 0 100 0\n"


@pytest.fixture
def proc(tmp_path):
    """A /proc of three sockets that listen, one connection, and two processes."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(
        HEAD
        + ROW.format("0100007F:2253", "0A", 1000, 11)
        + ROW.format("00000000:2254", "0A", 1000, 12)
        + ROW.format("0100007F:2255", "01", 1000, 13)
    )
    (tmp_path / "net/tcp6").write_text(
        HEAD + ROW.format("00000000000000000000000001000000:0016", "0A", 0, 14)
    )
    for pid, words, inode in (
        (70, b"/usr/bin/python3\0-m\0distributed\0--token=abcdef123\0", 11),
        (80, b"sshd\0", 14),
    ):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/cmdline").write_bytes(words)
        (tmp_path / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")
        (tmp_path / f"{pid}/fd/4").symlink_to("/dev/null")
    return tmp_path


def test_listeners_are_what_the_kernel_says(proc):
    ssh, dask_, web = listeners(proc=proc)
    assert (ssh.place, ssh.uid, ssh.pid, ssh.command) == ("[::1]:22", 0, 80, ("sshd",))
    assert (dask_.place, dask_.pid, dask_.local) == ("127.0.0.1:8787", 70, True)
    assert dask_.program == "python3 -m distributed"
    assert (web.place, web.pid, web.local, web.program) == (
        "0.0.0.0:8788",
        None,
        False,
        "a program",
    )
    assert [one.port for one in listeners(1000, proc)] == [8787, 8788]
    (proc / "net/tcp6").unlink()
    assert len(listeners(proc=proc)) == 2


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.53", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::", False),
        ("10.0.0.1", False),
    ],
)
def test_what_only_this_machine_reaches(address, local):
    assert Listener(address, 1, 0).local is local


@pytest.mark.parametrize(
    ("words", "python"),
    [
        (("/opt/x/bin/python3.11", "run.py"), True),
        (("/opt/x/bin/dask", "scheduler"), True),
        (("jupyter-lab",), True),
        (("/bin/sh", "/opt/x/bin/dask-worker"), True),
        (("redis-server",), False),
        ((), False),
    ],
)
def test_only_python_is_asked(words, python):
    assert is_python(Listener("::", 1, 0, 2, words)) is python


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        (None, Level.NOTE, "none of Python's"),
        (Answer(Speech.NOTHING), Level.FINE, "takes no connection"),
        (Answer(Speech.DASK), Level.OPEN, "can run code as its owner"),
        (Answer(Speech.DASK, tls=True), Level.OPEN, "can run code as its owner"),
        (Answer(Speech.OTHER, tls=True, wants_certificate=True), Level.FINE, "turns away"),
        (Answer(Speech.HTTP, dashboard=True), Level.READABLE, "code and logs"),
        (Answer(Speech.HTTP, jupyter="2.1", files=True), Level.OPEN, "without a token"),
        (Answer(Speech.HTTP, jupyter="2.1"), Level.FINE, "asks for a token"),
        (Answer(Speech.HTTP), Level.NOTE, "web server"),
        (Answer(Speech.OTHER), Level.NOTE, "program of Python"),
    ],
)
def test_how_bad_an_answer_is(answer, level, said):
    near = of_listener(Listener("127.0.0.1", 8786, ME, 5, ("python", "x.py")), answer)
    assert near.level is level
    assert said in near.what
    assert bool(near.mend) == (level >= Level.READABLE)
    assert "by the network" not in near.what
    far = of_listener(Listener("0.0.0.0", 8786, ME), answer)
    assert ("by the network" in far.what) == ("every user" in near.what)
    assert "{" not in near.what + far.what


def test_scratch_folders_of_others_are_open_doors(tmp_path):
    own = tmp_path / "dask-scratch-space"
    assert list(folders.scratch(ME, tmp_path)) == []
    own.mkdir(mode=0o700)
    assert list(folders.scratch(ME, tmp_path)) == []
    own.chmod(0o755)
    assert [one.level for one in folders.scratch(ME, tmp_path)] == [Level.NOTE]
    own.chmod(0o777)
    assert [one.level for one in folders.scratch(ME, tmp_path)] == [Level.OPEN]
    own.chmod(0o1777)  # as of the system: nobody replaces what is another's
    assert [one.level for one in folders.scratch(ME, tmp_path)] == [Level.NOTE]
    own.chmod(0o700)
    (other,) = folders.scratch(ME + 1, tmp_path) if ME else [Finding(Level.OPEN, "", "", "")]
    assert other.level is Level.OPEN
    own.rmdir()
    own.symlink_to(tmp_path)
    assert list(folders.scratch(ME, tmp_path)) == []


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
def test_scratch_folders_that_others_have_put_there():
    asks = f"""
from pathlib import Path
from dask_site.doctor import folders
print([one.level.word for one in folders.scratch({MINE}, Path(".").resolve())])
"""

    def levels():
        command = [*as_another(MINE), sys.executable, "-c", asks]
        return subprocess.check_output(command, cwd=folder, text=True).strip()

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        other = Path(folder, "dask-scratch-space")
        other.mkdir(mode=0o755)
        os.chown(other, MINE + 1, MINE + 1)
        assert levels() == "[]"  # Dask passes over what it can't write to
        other.chmod(0o777)
        assert levels() == "['open']"
        own = other.rename(other.with_name("own"))
        os.chown(own, MINE, MINE)
        own.chmod(0o700)
        other.symlink_to(own)
        os.lchown(other, MINE, MINE)
        assert levels() == "[]"
        os.lchown(other, MINE + 1, MINE + 1)
        assert levels() == "['open']"


def test_configuration_that_others_can_write(tmp_path):
    own = tmp_path / "dask"
    own.mkdir(mode=0o700)
    file = own / "site.yaml"
    file.write_text("a: 1")
    file.chmod(0o644)
    assert list(folders.configuration(ME, [own, tmp_path / "none"])) == []
    file.chmod(0o646)
    (found,) = folders.configuration(ME, [own])
    assert (found.level, found.where, found.mend) == (Level.OPEN, str(file), f"chmod go-w {file}")
    file.chmod(0o600)
    own.chmod(0o777)
    assert [one.where for one in folders.configuration(ME, [own])] == [str(own)]


def test_secrets_among_arguments(proc):
    owner = (proc / "70").stat().st_uid
    (found,) = folders.processes(owner, proc)
    assert (found.level, found.where) == (Level.READABLE, "process 70, python3")
    assert "abcdef123" not in json.dumps(found.to_dict())
    assert list(folders.processes(owner + 1, proc)) == []
    for harmless in (b"python\0--tokens=3\0", b"x\0--password-file=/etc/p\0", b"x\0--token=abc\0"):
        (proc / "70/cmdline").write_bytes(harmless)
        assert list(folders.processes(owner, proc)) == [], harmless


def test_settings_that_leave_doors_open():
    closed = {
        "distributed.comm.require-encryption": True,
        "distributed.scheduler.dashboard.bokeh-application": {"allow_websocket_origin": ["a.org"]},
    }
    with dask.config.set(closed):
        assert list(folders.settings()) == []
    with dask.config.set({**closed, "distributed.comm.require-encryption": None}):
        assert [one.where for one in folders.settings()] == ["distributed.comm.require-encryption"]


@pytest.fixture
def run(monkeypatch):
    def run(*arguments, found=()):
        monkeypatch.setattr("dask_site.doctor.examination.examination", lambda uid, *_: list(found))
        return CliRunner().invoke(main, ["doctor", "security", *arguments])

    return run


FINE, BAD = (
    Finding(Level.FINE, "good", "here", "me"),
    Finding(Level.OPEN, "bad", "there", "me", "x"),
)


def test_the_command_shows_the_worst_first_and_fails_for_it(run):
    done = run("--all", found=[FINE, BAD])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "open     bad",
        "         there (me)",
        "         -> x",
        "fine     good",
        "         here (me)",
    ]
    assert done.stderr == "1 of yours let others run code.\n"
    done = run(found=[FINE])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Nothing was found" in done.stderr
    told = json.loads(run("--json", found=[FINE, BAD]).stdout)
    assert [one["level"] for one in told] == ["open", "fine"]


def test_only_an_administrator_looks_at_all(run, monkeypatch):
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    done = run("--everyone")
    assert done.exit_code == 2
    assert "sudo" in done.stderr
