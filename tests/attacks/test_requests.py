"""Requests that say they are somebody, do more than look, or hide another (class 6)."""

import re
import socket
from urllib.parse import urlencode, urlsplit

import pytest
from attacked import LOCAL, ended_by, gets_through, judged, kept_out, link_to_id, started
from http2 import RefusedError
from naive import FIRST, NAMES, TRUSTING
from visiting import COOKIE, NAVIGATION, PORT

# What is asked for, by what it is known, and what may be asked for instead: quick to make, all.
SHOWN, KNOWN, CARRIER = "/json/counts.json", "processing", "/health"
LABEL = "a" * 16


@pytest.fixture(scope="module")
def bobs():
    """The id of a cluster of bob's own."""
    yield link_to_id(started("bob", LOCAL, "bobs")["link"])
    ended_by("bob", "bobs")


@pytest.fixture(scope="module")
def own(bobs, bob):
    """Bob's browser, which has been at his own cluster."""
    assert bob.go(f"{bob.origin(bobs)}{CARRIER}").text == "ok"
    return bob


def claims(cluster, origin):
    """Return headers by which proxies tell who somebody is."""
    values = {
        "X-Dask-Cluster": cluster,
        "X-Dask-Upstream": f"http://unix:/run/dask-dashboards/clusters/{cluster}.sock:",
        "X-Original-URI": "/",
        "X-Real-IP": "127.0.0.1",
        "X-Forwarded-For": "127.0.0.1",
        "X-Dask-User": "2001",
        "Authorization": "MUNGE alice",
    }
    found = {name: values.get(name, "alice") for name in NAMES}
    return [{"X-Dask-Origin": origin, **found}, *({name: v} for name, v in found.items())]


@pytest.mark.parametrize("protected", [True, False])
def test_headers_prove_nothing(protected, ids, bob, stranger, request):
    if not protected:
        request.getfixturevalue("unprotected")
    visitor = bob if protected else stranger(port=TRUSTING)
    url = f"{visitor.origin(ids['login'])}{SHOWN}"
    refused = visitor.request(url, headers=NAVIGATION).status
    assert refused == (302 if protected else 403)
    for headers in claims(ids["login"], visitor.origin(ids["login"])):
        status = visitor.request(url, headers={**NAVIGATION, **headers}).status
        judged(status != refused, protected, headers, status)
        given = [part for k, v in headers.items() for part in ("-H", f"{k}: {v}")]
        status = visitor.curl(url, *given)[0]
        judged(status != refused, protected, headers, "HTTP/2", status)


def test_what_asks_the_broker_is_inside(ids, alice, bob):
    """The endpoint that decides, at each name that leads here."""
    for visitor in (alice, bob):
        for origin in (visitor.origin(), visitor.origin(ids["login"]), f"https://login1:{PORT}"):
            for path in ("/internal/auth", "/internal/health", "/_dask-site/auth"):
                answer = visitor.request(f"{origin}{path}", headers={"X-Dask-Cluster": ids["job"]})
                kept_out(answer.status in {302, 403, 404}, origin, path, answer.status)
                kept_out("x-dask-upstream" not in answer.headers, origin, path)
                if "login1" not in origin:
                    status, text = visitor.curl(f"{origin}{path}")
                    kept_out(status in {302, 404}, origin, path, "HTTP/2", status)
                    kept_out("x-dask-" not in text.lower(), origin, path, "HTTP/2")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get", "PROPFIND"]
)
def test_a_dashboard_is_only_looked_at(method, ids, alice):
    """Where nothing protects, the dashboard gets them: see what a hostile one is sent."""
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == alice.curl(url)[0] == 200
    answer = alice.request(url, method, b"x=1" if method == "POST" else None)
    expected = {400} if method == "get" else {405}
    kept_out(answer.status in expected, method, answer.status)
    with alice.http2(urlsplit(url).hostname) as connection:
        status = connection.ask(alice.asking(url, method))[0]
    kept_out(status in {400, 405}, method, "HTTP/2", status)


def test_a_header_that_drops_another(ids, alice):
    """`Connection: Cookie` has some proxies drop the cookie, and then ask as nobody."""
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    for dropped in ("Cookie", "close, X-Dask-View", "Host", "Origin"):
        answer = alice.request(url, headers={"Connection": dropped})
        kept_out(answer.status == 200, dropped, answer.status)  # it stays hers
        nobody = alice.request(url, headers={"Connection": dropped, **NAVIGATION}, cookie=False)
        kept_out(nobody.status == 302, dropped, nobody.status)


# What hides a request within another, what the proxy answers to both, and whether Dask itself
# takes the second for one, so that it gets through where only the first is looked at.
_CHUNKED, _LAST = "Transfer-Encoding: chunked", "0\r\n\r\n{next}"
HIDDEN = {
    "both lengths": (f"Content-Length: 4\r\n{_CHUNKED}\r\n\r\n{_LAST}", "400", False),
    "the other way": (f"{_CHUNKED}\r\nContent-Length: 4\r\n\r\n{_LAST}", "400", False),
    "a space": (f"Transfer-Encoding : chunked\r\n\r\n{_LAST}", "400", False),
    "a tab": (f"Transfer-Encoding:\tchunked\r\n\r\n{_LAST}", "501", True),
    "unknown": (f"Transfer-Encoding: xchunked\r\n\r\n{_LAST}", "501", False),
    "two codings": (f"Transfer-Encoding: identity, chunked\r\n\r\n{_LAST}", "501", False),
    "folded": (f"X: y\r\n {_CHUNKED}\r\n\r\n{{next}}", "400", False),
    "two lengths": ("Content-Length: 0\r\nContent-Length: 44\r\n\r\n{next}", "400", False),
    "a sign": ("Content-Length: +0\r\n\r\n{next}", "400", False),
    "a body": ("Content-Length: {length}\r\n\r\n{next}", "200", False),
    "chunks": (f"{_CHUNKED}\r\n\r\n{{hex}}\r\n{{next}}\r\n0\r\n\r\n", "200", False),
    "h2c": (
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\n\r\n{next}",
        "200 302",
        True,
    ),
    "a WebSocket that is none": (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 99\r\n"
        "Sec-WebSocket-Key: x\r\n\r\n{next}",
        "403 302",
        True,
    ),
    "one after the other": ("\r\n{next}", "200 302", True),
}


def hidden(how, inner):
    text = HIDDEN[how][0]
    return text.format(next=inner, length=len(inner), hex=f"{len(inner):x}")


@pytest.mark.parametrize("how", HIDDEN)
def test_requests_within_requests(how, ids, bobs, own, alice):
    """Bob asks for his own dashboard, which he may, and hides that he asks for alice's."""
    outer, host = f"{bobs}.{own.domain}", f"{ids['login']}.{own.domain}"
    inner = f"GET {SHOWN} HTTP/1.1\r\nHost: {host}:{PORT}\r\nX-Dask-View: x\r\n{{}}\r\n"
    word = f"Cookie: {COOKIE}={own.cookies[outer]}\r\n"
    head = f"GET {CARRIER} HTTP/1.1\r\nHost: {outer}:{PORT}\r\n{word}"
    # The controls: each of them by itself is answered.
    assert b"ok" in own.raw(outer, f"{head}Connection: close\r\n\r\n")
    assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
    hers = f"Cookie: {COOKIE}={alice.cookies[host]}\r\nConnection: close\r\n"
    assert KNOWN.encode() in alice.raw(host, inner.format(hers))
    for more in ("", word):
        last = f"{more}Connection: close\r\n"
        came = own.raw(outer, head + hidden(how, inner.format(last)))
        codes = " ".join(re.findall(r"HTTP/1\.1 (\d+)", came.decode("latin-1")))
        kept_out(codes == HIDDEN[how][1], how, codes)
        kept_out(KNOWN.encode() not in came, how)
    assert own.request(f"{own.origin(bobs)}{CARRIER}").text == "ok"


@pytest.mark.parametrize("how", HIDDEN)
def test_requests_within_requests_where_only_the_first_is_looked_at(how, unprotected, address):
    def came(text):
        with socket.create_connection((address(), FIRST), 10) as stream:
            stream.settimeout(2)
            stream.sendall(text.encode())
            found = b""
            try:
                while part := stream.recv(65536):
                    found += part
            except OSError:
                pass
            return found

    inner = f"GET {SHOWN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert came(inner).startswith(b"HTTP/1.1 403")
    through = KNOWN.encode() in came(f"GET {CARRIER} HTTP/1.1\r\nHost: x\r\n{hidden(how, inner)}")
    if HIDDEN[how][2]:
        gets_through(through, how)
    else:
        assert not through, how  # Dask refuses that itself, or takes it for a body


def test_requests_hidden_from_the_broker(ids, alice, own, bobs, dashboards, stranger):
    """Its connections are kept for all: what is left in one would be the next one's answer."""
    host = own.domain
    verdict = f"GET /internal/auth HTTP/1.1\r\nHost: x\r\nX-Dask-Cluster: {bobs}\r\n"
    verdict += f"Cookie: {COOKIE}={own.cookies[f'{bobs}.{host}']}\r\n\r\n"
    wait = 'POST /api/v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{"word": "x"}'
    hers, his = (f"{alice.origin(ids['login'])}{SHOWN}", f"{own.origin(ids['login'])}{SHOWN}")
    assert alice.go(hers).status == 200
    for inner in (verdict, verdict * 20, wait):
        for path, origin in (("/login", own.origin()), ("/logout", "https://x"), ("/", "")):
            head = f"POST {path} HTTP/1.1\r\nHost: {host}:{PORT}\r\nOrigin: {origin}\r\n"
            kind = "Content-Type: application/x-www-form-urlencoded\r\n"
            chunks = f"Transfer-Encoding: chunked\r\n\r\n{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
            came = own.raw(host, head + kind + "Connection: close\r\n" + chunks)
            codes = re.findall(rb"HTTP/1\.1 (\d+)", came)
            kept_out(len(codes) == 1 and codes[0] in {b"403", b"405"}, path, codes)
            with own.http2(host) as connection:
                headers = [*own.asking(f"{own.origin()}{path}", "POST"), ("origin", origin)]
                status, _, body = connection.ask(headers, inner.encode())
            kept_out(status in {403, 405} and b"204" not in body, path, "HTTP/2", status)
            for _ in range(3):
                kept_out(own.request(his).status == 302, "what bob gets then")
                kept_out(alice.request(hers).status == 200, "what alice gets then")
    # The control: a form in chunks is read, and by the one whose form it is.
    visitor, link = stranger(), dashboards("bob")["login"]
    form = urlencode({"word": urlsplit(link).fragment})
    text = (
        f"POST /login HTTP/1.1\r\nHost: {host}:{PORT}\r\nOrigin: {visitor.origin()}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{len(form):x}\r\n{form}\r\n0\r\n\r\n"
    )
    assert visitor.raw(host, text).startswith(b"HTTP/1.1 303")


def test_what_http2_carries_and_http1_would_take_apart(ids, alice, own, bobs):
    """Lengths and codings that HTTP/2 has no use for, line breaks, two hosts."""
    origin = alice.origin(ids["login"])
    hers = urlsplit(origin).netloc
    assert alice.go(f"{origin}{SHOWN}").status == 200
    inner = f"GET {SHOWN} HTTP/1.1\r\nHost: {hers}\r\nX-Dask-View: x\r\n\r\n".encode()
    plain = own.asking(f"{own.origin(bobs)}{CARRIER}")
    host = plain[2][1].partition(":")[0]

    def asked(headers, body=b""):
        with own.http2(host) as connection:
            try:
                status, _, text = connection.ask(headers, body)
            except RefusedError as error:
                return str(error), b""
            return status, text

    assert asked(plain) == (200, b"ok")  # the control
    reset = "stream reset, <ErrorCodes.PROTOCOL_ERROR: 1>"
    target = [*plain[:3], (":path", f"{CARRIER} HTTP/1.1\r\nHost: {hers}"), *plain[4:]]
    for headers, body, expected in (
        ([*plain, ("content-length", "0")], inner, 400),
        ([*plain, ("content-length", "5")], inner, 400),
        ([*plain, ("content-length", "0"), ("content-length", "44")], inner, 400),
        ([*plain, ("transfer-encoding", "chunked")], b"0\r\n\r\n" + inner, 200),
        ([*plain, ("connection", "upgrade"), ("upgrade", "h2c")], inner, 200),
        ([*plain, ("x", f"y\r\nHost: {hers}")], inner, reset),
        ([*plain, ("x: y\r\nhost", hers)], inner, reset),
        ([*plain, ("Host", hers)], inner, reset),
        ([*plain, ("host", hers)], b"", 400),
        ([*plain[:2], (":authority", hers), *plain[3:], ("host", host)], b"", 400),
        ([*plain, (":path", SHOWN)], b"", 400),
        (target, b"", reset),
        ([*plain[:3], (":path", "status"), *plain[4:]], b"", 400),
        ([*plain[:3], (":path", f"{origin}{SHOWN}"), *plain[4:]], b"", 400),
        ([(":method", f"GET {SHOWN}"), *plain[1:]], b"", 400),
        ([(":method", "CONNECT"), *plain[1:]], b"", 405),
    ):
        status, text = asked(headers, body)
        kept_out(status == expected, headers[len(plain) :] or headers, status)
        kept_out(KNOWN.encode() not in text, headers)
    assert alice.request(f"{origin}{SHOWN}").status == 200
