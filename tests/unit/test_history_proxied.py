"""What reaches the history through the proxy of dashboards, and who only says so."""

import http.client
import json
import os
import socket

import pytest
from web_serving import DAEMON, NOBODY, ROOT, serving

from dask_site.history.service import proxied, requests
from dask_site.history.service.proxied import Proxy
from dask_site.history.service.settings import Settings
from dask_site.identity import Peer
from dask_site.people import name_of
from dask_site.services import listening
from dask_site.services.listening import unix_socket
from dask_site.site import Site

HOST = "history.dask.test:8443"
ORIGIN = f"https://{HOST}"
DOOR = "https://dask.test:8443"
#: Stands for the account of the proxy.
PROXY = DAEMON


class Call(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    proxy = Proxy(name_of(PROXY), ORIGIN, DOOR)
    with serving(folder, ["root", "nobody"], local=[unix_socket(folder / "l")], proxy=proxy) as one:
        one.path = str(folder / "l")
        yield one


@pytest.fixture
def ask(served, monkeypatch):
    """Ask as the proxy does, or as another user: ``ask("/", user=7, peer=ROOT)``."""
    peer = {"uid": PROXY}
    monkeypatch.setattr(requests, "peer_of", lambda _: Peer(peer["uid"], peer["uid"], 1))

    def asked(path="/api/v1/whoami", method="GET", user=NOBODY, peer_uid=PROXY, body=None, **more):
        peer["uid"] = peer_uid
        call = Call(served.path)
        call.putrequest(method, path, skip_host=True)
        headers = {"Host": HOST, **{k.replace("_", "-"): v for k, v in more.items()}}
        for name, value in headers.items():
            call.putheader(name, value)
        for one in user if isinstance(user, list) else [user]:
            if one is not None:
                call.putheader("X-Dask-User", str(one))
        call.putheader("Content-Length", str(len(body or b"")))
        call.endheaders(body)
        answer = call.getresponse()
        text = answer.read().decode()
        call.close()
        return answer.status, json.loads(text) if text.startswith("{") else text, answer.headers

    return asked


def test_the_proxy_says_whose_a_request_is(ask):
    assert ask()[:2] == (200, {"user": "nobody", "uid": NOBODY, "admin": True, "accounts": []})
    assert ask(user=PROXY)[1]["uid"] == PROXY


@pytest.mark.parametrize("peer", [ROOT, NOBODY, 54321])
def test_others_on_the_socket_are_who_they_are(ask, peer):
    for user in (DAEMON, ROOT, NOBODY, "x", ["1", "2"], None):
        for host in (HOST, "localhost"):
            status, said, _ = ask(user=user, peer_uid=peer, Host=host)
            assert (status, said["uid"]) == (200, peer)


def test_the_header_says_nothing_on_the_port(served):
    for headers in ({}, {"X-Dask-User": "65534"}):
        assert served.get("/api/v1/whoami", **headers)[0] == 401
    answer = served.get("/api/v1/whoami", DAEMON, **{"X-Dask-User": "65534"})
    assert json.loads(answer[2])["uid"] == DAEMON


def test_the_metrics_are_for_the_socket_and_administrators(served, ask, monkeypatch):
    assert ask("/metrics", user=None, peer_uid=54321, Host="localhost")[0] == 200
    assert [ask("/metrics", user=user)[0] for user in (DAEMON, NOBODY)] == [403, 200]
    assert [served.get("/metrics", uid)[0] for uid in (None, DAEMON, NOBODY)] == [401, 403, 200]
    for uid, status in ((DAEMON, 403), (NOBODY, 200)):
        monkeypatch.setattr(requests, "requesting_user", lambda *_, uid=uid: uid)
        assert served.get("/metrics", Authorization="MUNGE x")[0] == status


@pytest.mark.parametrize(
    "user",
    [
        *(None, "", "nobody", "-1", "+1", "1.0", "1 2", "0x1", "01", "00", "1,2", "1" * 11),
        *("65534, 65534", [NOBODY, NOBODY], [NOBODY, 1], "\xb2", "1_0"),
    ],
)
def test_a_header_that_is_none_is_nobodys(ask, user):
    assert ask(user=user)[0] == 401


def test_root_and_unknown_numbers_are_refused(ask):
    status, said, _ = ask(user=ROOT)
    assert status == 403 and "history open" in said["error"]
    for user in (54321, 4294967295, 9999999999):
        assert ask(user=user)[0] == 403, user


def test_such_a_request_counts_as_a_browsers(ask, served):
    assert ask(peer_uid=NOBODY, path="/api/v1/sessions", method="POST", body=b"{}")[0] == 200
    for more in ({}, {"Origin": ORIGIN}):
        assert ask("/api/v1/sessions", "POST", body=b"{}", **more)[0] == 403  # makes no link
    cookie = served.cookie(DAEMON)
    assert ask(Cookie=cookie)[1]["uid"] == NOBODY
    assert ask(user=None, Cookie=cookie)[0] == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (ORIGIN, 200),
        (None, 403),
        ("null", 403),
        (DOOR, 403),
        ("https://history.dask.test", 403),
        (f"http://{HOST}", 403),
        ("https://aaaaaaaaaaaaaaaa.dask.test:8443", 403),
        ("https://evil.example", 403),
    ],
)
def test_another_page_changes_nothing(ask, origin, status):
    more = {} if origin is None else {"Origin": origin}
    assert ask("/api/v1/clusters", "DELETE", **more)[0] == status
    # What a program of a user's own does needs none.
    assert ask("/api/v1/clusters", "DELETE", peer_uid=54321)[0] == 200


def test_behind_the_proxy_it_has_one_name(ask):
    for host in ("localhost", "dask.test:8443", "history.dask.test", "evil.example"):
        assert ask(Host=host)[0] == 400
    assert ask(Host=HOST.upper())[0] == 200


def test_a_logout_is_where_the_login_is(ask):
    status, said, headers = ask("/api/v1/sessions", "DELETE", Origin=ORIGIN)
    assert status == 403 and f"{DOOR}/" in said["error"]
    assert "Set-Cookie" not in headers
    page = ask("/where")[1]
    assert f'<a class="out" href="{DOOR}/logout"' in page
    assert f'<a href="{DOOR}/">Dashboards</a>' in page


def test_with_its_own_login_a_page_leads_to_dashboards_too(served):
    page = served.page("/where")
    assert f'<a href="{DOOR}/">Dashboards</a>' in page and "Log out" not in page


def test_a_standby_says_so(ask, served):
    served.context.writer, served.context.writer_url = False, "https://login2:8791"
    served.context.elsewhere = "The history is kept by login2; this node stands by."
    try:
        status, said, headers = ask()
        assert (status, said["error"]) == (503, served.context.elsewhere)
        assert "Location" not in headers
        status, text, _ = ask("/where")
        assert status == 503 and "kept by login2" in text
        assert served.get("/where")[0] in {307, 503}
    finally:
        served.context.writer, served.context.elsewhere = True, ""


# -- whose socket it is --------------------------------------------------------------------------


def test_the_account_may_be_made_later(monkeypatch):
    now, asked, known = [0.0], [], {}

    def entry(name):
        asked.append(name)
        return type("Entry", (), {"pw_uid": known[name]})

    monkeypatch.setattr(proxied.pwd, "getpwnam", entry)
    proxy = Proxy("dask-proxy", ORIGIN, DOOR, lambda: now[0])
    assert not proxy.runs_as(879) and not proxy.runs_as(None) and not proxy.runs_as(0)
    known["dask-proxy"] = 879
    assert not proxy.runs_as(879) and len(asked) == 1  # nobody waits for a directory each time
    now[0] = 61.0
    assert proxy.runs_as(879) and proxy.runs_as(879)
    assert not proxy.runs_as(0) and not proxy.runs_as("127.0.0.1") and not proxy.runs_as(None)
    assert len(asked) == 2


def test_root_is_no_proxy():
    assert not Proxy("root", ORIGIN, DOOR).runs_as(0)


def test_settings_of_a_site_with_dashboards_and_without():
    described = {
        "schema": 1,
        "name": "t",
        "resource_manager": "local",
        "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
        "history": {"enabled": True, "spool": "/var/spool/x/$USER"},
    }
    assert Settings.of_site(Site.from_mapping(described)).proxy is None
    described["dashboards"] = {"enabled": True, "domain": "dask.test", "port": 8443}
    proxy = Settings.of_site(Site.from_mapping(described), "another").proxy
    assert (proxy.account, proxy.origin, proxy.dashboards) == ("another", ORIGIN, DOOR)
    assert proxy.host == HOST
    described["dashboards"]["paths"] = True
    proxy = Settings.of_site(Site.from_mapping(described), name_of(os.getuid())).proxy
    assert proxy.dashboards == DOOR and not proxy.runs_as(os.getuid())


def test_one_who_asks_for_many_may_have_more_connections(monkeypatch, tmp_path):
    """A proxy's callers are not counted as one user."""
    monkeypatch.setattr(listening, "_MOST_EACH", 2)
    monkeypatch.setattr(listening, "_MOST_FOR_OTHERS", 4)
    closed = []

    class Stream:
        def __init__(self):
            self.socket = socket.socket(socket.AF_UNIX)

        def close(self):
            closed.append(self)
            self.socket.close()

        def closed(self):
            return False

    monkeypatch.setattr(listening.HTTPServer, "handle_stream", lambda *_: None)
    monkeypatch.setattr(listening, "_caller", lambda *_: os.getuid())
    for many, most in ((False, 2), (True, 4)):
        closed.clear()
        server = listening.Server(lambda _: None, for_others=lambda _, many=many: many)
        streams = [Stream() for _ in range(6)]
        for stream in streams:
            server.handle_stream(stream, "")
        assert len(closed) == 6 - most
        for stream in streams:
            stream.socket.close()
