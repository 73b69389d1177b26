"""WebSockets that a page of another origin opens with somebody's cookie (class 7)."""

import base64
import os
import re

import pytest
from attacked import gets_through, judged, kept_out
from http2 import RefusedError
from naive import EVERYTHING
from visiting import PORT

WHERE = ["login", "job"]
SHOWN = "/status"
LABEL = "a" * 16


def wrong_origins(own, login, other):
    """Return what pages send that are not of this origin; empty where it is no browser."""
    return [
        *("", "null", "https://evil.example", login, other, own.upper(), f"{own}/", "http://x"),
        *(own.replace("https", "http"), own.replace(f":{PORT}", ""), f"{own}.evil.example"),
        *(f"{own} {other}", f"{own}, {own}", f" {own}x", "*", "file://"),
    ]


@pytest.mark.parametrize("where", WHERE)
def test_it_needs_the_page_of_its_own_origin(where, ids, alice):
    cluster, other = ids[where], ids["job" if where == "login" else "login"]
    assert alice.go(f"{alice.origin(cluster)}{SHOWN}").status == 200
    for origin in wrong_origins(alice.origin(cluster), alice.origin(), alice.origin(other)):
        for path in (f"{SHOWN}/ws", "/eventstream"):
            status, stream = alice.websocket(cluster, path, origin=origin)
            stream.close()
            kept_out(status == 403, origin, path, status)
    status, stream = alice.websocket(cluster)  # the controls
    assert status == 101 and stream.recv(1)
    stream.close()
    status, stream = alice.websocket(cluster, "/eventstream")
    assert status == 101
    stream.close()


def test_any_page_opens_one_where_nothing_protects(unprotected, stranger):
    alice = stranger(port=EVERYTHING)
    own = alice.origin(LABEL)
    assert alice.go(f"{own}{SHOWN}").status == 200
    for origin in wrong_origins(own, alice.origin(), alice.origin("b" * 16)):
        status, stream = alice.websocket(LABEL, origin=origin)
        stream.close()
        gets_through(status == 101, origin, status)


@pytest.mark.parametrize("protected", [True, False])
def test_pages_of_other_origins_get_nothing_with_her_cookie(
    protected, ids, alice, stranger, request
):
    """A sibling has the same site, so the cookie goes along."""
    if not protected:
        request.getfixturevalue("unprotected")
    visitor = alice if protected else stranger(port=EVERYTHING)
    url = f"{visitor.origin(ids['login'])}/json/counts.json"
    assert visitor.go(url).status == visitor.curl(url)[0] == 200
    for headers in (
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Origin": visitor.origin(ids["job"])},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        status = visitor.request(url, headers=headers).status
        judged(status == 200, protected, headers, status)
        given = [part for k, v in headers.items() for part in ("-H", f"{k}: {v}")]
        over_http2 = visitor.curl(url, *given)[0]
        judged(over_http2 == 200, protected, headers, "HTTP/2", over_http2)
        if protected:
            assert (status, over_http2) == (403, 403), headers
    answer = visitor.request(url)
    policy = answer.header("content-security-policy") or ""
    judged(answer.header("cross-origin-resource-policy") != "same-origin", protected, "embedded")
    judged("frame-ancestors 'self'" not in policy, protected, "framed")
    judged("access-control-allow-origin" in answer.headers, True, "read by others")


@pytest.mark.parametrize("where", WHERE)
def test_over_http2_there_is_none(where, ids, alice, bob, stranger):
    """Browsers open them over HTTP/1.1; nothing here offers RFC 8441, or takes it unasked."""
    cluster = ids[where]
    origin, host = alice.origin(cluster), f"{cluster}.{alice.domain}"
    assert alice.go(f"{origin}{SHOWN}").status == 200
    token = re.search(r'"token":"([^"]+)"', alice.page_of[host])[1]
    more = [
        ("origin", origin),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", base64.b64encode(os.urandom(16)).decode()),
        ("sec-websocket-protocol", f"bokeh, {token}"),
    ]
    url = f"{origin}{SHOWN}/ws"
    for visitor in (alice, bob, stranger()):
        with visitor.http2(host) as connection:
            kept_out(not connection.takes_websockets(), "it is offered")
        asked = visitor.asking(url)
        extended = [(":method", "CONNECT"), (":protocol", "websocket"), *asked[1:], *more]
        upgraded = [*asked, *more, ("connection", "upgrade"), ("upgrade", "websocket")]
        for headers in (extended, upgraded):
            with visitor.http2(host) as connection:
                try:
                    status = connection.ask(headers)[0]
                except RefusedError as error:
                    status = repr(error)
            kept_out(status not in {101, 200}, headers[:2], status)
    status, stream = alice.websocket(cluster)  # the control
    stream.close()
    assert status == 101
