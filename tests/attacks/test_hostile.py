"""A dashboard that attacks whom it is shown to (class 8)."""

import http.client
import time
from urllib.parse import urlsplit

import hostile
import pytest
from attacked import judged, kept_out
from http2 import RefusedError
from naive import EVERYTHING, FOLDER, KEPT_INSIDE
from visiting import COOKIE, NoAnswerError

from nodes import node, until

SHOWN = "/status"
STATE = "/run/dask-proxy"


@pytest.fixture(scope="module")
def evil(as_user):
    """The id of bob's dashboard, which he shares with alice."""
    yield hostile.begin(as_user)
    hostile.end()


@pytest.fixture(params=[True, False], ids=["protected", "not"])
def protected(request):
    return request.param


@pytest.fixture
def shown(protected, evil, alice, stranger, request):
    """Alice's browser, which has been at that dashboard, and where its paths begin."""
    if protected:
        assert alice.go(f"{alice.origin(evil)}/within").status == 200
        return alice, alice.origin(evil)
    request.getfixturevalue("unprotected")
    visitor = stranger(port=EVERYTHING)
    visitor.cookies[f"{evil}.{visitor.domain}"] = "a-word-of-hers"
    return visitor, f"{visitor.origin(evil)}/hostile"


def test_its_headers(protected, shown):
    visitor, base = shown
    answer = visitor.request(f"{base}/")
    over_http2, text = visitor.curl(f"{base}/")
    assert (answer.status, answer.body, over_http2) == (200, b"ok", 200)
    for name, value in hostile.HEADERS.items():
        judged(value in answer.headers.get(name.lower(), []), protected, name)
        judged(f"{name}: {value}".lower() in text.lower(), protected, name, "HTTP/2")
    kept = visitor.cookies[urlsplit(base).hostname]
    judged(kept == "tossed", protected, "a cookie of its own")


def test_where_it_leads(protected, shown):
    visitor, base = shown
    for path in hostile.AWAY:
        answer = visitor.request(f"{base}{path}")
        over_http2, text = visitor.curl(f"{base}{path}")
        assert (answer.status, over_http2) == (302, 302), path
        to = answer.header("location")
        own = to.startswith("/") and to[1:2] not in {"/", "\\"}
        judged(not own, protected, path, to)
        judged("evil.example" in text or "javascript:" in text, protected, path, "HTTP/2")
    assert visitor.request(f"{base}/within").header("location") == SHOWN


def test_it_does_not_lead_the_proxy_itself(protected, shown):
    visitor, base = shown
    answer = visitor.request(f"{base}/inside")
    judged(KEPT_INSIDE in answer.text, protected, "X-Accel-Redirect", answer.text)
    judged(KEPT_INSIDE in visitor.curl(f"{base}/inside")[1], protected, "X-Accel-Redirect, HTTP/2")
    if protected:
        assert (answer.status, answer.body) == (200, b"ok")


def test_what_is_no_http(protected, shown):
    visitor, base = shown
    for path in hostile.NO_HTTP:
        parts = urlsplit(f"{base}{path}")
        word = visitor.cookies[parts.hostname]
        asks = (
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {COOKIE}={word}\r\n"
            "Connection: close\r\n\r\n"
        )
        judged(b"tossed" in visitor.raw(parts.hostname, asks, 5), protected, path)
        try:
            text = visitor.curl(f"{base}{path}")[1]
        except NoAnswerError:
            text = ""
        judged("tossed" in text, protected, path, "HTTP/2")
        with visitor.http2(parts.hostname) as connection:
            try:
                _, headers, body = connection.ask(visitor.asking(f"{base}{path}"))
            except RefusedError:
                headers, body = [], b""
        judged(b"tossed" in body, protected, path, "HTTP/2, looked at closely")
        kept_out("set-cookie" not in dict(headers), path, "as a header of HTTP/2")
    # The proxy is there, and so is the dashboard.
    assert visitor.request(f"{base}/").body == b"ok"


def test_two_answers_for_one_request(protected, shown):
    visitor, base = shown
    kept_out(b"more" not in visitor.request(f"{base}/split").body, protected)
    assert visitor.request(f"{base}/").body == b"ok"


def test_what_it_is_sent(protected, shown):
    """Words and headers by which it could be somebody, and requests that do more than look."""
    visitor, base = shown
    word = visitor.cookies[urlsplit(base).hostname]
    more = {"Authorization": "x-secret", "X-Own": "1", "Upgrade": "h2c", "Connection": "upgrade"}
    sent = visitor.request(f"{base}/echo", headers=more).text
    over_http2 = visitor.curl(
        f"{base}/echo", *(part for k, v in list(more.items())[:2] for part in ("-H", f"{k}: {v}"))
    )[1]
    assert "GET /echo" in sent and "GET /echo" in over_http2
    for said in (f"{COOKIE}={word}", "x-secret", "X-Own: 1", "h2c"):
        judged(said.lower() in sent.lower(), protected, said)
        if said != "h2c":
            judged(f"\n{said}".lower() in over_http2.lower() or said in over_http2, protected, said)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = visitor.request(f"{base}/echo", method, b"x=1" if method != "OPTIONS" else None)
        judged(answer.text.startswith(f"{method} /echo"), protected, method, answer.status)
        status, text = visitor.curl(f"{base}/echo", "--request", method)
        judged(f"{method} /echo" in text, protected, method, "HTTP/2", status)
        if protected:
            assert (answer.status, status) == (405, 405), method


def held(visitor, base, path):
    """Ask for a page, and read nothing of it; return the connection."""
    parts = urlsplit(f"{base}{path}")
    stream = visitor.stream(parts.hostname)
    word = visitor.cookies[parts.hostname]
    asks = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {COOKIE}={word}\r\n\r\n"
    stream.sendall(asks.encode())
    return stream


def written(folder):
    """Return the bytes of the files that a proxy keeps, also of those that have no name."""
    pids = "$(pgrep -x nginx)"
    command = (
        f"for p in {pids}; do for f in /proc/$p/fd/*; do case $(readlink $f) in {folder}/*proxy*) "
        "stat -Lc %s $f;; esac; done; done 2>/dev/null"
    )
    return sum(map(int, node("login1").run(command).stdout.split()))


def test_what_never_ends_fills_no_disk(protected, shown):
    """An endless body that somebody asks for who does not read it."""
    visitor, base = shown
    folder = STATE if protected else FOLDER
    with held(visitor, base, "/endless"):
        filled = until(lambda: written(folder) > 1 << 24, 6 if protected else 60)
        judged(filled, protected, "a file without end", written(folder))


def test_what_never_ends_keeps_nobody_from_his(protected, shown, ids, alice):
    """Slow answers, silent ones, heads that come by the letter: connections are used up."""
    visitor, base = shown
    paths = ["/endless"] * 3 + ["/silent"] * 20 + ["/slow"] * 10 + ["/dribble"] * 10
    streams = []
    for path in paths:
        try:
            streams.append(held(visitor, base, path))
        except OSError as error:  # there are none left already
            assert not protected, (path, error)
            break
    other = f"{alice.origin(ids['login']) if protected else visitor.origin('a' * 16)}{SHOWN}"
    try:
        time.sleep(1)
        try:
            status = (alice if protected else visitor).go(other).status
        except (OSError, http.client.HTTPException) as error:
            status = repr(error)
        judged(status != 200, protected, "connections", status)
    finally:
        for stream in streams:
            stream.close()
    assert until(lambda: visitor.request(f"{base}/").status == 200, 60)


def test_over_http2_too(evil, alice, ids):
    """Many streams of one connection that never end: the next one goes on."""
    assert alice.go(f"{alice.origin(evil)}/within").status == 200
    own = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(own).status == 200
    with alice.http2(f"{evil}.{alice.domain}") as connection:
        for path in ["/silent"] * 20 + ["/slow"] * 20 + ["/dribble"] * 20:
            connection.begin(alice.asking(f"{alice.origin(evil)}{path}"))
        last = connection.begin(alice.asking(f"{alice.origin(evil)}/"))
        status, _, body = connection.answer(last)
        kept_out((status, body) == (200, b"ok"), "the same connection", status)
        kept_out(alice.request(own).status == 200, "another's")
        kept_out(alice.curl(own)[0] == 200, "another's, HTTP/2")
