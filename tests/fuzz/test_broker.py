"""The broker as strangers may call it: its HTTP by its description, its socket for users."""

import asyncio
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dask_site.dashboards import keys
from dask_site.dashboards.broker import Broker
from dask_site.dashboards.control import answer
from dask_site.dashboards.places import Places
from dask_site.dashboards.registry import RefusedError
from dask_site.dashboards.sessions import COOKIE
from dask_site.dashboards.web import rules
from dask_site.identity import has_munge, request_credential
from dask_site.services.hostname import hostname

pytestmark = pytest.mark.slow
DESCRIPTION = Path(__file__).parents[2] / "docs" / "broker-api.yaml"
schema = schemathesis.openapi.from_path(str(DESCRIPTION))
ORIGIN = "https://dask.test"
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
BROKER = """
import asyncio, sys
from pathlib import Path
from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.dashboards.serve import serve
site = Site.from_mapping({
    "schema": 1, "name": "Test", "resource_manager": "local",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
    "dashboards": {"enabled": True, "domain": "dask.test", "state": sys.argv[1], "portal": {}},
})
asyncio.run(serve(site, Places.of_site(site, Path(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A broker: its port, its process, the socket for users."""
    folder = tmp_path_factory.mktemp("b")
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", BROKER, str(folder / "state"), str(folder / "run")], stderr=log
    )
    door = folder / "run" / "proxy" / "broker.sock"
    control = folder / "run" / "control.sock"
    deadline = time.monotonic() + 30
    while not (door.is_socket() and control.is_socket()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)

    class Through(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(str(door))
                back = threading.Thread(target=pump, args=(there, self.request), daemon=True)
                back.start()
                pump(self.request, there)
                back.join()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Through)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], process, control
    server.shutdown()
    server.server_close()
    process.kill()
    process.wait()
    log.close()
    told = (folder / "log").read_text()
    assert "Traceback" not in told and "ERROR" not in told, told[-3000:]


def pump(here, there):
    try:
        while part := here.recv(65536):
            there.sendall(part)
        there.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_all_that_is_there_is_described():
    described = set(yaml.safe_load(DESCRIPTION.read_text())["paths"])
    there = {one[0] for one in rules(provider=True, portal=True)}
    static = {one for one in there if one.startswith("/static/")}
    assert len(static) == 1
    assert described == there - static | {"/static/{name}"}


@schema.exclude(path_regex="^/login/oidc").parametrize()
@EXAMPLES
def test_whatever_is_sent_the_answer_is_as_described_and_lets_nobody_in(running, case):
    if case.method == "POST":  # past what refuses other sites' pages
        case.headers["Origin"] = ORIGIN
    answered = case.call(base_url=f"http://127.0.0.1:{running[0]}", timeout=20)
    case.validate_response(answered, checks=CHECKS)
    assert answered.status_code != 204
    assert f"{COOKIE}=" not in str(answered.headers.get("set-cookie", "")).replace('=""', "")
    location = str(answered.headers.get("location", [""]))
    assert re.search(r"^\[?'?(/login)?'?\]?$", location), location


@pytest.fixture(scope="module")
def cookie(running):
    """Of a browser in which somebody is logged in."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(running[2]))
        connection.sendall(b'{"op": "link"}\n')
        word = json.loads(connection.recv(65536))["url"].partition("#")[2]
    sent = {"Origin": ORIGIN}
    url = f"http://127.0.0.1:{running[0]}/login"
    answered = requests.post(url, {"word": word}, headers=sent, allow_redirects=False, timeout=20)
    assert answered.status_code == 303
    return answered.headers["Set-Cookie"].split(";")[0]


@schema.include(path_regex="^/(ticket|login|internal/auth|_dask-site/in)?$").parametrize()
@EXAMPLES
def test_nor_does_it_break_for_who_is_logged_in(running, cookie, case):
    case.headers.update({"Cookie": cookie, "Origin": ORIGIN, "X-Dask-Cluster": "a" * 16})
    answered = case.call(base_url=f"http://127.0.0.1:{running[0]}", timeout=20)
    case.validate_response(answered, checks=CHECKS)


def test_it_has_kept_nothing_and_goes_on(running):
    with socket.create_connection(("127.0.0.1", running[0])) as connection:
        connection.sendall(b"GET /internal/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    assert '{"clusters": 0}' in text
    assert running[1].poll() is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
NAMES = ("id", "name", "kind", "pools", "node", "cluster", "path", "user", "seconds", "port")
OPS = ("link", "list", "share", "unshare", "logout", "logout-everyone", "lock", "unlock")
ANSWERED = {"error", "status", "url", "dashboards", "origin", "id", "user", "until", "ended"}
questions = st.fixed_dictionaries(
    {"op": st.sampled_from(OPS) | values}, optional=dict.fromkeys(NAMES, values)
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    places = Places("dask.test", 8443, folder / "state", folder / "run", "login1")
    keys.ensure(places, web=True)
    for one in (places.doors, places.http.parent):
        one.mkdir(parents=True)

    async def made():
        return Broker(places, 3600)

    return asyncio.run(made())


@EXAMPLES
@given(asked=questions)
def test_a_question_of_a_user_changes_nothing_of_anothers(broker, asked):
    hers = broker.registry.new(54321, {"name": "hers"})
    _, session = broker.sessions.begin(54321)
    try:
        said = asyncio.run(answer(broker, 12345, asked))
        assert json.dumps(said) and set(said) <= ANSWERED
        assert broker.registry.own[hers.id] == replace(hers)
        assert broker.sessions.get(session.id) is not None
        assert hers.id not in json.dumps(said)
        if asked["op"] in ("logout-everyone", "lock", "unlock"):
            assert said["status"] == 403
    finally:
        broker.registry.drop(hers.id)


addresses = st.sampled_from(["10.0.0.7", "::ffff:10.0.0.7", "127.0.0.1", "::1", "", "x"])
REQUEST = keys.request()[0]
registrations = st.fixed_dictionaries(
    {
        "port": st.integers(1000, 70000) | values,
        "request": st.just(REQUEST) | st.text(max_size=50) | values,
    },
    optional={name: values for name in NAMES if name != "port"},
)


@EXAMPLES
@given(about=registrations, ip=addresses | st.ip_addresses().map(str) | st.text(max_size=50))
def test_a_registration_is_refused_or_is_ones_own(broker, about, ip):
    hers = broker.registry.new(54321, {"name": "hers"}, "10.0.0.9:4000")
    try:
        said = broker.clusters.register_job(
            12345, {**about, "id": about.get("id", hers.id)}, ip, print
        )
    except RefusedError as refused:
        assert str(refused)
        assert set(broker.registry.own) == {hers.id}
    else:
        mine = broker.registry.own.pop(said["id"])
        assert mine.id != hers.id and mine.uid == 12345
        at, _, port = mine.address.rpartition(":")
        assert 1024 <= int(port) <= 65535
        there = ip_address(at.strip("[]"))
        assert not there.is_loopback and not there.is_link_local and not there.is_unspecified
    finally:
        broker.registry.drop(hers.id)


@pytest.mark.skipif(not has_munge(), reason="no munge daemon answers here")
@schema.include(path="/api/v1/ask").parametrize()
@EXAMPLES
def test_nor_does_what_munge_vouches_for_break_it(running, case):
    url = f"http://127.0.0.1:{running[0]}"
    body = json.dumps(
        case.body if isinstance(case.body, dict | list | str | int | float) else None
    ).encode()
    word = request_credential(hostname(), "POST", "/api/v1/ask", body)
    # From an address that compute nodes have; nothing there is called.
    sent = {"Authorization": f"MUNGE {word}", "X-Real-IP": "10.0.0.7"}
    answered = requests.post(f"{url}/api/v1/ask", body, headers=sent, timeout=20)
    assert answered.status_code != 401 or body == b"null"
    case.validate_response(answered, checks=CHECKS)


@EXAMPLES
@given(sent=st.binary(max_size=300) | questions.map(lambda q: json.dumps(q).encode()))
def test_whatever_stands_on_the_socket_is_answered_or_ends(running, sent):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(running[2]))
        if b"register" in sent or b"logout" in sent:
            return
        try:
            connection.sendall(sent.replace(b"\n", b" ") + b"\n")
            connection.shutdown(socket.SHUT_WR)
            said = connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return
        assert said == b"" or isinstance(json.loads(said), dict)
