"""What the proxy and its question to the broker add to a dashboard, on a login node, as root.

Requests and WebSocket pings on connections that are kept alive, in turns: to the dashboard itself
(its Unix socket, which only root and nginx reach) and through nginx. Prints JSON.

    python bench/dashboards/latency.py --user alice --requests 3000
"""

import argparse
import base64
import http.client
import json
import os
import shlex
import socket
import ssl
import statistics
import subprocess
import time
from urllib.parse import urlencode, urlsplit

COOKIE = "__Host-dask-site"
DOORS = "/run/dask-dashboards/clusters"
CLUSTER = """
import time
began = time.time()
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    print("UP", time.time(), cluster.dashboard_link, flush=True)
    time.sleep(3600)
"""


def as_user(user, command):
    line = ["runuser", "-l", user, "-c", f"module load dask-site && {command}"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def secure(host, port):
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(host, port, timeout=20, context=context)
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sock = context.wrap_socket(plain, server_hostname=host)
    return connection


def get(connection, path, headers, method="GET", body=None):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    return answer, content


def log_in(user):
    """Return the cookies of a user's browser: a function from an id to the cookie there."""
    link = urlsplit(json.loads(as_user(user, "dask-site dashboards --json"))["login"])
    port, host = link.port or 443, link.hostname
    authority = f"{host}:{port}" if port != 443 else host
    door = secure(host, port)
    headers = {"Host": authority, "Origin": f"https://{authority}"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer, _ = get(door, "/login", {**headers, **form}, "POST", urlencode({"word": link.fragment}))
    cookie = answer.getheader("set-cookie").split(";")[0]

    def at(cluster):
        there = secure(f"{cluster}.{host}", port)
        page = {"Host": f"{cluster}.{authority}", "Sec-Fetch-Mode": "navigate"}
        page["Sec-Fetch-Dest"] = "document"
        sent, _ = get(there, "/status", page)
        known = {"Host": authority, "Cookie": cookie}
        ticket = urlsplit(sent.getheader("location"))
        answer, _ = get(door, f"{ticket.path}?{ticket.query}", known)
        arrival = urlsplit(answer.getheader("location"))
        page["Cookie"] = sent.getheader("set-cookie").split(";")[0]
        answer, _ = get(there, f"{arrival.path}?{arrival.query}", page)
        return answer.getheader("set-cookie").split(";")[0]

    return at, host, port


def websocket(connection, host, origin, cookie, token):
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET /status/ws HTTP/1.1",
        f"Host: {host}",
        f"Origin: {origin}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: bokeh, {token}",
        f"Cookie: {cookie}",
    ]
    if connection.sock is None:
        connection.connect()
    stream = connection.sock
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(1)
    assert b" 101 " in head.split(b"\r\n")[0], head
    return stream


def frame(stream):
    """Return the kind of the next frame."""
    first, second = exactly(stream, 2)
    size = second & 127
    if size == 126:
        size = int.from_bytes(exactly(stream, 2), "big")
    elif size == 127:
        size = int.from_bytes(exactly(stream, 8), "big")
    exactly(stream, size)
    return first & 15


def exactly(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise ConnectionError("it ended")
        data += part
    return data


def ping(stream):
    stream.sendall(bytes([0x89, 0x80]) + b"\0\0\0\0")
    while frame(stream) != 10:
        pass


def quantiles(seconds):
    cut = statistics.quantiles(seconds, n=100)
    return {"p50": cut[49] * 1000, "p99": cut[98] * 1000}


def in_turns(ways, count):
    times = {name: [] for name in ways}
    for _ in range(count):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: quantiles(each) for name, each in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--user", default="alice")
    parser.add_argument("--requests", type=int, default=3000)
    given = parser.parse_args()
    at, domain, port = log_in(given.user)
    code = base64.b64encode(CLUSTER.encode()).decode()
    script = f"echo {code} | base64 -d > latency.py && exec python latency.py"
    line = f"module load dask-site && {script}"
    running = subprocess.Popen(
        ["runuser", "-l", given.user, "-c", shlex.join(["bash", "-lc", line])],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, up, link = running.stdout.readline().split()
        cluster = urlsplit(link).hostname.split(".")[0]
        cookie = at(cluster)
        host = f"{cluster}.{domain}:{port}"
        through, bare = secure(f"{cluster}.{domain}", port), Unix(f"{DOORS}/{cluster}.sock")
        headers = {"Host": host, "Cookie": cookie}
        answer, _ = get(through, "/status", headers)
        reached = time.time() - float(up)
        assert answer.status == 200, answer.status
        ways = {
            "bare": lambda: get(bare, "/health", {"Host": host}),
            "through": lambda: get(through, "/health", headers),
        }
        in_turns(ways, 200)
        requests = in_turns(ways, given.requests)

        def token():
            text = get(through, "/status", headers)[1].decode()
            return text.split('"token":"', 1)[1].split('"', 1)[0]

        origin = f"https://{host}"
        direct = websocket(Unix(f"{DOORS}/{cluster}.sock"), host, origin, "", token())
        proxied = websocket(secure(f"{cluster}.{domain}", port), host, origin, cookie, token())
        pings = in_turns(
            {"bare": lambda: ping(direct), "through": lambda: ping(proxied)}, given.requests
        )
    finally:
        subprocess.run(["pkill", "-u", given.user, "-f", "latency.py"])
        running.kill()
    added = {
        what: {q: round(t["through"][q] - t["bare"][q], 3) for q in ("p50", "p99")}
        for what, t in (("request", requests), ("websocket", pings))
    }
    print(
        json.dumps(
            {
                "requests_ms": requests,
                "websocket_ms": pings,
                "added_ms": added,
                "reached_after_seconds": round(reached, 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
