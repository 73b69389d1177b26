"""A broker and a scheduler as processes; what nginx would ask is asked here."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest

from dask_site.dashboards import asking
from dask_site.dashboards.places import Places
from dask_site.dashboards.sessions import COOKIE

pytestmark = pytest.mark.slow
ORIGIN = "https://dask.test:8443"
#: What nginx gives a browser that it sends for a ticket.
STATE = "0123456789abcdef" * 2
BROKER = """
import asyncio, sys
from pathlib import Path
from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.dashboards.serve import serve
site = Site.from_mapping({
    "schema": 1, "name": "Test", "resource_manager": "local",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
    "dashboards": {"enabled": True, "domain": "dask.test", "port": 8443, "state": sys.argv[1]},
    "history": {"enabled": True, "state": sys.argv[1] + "/history", "socket": sys.argv[2] + "/h"},
})
asyncio.run(serve(site, Places.of_site(site, Path(sys.argv[2]))))
"""
SCHEDULER = """
import sys, time
from pathlib import Path
import dask
from dask_site.dashboards import serving
from dask_site.dashboards.places import Places
serving.install(Places("dask.test", 8443, Path(sys.argv[1]), Path(sys.argv[2]), "here"))
dask.config.set({"distributed.dashboard.link": "https://{port}.dask.test:8443/status"})
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False) as cluster:
        import psutil
        mine = psutil.Process().net_connections("tcp")
        ports = sorted(c.laddr.port for c in mine if c.status == psutil.CONN_LISTEN)
        print("UP", cluster.dashboard_link or "-", ports, flush=True)
        sys.stdin.readline()
        print("LATER", cluster.scheduler.services["dashboard"].port, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def folders(tmp_path_factory):
    # Addresses of Unix sockets are short.
    run = tmp_path_factory.mktemp("r")
    return str(run / "state"), str(run / "run")


@contextmanager
def process(code, *arguments, stderr=None):
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=stderr,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def ask(path, target, headers=None, method="GET", body=None):
    connection = http.client.HTTPConnection("x", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request(method, target, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def places(folders):
    from pathlib import Path

    return Places("dask.test", 8443, Path(folders[0]), Path(folders[1]), "here")


def listed(folders):
    """Return what the broker says of the dashboards of whoever asks."""
    return asking.ask(places(folders), op="list")["dashboards"]


def auth(folders, cluster, cookie):
    headers = {"X-Dask-Cluster": cluster, "Cookie": f"{COOKIE}={cookie}"}
    return ask(f"{folders[1]}/proxy/broker.sock", "/internal/auth", headers)


def cookie_of(headers):
    return headers["Set-Cookie"].split(";")[0].split("=", 1)[1]


def logged_in(folders, cluster):
    """Return the cookies of a browser: with the first pages, and at a cluster."""
    broker = f"{folders[1]}/proxy/broker.sock"
    link = asking.ask(places(folders), op="link")["url"]
    form = urlencode({"word": link.partition("#")[2]})
    sent = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    status, headers, _ = ask(broker, "/login", sent, "POST", form)
    assert status == 303
    main = cookie_of(headers)
    known = {"Cookie": f"{COOKIE}={main}"}
    _, headers, _ = ask(broker, f"/ticket?cluster={cluster}&path=/status&state={STATE}", known)
    there, _, query = headers["Location"].partition("?")
    assert there == f"https://{cluster}.dask.test:8443/_dask-site/in"
    arrived = {"X-Dask-Cluster": cluster, "Cookie": f"{COOKIE}={STATE}"}
    _, headers, _ = ask(broker, f"/_dask-site/in?{query}", arrived)
    return main, cookie_of(headers)


def websocket(door, cluster, view):
    page = ask(door, "/status")[2].decode()
    token = page.split('"token":"', 1)[1].split('"', 1)[0]
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(door)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET /status/ws HTTP/1.1\r\nHost: {cluster}.dask.test:8443\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: bokeh, {token}\r\nX-Dask-View: {view}\r\n"
        f"Origin: https://{cluster}.dask.test:8443\r\n\r\n".encode()
    )
    assert b" 101 " in stream.recv(4096).split(b"\r\n")[0]
    return stream


def ended(stream, seconds=10):
    deadline = time.monotonic() + seconds
    stream.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            if not stream.recv(65536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def up(broker, folders):
    assert until(lambda: os.path.exists(places(folders).control) and broker.poll() is None)
    assert until(lambda: ask(f"{folders[1]}/proxy/broker.sock", "/internal/health")[0] == 200)


def test_a_dashboard_lives_through_its_brokers_death(folders):
    with process(BROKER, *folders) as first:
        up(first, folders)
        with process(SCHEDULER, *folders) as scheduler:
            _, link, rest = scheduler.stdout.readline().split(" ", 2)
            cluster = link.removeprefix("https://").split(".")[0]
            assert json.loads(rest) == [], "no port"
            door = f"{folders[1]}/clusters/{cluster}.sock"
            assert ask(door, "/health")[0] == 200
            main, cookie = logged_in(folders, cluster)
            status, headers, _ = auth(folders, cluster, cookie)
            assert (status, headers["X-Dask-Upstream"]) == (204, f"http://unix:{door}:")
            assert auth(folders, cluster, main)[0] == 401
            stream = websocket(door, cluster, headers["X-Dask-View"])
            other = websocket(door, cluster, "of-another-session")

            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            assert ask(door, "/health")[0] == 200, "the scheduler goes on"
            assert not ended(stream, 1)
            with process(BROKER, *folders) as second:
                up(second, folders)
                assert auth(folders, cluster, cookie)[0] == 204, "nobody has to log in again"
                assert until(lambda: [one["silent"] for one in listed(folders)] == [False])
                assert [one["id"] for one in listed(folders)] == [cluster]
                # Of a session that no broker knows nothing stays open.
                assert ended(other)
                assert asking.ask(places(folders), op="logout") == {"ended": 1}
                assert ended(stream)
                assert auth(folders, cluster, cookie)[0] == 401
                scheduler.stdin.write("\n\n")
                scheduler.stdin.flush()
                assert until(lambda: listed(folders) == [])
                assert not os.path.exists(door)


def test_a_scheduler_without_a_broker_goes_on_and_finds_it_later(folders):
    os.makedirs(folders[1])
    path = f"{folders[1]}/control.sock"
    socket.socket(socket.AF_UNIX).bind(path)  # it is a login node, and nobody listens
    with process(SCHEDULER, *folders) as scheduler:
        _, link, rest = scheduler.stdout.readline().split(" ", 2)
        assert link == "-"
        assert json.loads(rest) == [], "no port"
        with process(BROKER, *folders) as broker:
            up(broker, folders)
            assert until(lambda: listed(folders))
            scheduler.stdin.write("\n")
            scheduler.stdin.flush()
            assert scheduler.stdout.readline().split() == ["LATER", listed(folders)[0]["id"]]
            assert (
                ask(f"{folders[1]}/clusters/{listed(folders)[0]['id']}.sock", "/health")[0] == 200
            )


def test_questions_that_are_none(folders):
    with process(BROKER, *folders) as broker:
        up(broker, folders)
        for sent in (
            *(b"\n", b"null\n", b"[]\n", b"{}\n", b'{"op": 7}\n', b'{"op": "x"}\n', b"\xff\xfe\n"),
            *(b"[" * 60000 + b"\n", b"{" * 70000, b'{"op": "share"}\n', b'{"op": "lock"}\n'),
            b'{"op": "share", "cluster": [], "user": {}, "seconds": 1e999}\n',
        ):
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(10)
                one.connect(str(places(folders).control))
                one.sendall(sent)
                one.shutdown(socket.SHUT_WR)
                said = one.recv(65536)
                assert not said or "error" in json.loads(said), sent[:50]
        assert asking.ask(places(folders), op="list")["dashboards"] == []


def test_a_link_to_the_history_leads_there_once_it_has_logged_in(folders):
    broker_at = f"{folders[1]}/proxy/broker.sock"
    form = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}

    def logged_in_with(link, onward):
        word = link.partition("#")[2].partition("/")[0]
        body = urlencode({"word": word, "onward": onward})
        status, headers, _ = ask(broker_at, "/login", form, "POST", body)
        assert status == 303
        return headers["Location"], {"Cookie": f"{COOKIE}={cookie_of(headers)}"}

    with process(BROKER, *folders) as broker:
        up(broker, folders)
        about = {"op": "link", "cluster": "history", "path": "/clusters/ab"}
        link = asking.ask(places(folders), **about)["url"]
        onward = "/" + link.partition("#")[2].partition("/")[2]
        there, known = logged_in_with(link, onward)
        assert there == onward == "/ticket?cluster=history&path=/clusters/ab"
        _, headers, _ = ask(broker_at, f"{there}&state={STATE}", known)
        host, _, query = headers["Location"].partition("?")
        assert host == "https://history.dask.test:8443/_dask-site/in"
        arrived = {"X-Dask-Cluster": "history", "Cookie": f"{COOKIE}={STATE}"}
        assert ask(broker_at, f"/_dask-site/in?{query}", {"X-Dask-Cluster": "a" * 16})[0] == 403
        status, headers, _ = ask(broker_at, f"/_dask-site/in?{query}", arrived)
        assert (status, headers["Location"]) == (303, "/clusters/ab")
        assert ask(broker_at, f"/_dask-site/in?{query}", arrived)[0] == 403
        cookie = cookie_of(headers)
        # What a browser says of itself goes nowhere.
        said = {**arrived, "X-Dask-User": "0", "Cookie": f"{COOKIE}={cookie}"}
        status, headers, _ = ask(broker_at, "/internal/auth", said)
        assert (status, headers["X-Dask-User"]) == (204, str(os.getuid()))
        assert headers["X-Dask-Upstream"] == f"http://unix:{folders[1]}/h:"
        assert b"history.dask.test" not in ask(broker_at, "/", known)[2]  # no service is there
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{folders[1]}/h")
            assert b'href="https://history.dask.test:8443/"' in ask(broker_at, "/", known)[2]
        # Browsers hold the redirects of a form to its page's policy.
        policy = ask(broker_at, "/login")[1]["Content-Security-Policy"]
        assert "form-action 'self' https://*.dask.test:8443;" in policy
        policy = ask(broker_at, "/", known)[1]["Content-Security-Policy"]
        assert "form-action 'self';" in policy
        # A page that links to anywhere else leads to the list.
        link = asking.ask(places(folders), op="link")["url"]
        assert logged_in_with(link, "https://evil.example/")[0] == "/"
        assert asking.ask(places(folders), op="logout") == {"ended": 2}
        assert ask(broker_at, "/internal/auth", said)[0] == 401


def test_who_asks_too_often_waits_and_then_goes_on(folders):
    with process(BROKER, *folders) as broker:
        up(broker, folders)

        def answered():
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(10)
                one.connect(str(places(folders).control))
                # It may have said so, and closed, before it is asked.
                with contextlib.suppress(BrokenPipeError):
                    one.sendall(b'{"op": "list"}\n')
                return json.loads(one.recv(65536)).get("status", 200)

        assert any(answered() == 429 for _ in range(3000))
        assert until(lambda: answered() == 200, 60)


def test_what_lets_in_is_not_logged_when_something_breaks(folders):
    code = BROKER.replace(
        "asyncio.run",
        """from dask_site.dashboards.logins import Logins
async def breaks(*_):
    raise RuntimeError("of a test")
Logins.arrive = Logins.enter = breaks
asyncio.run""",
    )
    with open(f"{folders[0]}.log", "wb") as log, process(code, *folders, stderr=log) as broker:
        up(broker, folders)
        broker_at = f"{folders[1]}/proxy/broker.sock"
        assert ask(broker_at, "/_dask-site/in?word=secret-of-a-test")[0] == 500
        assert ask(broker_at, "/ticket?cluster=%ff&secret-of-a-test")[0] in {303, 400}
    with open(f"{folders[0]}.log") as log:
        text = log.read()
    assert "/_dask-site/in" in text and "RuntimeError: of a test" in text
    assert "secret-of-a-test" not in text
