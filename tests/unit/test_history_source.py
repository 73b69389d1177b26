"""Where the history is asked for: the own spool, the service, and the one for the other."""

import json
import os
import socket
import subprocess
import threading
import time
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import dask.config
import pytest
from history_making import T0, error, history, span, usage, worker
from history_spooling import spooled
from history_storing import story

from dask_site.calls import Calls, ServiceDownError, Where
from dask_site.history import source as source_module
from dask_site.history.books import Books
from dask_site.history.ledger import close_books
from dask_site.history.remote import FallingBack, ServiceSource
from dask_site.history.source import SourceError, SpoolSource, find
from dask_site.history.store import Store
from dask_site.people import name_of

FULL = "3f2a0001-aaaa"
OTHER = "3f2a0002-bbbb"


def one(**of_cluster):
    return history(
        worker(end=100),
        span("regrid", {"thread-cpu": 80}, {"f": {"states": {"forgotten": 7}}}),
        usage("cpu", t=50, busy=60, idle={"no_work": 40}),
        usage("cpu", t=100, busy=90, idle={"no_work": 110}),
        error(2),
        **of_cluster,
    )


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "spool"
    where.mkdir(mode=0o700)
    spooled(where, one(name="first"), FULL)
    spooled(where, one(name="second"), OTHER)
    os.utime(where / f"{FULL}.0.spool", (T0, T0))
    os.utime(where / f"{OTHER}.0.spool", (T0 + 100, T0 + 100))
    return where


def test_the_own_spool_lists_the_latest_first(folder):
    first, second = SpoolSource(folder).clusters()
    assert (first.id, first.name, second.id) == (OTHER, "second", FULL)
    assert (first.tasks, first.errors, first.state, first.how) == (7, 2, "ended", "closed")
    assert (first.allocated, first.pools) == (200, ("cpu",))
    assert first.cpu == pytest.approx(
        close_books(SpoolSource(folder).cluster(OTHER).history).whole.of("cpu")
    )
    assert (first.owner, first.owner_name) == (os.getuid(), name_of())
    assert [c.id for c in SpoolSource(folder).clusters(most=1)] == [OTHER]
    assert SpoolSource(folder).clusters(user="nobody-else") == []
    assert SpoolSource(folder).clusters(until=T0 - 1) == []


def test_a_cluster_goes_by_the_beginning_of_its_id(folder):
    source = SpoolSource(folder)
    assert source.cluster("3f2a0001").id == FULL
    assert source.cluster(FULL).history.cluster.name == "first"
    assert source.cluster("-").id == OTHER
    with pytest.raises(SourceError, match=r"'3f2a' is the beginning of 2 ids.*3f2a0002"):
        source.cluster("3f2a")
    with pytest.raises(SourceError, match="too short: write at least 4"):
        source.cluster("3f2")
    with pytest.raises(SourceError, match=r"begins with '3f2a0009'; nearest: 3f2a0002 \(second\)"):
        source.cluster("3f2a0009")
    with pytest.raises(SourceError, match=r"nearest: 3f2a0002 \(second\)"):
        source.cluster("secnd")


def test_sums_are_the_books_of_the_clusters(folder):
    day = date(1970, 1, 1) + timedelta(days=int(T0) // 86400)
    source = SpoolSource(folder)
    (total,) = source.sums("pool", day, day)
    assert (total.pool, total.day) == ("cpu", None)
    books = sum((close_books(source.cluster(c).history).whole for c in (FULL, OTHER)), Books())
    assert total.books.allocated == pytest.approx(books.allocated) == 400
    assert total.books.of("cpu") == pytest.approx(books.of("cpu")) != 0
    assert source.sums("day", day, day)[0].day == day
    assert source.sums("user", day, day)[0].owner == os.getuid()
    assert source.sums("pool", day - timedelta(days=3), day - timedelta(days=1)) == []


def test_all_clusters_are_asked_for_in_parts(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "_AT_ONCE", 1)
    source = SpoolSource(folder)
    assert [c.id for c in source.every(name_of())] == [OTHER, FULL]
    assert [c.id for c in source.clusters(most=1, skip=1)] == [FULL]
    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        for name in ("c1", "c2", "c3"):
            store.ingest(1, story(name))
        found = [c.id for c in store.clusters()]
        assert [c.id for c in store.clusters(limit=2, skip=1)] == found[1:]


def test_what_is_forgotten_is_gone_and_what_runs_stays(folder):
    for path in folder.iterdir():
        path.touch()  # a writer takes away what is old
    now = time.time() - T0
    running = history(worker(), ended=False, seen=now)
    spooled(folder, running, "running-1")
    source = SpoolSource(folder)
    with pytest.raises(SourceError, match="is running, and would be recorded again"):
        source.forget("running-1")
    assert source.forget("3f2a0001") == 1
    assert not list(folder.glob(f"{FULL}*"))
    assert source.forget(None) == 1
    assert [path.name for path in folder.iterdir()] == ["running-1.0.spool"]


def test_files_that_are_none_of_ours_are_passed_over(folder):
    (folder / "notes.txt").write_text("x")
    (folder / "evil.x.spool").write_text("x")
    (folder / "garbage.0.spool").write_bytes(b"\xff" * 1000)
    os.mkfifo(folder / "pipe.0.spool")
    (folder / "link.0.spool").symlink_to("/etc/passwd")
    assert len(SpoolSource(folder).clusters()) == 2
    with pytest.raises(SourceError, match="nothing can be read in the files of cluster garbage"):
        SpoolSource(folder).cluster("garbage")


def test_an_empty_spool_says_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="enabled: true"):
        SpoolSource(tmp_path / "none").cluster("-")
    with pytest.raises(SourceError, match="no history service is configured"):
        SpoolSource(tmp_path).open("/")


def test_without_a_service_the_own_spool_answers(tmp_path):
    settings = {"dask-site.history.state": str(tmp_path), "dask-site.history.spool": "/tmp/spool"}
    with dask.config.set(settings):
        assert isinstance(find(print), SpoolSource)
        (tmp_path / "where.json").write_text("{}")
        assert isinstance(find(print), FallingBack)
        assert isinstance(find(print, tmp_path), SpoolSource)
    (tmp_path / "where.json").unlink()
    with dask.config.set({**settings, "dask-site.history.spool": "/var/spool/dask-site/$USER"}):
        assert isinstance(find(print), FallingBack)


def test_a_service_that_is_down_is_said_once_and_the_own_spool_answers(folder, tmp_path):
    said = []
    with dask.config.set({"dask-site.history.spool": str(folder)}):
        source = FallingBack(ServiceSource(tmp_path), said.append)
        assert source.cluster("-").id == OTHER
        assert len(source.clusters()) == 2
        (message,) = said
        assert "where.json is not there" in message
        # What is forgotten here would still be there.
        with pytest.raises(SourceError, match="does not answer"):
            source.forget(None)
        with pytest.raises(SourceError, match="does not answer"):
            source.open("/")
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"{", b'{"host": "x", "port": "y"}', b"\xff"]
)
def test_a_broken_where_file_is_a_service_that_is_down(tmp_path, content):
    (tmp_path / "where.json").write_bytes(content)
    with pytest.raises(ServiceDownError, match=r"where\.json can't be used"):
        Where.read(tmp_path)


class _Answers(BaseHTTPRequestHandler):
    answer = (200, b"{}")

    def do_GET(self):
        status, content = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def address_string(self):
        return "socket"

    def log_message(self, *_):
        pass


@pytest.fixture
def answering(tmp_path):
    path = tmp_path / "s"
    with ThreadingUnixStreamServer(str(path), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        where = {"host": socket.gethostname(), "port": 0, "socket": str(path), "certificate": ""}
        (tmp_path / "where.json").write_text(json.dumps(where))
        yield tmp_path
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        ((503, b'{"error": "standing by"}'), ServiceDownError, "standing by"),
        ((200, b"<html>"), ServiceDownError, "status 200 and no JSON"),
        ((403, b'{"error": "not yours"}'), SourceError, "the history service says: not yours"),
        ((500, b'["x"]'), SourceError, "status 500"),
    ],
)
def test_what_a_service_answers_that_is_no_answer(answering, monkeypatch, answer, kind, why):
    monkeypatch.setattr(_Answers, "answer", answer)
    with pytest.raises(kind, match=why):
        ServiceSource(answering).whoami()


def test_a_history_that_this_release_cannot_read_is_said(answering, monkeypatch):
    monkeypatch.setattr(_Answers, "answer", (200, b'{"history": {"owner": 1}, "tariff": []}'))
    with pytest.raises(SourceError, match="answer can't be read"):
        ServiceSource(answering).cluster("3f2a0001")


def test_another_host_needs_a_port_a_certificate_and_munge(tmp_path):
    nowhere = Where("elsewhere.example", 0, "/run/x", "")
    with pytest.raises(ServiceDownError, match="on a socket only"):
        Calls(nowhere)("GET", ("whoami",))
    broken = Where("elsewhere.example", 1, "", "-----BEGIN CERTIFICATE-----\nx")
    with pytest.raises(ServiceDownError, match="certificate can't be read"):
        Calls(broken)("GET", ("whoami",))
    assert not Where(socket.gethostname(), 1, str(tmp_path / "none"), "x").near


def certificate(folder, name):
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=whatever -keyout"
    subprocess.run([*command.split(), str(key), "-out", str(cert)], check=True, capture_output=True)
    return Path(key), Path(cert)


def test_only_the_certificate_of_the_service_is_trusted(tmp_path):
    import ssl
    from http.server import HTTPServer

    class ByNet(_Answers):
        address_string = BaseHTTPRequestHandler.address_string

    key, cert = certificate(tmp_path, "own")
    _, other = certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = HTTPServer(("127.0.0.1", 0), ByNet)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for trusted, good in ((cert.read_text(), True), (other.read_text(), False)):
            where = Where("127.0.0.1", server.server_port, "", trusted)
            connection = Calls(where)._by_tls("there")
            if good:
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"{}"
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    connection.request("GET", "/")
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
