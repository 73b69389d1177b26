"""How long an open page of a dashboard is away, in a real browser, when what serves it ends.

On the machine that holds the containerised cluster, with Chromium: alice has a cluster on a login
node and one in a job, and a page of each open. The proxy is loaded anew, proxy and broker are
killed, and in the end the login node is started again. Prints JSON: seconds from before that until
the command is done, until the proxy answers and until each page has a WebSocket again, nobody
having touched it; and how often the browser complained meanwhile, at first of what.

    python bench/dashboards/back.py --ssh-config FILE --container dask-site-bookworm-login1
"""

import argparse
import asyncio
import base64
import json
import shlex
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from chromium import Tab, chromium

LOCAL = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    print("UP", cluster.dashboard_link, flush=True)
    time.sleep(3600)
"""
JOB = "#!/bin/bash -l\nmodule load dask-site\nexec python back.py > back.job 2>&1\n"
# Bokeh's own connection, and whether the page shows something.
LIVE = """
(() => { const shown = window.Bokeh && Bokeh.documents && Bokeh.documents[0];
  const open = (window._dask_sockets || []).filter(one => one.readyState === 1).length;
  return JSON.stringify([!!shown, open, location.pathname]); })()
"""
# What the page opens is counted from outside, in each page anew.
COUNTED = """
(() => { const Plain = window.WebSocket; window._dask_sockets = [];
  window.WebSocket = class extends Plain {
    constructor(...given) { super(...given); _dask_sockets.push(this); } };
})()
"""


class Dashboard(Tab):
    """A tab with a page of a dashboard."""

    async def live(self):
        shown, sockets, path = await self.value(LIVE, default=[False, 0, ""])
        return shown and sockets > 0 and path == "/status"


async def tab(debugging, url):
    found = await Dashboard.new(debugging)
    await found.call("Page.addScriptToEvaluateOnNewDocument", source=COUNTED)
    await found.call("Page.navigate", url=url)
    return found


async def live(tab, seconds=90):
    """Wait until a page is live."""
    began = time.monotonic()
    while not await tab.live():
        if time.monotonic() - began > seconds:
            shown = await tab.value("location.href + ' ' + document.body.innerText", default="")
            raise SystemExit(f"a page did not come: {shown[:500]}")
        await asyncio.sleep(0.1)


def answers(address, port):
    try:
        socket.create_connection((address, port), 0.5).close()
    except OSError:
        return False
    return True


async def away(tabs, what, address, port):
    """Do what ends things; return for each page the seconds that it was away, at most."""
    before = [len(one.said) for one in tabs.values()]
    began = time.monotonic()
    await asyncio.to_thread(what)
    done = time.monotonic()
    await asyncio.sleep(0.3)  # pages hear of it
    while not answers(address, port):
        await asyncio.sleep(0.05)
    answered = time.monotonic() - began
    found = {}
    for name, one in tabs.items():
        await live(one)
        found[name] = round(time.monotonic() - began, 1)
    await asyncio.sleep(3)
    for one in tabs.values():  # and stay
        await live(one)
    said = [s for one, n in zip(tabs.values(), before, strict=True) for s in one.said[n:]]
    times = {"command": round(done - began, 1), "proxy": round(answered, 1), **found}
    return {"seconds": times, "said": len(said)}


class Node:
    """The login node, over SSH."""

    def __init__(self, config):
        self._config = config

    def root(self, command):
        ssh = ["ssh", "-n", "-F", self._config, "root@login1", command]
        return subprocess.run(ssh, capture_output=True, text=True).stdout

    def alice(self, command):
        return self.root(f"runuser -l alice -c {shlex.quote('module load dask-site; ' + command)}")

    async def clusters(self):
        """Start alice's clusters; return the addresses of their dashboards."""
        for name, text in (("back.py", LOCAL), ("back.sh", JOB)):
            word = base64.b64encode(text.encode()).decode()
            self.root(f"echo {word} | base64 -d > /home/alice/{name}")
        self.root("rm -f /home/alice/back.out /home/alice/back.job")
        self.alice(
            "setsid python back.py > back.out 2>&1 < /dev/null & sbatch -o /dev/null back.sh"
        )
        urls = {}
        while len(urls) < 2:
            for name, log in (("login", "back.out"), ("job", "back.job")):
                text = self.root(f"cat /home/alice/{log}")
                if "UP " in text:
                    urls[name] = text.split("UP ", 1)[1].split()[0]
            await asyncio.sleep(1)
        return urls


def browser(host, address):
    """Run Chromium, for which a site's names lead to an address."""
    rules = f"MAP *.{host} {address}, MAP {host} {address}"
    return chromium("--ignore-certificate-errors", f"--host-resolver-rules={rules}")


async def measured(node, container, link, urls, shot):
    host, port = link.removeprefix("https://").split("/")[0].split(":")
    address = node.root("hostname -i").split()[0]
    with browser(host, address) as debugging:
        door = await tab(debugging, link)
        await asyncio.sleep(2)
        press = "document.querySelector('#login button').click()"
        await door.call("Runtime.evaluate", expression=press)
        await asyncio.sleep(2)
        tabs = {name: await tab(debugging, url) for name, url in urls.items()}
        for one in tabs.values():
            await live(one)
        found = {"first": {"said": [json.dumps(s)[:300] for t in tabs.values() for s in t.said]}}
        for what, command in (
            ("proxy loaded anew", "systemctl reload dask-proxy"),
            ("broker killed", "systemctl kill -s KILL dask-dashboards; sleep 1"),
            ("proxy killed", "systemctl kill -s KILL dask-proxy"),
            ("both killed", "systemctl kill -s KILL dask-dashboards dask-proxy"),
        ):
            found[what] = await away(tabs, partial(node.root, command), address, int(port))
        again = ["podman", "restart", "-t", "5", container]
        ends = partial(subprocess.run, again, check=True, capture_output=True)
        job = {"job": tabs["job"]}  # the other's scheduler was on the node
        found["login node started again"] = await away(job, ends, address, int(port))
        if shot:
            picture = await tabs["job"].call("Page.captureScreenshot")
            shot.write_bytes(base64.b64decode(picture["data"]))
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ssh-config", required=True)
    parser.add_argument("--container", required=True)
    parser.add_argument("--screenshot", type=Path)
    given = parser.parse_args()
    node = Node(given.ssh_config)
    try:
        urls = asyncio.run(node.clusters())
        link = json.loads(node.alice("dask-site dashboards --json"))["login"]
        found = measured(node, given.container, link, urls, given.screenshot)
        print(json.dumps(asyncio.run(found), indent=1))
    finally:
        node.root("pkill -u alice -f back.py; scancel -u alice")


if __name__ == "__main__":
    main()
