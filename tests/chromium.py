"""Chromium without a window, told what to do by its own protocol, and what it complained of."""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
_COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded")
_MOST_MESSAGE = 1 << 28


@contextmanager
def chromium(*more, before=()):
    """Run Chromium with arguments beside the usual ones; give the port that it listens to.

    What is `before` runs it, as with env.
    """
    profile = Path(tempfile.mkdtemp())
    process = subprocess.Popen(
        [
            *before,
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            *more,
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        file = profile / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (file.is_file() and file.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < until, "chromium does not start"
            time.sleep(0.1)
        yield int(file.read_text().splitlines()[0])
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(profile, ignore_errors=True)


class Tab:
    """A tab.

    Attributes
    ----------
    said : list of dict
        What the browser complained of: exceptions, and what it logs.
    events : list of tuple
        All that it told of, as (method, parameters).
    """

    def __init__(self, socket):
        self._socket, self._number = socket, 0
        self.said, self.events = [], []

    @classmethod
    async def new(cls, port, *domains):
        """Open a tab, and have it tell of some domains of the protocol."""
        blank = f"http://127.0.0.1:{port}/json/new?about:blank"
        request = urllib.request.Request(blank, method="PUT")
        made = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(request).read()))
        address = made["webSocketDebuggerUrl"]
        tab = cls(await websocket_connect(address, max_message_size=_MOST_MESSAGE))
        for domain in ("Page", "Log", "Runtime", *domains):
            await tab.call(f"{domain}.enable")
        return tab

    async def call(self, method, **params):
        """Call a method; return its result."""
        self._number += 1
        mine = self._number
        message = {"id": mine, "method": method, "params": params}
        await self._socket.write_message(json.dumps(message))
        while True:
            answer = json.loads(await self._socket.read_message())
            if answer.get("id") == mine:
                return answer.get("result", answer)
            if "method" in answer:
                self.events.append((answer["method"], answer["params"]))
            if answer.get("method") in _COMPLAINTS:
                self.said.append(answer["params"])

    async def value(self, expression, default=None):
        """Return the value of an expression that gives JSON."""
        found = await self.call("Runtime.evaluate", expression=expression)
        text = found.get("result", {}).get("value")
        return default if text is None and default is not None else json.loads(text)

    async def close(self):
        """Close it."""
        await self.call("Page.close")
        self._socket.close()
