"""The pages in a real browser: nothing is refused, runs or sticks out, at any width and colour."""

import asyncio
import base64
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from history_making import GIB, T0, error, history, job, row, span, usage, worker
from web_serving import DAEMON, ROOT, serving

from chromium import CHROMIUM, Tab, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path"),
]
EVIL = '<img src=x onerror="document.title=1"> \u202egnp.exe \u05e2\u05d1 ' + "w" * 140
#: WCAG's contrast of text against the ground that it stands on, the lowest of the page.
CONTRAST = """
(() => {
  const lum = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
  let worst = [99, ""];
  for (const e of document.querySelectorAll("main *, header *, footer *")) {
    const texts = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (e.closest("svg") || !texts) continue;
    const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x);
    const found = (a + 0.05) / (b + 0.05);
    if (found < worst[0]) worst = [found, e.outerHTML.slice(0, 80)];
  }
  return JSON.stringify(worst);
})()
"""
OVER = "JSON.stringify([document.documentElement.scrollWidth, innerWidth, document.title])"


class Browser(Tab):
    """A tab of some width and colour."""

    async def open(self, url, width, scheme):
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.navigate", url=url)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            ready = "JSON.stringify([document.readyState, location.href])"
            state, address = await self.value(ready)
            if state == "complete" and address == url:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{url} did not open")


@pytest.fixture
def browser_port():
    with chromium() as port:
        yield port


def hostile():
    group = {"states": {"memory": 5, "erred": 1}, "seconds": {"compute": 50}, "nbytes": GIB}
    outer = span(EVIL, {"thread-cpu": 500, "thread-noncpu": 90}, {EVIL: group}, code=EVIL)
    return history(
        *(job(f"cpu-{i}", str(i), i, i + 20, 90, pool="cpu", reason=EVIL) for i in range(12)),
        *(worker(f"cpu-{i}", i + 25, 88, job=str(i), host=EVIL, busy=90) for i in range(12)),
        outer,
        span((EVIL, EVIL), {"thread-cpu": 5}, parent=outer.id, stop=T0 + 60),
        error(40, EVIL, EVIL, EVIL),
        *(usage("cpu", t, busy=9 * t, idle={"starved": t, "no_work": 3 * t}, workers=12,
                nthreads=24, cpu=9.0) for t in range(10, 100, 10)),
        accounting=[row("3", 3, 23, 90, state="TIMEOUT")],
        name=EVIL,
        program=EVIL,
    )  # fmt: skip


def test_pages_in_a_browser(tmp_path, browser_port):
    paths = ["/", "/clusters/c1", "/compare?a=c1&b=c1", "/where?by=day", "/site", "/nothing-here"]
    with serving(tmp_path) as served:
        served.add(ROOT, hostile())
        base = f"http://localhost:{served.port}"

        async def look():
            browser = await Browser.new(browser_port, "Network")
            # The cookie's name allows it with TLS only.
            headers = {"Cookie": served.cookie(ROOT)}
            await browser.call("Network.setExtraHTTPHeaders", headers=headers)
            for path in paths[:-1]:
                for width in (1280, 360):
                    for scheme in ("light", "dark"):
                        await browser.open(base + path, width, scheme)
                        whole, inner, title = await browser.value(OVER)
                        assert whole <= inner, f"{path} is {whole} wide at {width}"
                        assert title not in ("1", "") and "Nobody" not in title
                        contrast, where = await browser.value(CONTRAST)
                        assert contrast >= 4.5, f"{path} {scheme}: {contrast:.2f} at {where}"
            # Keys alone lead to the content first.
            await browser.open(base + "/clusters/c1", 1280, "light")
            for kind in ("keyDown", "keyUp"):
                await browser.call(
                    "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                    windowsVirtualKeyCode=9,
                )  # fmt: skip
            assert await browser.value("JSON.stringify(document.activeElement.className)") == "skip"
            buttons = "JSON.stringify(document.querySelectorAll('.paste button').length)"
            assert await browser.value(buttons) > 0
            shot = await browser.call("Page.printToPDF", printBackground=True)
            assert base64.b64decode(shot["data"]).startswith(b"%PDF")
            return browser.said

        assert asyncio.run(look()) == []
        assert served.get(paths[-1], DAEMON)[0] == 404
