"""What alice sees in a real browser, every page of it, and that bob sees nothing there.

On the machine that holds the containers, with Chromium: as with any user's, its way in is the link
of the command line, and the names lead to the login nodes.
"""

import asyncio
import base64
import hashlib
import json
import sys
import time
from pathlib import Path

import hostile
import pytest
from attacked import kept_out
from visiting import PORT

from nodes import node, variables

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chromium import CHROMIUM, Tab, chromium

WHERE = ["login", "job"]
# As plain Dask does it, whatever is between: what its dashboard can't send.
UPSTREAM = {"/individual-compute-time-per-key": "serialize <class"}
SHOWN = """
(() => { const shown = window.Bokeh && Bokeh.documents && Bokeh.documents[0];
  return JSON.stringify([document.readyState, location.pathname, shown ? shown.roots().length : 0,
    document.body ? document.body.innerText : ""]); })()
"""
PRESS = "document.querySelector('#login button').click()"
_PATIENCE = 90


class Page(Tab):
    """A tab that looks closely at what goes on in it."""

    async def show(self, url, ready):
        """Open a page; wait until `ready` holds of its state, as `state` returns it."""
        self.said.clear()
        self.events.clear()
        await self.call("Page.navigate", url=url)
        until = time.monotonic() + _PATIENCE
        while True:
            found = await self.state()
            failed = any(status == 502 for status, _ in self.failed())
            if ready(*found) or failed or time.monotonic() > until:
                return found
            await asyncio.sleep(0.1)

    async def state(self):
        """Return (readyState, path, roots of Bokeh's document, text)."""
        return await self.value(SHOWN, default=["", "", 0, ""])

    def told(self, method):
        return [params for name, params in self.events if name == method]

    def failed(self):
        """Return the answers that are none, also to WebSockets, as (status, address)."""
        kinds = ("Network.responseReceived", "Network.webSocketHandshakeResponseReceived")
        answers = [one["response"] for kind in kinds for one in self.told(kind)]
        return [(one["status"], one.get("url", "")) for one in answers if one["status"] >= 400]

    def wrong(self):
        """Return all that the browser complained of, and each request that failed."""
        failed = self.failed() + [one["errorText"] for one in self.told("Network.loadingFailed")]
        logged = [
            one["args"]
            for one in self.told("Runtime.consoleAPICalled")
            if one["type"] in {"error", "assert"}
        ]
        return [*self.said, *failed, *logged]

    def is_live(self):
        """Say whether a WebSocket is open through which something has come."""
        opened = [
            one["requestId"]
            for one in self.told("Network.webSocketHandshakeResponseReceived")
            if one["response"]["status"] == 101
        ]
        closed = {one["requestId"] for one in self.told("Network.webSocketClosed")}
        came = {one["requestId"] for one in self.told("Network.webSocketFrameReceived")}
        return any(one in came and one not in closed for one in opened)

    async def log_in(self, link):
        """Use a link of the command line as its owner does: by a click."""
        await self.show(link, lambda *s: s[0] == "complete" and "Log in as" in s[3])
        await self.call("Runtime.evaluate", expression=PRESS)
        until = time.monotonic() + _PATIENCE
        while "Your dashboards" not in (await self.state())[3]:
            assert time.monotonic() < until, await self.state()
            await asyncio.sleep(0.1)
        assert self.wrong() == []


@pytest.fixture
def window(address, stranger):
    """Start Chromium, for which the site's names lead to a login node, and its word counts."""
    assert CHROMIUM, "there is no chromium: make test-tools"
    with stranger().stream(variables()["site"]["dashboards"]["domain"]) as stream:
        served = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
    key = served.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    domain, to = variables()["site"]["dashboards"]["domain"], address()
    with chromium(
        f"--host-resolver-rules=MAP *.{domain} {to}, MAP {domain} {to}",
        f"--ignore-certificate-errors-spki-list={pin}",
    ) as port:
        yield lambda: Page.new(port, "Network")


def pages(routes, where):
    """Return the pages to look at: all of the one on the login node, some of the one in a job."""
    found = [path for path in routes if f"{path}/ws" in routes]
    assert len(found) > 30
    if where == "job":
        single = [path for path in found if path.startswith("/individual-")]
        found = [path for path in found if path not in single or path in single[::5]]
    return found + [p for p in routes if p.startswith("/info/main/") and p.endswith(".html")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", WHERE)
def test_alice_sees_every_page_of_it_live(where, alices, window, dashboards, tmp_path):
    base = f"{alices[where]['link'].removesuffix('/status')}"

    async def look():
        tab = await window()
        await tab.log_in(dashboards("alice")["login"])
        for path in pages(alices[where]["routes"], where):
            bokeh = not path.startswith("/info/")

            def ready(state, shown, roots, _, path=path, bokeh=bokeh):
                if state != "complete" or shown != path:
                    return False
                return not bokeh or (tab.is_live() and (roots > 0 or path in UPSTREAM))

            for _ in range(3):
                found = await tab.show(f"{base}{path}", ready)
                # One that is busy for longer than the proxy waits, on a machine that does much
                # else, is opened again.
                if not any(status == 502 for status, _ in tab.failed()):
                    break
            assert ready(*found), (path, found[:3], tab.wrong())
            if path in UPSTREAM:
                assert await said(tab, UPSTREAM[path]), path
            else:
                assert tab.wrong() == [], path
            if path == "/status":
                picture = await tab.call("Page.captureScreenshot")
                data = base64.b64decode(picture["data"])
                (tmp_path / "status.png").write_bytes(data)
                assert len(data) > 10_000  # an empty page is smaller by far

    asyncio.run(look())


async def said(tab, text):
    """Wait until a page says this on the console; nothing else may be wrong than what it says."""
    until = time.monotonic() + _PATIENCE
    while not any(text in str(one) for one in tab.wrong()):
        if time.monotonic() > until:
            return False
        await tab.state()
        await asyncio.sleep(0.1)
    return all(isinstance(one, list) for one in tab.wrong())


def test_bob_sees_nothing_of_it(alices, window, dashboards):
    async def look():
        tab = await window()
        await tab.log_in(dashboards("bob")["login"])
        for where, facts in alices.items():
            base = facts["link"].removesuffix("/status")
            for path in ("/status", "/workers", "/info/main/workers.html", "/individual-progress"):
                found = await tab.show(
                    f"{base}{path}", lambda *s: s[0] == "complete" and bool(s[3].strip())
                )
                kept_out("There is no such dashboard" in found[3], where, path, found[3][:100])
                kept_out(found[2] == 0 and not tab.is_live(), where, path)
            await tab.show(f"{base}/status", lambda *s: s[0] == "complete")
            for what in (
                f"fetch('{base}/json/counts.json', {{credentials: 'include'}})"
                ".then(a => a.ok ? 'in' : 'out', () => 'out')",
                f"new Promise(done => {{ const one = new WebSocket('{base}/status/ws'"
                ".replace('https', 'wss')); one.onopen = () => done('in');"
                " one.onerror = () => done('out'); })",
            ):
                answer = await tab.call("Runtime.evaluate", expression=what, awaitPromise=True)
                kept_out(answer["result"].get("value") == "out", where, what[:20], answer)

    asyncio.run(look())


# What a page of bob's does in alice's browser: it asks for hers with her cookies, listens at her
# WebSocket, frames it, and tosses a cookie of the same name to all of the site.
EVIL = """
(async () => {
  const found = {}, base = "%s";
  found.read = await fetch(base + "/json/counts.json", {credentials: "include"})
    .then(a => a.text(), () => "nothing");
  found.blind = await fetch(base + "/json/counts.json", {credentials: "include", mode: "no-cors"})
    .then(() => "sent", () => "nothing");
  found.socket = await new Promise(done => {
    const one = new WebSocket(base.replace("https", "wss") + "/status/ws");
    one.onopen = () => done("open"); one.onerror = () => done("nothing"); });
  found.frame = await new Promise(done => {
    const one = document.createElement("iframe"); one.src = base + "/status";
    one.onload = () => { try { done(one.contentDocument.body.innerText.slice(0, 40) || "nothing"); }
                         catch { done("nothing"); } };
    setTimeout(() => done("nothing"), 4000);
    document.body.append(one); });
  for (const domain of ["; domain=%s", ""])
    document.cookie = "__Host-dask-site=tossed; path=/; secure" + domain;
  found.cookie = document.cookie || "nothing";
  found.worker = await (navigator.serviceWorker
    ? navigator.serviceWorker.register("/").then(() => "there", () => "nothing") : "nothing");
  return JSON.stringify(found);
})()
"""


def test_a_page_of_bobs_in_alices_browser(alices, window, dashboards, as_user):
    """She looks at what he shares with her, while she is logged in for hers."""
    cluster = hostile.begin(as_user)
    domain = variables()["site"]["dashboards"]["domain"]
    base = alices["login"]["link"].removesuffix("/status")

    async def look():
        tab = await window()
        await tab.log_in(dashboards("alice")["login"])

        def live(*found):
            return found[0] == "complete" and found[2] > 0 and tab.is_live()

        assert live(*await tab.show(f"{base}/status", live))  # she is in
        evil = f"https://{cluster}.{domain}:{PORT}/"
        assert "ok" in (await tab.show(evil, lambda *s: s[0] == "complete" and "ok" in s[3]))[3]
        code = EVIL % (base, domain)
        answer = await tab.call("Runtime.evaluate", expression=code, awaitPromise=True)
        found = json.loads(answer["result"]["value"])
        for what, got in found.items():
            kept_out(got == "nothing", what, got)
        # The control: her own page may, and what was tossed has not put her out.
        assert live(*await tab.show(f"{base}/status", live))
        own = f"fetch('{base}/json/counts.json', {{credentials: 'include'}}).then(a => a.text())"
        answer = await tab.call("Runtime.evaluate", expression=own, awaitPromise=True)
        assert "processing" in answer["result"]["value"]

    try:
        asyncio.run(look())
    finally:
        hostile.end()
    assert node("login1").run("pgrep -u bob -f hostile.py").rc != 0
