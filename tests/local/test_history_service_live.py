"""The history service as a process: real spools, real callers, other users, and its death."""

import contextlib
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, wait
from serving import SERVE, Node, tasks_of

from dask_site.history import wire
from dask_site.history.ledger import close_books
from dask_site.history.model import AccountedJob
from dask_site.history.store import Store
from dask_site.identity import has_munge, munge_encode

ROOT = os.getuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can be another user")
_numbers = itertools.count()
ALICE, BOB = 41001, 41002  # unknown to the system


@pytest.fixture
def folder():
    # Not pytest's: other users must get at the socket.
    path = Path(tempfile.mkdtemp(prefix="dask-site-"))
    path.chmod(0o755)
    (path / "spool").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def node(folder):
    with_all = Node(folder).start()
    yield with_all.writes()
    with_all.stop(signal.SIGKILL)


def record(folder, user, tasks=20, uid=None, group=None):
    """Run a cluster that records; return its id."""
    spool = folder / "spool" / f"{user}-{next(_numbers)}"
    settings = {
        "distributed.scheduler.preload": ["dask_site.history.preload"],
        "dask-site.history.interval": 1,
        "dask-site.history.spool": str(spool),
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        wait(client.map(lambda x: x + 1, range(tasks)))
        files = list(spool.iterdir())
    (name,) = {file.name.rpartition(".")[0].rpartition(".")[0] for file in files}
    if uid is not None:
        for path in (*spool.iterdir(), spool):
            os.chown(path, uid, uid if group is None else group)
            path.chmod(0o750 if path == spool else 0o640)
    return name


def allocated(node):
    """Allocated core-seconds of each user on the node's sums."""
    sums = node.call("GET", "/api/v1/sums?by=user")[1]["sums"]
    return [one["books"]["allocated"] for one in sums]


def seen(node, name, uid=None):
    def ended():
        status, answer = node.call("GET", f"/api/v1/clusters/{name}", uid=uid)
        return status == 200 and answer["history"]["end"] and answer

    return node.until(ended)


def test_what_a_cluster_did_is_answered_and_forgotten(folder, node):
    name = record(folder, "me")
    answer = seen(node, name)
    assert tasks_of(answer) == 20
    assert answer["tariff"] == [
        {"since": 0.0, "pools": {"cpu": {**answer["tariff"][0]["pools"]["cpu"], "core_hour": 0.5}}}
    ]
    (one,) = node.call("GET", "/api/v1/clusters")[1]["clusters"]
    assert (one["id"], one["state"], one["tasks"]) == (name, "ended", 20)
    assert node.call("GET", f"/api/v1/clusters/{name[:8]}")[0] == 200
    assert node.call("GET", f"/api/v1/clusters/{name[:3]}")[0] == 404
    (total,) = node.until(lambda: node.call("GET", "/api/v1/sums?by=user")[1]["sums"])
    assert total["owner"] == os.getuid()
    assert total["books"]["allocated"] > 0
    assert total["costs"]["core_hours"] == pytest.approx(total["books"]["allocated"] / 3600)
    assert node.call("GET", "/api/v1/clusters?live=1")[1] == {"clusters": []}
    # The spool goes once it is in the store.
    node.until(lambda: not list((folder / "spool").glob("*/*")))
    assert node.call("DELETE", f"/api/v1/clusters/{name}") == (200, {"forgotten": 1})
    assert node.call("GET", f"/api/v1/clusters/{name}")[0] == 404


@only_root
def test_nobody_sees_what_is_anothers(folder, node):
    alices, bobs = record(folder, "alice", 7, ALICE), record(folder, "bob", 9, BOB)
    assert tasks_of(seen(node, alices, ALICE)) == 7
    assert tasks_of(seen(node, bobs, BOB)) == 9
    unknown = node.call("GET", "/api/v1/clusters/nothing-of-the-kind", uid=BOB)
    for path in (alices, alices[:8], alices + "%00", f"..%2f{alices}", "%2e%2e", "'%20OR%201=1"):
        assert node.call("GET", f"/api/v1/clusters/{path}", uid=BOB) == unknown
        assert node.call("DELETE", f"/api/v1/clusters/{path}", uid=BOB) == unknown
    for query in (f"user={ALICE}", "user=root", "user=nobody-at-all"):
        assert node.call("GET", f"/api/v1/clusters?{query}", uid=BOB)[0] == 404
        assert node.call("GET", f"/api/v1/sums?{query}&by=user", uid=BOB)[0] == 404
    assert [c["id"] for c in node.call("GET", "/api/v1/clusters", uid=BOB)[1]["clusters"]] == [bobs]
    for uid in (ALICE, BOB):  # until both have their sums
        sums = node.until(
            lambda uid=uid: node.call("GET", "/api/v1/sums?by=user", uid=uid)[1]["sums"]
        )
    assert [one["owner"] for one in sums] == [BOB]
    mine = {"user": str(BOB), "uid": BOB, "admin": False, "accounts": []}
    assert node.call("GET", "/api/v1/whoami", uid=BOB) == (200, mine)
    # Not even an administrator deletes what is another's; each of his looks is noted.
    assert node.call("DELETE", f"/api/v1/clusters/{alices}")[0] == 404
    assert node.call("DELETE", "/api/v1/clusters") == (200, {"forgotten": 0})
    assert node.call("GET", f"/api/v1/clusters/{alices}")[0] == 200
    assert len(node.call("GET", "/api/v1/clusters")[1]["clusters"]) == 2
    (audit,) = (folder / "state" / "audit").iterdir()
    assert audit.stat().st_mode & 0o777 == 0o600
    noted = [json.loads(line) for line in audit.read_text().splitlines()]
    looks = [entry for entry in noted if entry["what"] == "look"]
    assert [(e["user"], e["cluster"], e["owner"]) for e in looks] == [("root", alices, str(ALICE))]
    assert all(entry["uid"] == 0 for entry in noted)
    assert node.call("DELETE", "/api/v1/clusters", uid=BOB) == (200, {"forgotten": 1})
    assert node.call("GET", f"/api/v1/clusters/{alices}", uid=ALICE)[0] == 200


@only_root
def test_the_account_of_the_proxy_alone_says_whose_a_request_is(folder):
    person = next(p for p in pwd.getpwall() if p.pw_uid and p.pw_name not in {"daemon", "nobody"})
    proxy = pwd.getpwnam("daemon").pw_uid
    dashboards = {"enabled": True, "domain": "dask.test", "port": 8443}
    node = Node(folder, dashboards=dashboards).start(DASK_SITE_PROXY_USER="daemon").writes()
    host = "history.dask.test:8443"
    behind = {"X-Dask-User": str(person.pw_uid), "Host": host}

    def who(uid=None, **more):
        status, said = node.call("GET", "/api/v1/whoami", uid=uid, headers={**behind, **more})
        return said["user"] if status == 200 else status

    try:
        assert who(proxy) == person.pw_name
        assert (who(BOB), who()) == (str(BOB), "root")
        for value, status in (("", 401), ("root", 401), ("0", 403), (str(BOB), 403)):
            assert who(proxy, **{"X-Dask-User": value}) == status, value
        assert who(proxy, Host="localhost") == 400
        for more, status in (({}, 403), ({"Origin": f"https://{host}"}, 200)):
            sent = {**behind, **more}
            assert node.call("DELETE", "/api/v1/clusters", "", proxy, sent)[0] == status
        assert node.call("POST", "/api/v1/sessions", "{}", proxy, behind)[0] == 403
        assert node.call("POST", "/api/v1/sessions", "{}", BOB, behind)[0] == 200
        assert node.call("GET", "/metrics", "", proxy, behind)[0] == 403
        # On the port it says nothing.
        assert node.tls(path="/api/v1/whoami", headers={"X-Dask-User": "1"})[0].status == 401
    finally:
        node.stop(signal.SIGKILL)


@only_root
def test_a_coordinator_sees_what_his_account_was_charged(folder):
    who = next(p for p in pwd.getpwall() if p.pw_uid and p.pw_gid)
    node = Node(folder, coordinators={"climate": [who.pw_name]}).start().writes()
    try:
        name = record(folder, "alice", 7, ALICE)
        seen(node, name, ALICE)
        path, lead = f"/api/v1/clusters/{name}", who.pw_uid
        assert node.call("GET", path, uid=lead)[0] == 404
        assert node.call("GET", "/api/v1/sums?account=climate&by=user", uid=lead)[1]["sums"] == []
        with Store(f"sqlite:///{folder}/state/history.db") as store:
            store.put_accounting(name, [AccountedJob("1", user="alice", account="climate")])
        status, said = node.call("GET", path, uid=lead)
        assert status == 403 and "you see the sums of its clusters" in said["error"]
        assert node.call("GET", path, uid=ALICE)[0] == 200
        assert node.call("DELETE", path, uid=lead)[0] == 404
        query = "/api/v1/sums?account=climate&by=user"
        (total,) = node.until(lambda: node.call("GET", query, uid=lead)[1]["sums"])
        assert total["owner"] == ALICE
        (one,) = node.call("GET", "/api/v1/clusters?account=climate", uid=lead)[1]["clusters"]
        assert one["id"] == name
        assert node.call("GET", "/api/v1/clusters", uid=lead) == (200, {"clusters": []})
        for query in ("account=other&user=root", f"user={ALICE}", f"user={ALICE}&account=other"):
            assert node.call("GET", f"/api/v1/clusters?{query}", uid=lead)[0] == 404
        found = node.call("GET", "/api/v1/clusters?account=climate", uid=BOB)
        assert found == (200, {"clusters": []})
        (audit,) = (folder / "state" / "audit").iterdir()
        assert who.pw_name in audit.read_text()
    finally:
        node.stop(signal.SIGKILL)


@only_root
def test_it_needs_no_root(folder):
    service = 41100
    for path in (folder / "state", folder / "a"):
        path.mkdir()
        os.chown(path, service, service)
    os.chown(folder / "spool", 0, service)
    (folder / "spool").chmod(0o3773)
    node = Node(folder).start(uid=service).writes()
    try:
        name = record(folder, "alice", 7, ALICE, group=service)
        assert tasks_of(seen(node, name, ALICE)) == 7
        assert node.call("GET", f"/api/v1/clusters/{name}", uid=BOB)[0] == 404
        # It can read what users wrote, and neither write nor delete.
        for _ in range(2):
            passes = node.passes()
            node.until(lambda before=passes: node.passes() > before)
        assert list((folder / "spool").glob("*/*"))
        assert node.log.read_text().count("WARNING") <= 1
        assert node.stop() == 0
    finally:
        node.stop(signal.SIGKILL)


def test_a_writer_that_is_killed_is_followed_and_nothing_is_lost_or_doubled(folder):
    first, second = Node(folder, "a").start().writes(), Node(folder, "b").start()
    try:
        second.until(lambda: second.role() == "standby")
        status, answer = second.call("GET", "/api/v1/clusters")
        assert status == 503 and "stands by" in answer["error"]
        before = record(folder, "me", 11)
        books = close_books(wire.from_dict(seen(first, before)["history"]))
        expected = pytest.approx([books.whole.allocated], abs=0.002)
        assert first.until(lambda: allocated(first) == expected)
        during = record(folder, "me", 13)
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        after = record(folder, "me", 17)
        second.writes()
        for name, count in ((before, 11), (during, 13), (after, 17)):
            assert tasks_of(seen(second, name)) == count
        found = {c["id"]: c["tasks"] for c in second.call("GET", "/api/v1/clusters")[1]["clusters"]}
        assert found == {before: 11, during: 13, after: 17}
        assert second.call("DELETE", f"/api/v1/clusters/{during}")[0] == 200
        assert second.call("DELETE", f"/api/v1/clusters/{after}")[0] == 200
        # Books are closed beside the requests, a moment later.
        assert second.until(lambda: allocated(second) == expected)
        where = json.loads((folder / "state" / "where.json").read_text())
        assert (where["port"], where["socket"]) == (second.port, str(second.socket))
        # The one that was killed comes back, and stands by.
        first.start()
        first.until(lambda: first.role() == "standby")
    finally:
        first.stop(signal.SIGKILL)
        second.stop(signal.SIGKILL)


def test_with_postgresql_all_nodes_answer_and_one_writes(folder, new_postgresql):
    store = new_postgresql()
    first = Node(folder, "a", store=store).start().writes()
    second = Node(folder, "b", store=store).start()
    try:
        second.until(lambda: second.role() == "standby")
        name = record(folder, "me", 11)
        assert tasks_of(seen(first, name)) == 11
        assert tasks_of(seen(second, name)) == 11
        assert second.role() == "standby"
        priced = [seen(node, name)["tariff"] for node in (first, second)]
        assert priced[0] == priced[1], "old work has its price on a standby, too"
        assert priced[1][0]["pools"]["cpu"]["core_hour"] == 0.5
        first.stop(signal.SIGKILL)
        second.writes()
        after = record(folder, "me", 5)
        assert tasks_of(seen(second, after)) == 5
        listed = second.call("GET", "/api/v1/clusters")[1]["clusters"]
        assert {c["id"]: c["tasks"] for c in listed} == {name: 11, after: 5}
    finally:
        first.stop(signal.SIGKILL)
        second.stop(signal.SIGKILL)


def test_a_writer_whose_lease_is_gone_stops(folder, node):
    (folder / "state" / "writer.lock").unlink()
    assert node.process.wait(30) == 1
    assert "the lease was lost" in node.log.read_text()


def test_a_writer_stops_when_another_has_begun_to_write(folder, node):
    """Where the locks of a file system don't hold between nodes, the store itself says so."""
    with Store(f"sqlite:///{folder}/state/history.db", migrate=False) as other:
        other.lead()
        assert node.process.wait(60) == 1
        assert "the lease was lost" in node.log.read_text()
        name = record(folder, "me")
        assert name not in {cluster.id for cluster in other.clusters()}


def test_it_ends_in_order(folder, node):
    record(folder, "me")
    assert node.stop() == 0
    assert not node.socket.exists()
    assert not list((folder / "state").glob("history.db-wal"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "state").iterdir()}
    secret = {name for name, mode in modes.items() if not mode & 0o077}
    assert {"audit", "history.db"} <= secret | {"audit"}
    assert modes["history.db"] & 0o007 == 0
    assert modes["where.json"] == 0o644
    (key,) = (mode for name, mode in modes.items() if name.endswith(".key"))
    assert key == 0o600


def test_a_browser_gets_in_once_and_no_other_page_rides_along(node):
    status, answer = node.call("POST", "/api/v1/sessions", '{"path": "/api/v1/whoami"}')
    assert status == 200
    link = "/" + answer["url"].split("/", 3)[3]
    opened, _ = node.tls(path=link)
    cookie = opened.getheader("Set-Cookie")
    assert (opened.status, opened.getheader("Location")) == (303, "/api/v1/whoami")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    again, _ = node.tls(path=link)
    assert again.status == 401
    mine = {"Cookie": cookie.partition(";")[0]}
    inside, content = node.tls(path="/api/v1/whoami", headers=mine)
    assert inside.status == 200 and json.loads(content)["uid"] == os.getuid()
    assert "default-src 'none'" in inside.getheader("Content-Security-Policy")
    here = f"https://localhost:{node.port}"
    for origin in (None, "null", "https://evil.example", f"http://localhost:{node.port}"):
        headers = mine if origin is None else {**mine, "Origin": origin}
        assert node.tls("DELETE", "/api/v1/clusters", headers=headers)[0].status == 403
    headers = {**mine, "Origin": here}
    assert node.tls("DELETE", "/api/v1/clusters", headers=headers)[0].status == 200
    assert node.tls("POST", "/api/v1/sessions", "{}", headers)[0].status == 403
    for path in ("//evil.example", "/\\evil.example", "https://evil.example", "/\r\nX: y", 5, None):
        body = json.dumps({"path": path})
        assert node.call("POST", "/api/v1/sessions", body)[0] == 400
    for body in ("[]", "x", "[" * 100_000):
        assert node.call("POST", "/api/v1/sessions", body)[0] == 400


def test_strangers_are_not_let_in(node):
    for path in ("/api/v1/whoami", "/api/v1/clusters", "/api/v1/sums", "/api/v1/clusters/abcd"):
        answer, content = node.tls(path=path)
        assert answer.status == 401 and "dask-site history open" in json.loads(content)["error"]
    for headers in (
        {"Cookie": "__Host-dask-site=" + "a" * 43},
        {"Authorization": "MUNGE MUNGE:AAAA:"},
        {"Authorization": "Basic cm9vdDpyb290"},
        {"X-Forwarded-User": "root"},
    ):
        assert node.tls(path="/api/v1/whoami", headers=headers)[0].status == 401
        path = "/api/v1/records?file=c.0.spool&at=0"
        assert node.tls("POST", path, "x", headers)[0].status == 401
    for name in ("evil.example", "localhost.evil.example", "[::", ""):
        assert node.tls(path="/api/v1/whoami", headers={"Host": name})[0].status == 400
    assert node.tls(path="/api/v1/whoami", headers={"Host": "dask.example.org:1"})[0].status == 401
    for path in ("/", "/static/", "/../../etc/passwd", "/static/%2e%2e/%2e%2e/x", "/open/x"):
        assert node.tls(path=path)[0].status in {400, 401, 403, 404}


@pytest.mark.skipif(not has_munge(), reason="no munge daemon answers here")
def test_munge_says_who_asks_for_this_and_nothing_else(node):
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def status(said, path="/api/v1/whoami"):
        credential = munge_encode(said.encode())
        return node.tls(path=path, headers={"Authorization": f"MUNGE {credential}"})[0].status

    host = json.loads((node.folder / "state" / "where.json").read_text())["host"]
    assert status(f"{host} GET /api/v1/whoami {nothing}") == 200
    assert status(f"{host} GET /api/v1/clusters {nothing}") == 401
    assert status(f"{host} DELETE /api/v1/whoami {nothing}") == 401
    assert status(f"not-{host} GET /api/v1/whoami {nothing}") == 401


def test_metrics(folder, node):
    seen(node, record(folder, "me"))
    node.until(lambda: node.call("GET", "/api/v1/sums")[1]["sums"])
    lines = node.tls(path="/metrics")[1].decode().splitlines()
    values = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.removeprefix("dask_site_history_").rpartition(" ")
            values[name] = float(value)
    assert (values["writer"], values["live_clusters"], values["clusters"]) == (1, 0, 1)
    assert values["records_total"] >= 4
    assert values['core_seconds{pool="",part="cpu"}'] >= 0
    assert sum(n for name, n in values.items() if name.startswith("core_seconds{")) > 0
    assert values["store_bytes"] > 10_000


def test_the_slow_the_large_and_the_many_harm_nobody(node):
    context = ssl._create_unverified_context()
    idle = []
    for _ in range(80):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(5)
        one.connect(str(node.socket))
        idle.append(one)
    if ROOT:
        assert node.call("GET", "/api/v1/whoami", uid=BOB)[0] == 200
    for one in idle:
        one.close()
    with socket.create_connection(("localhost", node.port)) as plain:  # no TLS at all
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with context.wrap_socket(
            socket.create_connection(("localhost", node.port)), server_hostname="localhost"
        ) as slow:
            slow.sendall(b"GET /api/v1/whoami HT")
            assert node.tls(path="/healthz")[0].status == 200
    for head in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
        b"POST /api/v1/records?file=c.0.spool&at=0 HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 9999999999\r\n\r\n" + b"x" * 1_000_000,
        b"POST /api/v1/records?file=c.0.spool&at=0 HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 40,
        b"\x00" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(20)
            one.connect(str(node.socket))
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                one.sendall(head)
                assert not one.recv(65536).startswith(b"HTTP/1.1 200")
    assert node.call("GET", "/healthz")[0] == 200
    assert not (node.folder / "state" / "inbox").exists()
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
        b"Content-Length: 0\r\nContent-Length: 40",
        b"Content-Length: 0, 40",
        b"Content-Length: +0",
        b"Content-Length: 0x0",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: \x0bchunked",
        b"Content-Length : 0",
    ],
)
def test_no_request_hides_in_another(node, lengths):
    """A proxy in front of the service may read the length of a request otherwise than it does."""
    hidden = b"0\r\n\r\nGET /api/v1/whoami HTTP/1.1\r\nHost: h\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(20)
        one.connect(str(node.socket))
        one.sendall(
            b"POST /api/v1/sessions HTTP/1.1\r\nHost: h\r\n" + lengths + b"\r\n\r\n" + hidden
        )
        answered = b""
        with contextlib.suppress(ConnectionResetError):
            while more := one.recv(65536):
                answered += more
    assert b" 200 " not in answered and b'"uid"' not in answered
    assert answered.count(b"HTTP/1.1 ") <= 1


def test_what_users_write_into_their_records_stays_text(folder, node):
    from dask_site.history.spool import SpoolWriter

    spool = folder / "spool" / "me"
    spool.mkdir(mode=0o700)
    nasty = "<script>alert(1)</script>\u202e"
    writer = SpoolWriter(spool, "nasty-1")
    writer.write(
        [
            {"k": "cluster", "t": time.time(), "started": time.time(), "name": nasty, "user": "x"},
            {"k": "end", "t": time.time(), "how": nasty},
        ]
    )
    writer.close()
    answer = seen(node, "nasty-1")
    assert answer["history"]["cluster"]["name"] == nasty
    context, content = node.tls(path="/api/v1/clusters/nasty-1")
    assert context.status == 401 and b"<script" not in content


def test_systemd_is_told_and_its_sockets_are_taken(folder):
    node = Node(folder)
    (folder / "a").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(folder / "notify"))
        told.settimeout(30)
        node.start(NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="3000000")
        said = [told.recv(1000).decode() for _ in range(6)]
        assert said[0].startswith("READY=1")
        assert "STATUS=writing" in said
        assert said.count("WATCHDOG=1") >= 2
        assert node.stop() == 0
        rest = []
        told.settimeout(1)
        while "STOPPING=1" not in rest:
            rest.append(told.recv(1000).decode())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(node.socket))
        listener.listen()
        code = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', "
            "LISTEN_PID=str(os.getpid())); os.execv(sys.executable, "
            "[sys.executable, '-c', sys.argv[2], sys.argv[3]])"
        )
        number = listener.fileno()
        command = [sys.executable, "-c", code, str(number), SERVE, str(node.file)]
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(command, pass_fds=[number], stdout=log, stderr=log)
        try:
            node.writes()
            assert node.stop() == 0
            assert node.socket.exists()
        finally:
            node.stop(signal.SIGKILL)


def test_mistakes_are_told_in_words(folder):
    def said(**history):
        node = Node(folder, **history)
        done = subprocess.run(
            [sys.executable, "-c", SERVE, str(node.file)], capture_output=True, text=True
        )
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "ends with /$USER" in said(spool="/var/spool/dask-site")
    (folder / "file").write_text("")
    assert "can't be used" in said(state=str(folder / "file"))
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        assert "choose another" in said(port=taken.getsockname()[1])
    assert "can't be listened on" in said(socket=str(folder / "file"))
    assert "can't be used as certificate" in said(
        certificate=str(folder / "file"), key=str(folder / "file")
    )
    assert "is missing" in said(key=str(folder / "file"))


def test_copies_are_made_while_it_runs_and_put_back_when_it_does_not(folder, node):
    seen(node, name := record(folder, "me"))

    def admin(command, *arguments):
        code = f"from dask_site.history.command_serve import {command}; {command}()"
        return subprocess.run(
            [sys.executable, "-c", code, "--site", str(node.file), *map(str, arguments)],
            capture_output=True,
            text=True,
        )

    def told():
        said = json.loads(admin("version", "--json").stdout)
        return said["version"], said["reads"], said["known"][-1]

    copy = folder / "copy.db"
    assert admin("backup", copy).returncode == 0
    assert told() == ("0003", "0003", "0003")
    assert node.call("DELETE", f"/api/v1/clusters/{name}")[1] == {"forgotten": 1}
    refused = admin("restore", copy)
    assert refused.returncode == 1 and "stop it on all nodes first" in refused.stderr
    assert "stop it on all nodes" in admin("migrate").stderr
    node.stop()
    assert admin("restore", folder / "a.yml").returncode == 1
    assert admin("restore", copy).returncode == 0
    assert admin("migrate", "--to", "0002").returncode == 0
    assert told() == ("0002", "0003", "0003")
    assert admin("migrate").returncode == 0
    assert "can go back to: 0001, 0002" in admin("version").stdout
    node.start().writes()
    assert node.call("GET", f"/api/v1/clusters/{name}")[0] == 200
