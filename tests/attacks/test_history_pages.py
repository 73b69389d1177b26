"""The history behind the login of dashboards: whose it is, who says so, and when it ends."""

import base64
import json
import shlex
import subprocess
from urllib.parse import urlsplit

import pytest
from visiting import NAVIGATION, PORT

from nodes import node, until, variables

HISTORY = "history"
WHOAMI = "/api/v1/whoami"
SOCKET = "/run/dask-history/history.sock"
STATE = "/home/dask-site/history"
#: As a browser sends it with what a page of the history itself loads.
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
RECORDED = """
    from distributed import LocalCluster
    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
            tell(id=cluster.scheduler.id.removeprefix("Scheduler-"))
            time.sleep(600)
"""
ON_SOCKET = """
import http.client, json, socket, sys
call = http.client.HTTPConnection("localhost", timeout=20)
call.sock = socket.socket(socket.AF_UNIX)
call.sock.connect(sys.argv[1])
call.request("GET", sys.argv[2], headers=json.loads(sys.argv[3]))
print(call.getresponse().read().decode())
"""


def uid_of(user):
    return int(node("login1").check_output(f"id -u {user}"))


def arrived(visitor, **more):
    """Go to the history as a click does, so that the browser has its cookie there."""
    answer = visitor.go(f"{visitor.origin(HISTORY)}/", **more)
    assert answer.status == 200, answer.text[:300]
    return visitor


def asked(visitor, path=WHOAMI, method="GET", **more):
    """Ask the history as its own pages may."""
    headers = {**OWN_PAGE, **more.pop("headers", {})}
    return visitor.request(f"{visitor.origin(HISTORY)}{path}", method, headers=headers, **more)


def said(visitor, **more):
    """Return whom the history takes a browser for."""
    answer = asked(visitor, **more)
    assert answer.status == 200, answer.text[:300]
    return json.loads(answer.text)


def on_socket(run, headers):
    """Ask the service on its socket, as the user as whom `run` runs a command."""
    given = shlex.quote(json.dumps(headers))
    code = base64.b64encode(ON_SOCKET.encode()).decode()
    command = f"exec(__import__('base64').b64decode('{code}'))"
    asks = f'/usr/bin/python3 -I -c "{command}" {SOCKET} {WHOAMI} {given}'
    result = run(asks)
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


def over_http2(visitor, path, *arguments, cookie=True):
    """Ask over HTTP/2; return the status and the value that is the answer."""
    given = [part for k, v in OWN_PAGE.items() for part in ("-H", f"{k}: {v}")]
    url = f"{visitor.origin(HISTORY)}{path}"
    status, text = visitor.curl(url, *given, *arguments, cookie=cookie)
    body = text.replace("\r\n", "\n").partition("\n\n")[2]
    return status, json.loads(body) if body.startswith("{") else body


@pytest.fixture(scope="module")
def both(browser):
    """Browsers of alice and of bob, who are at the history."""
    return {user: arrived(browser(user)) for user in ("alice", "bob")}


@pytest.fixture
def recorded(in_background, both):
    """The ids of a cluster of alice's and one of bob's that the history knows."""
    found = {}
    for user, visitor in both.items():
        facts, *_ = in_background(user, RECORDED)
        found[user] = facts["id"]
        path = f"/api/v1/clusters/{facts['id']}"
        assert until(lambda v=visitor, p=path: asked(v, p).status == 200, 60), user
    return found


class TestOneLogin:
    def test_alice_logs_in_once_and_sees_both(self, browser, in_background):
        facts, *_ = in_background("alice", RECORDED)
        alice = browser("alice")
        answer = alice.request(f"{alice.origin()}/")
        assert answer.status == 200 and f'href="{alice.origin(HISTORY)}/"' in answer.text
        page = alice.go(f"{alice.origin(HISTORY)}/").text
        assert "alice" in page and f'href="{alice.origin()}/"' in page
        path = f"/clusters/{facts['id']}"
        assert until(lambda: alice.go(f"{alice.origin(HISTORY)}{path}").status == 200, 60)

    @pytest.mark.parametrize("through", ["login1", "login2"])
    def test_any_login_node_leads_to_the_one_that_writes(self, through, browser, address):
        alice = arrived(browser("alice", "login2"), address=address(through))
        assert said(alice, address=address(through))["user"] == "alice"

    def test_the_command_gives_a_link_that_ends_there(self, stranger, as_user):
        result = as_user("alice", "module load dask-site && dask-site history open --no-browser")
        assert result.rc == 0, result.stderr
        link = result.stdout.strip()
        nobody = stranger()
        assert link.startswith(f"{nobody.origin()}/login#")
        word, _, onward = urlsplit(link).fragment.partition("/")
        assert onward == "ticket?cluster=history&path=/"
        assert nobody.log_in(link.replace(f"/{onward}", "")).status == 303
        assert nobody.go(f"{nobody.origin()}/{onward}").status == 200
        assert said(nobody)["user"] == "alice"
        assert word


class TestWhoseItIs:
    def test_bob_sees_his_own_alone(self, both, recorded):
        for user, other in (("alice", "bob"), ("bob", "alice")):
            visitor = both[user]
            mine, theirs = recorded[user], recorded[other]
            for path in ("/clusters/{}", "/api/v1/clusters/{}"):
                assert asked(visitor, path.format(mine)).status == 200  # the control
                there, nowhere = (
                    asked(visitor, path.format(name)) for name in (theirs, "no-such-cluster")
                )
                assert (there.status, there.body) == (nowhere.status, nowhere.body)
                assert there.status == 404
            listed = json.loads(asked(visitor, "/api/v1/clusters?most=1000").text)["clusters"]
            assert {mine} <= {one["id"] for one in listed}
            assert theirs not in {one["id"] for one in listed}
            assert asked(visitor, f"/api/v1/clusters?user={other}").status == 404
            assert asked(visitor, "/metrics").status == 403

    def test_nobody_gets_in_without_a_login(self, both, stranger):
        nobody = stranger()
        for path in ("/", "/where", WHOAMI, "/static/site.css", "/healthz", "/metrics"):
            assert asked(nobody, path).status == 401, path
            url = f"{nobody.origin(HISTORY)}{path}"
            assert nobody.request(url, headers=NAVIGATION).status == 302, path
            assert "dask-site dashboards" in nobody.go(url).text
        assert asked(both["alice"], "/static/site.css").status == 200  # the control

    def test_a_cookie_of_another_origin_is_none(self, both, ids, stranger):
        alice = both["alice"]
        assert alice.go(f"{alice.origin(ids['login'])}/status").status == 200
        history, cluster = (f"{name}.{alice.domain}" for name in (HISTORY, ids["login"]))
        for host, other in ((history, cluster), (history, alice.domain), (cluster, history)):
            thief = stranger()
            thief.cookies[host] = alice.cookies[other]
            path = WHOAMI if host == history else "/status"
            answer = thief.request(f"https://{host}:{PORT}{path}", headers=OWN_PAGE)
            assert answer.status == 401, (host, other)
            thief.cookies[host] = alice.cookies[host]  # the control
            assert thief.request(f"https://{host}:{PORT}{path}", headers=OWN_PAGE).status == 200


class TestWhoSaysSo:
    """The user stands in a header between nginx and the service: nobody else writes it."""

    NAMES = ("X-Dask-User", "x-dask-user", "X-DASK-USER", "X_Dask_User")

    def test_a_header_of_the_client_changes_nothing(self, both):
        bob, alices = both["bob"], uid_of("alice")
        me = said(bob)
        assert me["user"] == "bob"
        for value in (str(alices), "0", "alice", "", f"{alices}, {alices}"):
            for name in self.NAMES:
                assert said(bob, headers={name: value}) == me, (name, value)
                status, answer = over_http2(bob, WHOAMI, "-H", f"{name}: {value}")
                assert (status, answer) == (200, me), (name, value)
                more = ("-H", f"{name}: {value}", "-H", f"X-Dask-User: {alices}")
                assert over_http2(bob, WHOAMI, *more) == (200, me), (name, value)

    def test_it_lets_nobody_in(self, stranger):
        nobody, alices = stranger(), uid_of("alice")
        for name in (*self.NAMES, "X-Dask-Upstream", "X-Dask-Cluster", "Authorization"):
            assert asked(nobody, headers={name: str(alices)}).status == 401, name
            assert over_http2(nobody, WHOAMI, "-H", f"{name}: {alices}")[0] == 401, name

    def test_the_way_between_nodes_is_for_proxies(self, both, stranger, address):
        """What nginx of one login node asks another's, asked by somebody else."""
        bob = both["bob"]
        for name in ("login1", "login2"):
            for visitor in (bob, stranger()):
                for path in (WHOAMI, "/where"):
                    answer = visitor.request(
                        f"https://{name}:{PORT}{path}",
                        headers={"X-Dask-Cluster": HISTORY, "X-Dask-User": str(uid_of("alice"))},
                        address=address(name),
                    )
                    assert answer.status == 403, (name, path)
        assert said(bob)["user"] == "bob"  # the control

    def test_on_the_socket_the_kernel_says_it(self, as_user):
        alices = uid_of("alice")
        writer = json.loads(node("login1").check_output(f"cat {STATE}/where.json"))["host"]
        host = writer.partition(".")[0]
        for value in (str(alices), "0", ""):
            answer = on_socket(lambda c: as_user("bob", c, host), {"X-Dask-User": value})
            assert answer["user"] == "bob", value
        # The control: the proxy's account is believed, though never that somebody is root.
        domain = variables()["site"]["dashboards"]["domain"]
        for value, user in ((str(alices), "alice"), ("0", None), ("root", None)):
            answer = on_socket(
                lambda c: node(host).run(f"runuser -u dask-proxy -- {c}"),
                {"X-Dask-User": value, "Host": f"{HISTORY}.{domain}:{PORT}"},
            )
            assert answer.get("user") == user, value


class TestOtherPages:
    def test_a_page_of_another_origin_neither_reads_nor_changes(self, both, ids, recorded):
        alice = both["alice"]
        path = f"/api/v1/clusters/{recorded['alice']}"
        own = {"Origin": alice.origin(HISTORY)}
        for origin in (alice.origin(ids["login"]), alice.origin(), "https://evil.example", "null"):
            for headers in ({"Origin": origin}, {"Origin": origin, "Sec-Fetch-Site": "same-site"}):
                assert asked(alice, path, headers=headers).status == 403, headers
                assert asked(alice, path, "DELETE", headers=headers).status == 403, headers
                given = [part for k, v in headers.items() for part in ("-H", f"{k}: {v}")]
                assert over_http2(alice, path, "-X", "DELETE", *given)[0] == 403, headers
        assert asked(alice, path, "DELETE").status == 403  # no page says that it is it
        for method in ("POST", "PUT", "PATCH", "OPTIONS", "TRACE"):
            assert asked(alice, path, method, headers=own).status in {400, 403, 405, 501}, method
        assert asked(alice, path, headers=own).status == 200  # the controls
        assert asked(alice, "/api/v1/clusters/none-such", "DELETE", headers=own).status == 404

    def test_what_the_service_says_of_itself_stays_and_cookies_do_not(self, both):
        alice = both["alice"]
        before = dict(alice.cookies)
        answer = asked(alice, "/where")
        assert answer.status == 200
        assert "frame-ancestors 'none'" in answer.header("content-security-policy")
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("cache-control") == "no-store"
        assert "max-age" in answer.header("strict-transport-security")
        for path in ("/where", f"/open/{'a' * 40}", "/api/v1/sessions"):
            assert "set-cookie" not in asked(alice, path).headers, path
        assert alice.cookies == before


class TestTheEnd:
    def test_a_logout_ends_both(self, browser, ids, address):
        visitor, other = arrived(browser("alice")), arrived(browser("alice"))
        dashboard = f"{visitor.origin(ids['login'])}/status"
        assert visitor.go(dashboard).status == 200
        kept = dict(visitor.cookies)
        page = asked(visitor, "/where").text
        assert f'href="{visitor.origin()}/logout"' in page
        assert "for all dashboards and the history" in visitor.go(f"{visitor.origin()}/logout").text
        assert said(visitor)["user"] == "alice"  # it only asks
        origin = {"Origin": visitor.origin()}
        assert visitor.request(f"{visitor.origin()}/logout", "POST", b"", origin).status == 303
        visitor.cookies.update(kept)  # as one who has kept them
        for name in ("login1", "login2"):
            at = address(name)
            assert until(lambda at=at: asked(visitor, address=at).status == 401, 20), name
            assert visitor.request(dashboard, headers=OWN_PAGE, address=at).status == 401
        assert said(other)["user"] == "alice"  # the control

    def test_the_history_itself_ends_no_session_of_the_login(self, both):
        alice = both["alice"]
        headers = {"Origin": alice.origin(HISTORY)}
        answer = asked(alice, "/api/v1/sessions", "DELETE", headers=headers)
        assert answer.status == 403 and alice.origin() in answer.text
        assert said(alice)["user"] == "alice"

    def test_an_account_that_is_locked(self, browser):
        carol = arrived(browser("carol"))
        root = "runuser -l root -c 'module load dask-site && dask-site dashboards {} carol'"
        host = node("login1")
        assert said(carol)["user"] == "carol"  # the control
        try:
            assert host.run(root.format("lock")).rc == 0
            assert until(lambda: asked(carol).status in {401, 403}, 10)
        finally:
            assert host.run(root.format("unlock")).rc == 0
        assert arrived(browser("carol"))

    def test_without_its_broker_nobody_gets_in(self, both, address):
        alice, host = both["alice"], node("login1")
        at = address("login1")
        assert asked(alice, address=at).status == 200  # the control
        try:
            host.check_output("systemctl stop dask-dashboards.service")
            assert asked(alice, address=at).status in {502, 503}
        finally:
            host.check_output("systemctl start dask-dashboards.service")
        assert until(lambda: asked(alice, address=at).status == 200)


def test_curl_speaks_http2(both):
    """The control of what is tried over it."""
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout
    assert "HTTP2" in version
    assert over_http2(both["alice"], WHOAMI)[1]["user"] == "alice"
