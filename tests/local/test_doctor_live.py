"""Real schedulers, dashboards and servers, asked as a stranger would ask."""

import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import pytest
from distributed import LocalCluster
from distributed.security import Security

from dask_site.doctor import probing
from dask_site.doctor.listeners import listeners
from dask_site.doctor.probing import Answer, Speech, probe
from dask_site.history.service import certificate

pytestmark = pytest.mark.slow
OPTIONS = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "silence_logs": 50}


def port_of(address):
    return int(address.rpartition(":")[2].split("/")[0])


def test_plain_dask_and_its_dashboard_are_open():
    with LocalCluster(**OPTIONS, protocol="tcp", dashboard_address=":0") as cluster:
        comm = port_of(cluster.scheduler_address)
        page = cluster.scheduler.http_server.port
        assert probe("127.0.0.1", comm) == Answer(Speech.DASK)
        assert probe("0.0.0.0", page) == Answer(Speech.HTTP, dashboard=True)
        mine = {one.port: one for one in listeners(os.getuid())}
        assert mine[comm].pid == os.getpid()
        assert (mine[comm].local, mine[comm].uid) == (True, os.getuid())


def test_dask_with_tls_turns_strangers_away():
    security = Security.temporary()
    with LocalCluster(**OPTIONS, security=security, dashboard_address=":0") as cluster:
        answer = probe("127.0.0.1", port_of(cluster.scheduler_address))
    assert answer == Answer(Speech.OTHER, tls=True, wants_certificate=True)


class Page(http.server.BaseHTTPRequestHandler):
    """As a Jupyter server answers: its version to everybody, files to whom it lets in."""

    open = False

    def do_GET(self):
        allowed = self.path in ("/", "/api") or (self.open and self.path == "/api/contents")
        self.send_response(200 if allowed else 403)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "2.14.0"}).encode())

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler, context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_jupyter_with_and_without_a_token():
    with serving(Page) as port:
        assert probe("127.0.0.1", port) == Answer(Speech.HTTP, jupyter="2.14.0")
    with serving(type("Open", (Page,), {"open": True})) as port:
        assert probe("127.0.0.1", port) == Answer(Speech.HTTP, jupyter="2.14.0", files=True)


def test_a_web_server_behind_tls(tmp_path):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.ensure(*files, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with serving(Page, context) as port:
        assert probe("127.0.0.1", port) == Answer(Speech.HTTP, tls=True, jupyter="2.14.0")


def test_what_speaks_otherwise_or_not_at_all():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        def greet():
            connection, _ = silent.accept()
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert probe("127.0.0.1", port) == Answer(Speech.OTHER)
        thread.join()
        # Takes connections and says nothing: asked with patience, not for ever.
        assert probe("127.0.0.1", port) == Answer(Speech.OTHER)
    assert probe("127.0.0.1", port) == Answer(Speech.NOTHING)


@pytest.mark.parametrize("first", [True, False], ids=["at once", "when asked"])
def test_who_never_stops_talking_is_not_listened_to_for_ever(monkeypatch, first):
    monkeypatch.setattr(probing, "PATIENCE", 0.3)
    ended = threading.Event()

    def trickle(connection):
        with contextlib.suppress(OSError), connection:
            if not first:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nA: ")
            while not ended.wait(0.05):
                connection.sendall(b"x")

    def serve():
        while not ended.is_set():
            connection, _ = server.accept()
            threading.Thread(target=trickle, args=[connection]).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        thread = threading.Thread(target=serve)
        thread.start()
        answer = []
        asks = threading.Thread(target=lambda: answer.append(probe(*address)))
        asks.start()
        asks.join(10)
        assert [one.speech for one in answer] == [Speech.OTHER if first else Speech.HTTP]
        ended.set()
        socket.create_connection(address).close()
        thread.join()


def test_the_command_finds_the_open_cluster_of_a_user(tmp_path):
    script = tmp_path / "open_cluster.py"
    script.write_text(
        textwrap.dedent(
            """
            from distributed import LocalCluster
            if __name__ == "__main__":
                with LocalCluster(n_workers=0, protocol="tcp", dashboard_address=None) as cluster:
                    print(cluster.scheduler_address, flush=True)
                    input()
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = port_of(process.stdout.readline().strip())
        done = subprocess.run(
            [sys.executable, "-m", "dask_site.cli", "doctor", "security", "--json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        process.stdin.close()
    assert done.returncode == 1, done.stderr
    found = [one for one in json.loads(done.stdout) if f":{port}, " in one["where"]]
    assert [one["level"] for one in found] == ["open"]
    assert "open_cluster.py" in found[0]["where"]
