"""Many open dashboards on one login node, as root: what the broker needs for them.

Makes users, with a process each that has registered dashboards as schedulers have them (their
servers and their link to the broker, a page and a WebSocket in the place of Bokeh's); a browser for
each user logs in through nginx and has all of the user's dashboards open. WebSockets are
pinged, pages are loaded again now and then, and meanwhile the broker is asked as nginx asks it.
Prints JSON: what was dropped, how long the broker took, the most memory that it had.

Users have to be known on all login nodes, or the brokers of the others end their sessions: run it
with --only-users there first, and with --no-users in the end.

    python bench/dashboards/crowd.py --users 200 --dashboards 500 --minutes 10
"""

import argparse
import asyncio
import http.client
import itertools
import json
import os
import pwd
import random
import socket
import ssl
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import aiohttp
from aiohttp.abc import AbstractResolver
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from dask_site import Site
from dask_site.dashboards import asking, serving
from dask_site.dashboards.places import Places

COOKIE = "__Host-dask-site"
NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
PING, RELOAD, ASK = 2.0, 60.0, 0.05


class Page(RequestHandler):
    def get(self):
        self.write("<head></head>" + "x" * 20_000)


class Echo(WebSocketHandler):
    def check_origin(self, _):
        return True  # the broker has seen to that

    def on_message(self, message):
        self.write_message(message)


def serve(places, user, count, pipe):
    """Be a user's schedulers, until killed."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)

    async def run():
        nodes = []
        for number in range(count):
            about = {"name": f"crowd {number}", "kind": "Crowd", "pools": []}
            node = SimpleNamespace(about=about, services={}, id="", pages=None)
            serving.start(places, node, [(r"/status", Page), (r"/status/ws", Echo)])
            nodes.append(node)
        while not all(node.services for node in nodes):
            await asyncio.sleep(0.1)
        link = asking.ask(places, op="link")["url"]
        said = {"link": link, "ids": [node.http_server.port for node in nodes]}
        os.write(pipe, (json.dumps(said) + "\n").encode())
        await asyncio.Event().wait()

    asyncio.run(run())


class Here(AbstractResolver):
    async def resolve(self, host, port=0, family=socket.AF_INET):
        found = {"hostname": host, "host": "127.0.0.1", "port": port}
        return [{**found, "family": family, "proto": 0, "flags": 0}]

    async def close(self):
        pass


class Browser:
    def __init__(self, places, number, seen):
        self.places, self.seen = places, seen
        context = ssl._create_unverified_context()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context,
                resolver=Here(),
                # As browsers of different people: bounds hold for an address.
                local_addr=(f"127.0.{1 + number // 200}.{1 + number % 200}", 0),
                limit=0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.cookies = {}

    async def get(self, url, origin, **headers):
        known = {"Cookie": f"{COOKIE}={self.cookies[origin]}"} if origin in self.cookies else {}
        sent = {**NAVIGATION, **known, **headers}
        async with self.session.get(url, headers=sent, allow_redirects=False) as answer:
            await answer.read()
            self.keep(origin, answer)
            return answer

    def keep(self, origin, answer):
        for line in answer.headers.getall("Set-Cookie", []):
            name, _, rest = line.partition("=")
            if name == COOKIE:
                self.cookies[origin] = rest.partition(";")[0]

    async def log_in(self, link):
        origin = self.places.origin()
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
        body = urlencode({"word": link.partition("#")[2]})
        async with self.session.post(
            f"{origin}/login", data=body, headers=form, allow_redirects=False
        ) as answer:
            assert answer.status == 303, answer.status
            self.keep(origin, answer)

    async def open(self, name):
        """Come to a cluster's origin, as the list's link leads there."""
        start, there = self.places.origin(), self.places.origin(name)
        answer = await self.get(f"{there}/status", there)
        answer = await self.get(answer.headers["Location"], start)
        answer = await self.get(answer.headers["Location"], there)
        assert answer.status == 303, answer.status

    async def watch(self, name, until):
        """Have a dashboard open."""
        there = self.places.origin(name)
        headers = {"Origin": there, "Cookie": f"{COOKIE}={self.cookies[there]}"}
        reload = time.monotonic() + random.uniform(0, RELOAD)
        async with self.session.ws_connect(f"{there}/status/ws", headers=headers) as stream:
            self.seen["open"] += 1
            while time.monotonic() < until:
                began = time.monotonic()
                await stream.send_str("ping")
                message = await stream.receive(timeout=30)
                if message.type != aiohttp.WSMsgType.TEXT:
                    self.seen["dropped"] += 1
                    return
                self.seen["pings"] += 1
                if began > reload:
                    reload = began + RELOAD
                    answer = await self.get(f"{there}/status", there)
                    self.seen["pages" if answer.status == 200 else "refused"] += 1
                await asyncio.sleep(PING)


def ask(run, questions, until, pipe):
    """Ask the broker as nginx does; report the seconds that each answer took."""
    connection = http.client.HTTPConnection("auth", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(run / "proxy" / "broker.sock"))
    took, statuses = [], Counter()
    for name, cookie in itertools.cycle(questions):
        if time.monotonic() >= until:
            break
        headers = {"X-Dask-Cluster": name, "Cookie": f"{COOKIE}={cookie}"}
        began = time.perf_counter()
        connection.request("GET", "/internal/auth", headers=headers)
        answer = connection.getresponse()
        answer.read()
        took.append(time.perf_counter() - began)
        statuses[answer.status] += 1
        time.sleep(ASK)
    with os.fdopen(pipe, "w") as file:
        json.dump({"took": took, "statuses": statuses}, file)


def in_child(function, *arguments):
    """Run a function in a process of its own; return its end of a pipe to read, and its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            function(*arguments, writer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    return os.fdopen(reader), pid


def resident(pid):
    """Return KiB of a process in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


async def watched(places, told, minutes, broker):
    seen, most, failed = Counter(), 0, Counter()
    browsers = [Browser(places, number, seen) for number in range(len(told))]
    for browser, one in zip(browsers, told, strict=True):
        await browser.log_in(one["link"])
        for name in one["ids"]:
            await browser.open(name)
    print("all are logged in", file=sys.stderr, flush=True)
    until = time.monotonic() + 60 * minutes
    pairs = [(b, name) for b, one in zip(browsers, told, strict=True) for name in one["ids"]]
    random.shuffle(pairs)
    questions = [(name, b.cookies[places.origin(name)]) for b, name in pairs]
    reader, _ = in_child(ask, places.run, questions, until)
    tasks = [asyncio.create_task(browser.watch(name, until)) for browser, name in pairs]
    while time.monotonic() < until:
        await asyncio.sleep(1)
        most = max(most, resident(broker))
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            failed[f"{type(result).__name__} {getattr(result, 'status', '')}"] += 1
    answered = await asyncio.to_thread(json.load, reader)
    took = sorted(answered["took"])
    for browser in browsers:
        await browser.session.close()
    return {
        **seen,
        "failed": dict(failed),
        "broker_mib": round(most / 1024, 1),
        "asked": answered["statuses"],
        "p50_ms": round(1000 * statistics.median(took), 2),
        "p99_ms": round(1000 * took[int(0.99 * len(took))], 2),
        "most_ms": round(1000 * took[-1], 2),
    }


def make(users):
    for number, user in enumerate(users, 6000):
        add = ["useradd", "-M", "-N", "-u", str(number), "-s", "/bin/sh", user]
        subprocess.run(add, check=True)


def remove(users):
    for user in users:
        subprocess.run(["userdel", user], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--dashboards", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only-users", action="store_true")
    parser.add_argument("--no-users", action="store_true", help="remove them")
    given = parser.parse_args()
    users = [f"crowd{number:03}" for number in range(given.users)]
    if given.only_users or given.no_users:
        make(users) if given.only_users else remove(users)
        return
    places = Places.of_site(Site.find())
    show = ["systemctl", "show", "-P", "MainPID", "dask-dashboards"]
    broker = int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
    before = resident(broker)
    children = []
    try:
        make(users)
        for number, user in enumerate(users):
            count = given.dashboards // given.users
            count += number < given.dashboards % given.users
            children.append(in_child(serve, places, user, count))
        told = [json.loads(reader.readline()) for reader, _ in children]
        print(f"{sum(len(one['ids']) for one in told)} registered", file=sys.stderr, flush=True)
        found = asyncio.run(watched(places, told, given.minutes, broker))
        print(json.dumps({"broker_mib_before": round(before / 1024, 1), **found}))
    finally:
        for _, pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        remove(users)


if __name__ == "__main__":
    main()
