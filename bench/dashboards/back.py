"""How long an open page of a dashboard is away, in a real browser, when what serves it ends.

On the machine that holds the containerised cluster, with Chromium: alice has a cluster on a login
node and one in a job, and a page of each open. The proxy is loaded anew, proxy and broker are
killed, and in the end the login node is started again: with the site's names leading to it alone,
and, ten seconds after it was stopped, with names that lead to both login nodes. Prints JSON:
seconds from before that until the command is done, until the proxy answers and until each page has
a WebSocket for good again, nobody having touched it, 0 where it never lost one; and how often the
browser complained meanwhile.

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
import tempfile
import time
from contextlib import contextmanager
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


async def back(tab, began, quiet):
    """Return after how many seconds a page was live for good; `quiet` tells when to look no more.

    One that is not live once all is quiet has as long as it takes.
    """
    gone = began
    while not quiet.is_set() or time.monotonic() - gone < 1:
        if not await tab.live():
            gone = time.monotonic()
        if gone - began > 120:
            await live(tab, 0)
        await asyncio.sleep(0.1)
    return round(gone - began, 1)


async def away(tabs, what, address, port):
    """Do what ends things; return for each page the seconds until it was live again for good."""
    before = [len(one.said) for one in tabs.values()]
    began, quiet = time.monotonic(), asyncio.Event()
    looks = {name: asyncio.create_task(back(one, began, quiet)) for name, one in tabs.items()}
    await asyncio.to_thread(what)
    done = time.monotonic()
    await asyncio.sleep(0.3)
    while not await asyncio.to_thread(answers, address, port):
        await asyncio.sleep(0.05)
    answered = time.monotonic() - began
    await asyncio.sleep(3)
    quiet.set()
    found = {name: await look for name, look in looks.items()}
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

    def link(self):
        return json.loads(self.alice("dask-site dashboards --json"))["login"]

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


@contextmanager
def browser(names, addresses):
    """Run Chromium, for which names lead to addresses, tried in this order."""
    lines = "".join(f"{address} {' '.join(names)}\n" for address in addresses)
    with tempfile.NamedTemporaryFile("w", prefix="hosts") as hosts:
        hosts.write("127.0.0.1 localhost\n" + lines)
        hosts.flush()
        bound = 'mount --bind "$0" /etc/hosts && exec "$@"'
        before = ["unshare", "--mount", "sh", "-c", bound, hosts.name]
        # The system's resolver: the browser's own takes the first line of a name.
        plain = ("--ignore-certificate-errors", "--disable-features=AsyncDns")
        with chromium(*plain, before=before) as debugging:
            yield debugging


async def opened(debugging, link, urls):
    """Log in and open a page of each cluster."""
    door = await tab(debugging, link)
    await asyncio.sleep(2)
    press = "document.querySelector('#login button').click()"
    await door.call("Runtime.evaluate", expression=press)
    await asyncio.sleep(2)
    tabs = {name: await tab(debugging, url) for name, url in urls.items()}
    for one in tabs.values():
        await live(one)
    return tabs


async def measured(node, container, urls, shot):
    link = node.link()
    host, port = link.removeprefix("https://").split("/")[0].split(":")
    names = [host, *(url.removeprefix("https://").split(":")[0] for url in urls.values())]
    addresses = [
        node.root(f"getent ahostsv4 {name} | cut -d' ' -f1").split()[0]
        for name in ("login1", "login2")
    ]
    address = addresses[0]
    again = ["podman", "restart", "-t", "5", container]
    ends = partial(subprocess.run, again, check=True, capture_output=True)
    with browser(names, addresses[:1]) as debugging:
        tabs = await opened(debugging, link, urls)
        found = {"first": {"said": [json.dumps(s)[:300] for t in tabs.values() for s in t.said]}}
        for what, command in (
            ("proxy loaded anew", "systemctl reload dask-proxy"),
            ("broker killed", "systemctl kill -s KILL dask-dashboards; sleep 1"),
            ("proxy killed", "systemctl kill -s KILL dask-proxy"),
            ("both killed", "systemctl kill -s KILL dask-dashboards dask-proxy"),
        ):
            found[what] = await away(tabs, partial(node.root, command), address, int(port))
        job = {"job": tabs["job"]}  # the other's scheduler was on the node
        found["login node started again"] = await away(job, ends, address, int(port))
        if shot:
            picture = await tabs["job"].call("Page.captureScreenshot")
            shot.write_bytes(base64.b64decode(picture["data"]))
    with browser(names, addresses) as debugging:
        tabs = await opened(debugging, node.link(), {"job": urls["job"]})
        slowly = ["sh", "-c", 'podman stop -t 5 "$0" && sleep 10 && podman start "$0"', container]
        ends = partial(subprocess.run, slowly, check=True, capture_output=True)
        found["one of two login nodes away"] = await away(tabs, ends, address, int(port))
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
        found = measured(node, given.container, urls, given.screenshot)
        print(json.dumps(asyncio.run(found), indent=1))
    finally:
        node.root("pkill -u alice -f back.py; scancel -u alice")


if __name__ == "__main__":
    main()
