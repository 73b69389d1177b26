"""What strangers can have parsed, under a fuzzer that looks for new ways through the code.

    python tests/fuzz/targets.py words -max_total_time=3600 corpus/

Options and folders are libFuzzer's. An input that breaks a rule ends it, and is kept in a file.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import atheris

with atheris.instrument_imports(include=["dask_site"]):
    from dask_site.dashboards import onward
    from dask_site.dashboards.peers import Told
    from dask_site.dashboards.registry import Cluster
    from dask_site.dashboards.sessions import Sessions
    from dask_site.history.reading import read_spool
    from dask_site.history.records import parse  # noqa: F401  # imported late by the reader
    from dask_site.history.service.inbox import Inbox, InboxError
    from dask_site.sitefile.problems import Mistake
    from dask_site.sitefile.units import parse_memory, parse_walltime

CLUSTER = "abcdefgh01234567"
NOW = 1_800_000_000.0


def _words():
    sessions = Sessions(b"k" * 32, 3600.0, lambda: NOW)
    _, session = sessions.begin(1234)
    attempt = sessions.attempt()
    ticket = sessions.ticket(session, CLUSTER)
    cookie = sessions.redeem(sessions.ticket(session, CLUSTER), CLUSTER)
    return SimpleNamespace(
        sessions=sessions, link=sessions.link(1234), ticket=ticket, cookie=cookie, attempt=attempt
    )


_MADE = _words()


def words(data: bytes) -> None:
    """A word that nobody gave out lets nobody in."""
    made, word = _MADE, data.decode("latin-1")
    sessions = made.sessions
    assert sessions.linked(word) is None or word == made.link
    assert sessions.at(word, CLUSTER) is None or word == made.cookie
    assert sessions.of(word) is None
    if word not in (made.ticket, made.attempt.word):  # which are used up by asking
        assert sessions.redeem(word, CLUSTER) is None
        assert sessions.attempted(word, made.attempt.state) is None
    assert sessions.attempted(made.attempt.word, word) is None or word == made.attempt.state


def onwards(data: bytes) -> None:
    """Nobody is sent elsewhere after a login."""
    path = data.decode("latin-1")
    to = onward.after_login(path)
    assert to.startswith("/") and to[1:2] not in ("/", "\\")
    assert to.isprintable() and to.isascii()
    if onward.is_path(path):
        assert path[:1] == "/" and path[1:2] not in ("/", "\\") and path.isprintable()


def peers(data: bytes) -> None:
    """What another broker's file says is read, or is refused by an error that is expected."""
    try:
        told = Told.read(data)
    except ValueError:
        return
    assert isinstance(told.is_there(NOW), bool)
    for session in told.sessions:
        assert session.until != session.until + 1  # a time, with an end
    for cluster in told.clusters:
        cluster.may_look(1, NOW)


def spools(data: bytes) -> None:
    """What stands in a spool file never raises, and nothing is read twice."""
    descriptor = os.memfd_create("spool")
    try:
        os.write(descriptor, _lines(data) + data)
        reading = read_spool(descriptor)
        before = 0
        for _, offset in reading:
            assert offset > before
            before = offset
    finally:
        os.close(descriptor)


def _lines(data: bytes) -> bytes:
    """Put before it what a fuzzer can't guess: the sum of a line, and what each record has."""
    lines = []
    for part in data.split(b"\n"):
        body = part
        if part.startswith(b"{"):
            body = b'{"v":1,"c":"x","q":1,"t":1.5,' + part[1:]
        lines.append(b"%08x %b\n" % (crc32(body), body))
    return b"".join(lines)


_FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def sent(data: bytes) -> None:
    """What is sent as records is kept whole, or refused in words; it is read as it was sent."""
    name, _, rest = data.partition(b"\n")
    place, lines = f"x{name.decode('latin-1')}", _lines(rest)
    inbox = Inbox(_FOLDER / "inbox")
    try:
        assert inbox.take(7, place, 0, lines) == len(lines)
    except InboxError as refused:
        assert 400 <= refused.status < 500 and str(refused).isprintable()
        assert not (_FOLDER / "inbox").exists()
        return
    (file,) = (_FOLDER / "inbox" / "7").iterdir()
    assert file.read_bytes() == lines
    descriptor = os.open(file, os.O_RDONLY)
    assert all(one.c == "x" for one, _ in read_spool(descriptor))
    os.close(descriptor)
    shutil.rmtree(_FOLDER / "inbox")


def units(data: bytes) -> None:
    """What somebody writes as memory or time is a number of them, or a mistake that is told."""
    text = data.decode("utf-8", "replace")
    for parse_it in (parse_memory, parse_walltime):
        try:
            found = parse_it(text)
        except Mistake as mistake:
            assert str(vars(mistake).get("why"))
        else:
            assert found


TARGETS = {one.__name__: one for one in (words, onwards, peers, spools, sent, units)}
_SESSION = ["0" * 32, 1, NOW]
_CLUSTER = Cluster(CLUSTER, 1, "a", "b", "c", "10.0.0.7:4", pools=("x",), shares={2: NOW})
SEEDS = {
    "words": [_MADE.link, _MADE.ticket, _MADE.cookie, _MADE.attempt.word, _MADE.attempt.state],
    "onwards": ["/", f"/ticket?cluster={CLUSTER}&path=/status", "//evil.test", "/\\evil.test"],
    "peers": [
        json.dumps(
            {"host": "a", "seen": 1.0, "clusters": [], "sessions": [_SESSION], "closed": []}
        ),
        json.dumps(
            {
                "host": "a",
                "seen": 1.0,
                "clusters": [_CLUSTER.to_dict()],
                "sessions": [],
                "closed": [],
            }
        ),
        '{"host": "a", "seen": 1e999, "clusters": [], "sessions": [], "closed": []}',
        "[" * 5000,
    ],
    "spools": ['{"k":"end","how":"closed"}', '{"k":"cluster","owner":"me"}', "00000000 {}"],
    "sent": ['.0.spool\n{"k":"end","how":"closed"}', '.0.spool\n{"c":"y"}', "/.0.spool\n{}"],
    "units": ["1GiB", "02:00:00", "1d 2h", "1-02:03", "1e400GB", "\u0661 GiB"],
}


def main() -> None:
    """Run one target for as long as libFuzzer is told to."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    name, *rest = sys.argv[1:]
    for folder in (one for one in rest if not one.startswith("-")):
        os.makedirs(folder, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            with open(os.path.join(folder, f"seed-{number}"), "wb") as file:
                file.write(seed.encode())
    atheris.Setup([sys.argv[0], *rest], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
