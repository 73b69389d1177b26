"""When another node takes over: browsers, callers and the lease find their way."""

import asyncio
import http.client
import json
import os
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

import pytest
from web_serving import DAEMON, serving

from dask_site.calls import Calls, ServiceDownError, Where
from dask_site.history.service.lease import DatabaseLease
from dask_site.history.service.server import Service
from dask_site.history.service.sessions import COOKIE, Sessions
from dask_site.history.service.settings import Settings
from dask_site.site import Site

HERE = socket.gethostname()


# -- sessions --------------------------------------------------------------------------------


class Nodes:
    """The sessions of nodes that share a file and a clock."""

    def __init__(self, file):
        self.file, self.now = file, 1e9

    def writer(self):
        sessions = Sessions(lambda: self.now, self.file)
        sessions.load()
        return sessions

    def let_in(self, sessions, uid=7):
        return sessions.open(sessions.token(uid, "/"))[0]


@pytest.fixture
def nodes(tmp_path):
    return Nodes(tmp_path / "sessions.json")


def test_the_next_writer_knows_who_is_logged_in(nodes):
    first = nodes.writer()
    stays, leaves = nodes.let_in(first), nodes.let_in(first, 8)
    first.save()
    content = nodes.file.read_text()
    assert stat.S_IMODE(nodes.file.stat().st_mode) == 0o600
    assert stays not in content and leaves not in content
    second = nodes.writer()
    assert (second.user(stays), second.user(leaves)) == (7, 8)
    second.close(leaves)
    second.save()
    third = nodes.writer()
    assert (third.user(stays), third.user(leaves), len(third)) == (7, None, 1)
    nodes.now += 12 * 3600 + 1
    assert third.user(stays) is None
    assert len(nodes.writer()) == 0


def test_a_link_is_for_once_and_one_writer(nodes):
    first = nodes.writer()
    used, unused = first.token(7, "/"), first.token(7, "/")
    assert first.open(used) is not None
    first.save()
    second = nodes.writer()
    assert second.open(used) is None and second.open(unused) is None
    assert unused not in nodes.file.read_text()


def test_sessions_are_bounded_for_each_user_at_the_next_writer_too(nodes):
    first = nodes.writer()
    words = [nodes.let_in(first) for _ in range(20)]
    other = nodes.let_in(first, 8)
    first.save()
    second = nodes.writer()
    new = nodes.let_in(second)
    assert [second.user(word) for word in words] == [None, *[7] * 19]
    assert (second.user(new), second.user(other), len(second)) == (7, 8, 21)


def test_no_file_lets_in_for_longer_than_a_session(nodes):
    first = nodes.writer()
    word = nodes.let_in(first)
    first.save()
    said = json.loads(nodes.file.read_text())
    for until in (1e300, float("inf")):
        said["sessions"][0][2] = until
        nodes.file.write_text(json.dumps(said))
        nodes.now = 1e9
        second = nodes.writer()
        assert second.user(word) == 7
        nodes.now += 12 * 3600
        assert second.user(word) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"sessions": 5}', '{"sessions": [["x", 1, 2]]}', '{"sessions": [[1]]}', "9"],
)
def test_a_spoiled_file_costs_a_login(nodes, caplog, content):
    nodes.file.write_text(content)
    sessions = nodes.writer()
    assert "browsers log in anew" in caplog.text
    word = nodes.let_in(sessions)
    sessions.save()
    assert nodes.writer().user(word) == 7


def test_sessions_are_read_through_no_link(nodes, tmp_path):
    first = nodes.writer()
    word = nodes.let_in(first)
    first.save()
    nodes.file.rename(tmp_path / "elsewhere")
    nodes.file.symlink_to(tmp_path / "elsewhere")
    assert nodes.writer().user(word) is None


def test_each_change_is_written_and_a_full_disk_is_tried_again(nodes, monkeypatch, caplog):
    monkeypatch.setattr("dask_site.history.service.sessions._AGAIN", 0.0)
    sessions = nodes.writer()
    written = threading.Semaphore(0)
    save, fails = sessions.save, [OSError(28, "No space left on device")]

    def saving():
        if fails:
            raise fails.pop()
        save()
        written.release()

    async def main():
        monkeypatch.setattr(sessions, "save", saving)
        keeping = asyncio.create_task(sessions.keep())
        word = nodes.let_in(sessions)
        assert await asyncio.to_thread(written.acquire, timeout=20)
        assert nodes.writer().user(word) == 7
        sessions.close(word)
        assert await asyncio.to_thread(written.acquire, timeout=20)
        assert nodes.writer().user(word) is None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(main())
    assert "trying again" in caplog.text


# -- a standby -------------------------------------------------------------------------------


@pytest.fixture
def standby(tmp_path):
    with serving(tmp_path) as pages:
        context = pages.context
        context.opened, context.writer = None, False
        context.elsewhere = "The history is kept by login2; this node stands by."
        context.writer_url = "https://login2.example.org:8791"
        yield pages


def test_browsers_are_sent_to_the_writer(standby):
    cookie = {"Cookie": f"{COOKIE}={'a' * 43}"}
    for path in ("/", "/where?by=span&days=3", "/clusters/c1", "/open/" + "a" * 43):
        status, headers, _ = standby.get(path, Host=HERE, **cookie)
        assert (status, headers["Location"]) == (307, f"https://login2.example.org:8791{path}")
        assert "Set-Cookie" not in headers
    # Over a tunnel the other node is not reached: a page says where it is.
    status, _, body = standby.get("/", Host="localhost:8791")
    assert status == 503 and b"login2" in body


@pytest.mark.parametrize(
    "path", ["@evil.example/", ".evil.example/", "http://evil/", "//evil", "*"]
)
def test_nobody_is_sent_elsewhere(standby, path):
    status, headers, _ = standby.get(path, Host=HERE)
    assert status in {307, 400, 404}
    there = "https://login2.example.org:8791/"
    assert headers.get("Location", there).startswith(there)


def test_what_programs_ask_is_answered_here(standby):
    status, headers, _ = standby.get("/api/v1/clusters", Host=HERE, Authorization="MUNGE x")
    assert status == 401 and "Location" not in headers
    connection = http.client.HTTPConnection("127.0.0.1", standby.port)
    for method in ("POST", "DELETE"):
        connection.request(method, "/api/v1/sessions", b"{}", {"Host": HERE})
        answer = connection.getresponse()
        assert answer.status == 503 and b"login2" in answer.read()
    connection.close()


def service(folder):
    history = {"enabled": True, "state": str(folder), "spool": f"{folder}/spool/$USER"}
    pools = {"cpu": {"cores": 1, "memory": "1GiB"}}
    said = {"schema": 1, "name": "t", "resource_manager": "local", "pools": pools}
    site = Site.from_mapping({**said, "history": history})
    return Service(site, Settings.of_site(site))


def test_a_standby_believes_what_the_writer_wrote_alone(tmp_path):
    node = service(tmp_path)
    where, context = tmp_path / "where.json", node.context

    def looked(said):
        where.write_text(json.dumps(said))
        node._look_for_writer("login9, process 5")
        return context.writer_url, context.elsewhere.partition(";")[0]

    kept = "The history is kept by"
    assert looked({"host": "login2", "port": 5}) == ("https://login2:5", f"{kept} login2")
    assert looked({"host": "login2"}) == ("", f"{kept} login2")
    here = {"host": node.settings.host, "port": node.settings.port}
    for nothing in (here, {}, []):
        assert looked(nothing) == ("", f"{kept} login9, process 5")
    if os.getuid() == 0:
        where.write_text('{"host": "evil", "port": 5}')
        os.chown(where, DAEMON, DAEMON)
        node._look_for_writer("")
        assert (context.writer_url, "evil" in context.elsewhere) == ("", False)


# -- callers ---------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"user": "me"}')

    def address_string(self):
        return "socket"

    def log_message(self, *_):
        pass


def test_a_caller_follows_the_service_where_its_file_says(tmp_path):
    gone, there = tmp_path / "gone", tmp_path / "there"
    gone.touch()

    def write(path):
        said = {"host": HERE, "port": 0, "socket": str(path), "certificate": ""}
        (tmp_path / "where.json").write_text(json.dumps(said))

    with ThreadingUnixStreamServer(str(there), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        write(gone)
        calls = Calls(Where.read(tmp_path))
        with pytest.raises(ServiceDownError, match="gone"):
            calls("GET", ("whoami",))
        write(there)
        assert calls("GET", ("whoami",)) == {"user": "me"}
        server.shutdown()
        thread.join()


# -- the lease -------------------------------------------------------------------------------


def test_a_lease_is_free_before_the_server_sees_that_its_holder_went(new_postgresql, monkeypatch):
    url = new_postgresql()
    one, other = DatabaseLease(url), DatabaseLease(url)
    assert one.take() and not other.take()
    connection = one._connection
    with monkeypatch.context() as patch:
        for late in ("invalidate", "close"):
            patch.setattr(connection, late, lambda: None)
        one.release()
        assert other.take() and other.held() and not one.held()
    connection.close()
    other.release()
