"""Links, tickets and cookies that are old, used, changed, chosen or another's (class 10)."""

import json
import re
import time
from urllib.parse import urlencode, urlsplit

import pytest
from attacked import kept_out
from visiting import COOKIE, NAVIGATION

from nodes import until

SHOWN = "/health"
LINK_SECONDS, TICKET_SECONDS = 60, 15


def word_of(link):
    return urlsplit(link).fragment


def ticket_of(visitor, cluster):
    """Return the address that a ticket is in."""
    url = f"{visitor.origin()}/ticket?cluster={cluster}&path=/status"
    return visitor.request(url, headers=NAVIGATION).header("location")


@pytest.fixture(scope="module", autouse=True)
def early(ids, alice, dashboards):
    """A link and tickets that nobody uses in time, and when they were made."""
    tickets = [ticket_of(alice, ids["login"]) for _ in range(2)]
    return time.monotonic(), dashboards("alice")["login"], tickets


def test_a_link_works_once_and_only_from_its_page(stranger, dashboards):
    link = dashboards("alice")["login"]
    visitor = stranger()
    word = word_of(link)
    body = urlencode({"word": word}).encode()
    url = f"{visitor.origin()}/login"
    for origin in ("", "null", "https://evil.example", visitor.origin("a" * 16)):
        headers = {"Origin": origin} if origin else {}
        kept_out(visitor.request(url, "POST", body, headers).status == 403, origin)
        given = [part for k, v in headers.items() for part in ("-H", f"{k}: {v}")]
        status = visitor.curl(url, "--data", body.decode(), *given)[0]
        kept_out(status == 403, origin, "HTTP/2", status)
    # What a chat program fetches in advance, as link or with the word where servers see it.
    for address in (url, f"{url}?word={word}", f"{url}?{body.decode()}&onward="):
        answer = visitor.request(address)
        kept_out(answer.status == 200 and not visitor.cookies, "fetched in advance")
        kept_out(visitor.request(address, "HEAD").status in {200, 405}, "looked at in advance")
    asked = visitor.request(
        url, "POST", urlencode({"word": word, "who": 1}).encode(), {"Origin": visitor.origin()}
    )
    assert json.loads(asked.text) == {"user": "alice"}
    assert visitor.log_in(link).status == 303  # the control
    for host in ("login1", "login2"):
        again = stranger(host)
        kept_out(again.log_in(link).status == 403, "used", host)
        kept_out(not again.cookies, "used", host)
        status, text = again.curl(url, "--data", body.decode(), "-H", f"Origin: {again.origin()}")
        kept_out(status == 403 and "set-cookie" not in text.lower(), "used", host, "HTTP/2")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[:-1] + ("A" if w[-1] != "A" else "E"),
        lambda w: w[:-1],
        lambda w: w + "x",
        lambda w: "2001" + w[4:],  # alice's number
        lambda w: "0" + w[4:],
        lambda w: w.replace(".", ".9", 1),  # later
        lambda w: w.rpartition(".")[0] + ".",
        lambda w: w.replace(".", "%2e"),
        lambda w: w.upper(),
        lambda _: "",
    ],
)
def test_links_that_are_made_up(change, stranger, dashboards):
    link = dashboards("bob")["login"]
    before, _, word = link.partition("#")
    assert word.startswith("2002.") and change(word) != word
    visitor = stranger()
    kept_out(visitor.log_in(f"{before}#{change(word)}").status == 403, change(word))
    kept_out(not visitor.cookies, "a cookie")
    assert visitor.log_in(link).status == 303  # the control


def test_cookies_that_others_chose(ids, alice, bob, stranger):
    nobody = stranger()
    pages = (f"{alice.origin(ids['login'])}{SHOWN}", 302), (f"{alice.origin()}/", 303)
    for word in ("x", "", "../..", "a" * 4000, bob.cookies[bob.domain], '"', "%00", "a, b", "a;b"):
        for url, status in pages:
            if word == bob.cookies[bob.domain] and status == 303:
                continue  # that one is good there
            given = {"Cookie": f"{COOKIE}={word}", **NAVIGATION}
            answer = nobody.request(url, headers=given)
            kept_out(answer.status == status, word[:20], url, answer.status)
            over_http2 = nobody.curl(url, "-H", f"Cookie: {COOKIE}={word}")[0]
            kept_out(over_http2 == status, word[:20], url, "HTTP/2", over_http2)


def test_a_session_that_another_chose(stranger, dashboards, bob):
    """What a browser had before it logged in opens nothing afterwards, for nobody."""
    for chosen in ("chosen-by-another", bob.cookies[bob.domain]):
        victim, thief = stranger(), stranger()
        victim.cookies[victim.domain] = chosen
        assert victim.log_in(dashboards("alice")["login"]).status == 303
        kept_out(victim.cookies[victim.domain] != chosen, "it stays")
        assert "alice" in victim.request(f"{victim.origin()}/").text  # the control
        thief.cookies[thief.domain] = chosen
        answer = thief.request(f"{thief.origin()}/")
        kept_out(answer.status == 303 and "alice" not in answer.text, chosen[:20], answer.status)
    # The browser had bob's session, and its login as alice has ended that.
    kept_out(bob.request(f"{bob.origin()}/").status == 303, "bob's own goes on in it")
    assert bob.log_in(dashboards("bob")["login"]).status == 303


def test_two_cookies_of_one_name(ids, alice, bob):
    """A neighbour tosses one: nobody becomes somebody else by it, and hers opens what is hers."""
    host = f"{ids['login']}.{alice.domain}"
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    hers, his = alice.cookies[host], bob.cookies[bob.domain]
    for tossed in ("x", his, "", f'"{his}"'):
        for words in ((hers, tossed), (tossed, hers)):
            line = "; ".join(f"{COOKIE}={word}" for word in words)
            status = bob.request(url, headers={"Cookie": line}, cookie=False).status
            assert status in {200, 302}, words  # hers, or nobody's
            lines = [("cookie", f"{COOKIE}={word}") for word in words]
            with alice.http2(host) as connection:
                status = connection.ask([*alice.asking(url, cookie=False), *lines])[0]
            assert status in {200, 302}, words
        for words in ((tossed, "x"), ("x", tossed), (tossed, tossed)):
            line = "; ".join(f"{COOKIE}={word}" for word in words)
            status = bob.request(url, headers={"Cookie": line}, cookie=False).status
            kept_out(status == 302, words, status)
    page = f"{alice.origin()}/"
    mine = alice.cookies[alice.domain]
    for words in ((mine, his), (his, mine)):
        line = "; ".join(f"{COOKIE}={word}" for word in words)
        text = alice.request(page, headers={"Cookie": line}, cookie=False).text
        kept_out(("You are alice" in text) != ("You are bob" in text), "both at once", text)
    # Names that some servers take for the same, and that a page of another origin could set.
    for name in (COOKIE.lower(), COOKIE.upper(), COOKIE.replace("__Host-", ""), f" {COOKIE}x"):
        answer = bob.request(url, headers={"Cookie": f"{name}={hers}"}, cookie=False)
        kept_out(answer.status == 302, name, answer.status)


def test_who_is_logged_in_as_another_by_a_link(ids, stranger, dashboards):
    """Alice follows a link of bob's: she is told, and what she was before is over."""
    visitor = stranger()
    assert visitor.log_in(dashboards("alice")["login"]).status == 303
    url = f"{visitor.origin(ids['login'])}{SHOWN}"
    assert visitor.go(url).status == 200
    kept = dict(visitor.cookies)
    link = dashboards("bob")["login"]
    form = urlencode({"word": word_of(link), "who": 1}).encode()
    asked = visitor.request(f"{visitor.origin()}/login", "POST", form, {"Origin": visitor.origin()})
    assert json.loads(asked.text) == {"user": "bob"}  # what the page asks her about
    assert visitor.log_in(link).status == 303
    assert "bob" in visitor.request(f"{visitor.origin()}/").text
    kept_out(visitor.request(url, headers=NAVIGATION).status == 302, "her cluster, in his session")
    kept_out(visitor.go(url).status == 403, "her cluster, for bob")
    before = stranger()
    before.cookies.update(kept)
    kept_out(before.request(f"{before.origin()}/").status == 303, "what she was before")
    kept_out(before.request(url).status == 302, "what she was before, at her cluster")


def test_a_ticket_is_for_one_cluster_and_one_time(ids, alice, bob):
    ticket = ticket_of(alice, ids["login"])
    word = re.search(r"word=([^&]+)", ticket)[1]
    elsewhere = f"{alice.origin(ids['job'])}/_dask-site/in?word={word}&path=/status"
    kept_out(bob.request(elsewhere).status == 403, "another cluster")
    kept_out(bob.curl(elsewhere)[0] == 403, "another cluster, HTTP/2")
    kept_out(f"{ids['job']}.{bob.domain}" not in bob.cookies, "a cookie")
    changed = ticket.replace(ids["login"], ids["job"])
    kept_out(bob.request(changed).status == 403, "changed")
    assert alice.request(ticket).status == 303  # the control
    kept_out(bob.request(ticket).status == 403, "used")
    kept_out(bob.curl(ticket)[0] == 403, "used, HTTP/2")
    asked = f"{bob.origin()}/ticket?cluster={ids['login']}"
    kept_out(bob.request(asked).status == 403, "asked for by bob")
    for path in ("//evil.example", "/\\evil.example", "https://evil.example", "/x%0d%0aY:1"):
        sent = alice.request(f"{alice.origin()}/ticket?cluster={ids['login']}&path={path}")
        kept_out(sent.header("location").endswith("&path=/status"), path)
        word = re.search(r"word=([^&]+)", sent.header("location"))[1]
        arrival = f"{alice.origin(ids['login'])}/_dask-site/in?word={word}&path={path}"
        kept_out(alice.request(arrival).header("location") == "/status", path)


def test_another_site_logs_nobody_out_or_in(alice):
    for path in ("logout", "login"):
        for origin in ("https://evil.example", "null", alice.origin("a" * 16)):
            url, headers = f"{alice.origin()}/{path}", {"Origin": origin}
            kept_out(alice.request(url, "POST", b"word=x", headers).status == 403, path, origin)
            status = alice.curl(url, "--data", "word=x", "-H", f"Origin: {origin}")[0]
            kept_out(status == 403, path, origin, "HTTP/2")
        kept_out(alice.request(f"{alice.origin()}/{path}").status in {200, 405}, path, "by a link")
    assert "Your dashboards" in alice.request(f"{alice.origin()}/").text


def test_what_has_expired(early, ids, stranger, dashboards):
    """The last, so that time has passed; their controls are the links and tickets above."""
    made, link, tickets = early
    late = made + LINK_SECONDS + 2
    assert until(lambda: time.monotonic() > late, LINK_SECONDS + 10)
    visitor = stranger()
    kept_out(visitor.log_in(link).status == 403 and not visitor.cookies, "a link")
    form = urlencode({"word": word_of(link), "who": 1})
    status = visitor.curl(
        f"{visitor.origin()}/login", "--data", form, "-H", f"Origin: {visitor.origin()}"
    )[0]
    kept_out(status == 403, "whose it was", status)
    assert LINK_SECONDS > TICKET_SECONDS
    kept_out(visitor.request(tickets[0]).status == 403 and not visitor.cookies, "a ticket")
    kept_out(visitor.curl(tickets[1])[0] == 403, "a ticket, HTTP/2")
    assert visitor.log_in(dashboards("alice")["login"]).status == 303
    assert visitor.go(f"{visitor.origin(ids['login'])}{SHOWN}").status == 200
