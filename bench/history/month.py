"""How much memory the service takes while a site runs 10,000 clusters a day for a month.

    python bench/history/month.py [--clusters 10000] [--days 30] [--seconds 900] [--away]

The service is the real process, on a clock that this program moves on by days. Each day's spool
files are put into the folders of 50 users and go after a fortnight, as schedulers tidy them. As
root, the service runs as a user of its own, which can read them and not delete them. With --away
it reads Slurm's accounting, and nobody ever answers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from zlib import crc32

import yaml

DAY, USERS, FIRST_UID, SERVICE = 86400.0, 50, 41200, 41100
KEPT = 14
AIM = 300
SERVE = """
import os, sys, time
real, shift = time.time, sys.argv.pop(1)
time.time = lambda: real() + float(os.readlink(shift))
from dask_site.history.command_serve import serve
serve()
"""


class Service:
    """The process, and what it is asked."""

    def __init__(self, folder: Path, *, away: bool = False) -> None:
        self.folder = folder
        self.shift = folder / "shift"
        self.socket = folder / "state" / "history.sock"
        self.store = f"sqlite:///{folder}/state/history.db"
        self.uid = SERVICE if os.getuid() == 0 else os.getuid()
        for name, group in (("state", self.uid), ("spool", self.uid)):
            (folder / name).mkdir()
            if os.getuid() == 0:
                os.chown(folder / name, self.uid if name == "state" else 0, group)
        (folder / "spool").chmod(0o3773)
        with socket.socket() as one:
            one.bind(("", 0))
            port = one.getsockname()[1]
        settings = {
            "enabled": True,
            "state": str(folder / "state"),
            "spool": f"{folder}/spool/$USER",
            "socket": str(self.socket),
            "port": port,
            "admins": ["root"],
        }
        pool = {"cores": 4, "memory": "16GiB"}
        site = {
            "schema": 1,
            "name": "month",
            "resource_manager": "slurm" if away else "local",
            "pools": {"cpu": {**pool, "walltime": "1h"} if away else pool},
            "history": settings,
        }
        (folder / "site.yml").write_text(yaml.safe_dump({"dask_site": site}))
        sacct = folder / "bin" / "sacct"
        sacct.parent.mkdir()
        sacct.write_text("#!/bin/sh\necho 'slurm_persist_conn_open: failed' >&2\nexit 1\n")
        sacct.chmod(0o755)
        self.path = f"{sacct.parent}:{os.environ['PATH']}"

    def start(self) -> None:
        may = "-all,+dac_read_search"
        drop = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        drop += [f"--inh-caps={may}", f"--ambient-caps={may}", f"--bounding-set={may}"]
        own = drop if os.getuid() == 0 else []
        command = [*own, sys.executable, "-c", SERVE, str(self.shift), f"{self.folder}/site.yml"]
        with (self.folder / "log").open("ab") as log:
            env = {**os.environ, "PATH": self.path}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                if json.loads(self.ask("/healthz"))["role"] == "writer":
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def clock(self, now: float) -> None:
        """Let the service's clock show a time."""
        beside = self.folder / "shift.new"
        beside.symlink_to(repr(now - time.time()))
        beside.rename(self.shift)

    def ask(self, path: str) -> bytes:
        call = http.client.HTTPConnection("localhost")
        call.sock = socket.socket(socket.AF_UNIX)
        call.sock.settimeout(60)
        call.sock.connect(str(self.socket))
        call.request("GET", path)
        content = call.getresponse().read()
        call.close()
        return content

    def counts(self) -> dict[str, int]:
        """Return what it says of its clusters; nobody else opens the store."""
        rows = (row.rsplit(" ", 1) for row in self.ask("/metrics").decode().splitlines())
        prefix = "dask_site_history_"
        wanted = {prefix + name for name in ("clusters", "live_clusters", "open_books")}
        return {k.removeprefix(prefix): int(v) for k, v in rows if k in wanted}

    def memory(self) -> tuple[float, float]:
        """Return the resident memory, and the most so far, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        said = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return int(said["VmRSS"]) / 1024, int(said["VmHWM"]) / 1024


def lines_of(name: str, number: int, begun: float) -> bytes:
    """Return the spool file of a small cluster that ran for ten minutes and has ended."""
    end = begun + 600.0
    worker = {"k": "worker", "started": begun, "seen": end, "ended": end, "threads": 4}
    worker.update(memory=2**34, pool="cpu", busy=1500.0)
    job = {"k": "job", "pool": "cpu", "state": "ended", "submitted": begun, "started": begun}
    job.update(ended=end, cores=4, memory=2**34, walltime=3600.0)
    tasks = {"work": {"states": {"forgotten": 1000}, "seconds": {"compute": 3000.0}}}
    span = {"k": "span", "enqueued": begun, "start": begun, "stop": end, "done": True}
    span.update(tasks=tasks, execute={"thread-cpu": 2000.0})
    out = [{"k": "cluster", "started": begun, "kind": "Cluster", "name": name[-8:]}]
    for one in range(2):
        id_ = str(2 * number + one)
        out.append({**job, "name": f"cpu-{one}", "id": id_})
        out.append({**worker, "id": f"{name}-{one}", "name": f"cpu-{one}", "job": id_})
    out += [{**span, "id": f"s{one}", "name": [f"part {one}"]} for one in range(2)]
    out += [
        {"k": "usage", "pool": "cpu", "threads": {"busy": share * 3000.0, "no work": share * 1800}}
        for share in (0.5, 1.0)
    ]
    out.append({"k": "end", "how": "closed"})
    text = b""
    for q, values in enumerate(out):
        body = json.dumps({"v": 1, "c": name, "q": q, "t": end, **values}).encode()
        text += b"%08x %b\n" % (crc32(body), body)
    return text


def feed(folder: Path, day: int, now: float, clusters: int) -> list[Path]:
    """Put a day's files where the service finds them; nothing of it is seen half written."""
    files = []
    for user in range(USERS):
        spool = folder / "spool" / f"u{user}"
        spool.mkdir(mode=0o700, exist_ok=True)
        if os.getuid() == 0:
            os.chown(spool, FIRST_UID + user, FIRST_UID + user)
    for n in range(clusters):
        number = day * clusters + n
        name = f"m{number:011x}"
        begun = now - DAY + DAY * n / clusters
        beside = folder / "beside"
        beside.write_bytes(lines_of(name, number, begun))
        uid = FIRST_UID + n % USERS
        if os.getuid() == 0:
            os.chown(beside, uid, uid)
        os.utime(beside, (begun + 600.0, begun + 600.0))
        path = folder / "spool" / f"u{n % USERS}" / f"{name}.0.spool"
        beside.rename(path)
        files.append(path)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=900, help="then no other day is begun")
    parser.add_argument("--away", action="store_true", help="Slurm's accounting doesn't answer")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        service = Service(folder, away=arguments.away)
        first = time.time() - arguments.days * DAY
        service.clock(first)
        service.start()
        print(f"empty: {service.memory()[0]:.0f} MiB", flush=True)
        kept: deque[list[Path]] = deque()
        figures, begun = [], time.monotonic()
        try:
            for day in range(arguments.days):
                if time.monotonic() - begun > arguments.seconds:
                    print(f"no time for more than {day} days")
                    break
                now = first + (day + 1) * DAY
                service.clock(now)
                start = time.monotonic()
                kept.append(feed(folder, day, now, arguments.clusters))
                if len(kept) > KEPT:
                    for path in kept.popleft():
                        path.unlink(missing_ok=True)
                while True:
                    counts = service.counts()
                    there = counts["clusters"] == (day + 1) * arguments.clusters
                    if there and not counts["open_books"]:
                        break
                    assert service.process.poll() is None, (folder / "log").read_text()
                    time.sleep(1)
                took = time.monotonic() - start
                service.ask("/api/v1/clusters?most=100")
                service.ask("/api/v1/sums?by=user&days=30")
                rss, most = service.memory()
                figures.append(rss)
                files = sum(map(len, kept))
                print(
                    f"day {day + 1:2}: {rss:4.0f} MiB, at most {most:4.0f} MiB;"
                    f" {took:4.0f} s, {files} files",
                    flush=True,
                )
            tell(service, figures)
            again(service)
        finally:
            service.stop()
            print((folder / "log").read_text()[-2000:])


def tell(service: Service, figures: list[float]) -> None:
    """Say whether memory stays, once as many files lie there as ever will."""
    late = figures[min(KEPT, len(figures) // 2) :]
    numbers = range(len(late))
    slope = statistics.linear_regression(numbers, late).slope if len(late) > 1 else 0.0
    most = service.memory()[1]
    counts = service.counts()
    size = Path(service.store.removeprefix("sqlite:///")).stat().st_size / 2**20
    live = counts["live_clusters"]
    print(f"{counts['clusters']} clusters, {live} of them live; store {size:.0f} MiB")
    print(f"a day adds {slope:+.2f} MiB to the memory over the last {len(late)} days")
    print(f"at most {most:.0f} MiB: {'within' if most <= AIM else 'NOT within'} {AIM} MiB")


def again(service: Service) -> None:
    """Start it anew on all that is there: the accounting of days, and thinning, come at once."""
    service.stop()
    service.start()
    end = time.monotonic() + 100
    while time.monotonic() < end:
        time.sleep(1)
    rss, most = service.memory()
    print(f"anew: {rss:.0f} MiB, at most {most:.0f} MiB in its first 100 s")


if __name__ == "__main__":
    main()
