"""Browsers that want to see what isn't theirs (classes 4 to 8 and 10 of docs/security.md)."""

import base64
import http.client
import json
import re
import time
from urllib.parse import urlencode, urlsplit

import pytest
from visiting import COOKIE, NAVIGATION, PORT

WHERE = ["login", "job"]
ROUTES = [
    *("/", "/status", "/workers", "/tasks", "/graph", "/profile", "/info/main/workers.html"),
    *("/json/counts.json", "/json/identity.json", "/individual-task-stream", "/health"),
    *("/metrics", "/static/js/bokeh.min.js", "/autoload.js"),
]
SHOWN = "/status"
LOADED = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "script"}


@pytest.mark.parametrize("where", WHERE)
def test_its_owner_sees_what_others_do_not(where, ids, alice, bob, stranger):
    """The control of all that follows: what is tried there works for alice."""
    cluster = ids[where]
    url = f"{alice.origin(cluster)}{SHOWN}"
    assert alice.go(url).status == 200
    for route in ROUTES[1:]:
        answer = alice.go(f"{alice.origin(cluster)}{route}")
        assert answer.status in {200, 404, 400}, (route, answer.status)
    assert alice.curl(url)[0] == 200
    status, stream = alice.websocket(cluster)
    stream.close()
    assert status == 101
    nobody = stranger()
    for route in ROUTES:
        url = f"{alice.origin(cluster)}{route}"
        for visitor in (bob, nobody):
            assert visitor.request(url).status in {302, 403}, route
            assert visitor.request(url, headers=LOADED).status in {401, 403}, route
            assert visitor.curl(url)[0] in {302, 403}, route
            status, stream = visitor.websocket(cluster, f"{route.rstrip('/')}/ws")
            stream.close()
            assert status in {401, 403}, route
        assert bob.go(url).status == 403, route
        assert "dask-site dashboards" in nobody.go(url).text, route


def test_what_is_there_is_not_told_from_what_is_not(ids, bob):
    there = bob.go(f"{bob.origin(ids['login'])}{SHOWN}")
    nowhere = bob.go(f"{bob.origin('a' * 16)}{SHOWN}")
    assert (there.status, there.body) == (nowhere.status, nowhere.body)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "path",
    [
        *("/../status", "/%2e%2e/status", "/..%2fstatus", "//status", "/./status", "/STATUS"),
        *("/status/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2f..%2fetc/passwd"),
        *("/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/status%00", "/status%0d%0aX-Evil:%201"),
        *("/_dask-site/auth", "/_dask-site/../internal/auth", "/internal/auth", "/internal/health"),
        *("/proxy/8787/localhost/status", "/proxy/22/127.0.0.1/", "/jupyter/", "/api/v1/ask"),
        *("/_dask-site/%2e%2e/internal/auth", "/_dask-site/in", "/login"),
    ],
)
def test_paths_lead_nowhere_else(where, path, ids, alice, bob):
    url = f"{alice.origin(ids[where])}{path}"
    for headers in ({}, NAVIGATION):
        answer = bob.request(url, headers=headers)
        assert answer.status not in {200, 204, 101}, answer.text[:200]
        assert "x-evil" not in answer.headers
    status, text = bob.curl(url)
    assert status not in {200, 204}
    assert "x-evil" not in text.lower()
    mine = alice.request(url, headers=NAVIGATION)
    assert "x-evil" not in mine.headers
    assert b"root:" not in mine.body
    if "internal" in path or "proxy" in path or "jupyter" in path or "api" in path:
        assert mine.status in {400, 403, 404}


@pytest.mark.parametrize(
    "name",
    [
        "{id}.{domain}.evil.example",
        "evil.example",
        "x{id}.{domain}",
        "{upper}.{domain}x",
        "{id}%0d%0a.{domain}",
        "10.0.0.1",
        "localhost",
        "",
    ],
)
def test_hosts_that_are_not_ours(name, ids, bob, alice):
    cluster = ids["login"]
    host = name.format(id=cluster, upper=cluster.upper(), domain=bob.domain)
    for visitor in (bob, alice):
        url = f"{visitor.origin(cluster)}{SHOWN}"
        answer = visitor.request(url, headers={"Host": host})
        assert answer.status in {400, 403, 404, 421}, (host, answer.status)


def test_headers_prove_nothing(ids, bob, alice):
    cluster = ids["login"]
    theirs = alice.cookies[f"{cluster}.{alice.domain}"]
    forged = {
        "X-Dask-View": "x",
        "X-Dask-Cluster": cluster,
        "X-Dask-Upstream": f"http://unix:/run/dask-dashboards/clusters/{cluster}.sock:",
        "X-Dask-Origin": alice.origin(cluster),
        "X-Original-URI": "/",
        "X-Forwarded-User": "alice",
        "X-Remote-User": "alice",
        "Remote-User": "alice",
        "X-Real-IP": "127.0.0.1",
        "X-Forwarded-For": "127.0.0.1",
        "Authorization": "MUNGE alice",
    }
    url = f"{bob.origin(cluster)}{SHOWN}"
    for headers in (forged, *({k: v} for k, v in forged.items())):
        assert bob.request(url, headers={**NAVIGATION, **headers}).status in {302, 403}
    # The word of one origin is none at another, nor with the login pages.
    for where in (ids["job"], ""):
        answer = bob.request(
            f"{bob.origin(where)}/", headers={"Cookie": f"{COOKIE}={theirs}"}, cookie=False
        )
        assert answer.status in {302, 303, 401, 403}
        assert "mine" not in answer.text
    # `Connection: Cookie` has a proxy drop the cookie on its way, and then it is nobody's.
    answer = alice.request(url, headers={"Connection": "Cookie"})
    assert answer.status in {200, 401}


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT"]
)
def test_a_dashboard_is_only_looked_at(method, ids, alice):
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    answer = alice.request(url, method, b"x=1" if method == "POST" else None)
    assert answer.status in {400, 403, 405}
    status, _ = alice.curl(url, "--request", method)
    assert status in {0, 400, 403, 405}


@pytest.mark.parametrize(
    "smuggled",
    [
        "Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{next}",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{next}",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{next}",
        "Content-Length: 0\r\nContent-Length: 44\r\n\r\n{next}",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\n\r\n{next}",
    ],
)
def test_requests_within_requests(smuggled, ids, bob):
    """What bob hides in a request of his own never comes back as alice's page."""
    cluster = ids["login"]
    host = f"{cluster}.{bob.domain}"
    inner = f"GET {SHOWN} HTTP/1.1\r\nHost: {host}:{PORT}\r\nX-Dask-View: x\r\n\r\n"
    stream = bob.stream(host)
    stream.settimeout(3)
    head = f"GET {SHOWN} HTTP/1.1\r\nHost: {host}:{PORT}\r\n"
    stream.sendall((head + smuggled.format(next=inner)).encode())
    came = b""
    try:
        while part := stream.recv(65536):
            came += part
    except (TimeoutError, OSError):
        pass
    stream.close()
    codes = set(re.findall(rb"HTTP/1\.1 (\d+)", came))
    assert codes <= {b"302", b"400", b"401", b"403", b"405", b"408", b"411", b"501"}, came[:300]
    assert b"Bokeh" not in came


@pytest.mark.parametrize("where", WHERE)
def test_a_websocket_needs_the_page_of_its_own_origin(where, ids, alice):
    cluster, other = ids[where], ids["job" if where == "login" else "login"]
    assert alice.go(f"{alice.origin(cluster)}{SHOWN}").status == 200
    status, stream = alice.websocket(cluster)
    stream.close()
    assert status == 101
    wrong = [
        *("null", "https://evil.example", alice.origin(), alice.origin(other)),
        *(alice.origin(cluster).upper(), alice.origin(cluster) + "/", "http://x"),
        alice.origin(cluster).replace("https", "http"),
        alice.origin(cluster).replace(f":{PORT}", ""),
        f"{alice.origin(cluster)}.evil.example",
    ]
    for origin in wrong:
        status, stream = alice.websocket(cluster, origin=origin)
        stream.close()
        assert status == 403, origin
    status, stream = alice.websocket(cluster, origin="")  # no browser, and no Origin
    stream.close()
    assert status == 403


def test_pages_of_other_origins_get_nothing_with_her_cookie(ids, alice):
    """A sibling has the same site, so the cookie goes along."""
    url = f"{alice.origin(ids['login'])}/json/counts.json"
    assert alice.go(url).status == 200
    for headers in (
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Origin": alice.origin(ids["job"])},
        {"Origin": "null"},
    ):
        assert alice.request(url, headers=headers).status == 403, headers
    answer = alice.request(url)
    assert answer.header("cross-origin-resource-policy") == "same-origin"
    assert "frame-ancestors 'self'" in answer.header("content-security-policy")
    assert "access-control-allow-origin" not in answer.headers


# -- a dashboard that attacks whom it is shown to ------------------------------------------------

HOSTILE = """
import base64, socket, threading
from dask_site.dashboards import asking
where = asking.places()
connection = asking.connect(where, {"op": "register", "name": "evil", "kind": "x"})
data, given, _, _ = socket.recv_fds(connection, 65536, 1)
listener = socket.socket(fileno=given[0])
ANSWERS = json.loads(base64.b64decode("%s"))
listener.setblocking(True)
listener.settimeout(None)

def serve(one):
    asked = one.recv(65536).decode("latin-1")
    path = asked.split(" ")[1]
    if path == "/echo":
        body = asked.encode()
        one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nConnection: close\\r\\n"
                    b"Content-Length: " + str(len(body)).encode() + b"\\r\\n\\r\\n" + body)
    elif path == "/endless":
        one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\n")
        try:
            while True:
                one.sendall(b"x" * 65536)
        except OSError:
            pass
    elif path == "/silent":
        time.sleep(3600)
    else:
        one.sendall(ANSWERS.get(path, ANSWERS["/"]).encode("latin-1"))
    one.close()

tell(**json.loads(data))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
EVIL_HEADERS = {
    "Set-Cookie": f"{COOKIE}=tossed; Domain=demo.test; Path=/; Secure",
    "X-Accel-Redirect": "/internal/auth",
    "X-Accel-Limit-Rate": "1",
    "X-Accel-Buffering": "yes",
    "Service-Worker-Allowed": "/",
    "Clear-Site-Data": '"*"',
    "NEL": '{"report_to":"x","max_age":9}',
    "Report-To": '{"group":"x","max_age":9,"endpoints":[{"url":"https://evil.example"}]}',
    "Refresh": "0; url=https://evil.example",
    "Link": "<https://evil.example>; rel=preload",
    "Access-Control-Allow-Origin": "*",
    "Alt-Svc": 'h3="evil.example:443"',
    "Strict-Transport-Security": "max-age=0",
    "Content-Security-Policy": "default-src *",
    "Public-Key-Pins": "x",
    "SourceMap": "https://evil.example",
    "X-Dask-Upstream": "http://evil.example",
}
PLAIN = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n"
MOVED = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
ANSWERS = {
    "/": PLAIN + "".join(f"{k}: {v}\r\n" for k, v in EVIL_HEADERS.items()) + "\r\nok",
    "/absolute": f"{MOVED}https://evil.example/\r\n\r\n",
    "/relative": f"{MOVED}//evil.example/\r\n\r\n",
    "/slashes": f"{MOVED}/\\evil.example/\r\n\r\n",
    "/script": f"{MOVED}javascript:alert(1)\r\n\r\n",
    "/within": f"{MOVED}/status\r\n\r\n",
    "/broken": "HTTP/9 what\r\n\r\n",
    "/old": f"\nHTTP/1.1 200 OK\r\nSet-Cookie: {COOKIE}=tossed\r\nContent-Length: 2\r\n\r\nok",
    "/split": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\nmore",
}


@pytest.fixture
def hostile(in_background):
    """A dashboard of bob's that answers as it likes; he shares it with alice."""
    code = HOSTILE % base64.b64encode(json.dumps(ANSWERS).encode()).decode()
    facts, *_ = in_background("bob", code)
    return facts["id"]


def test_what_a_dashboard_says_of_itself_does_not_reach_browsers(hostile, as_user, alice):
    shared = f"module load dask-site && dask-site dashboards share {hostile} alice --for 10m"
    assert as_user("bob", shared).rc == 0
    origin = alice.origin(hostile)
    answer = alice.go(f"{origin}/")
    assert (answer.status, answer.body) == (200, b"ok")
    for name, value in EVIL_HEADERS.items():
        assert value not in answer.headers.get(name.lower(), []), name
    status, text = alice.curl(f"{origin}/")
    assert status == 200
    for name, value in EVIL_HEADERS.items():
        assert f"{name}: {value}".lower() not in text.lower(), name
    assert alice.cookies[urlsplit(origin).hostname] != "tossed"
    for path in ("/absolute", "/relative", "/slashes", "/script"):
        answer = alice.request(f"{origin}{path}")
        to = answer.header("location") or "/"
        assert to.startswith("/") and to[1:2] not in {"/", "\\"}, (path, to)
        status, text = alice.curl(f"{origin}{path}")
        assert "evil.example" not in text and "javascript:" not in text, path
    assert alice.request(f"{origin}/within").header("location") == "/status"
    # Neither comes as it is, which nginx would let pass as HTTP/0.9.
    for path in ("/broken", "/old"):
        with pytest.raises((http.client.HTTPException, OSError)):
            alice.request(f"{origin}{path}")
    assert b"more" not in alice.request(f"{origin}/split").body
    # What it is sent holds no cookie and nothing that would let it be alice.
    sent = alice.request(f"{origin}/echo", headers={"Authorization": "x", "X-Own": "1"}).text
    assert "GET /echo" in sent
    for word in (*alice.cookies.values(), COOKIE, "Authorization", "X-Own"):
        assert word not in sent


def test_a_dashboard_that_never_ends_keeps_nobody_from_his(hostile, ids, bob, alice):
    origin = bob.origin(hostile)
    assert bob.go(f"{origin}/").status == 200
    open_ones = []
    for path in ["/endless"] * 3 + ["/silent"] * 20:
        hostname = urlsplit(origin).hostname
        stream = bob.stream(hostname)
        cookie = bob.cookies[hostname]
        stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {hostname}:{PORT}\r\n"
            f"Cookie: {COOKIE}={cookie}\r\n\r\n".encode()
        )
        open_ones.append(stream)
    began = time.monotonic()
    assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
    assert time.monotonic() - began < 20
    for stream in open_ones:
        stream.close()


# -- coming in -----------------------------------------------------------------------------------


def test_a_link_works_once_and_only_from_its_page(stranger, dashboards):
    link = dashboards("alice")["login"]
    visitor = stranger()
    word = urlsplit(link).fragment
    body = urlencode({"word": word}).encode()
    url = f"{visitor.origin()}/login"
    for origin in ("", "null", "https://evil.example", visitor.origin("a" * 16)):
        headers = {"Origin": origin} if origin else {}
        assert visitor.request(url, "POST", body, headers).status == 403
    # A page that a chat program fetches in advance uses nothing up.
    assert visitor.request(f"{url}").status == 200
    asked = visitor.request(
        url, "POST", urlencode({"word": word, "who": 1}).encode(), {"Origin": visitor.origin()}
    )
    assert json.loads(asked.text) == {"user": "alice"}
    assert visitor.log_in(link).status == 303
    for host in ("login1", "login2"):
        again = stranger(host)
        assert again.log_in(link).status == 403
        assert not again.cookies


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: w + "x", lambda w: "2002" + w[4:]])
def test_links_that_are_made_up(change, stranger, dashboards):
    link = dashboards("bob")["login"]
    before, _, word = link.partition("#")
    other = change(word) if change(word) != word else word[:-2] + "AA"
    if other.startswith("2002") and word.startswith("2002"):
        other = "2001" + word[4:]
    visitor = stranger()
    assert visitor.log_in(f"{before}#{other}").status == 403
    assert not visitor.cookies
    assert visitor.log_in(link).status == 303  # the control


def test_cookies_that_others_chose(ids, alice, bob, stranger):
    nobody = stranger()
    host = f"{ids['login']}.{alice.domain}"
    for word in ("x", "", "../..", "a" * 4000, bob.cookies[bob.domain], '"', "%00"):
        for url in (f"{alice.origin(ids['login'])}{SHOWN}", f"{alice.origin()}/"):
            answer = nobody.request(
                url, headers={"Cookie": f"{COOKIE}={word}", **NAVIGATION}, cookie=False
            )
            assert "Bokeh" not in answer.text
            if url.startswith(alice.origin(ids["login"])):
                assert answer.status in {302, 400, 401, 403}
    # A link gives a new session; what the browser had before counts for nothing afterwards.
    fixed = stranger()
    fixed.cookies[fixed.domain] = "chosen-by-another"
    assert fixed.request(f"{fixed.origin()}/").status == 303
    assert host not in fixed.cookies


def test_a_ticket_is_for_one_cluster_and_one_time(ids, alice, bob):
    ticket = alice.request(
        f"{alice.origin()}/ticket?cluster={ids['login']}&path=/status", headers=NAVIGATION
    ).header("location")
    word = re.search(r"word=([^&]+)", ticket)[1]
    elsewhere = f"{alice.origin(ids['job'])}/_dask-site/in?word={word}&path=/status"
    assert bob.request(elsewhere).status == 403
    assert f"{ids['job']}.{bob.domain}" not in bob.cookies
    assert alice.request(ticket).status == 303
    assert bob.request(ticket).status == 403  # used
    assert bob.request(f"{bob.origin()}/ticket?cluster={ids['login']}").status == 403
    for path in ("//evil.example", "/\\evil.example", "https://evil.example", "/x%0d%0aY:1"):
        sent = alice.request(f"{alice.origin()}/ticket?cluster={ids['login']}&path={path}")
        assert sent.header("location").endswith("&path=/status"), path
        word = re.search(r"word=([^&]+)", sent.header("location"))[1]
        arrival = f"{alice.origin(ids['login'])}/_dask-site/in?word={word}&path={path}"
        assert alice.request(arrival).header("location") == "/status"


def test_another_site_logs_nobody_out_or_in(alice):
    for path in ("logout", "login"):
        for origin in ("https://evil.example", "null", alice.origin("a" * 16)):
            answer = alice.request(
                f"{alice.origin()}/{path}", "POST", b"word=x", {"Origin": origin}
            )
            assert answer.status == 403
    assert "Your dashboards" in alice.request(f"{alice.origin()}/").text
