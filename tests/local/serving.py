"""The history service as processes, on this machine as on several nodes."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time

import yaml

from another import as_another
from dask_site.history import wire

SERVE = "from dask_site.history.command_serve import serve; serve()"
CALL = """
import http.client, json, socket, sys
class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(sys.argv[1])
call = Local("localhost")
call.request(sys.argv[2], sys.argv[3], sys.argv[4] or None, json.loads(sys.argv[5]))
answer = call.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


def free_port():
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


class Node:
    """A process of the service; several may share a folder."""

    def __init__(self, folder, name="a", dashboards=None, **history):
        self.folder = folder
        self.socket = folder / name / "history.sock"
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self.file = folder / f"{name}.yml"
        settings = {
            "enabled": True,
            "state": str(folder / "state"),
            "spool": f"{folder}/spool/$USER",
            "socket": str(self.socket),
            "port": self.port,
            "admins": ["root"],
            "hosts": ["dask.example.org"],
            "metrics_from": ["127.0.0.1"],
            **history,
        }
        site = {
            "schema": 1,
            "name": "t",
            "resource_manager": "local",
            "pools": {"cpu": {"cores": 1, "memory": "1GiB", "cost": {"core_hour": 0.5}}},
            "history": settings,
            "dashboards": dashboards or {},
        }
        self.file.write_text(yaml.safe_dump({"dask_site": site}))
        self.process = None

    def start(self, uid=None, **environment):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *([] if uid is None else as_another(uid)),
                    sys.executable,
                    "-c",
                    SERVE,
                    str(self.file),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                cwd="/",
            )
        return self

    def until(self, what):
        deadline = time.monotonic() + 60
        while not (found := what()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        return found

    def role(self):
        try:
            return self.call("GET", "/healthz")[1]["role"]
        except (OSError, http.client.HTTPException):
            return ""

    def writes(self):
        self.until(lambda: self.role() == "writer")
        return self

    def call(self, method, path, body="", uid=None, headers=None):
        command = ["/usr/bin/python3", "-I", "-c", CALL, str(self.socket), method, path, body]
        command.append(json.dumps(headers or {}))
        as_user = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **as_user)
        if done.returncode:
            raise ConnectionError(done.stderr)
        return tuple(json.loads(done.stdout))

    def passes(self):
        lines = self.tls(path="/metrics")[1].decode().splitlines()
        name = "dask_site_history_passes_total "
        return next(float(x.removeprefix(name)) for x in lines if x.startswith(name))

    def tls(self, method="GET", path="/", body=None, headers=None):
        context = ssl.create_default_context()
        said = json.loads((self.folder / "state" / "where.json").read_text())
        context.load_verify_locations(cadata=said["certificate"])
        call = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=20)
        call.request(method, path, body, headers or {})
        answer = call.getresponse()
        content = answer.read()
        call.close()
        return answer, content

    def stop(self, number=signal.SIGTERM):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            return self.process.wait(30)
        return None


@contextlib.contextmanager
def two_nodes(folder, **history):
    """Yield two nodes, of which the first writes and the second stands by."""
    first, second = Node(folder, "a", **history), Node(folder, "b", **history)
    try:
        first.start().writes()
        second.start().until(lambda: second.role() == "standby")
        yield first, second
    finally:
        first.stop(signal.SIGKILL)
        second.stop(signal.SIGKILL)


def tasks_of(answer):
    history = wire.from_dict(answer["history"])
    return sum(n for s in history.spans for t in s.tasks.values() for n in t.states.values())
