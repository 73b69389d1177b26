"""Browsers that want to see what isn't theirs: every page, and paths that lead around (4, 5)."""

import pytest
from attacked import gets_through, judged, kept_out, link_to_id
from naive import EVERYTHING, OTHERS_FILE, RAW
from visiting import COOKIE, NAVIGATION, UPGRADE

from nodes import until

WHERE = ["login", "job"]
SHOWN = "/status"
LOADED = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "script"}
LABEL = "a" * 16


def pages(routes):
    """Return the routes that are pages of Bokeh's, which have a WebSocket each."""
    return [path for path in routes if f"{path}/ws" in routes]


def shown_over_http2(visitor, origin, paths):
    """Ask for paths over one connection; return their statuses, 401 for what leads to a login."""
    found = {}
    with visitor.http2(origin.removeprefix("https://").partition(":")[0]) as connection:
        for path in paths:
            status, headers, _ = connection.ask(visitor.asking(f"{origin}{path}"))
            to = dict(headers).get("location", "")
            found[path] = 401 if status == 302 and "/ticket?" in to else status
    return found


def opens(visitor, cluster, path):
    """Say whether a WebSocket opens."""
    status, stream = visitor.websocket(cluster, path)
    stream.close()
    return status == 101


@pytest.mark.parametrize("where", WHERE)
class TestWhoseItIs:
    def test_its_owner_sees_all_of_it(self, where, alices, ids, alice):
        """The control of what follows, on the very same routes."""
        origin, routes = alice.origin(ids[where]), alices[where]["routes"]
        found = pages(routes)
        assert len(found) > 30 and SHOWN in found and "/eventstream" in routes
        assert any(path.startswith("/info/main/") for path in routes)
        assert alice.go(f"{origin}{SHOWN}").status == 200
        # Pages take their time, so it is every fourth; a browser opens all of them elsewhere.
        some = [p for p in routes if not any(p == q or p.startswith(f"{q}/") for q in found)]
        statuses = shown_over_http2(alice, origin, some + found[::4])
        # One that is busy for longer than the proxy waits is asked again.
        for path in [path for path, status in statuses.items() if status == 502]:
            url = f"{origin}{path}"
            assert until(lambda url=url: alice.curl(url)[0] != 502, 60), path
            statuses[path] = alice.curl(url)[0]
        for path in found[::4]:
            assert statuses[path] == 200, path
        for path, status in statuses.items():
            assert status not in {303, 401, 403, 405, 502, 503}, (path, status)
        for path in found[::12]:
            url = f"{origin}{path}"
            assert until(lambda url=url: alice.request(url).status == 200, 60), path
            assert until(lambda path=path: opens(alice, ids[where], f"{path}/ws"), 60), path

    def test_others_see_nothing_of_it(self, where, alices, ids, bob, stranger):
        """Another user, somebody with a word of his own for it, and nobody at all."""
        cluster, routes = ids[where], alices[where]["routes"]
        origin, forger = bob.origin(cluster), stranger()
        forger.cookies[f"{cluster}.{bob.domain}"] = bob.cookies[bob.domain]
        for who, visitor in (("bob", bob), ("his word", forger), ("nobody", stranger())):
            for path, status in shown_over_http2(visitor, origin, routes).items():
                kept_out(status == 401, who, path, "HTTP/2", status)
            for headers, expected in ((NAVIGATION, 302), (LOADED, 401)):
                for path, status in visitor.statuses(origin, routes, headers).items():
                    kept_out(status == expected, who, path, headers, status)
            sockets = [p for p in routes if p.endswith("/ws")] + ["/eventstream"]
            opening = {"Origin": origin, **UPGRADE}
            for path, status in visitor.statuses(origin, sockets, opening).items():
                kept_out(status == 401, who, path, "WebSocket", status)
        for path in pages(routes)[::6]:
            kept_out(bob.go(f"{origin}{path}").status == 403, path, "as a click goes")
        assert "dask-site dashboards" in stranger().go(f"{origin}{SHOWN}").text


def test_everybody_sees_all_where_nothing_protects(alices, unprotected, stranger):
    nobody = stranger(port=EVERYTHING)
    origin, found = nobody.origin(LABEL), pages(alices["login"]["routes"])[::8]
    for path, status in shown_over_http2(nobody, origin, found).items():
        gets_through(status == 200, path, "HTTP/2", status)
    for path in found:
        gets_through("Bokeh" in nobody.request(f"{origin}{path}", headers=NAVIGATION).text, path)
        status, stream = nobody.websocket(LABEL, f"{path}/ws")
        stream.close()
        gets_through(status == 101, path, "WebSocket", status)
    status, stream = nobody.websocket(LABEL, "/eventstream")
    stream.close()
    gets_through(status == 101, "/eventstream", status)


def test_the_page_of_pools(in_background, alice, bob):
    code = """
    from dask_site import Cluster
    if __name__ == "__main__":
        with Cluster(name="its pools") as cluster:
            tell(link=cluster.dashboard_link)
            time.sleep(600)
    """
    facts, *_ = in_background("alice", code)
    cluster = link_to_id(facts["link"])
    for visitor, owner in ((alice, True), (bob, False)):
        url = f"{visitor.origin(cluster)}/pools"
        status = visitor.go(url).status
        over_http2 = visitor.curl(url)[0]
        asked, stream = visitor.websocket(cluster, "/pools/ws")
        stream.close()
        if owner:
            assert (status, over_http2, asked) == (200, 200, 101)
        else:
            kept_out(status == 403, "/pools", status)
            kept_out(over_http2 == 302, "/pools", "HTTP/2", over_http2)
            kept_out(asked == 401, "/pools", "WebSocket", asked)


def test_what_is_there_is_not_told_from_what_is_not(ids, bob):
    for path in (SHOWN, "/no-such-page"):
        there = bob.go(f"{bob.origin(ids['login'])}{path}")
        nowhere = bob.go(f"{bob.origin(LABEL)}{path}")
        kept_out((there.status, there.body) == (nowhere.status, nowhere.body), path)
        assert there.status == 403


# What bob gets, and what alice gets who is let in: never anything but a page of her dashboard.
WAYS = {
    "/../status": (400, 400),
    "/%2e%2e/status": (400, 400),
    "/..%2fstatus": (400, 400),
    "//status": (302, 404),
    "/./status": (302, 404),
    "/STATUS": (302, 404),
    "/status/%2e%2e/%2e%2e/etc/passwd": (400, 400),
    "/static/..%2f..%2f..%2fetc/passwd": (400, 400),
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd": (400, 400),
    "/static../another.txt": (302, 404),
    "/status%00": (400, 400),
    "/status%0d%0aX-Evil:%201": (302, 404),
    "/go%0d%0aX-Evil:%201": (302, 404),
    "/_dask-site/auth": (404, 404),
    "/_dask-site/../internal/auth": (302, 404),
    "/_dask-site/%2e%2e/internal/auth": (302, 404),
    "/_dask-site/in": (403, 403),
    "/internal/auth": (302, 404),
    "/internal/health": (302, 404),
    "/proxy/8787/localhost/status": (302, 404),
    "/proxy/22/127.0.0.1/": (302, 404),
    "/jupyter/": (302, 404),
    "/api/v1/ask": (302, 404),
    "/login": (302, 404),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("path", WAYS)
def test_paths_lead_nowhere_else(where, path, ids, alice, bob):
    url = f"{alice.origin(ids[where])}{path}"
    assert alice.go(f"{alice.origin(ids[where])}/health").status == 200
    his, hers = WAYS[path]
    for visitor, status in ((bob, his), (alice, hers)):
        for headers in ({}, NAVIGATION):
            answer = visitor.request(url, headers=headers)
            kept_out(answer.status == status, path, answer.status)
            kept_out("x-evil" not in answer.headers, path)
            kept_out(OTHERS_FILE not in answer.text and "root:" not in answer.text, path)
        over_http2, text = visitor.curl(url)
        kept_out(over_http2 == status, path, "HTTP/2", over_http2)
        kept_out("\nx-evil" not in text.lower(), path, "HTTP/2")


def test_paths_that_lead_elsewhere_where_nothing_protects(unprotected, stranger):
    nobody = stranger(port=EVERYTHING)
    origin = nobody.origin(LABEL)
    answer = nobody.request(f"{origin}/go%0d%0aX-Evil:%201")
    gets_through("x-evil" in answer.headers, "a header of one's own")
    gets_through(OTHERS_FILE in nobody.request(f"{origin}/static../another.txt").text, "a file")
    gets_through(OTHERS_FILE in nobody.curl(f"{origin}/static../another.txt")[1], "a file, HTTP/2")
    nobody = stranger(port=RAW)
    origin = nobody.origin(LABEL)
    assert nobody.request(f"{origin}/c/alice/status").status == 403
    for step in ("..", "%2e%2e", "..%2f", "./..", "/..", ".%2e"):
        url = f"{origin}/c/bob/{step.removesuffix('%2f')}{'%2f' if '%2f' in step else '/'}"
        gets_through("Bokeh" in nobody.request(f"{url}alice{SHOWN}").text, step)
        gets_through(nobody.curl(f"{url}alice{SHOWN}")[0] == 200, step, "HTTP/2")


@pytest.mark.parametrize("protected", [True, False])
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
    ],
)
def test_hosts_that_are_not_ours(name, protected, ids, alice, stranger, request):
    """Names that lead here and are another's: his pages would be of the same origin."""
    cluster = ids["login"]
    host = name.format(id=cluster, upper=cluster.upper(), domain=alice.domain)
    visitor = alice
    if not protected:
        request.getfixturevalue("unprotected")
        visitor = stranger(port=EVERYTHING)
    url = f"{visitor.origin(cluster)}{SHOWN}"
    assert visitor.go(url).status == 200
    answer = visitor.request(url, headers={"Host": host})
    over_http2 = visitor.curl(url, "-H", f"Host: {host}")[0]
    for status in (answer.status, over_http2):
        judged(status == 200, protected, host, status)
        assert status == (421 if protected else 200), host


def test_a_word_for_one_origin_is_none_at_another(ids, alice, stranger):
    theirs = f"{ids['login']}.{alice.domain}"
    assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
    word = alice.cookies[theirs]
    for cluster, status in ((ids["job"], 401), (LABEL, 401), ("", 303)):
        thief = stranger()
        url = f"{thief.origin(cluster)}{SHOWN if cluster else '/'}"
        answer = thief.request(url, headers={"Cookie": f"{COOKIE}={word}", **LOADED})
        kept_out(answer.status == status, cluster, answer.status)
    thief.cookies[theirs] = word  # the control
    assert thief.request(f"{thief.origin(ids['login'])}{SHOWN}").status == 200
