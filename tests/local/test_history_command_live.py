"""A recorded cluster, a running service, and the commands of users who ask it."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, wait

from another import as_another
from dask_site.history.measures import span_metrics, spans_of
from dask_site.history.naming import span

SETTINGS = {
    "distributed.scheduler.preload": ["dask_site.history.preload"],
    "dask-site.history.interval": 1,
}
SITE = """\
dask_site:
  schema: 1
  name: Test
  resource_manager: local
  default_pool: cpu
  pools:
    cpu: {{cores: 1, memory: 1GiB, cost: {{core_hour: 2}}}}
  history:
    enabled: true
    spool: {folder}/spool/$USER
    state: {folder}/state
    socket: {folder}/run/history.sock
    port: {port}
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="asks as several users, which only root can be"),
]


def double(x):
    return 2 * x


def fail(x):
    raise ValueError(f"{x} <script>")


def record(spool, name, tasks):
    """Run a cluster that is recorded."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    settings = {**SETTINGS, "dask-site.history.spool": str(spool)}
    with (
        dask.config.set(settings),
        LocalCluster(**options, dashboard_address=":0", silence_logs=50, name=name) as cluster,
        Client(cluster) as client,
    ):
        with span("regrid", name):
            wait(client.map(double, range(tasks)))
        wait(client.submit(fail, 1))
        scheduler = cluster.scheduler
        # What threads did comes with heartbeats, the last one of which a short cluster doesn't see.
        deadline = time.monotonic() + 30
        while not any(list(span_metrics(s)) for s in spans_of(scheduler).values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return cluster.scheduler.id.removeprefix("Scheduler-")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Service:
    """A folder with a site and its service; commands are run as root or as nobody."""

    def __init__(self, folder):
        self.folder = folder
        self.site = folder / "site.yml"
        self.site.write_text(SITE.format(folder=folder, port=free_port()))
        self.process = None

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command("serve"), str(self.site)], env=self.environment(), stderr=log
            )

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def command(self, *arguments):
        return [sys.executable, "-m", "dask_site.cli", "history", *arguments]

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
        return {**kept, "DASK_CONFIG": str(self.site), "HOME": str(self.folder)}

    def run(self, *arguments, user="root", status=0):
        who = as_another(user) if user != "root" else []
        done = subprocess.run(
            [*who, *self.command(*arguments)],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def ask(self, *arguments, **more):
        return json.loads(self.run(*arguments, "--json", **more).stdout)

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.3)
        return found


@pytest.fixture
def service():
    # Not pytest's folder: another user has to get at it.
    folder = Path("/tmp") / f"dask-site-history-{os.getpid()}"
    for part in ("spool/root", "spool/nobody", "state", "run"):
        (folder / part).mkdir(parents=True)
    (folder / "spool/root").chmod(0o700)
    nobody = pwd.getpwnam("nobody")
    os.chown(folder / "spool/nobody", nobody.pw_uid, nobody.pw_gid)
    (folder / "spool/nobody").chmod(0o700)
    made = Service(folder)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder)


def test_users_ask_the_service_for_what_is_theirs(service):
    first = record(service.folder / "spool/root", "first", 20)
    second = record(service.folder / "spool/root", "second", 30)

    def both_read_to_the_end():
        found = service.ask("ls")
        return [c["state"] for c in found] == ["ended", "ended"] and found

    # The collector may well read a record while it is being written.
    found = service.until(both_read_to_the_end)
    assert [(c["id"], c["name"]) for c in found] == [(second, "second"), (first, "first")]
    assert [c["tasks"] for c in found] == [31, 21]
    told = service.ask("show", first[:8])
    assert told["id"] == first
    assert sum(told["ledger"]["parts"].values()) == pytest.approx(told["ledger"]["allocated"])
    names = [pair["name"] for pair in service.ask("diff", first, second)["lasted"]]
    assert {"regrid / first", "regrid / second"} <= set(names)
    allocated = sum(service.ask("show", name)["ledger"]["allocated"] for name in (first, second))

    def summed():
        pools = service.ask("where")
        assert len(pools) <= 1
        return pools and pools[0]["allocated"] == pytest.approx(allocated, abs=0.01) and pools[0]

    whole = service.until(summed)
    assert sum(whole["parts"].values()) == pytest.approx(whole["allocated"])
    assert any(t["name"] == "regrid / first" for t in service.ask("where", "--by", "span"))
    address = service.run("open", first[:8]).stdout
    assert address.startswith("https://") and "/open/" in address
    path = service.folder / "errors.csv"
    service.run("export", "--what", "errors", "--cluster", first, str(path))
    assert "1 <script>" in path.read_text()
    # Another user sees none of it, and is not told that it is there.
    assert service.ask("ls", user="nobody") == []
    for asked in (("show", first), ("forget", first, "--yes"), ("open", first)):
        refused = service.run(*asked, user="nobody", status=1)
        assert "no cluster has an id" in refused.stderr
        assert "first" not in refused.stderr.replace(first, "")
    service.run("ls", "--user", "root", user="nobody", status=1)
    assert service.ask("where", "--by", "user", user="nobody") == []
    assert len(service.ask("ls")) == 2
    assert service.ask("forget", first, "--yes") == {"forgotten": 1}
    assert [c["id"] for c in service.ask("ls")] == [second]


def test_while_the_service_is_away_the_own_records_answer(service):
    service.until((service.folder / "state/where.json").exists)
    service.kill()
    one = record(service.folder / "spool/root", "alone", 5)
    done = service.run("ls", "--json")
    assert [c["id"] for c in json.loads(done.stdout)] == [one]
    assert done.stderr.count("does not answer") == 1
    assert "from your own records" in done.stderr
    assert service.ask("show", one[:6])["name"] == "alone"
    service.run("forget", one, "--yes", status=1)
    service.run("open", status=1)
    service.start()
    service.until(lambda: "does not answer" not in service.run("ls").stderr)
    service.until(lambda: [c["id"] for c in service.ask("ls")] == [one])
