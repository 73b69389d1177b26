"""The history on login nodes: what people did is told to whom it concerns, whatever breaks."""

import json
import re
import shlex
import time
from datetime import datetime

import pytest
import yaml

from nodes import ended, left_nothing, node, until

STATE = "/home/dask-site/history"
SPOOL = "/home/dask-site/spool"
UNIT = "dask-history"

WORK = """
if __name__ == "__main__":
    def busy(x, seconds=1.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            x = (x * 1103515245 + 12345) % 2**31
        return x

    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2)
        client.gather(client.map(busy, range(16), pure=False))
"""
FOR_EVER = """
if __name__ == "__main__":
    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1)
        client.submit(abs, -1).result()
        tell(up=True)
        client.submit(time.sleep, 3600).result()
"""

STARTED = """
if __name__ == "__main__":
    with Cluster():
        tell(up=True)
        time.sleep(3600)
"""
# When the service first heard of a cluster, by its own clock.
HEARD = """
import sqlite3, sys
store = sqlite3.connect("file:" + sys.argv[1] + "/history.db?mode=ro", uri=True)
print(*store.execute("SELECT created FROM clusters WHERE id = ?", sys.argv[2:]).fetchone())
"""

COUNTING = """

if __name__ == "__main__":
    done = []

    def count(future):
        done.append(future)
        with open(os.path.expanduser("~/counted.txt"), "w") as file:
            file.write(str(len(done)))

    with Cluster() as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1)
        client.submit(abs, -1).result()
        tell(up=True)
        for number in range(10_000):
            future = client.submit(time.sleep, 0.1 + number / 1e9)
            future.result()
            count(future)
"""

SENT = """
import time
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        client.gather(client.map(abs, range(-40, 0)))
        time.sleep(6)
"""
# Sends an end for a cluster, as who runs it, and with a credential for another request.
SENDING = """
import http.client, ssl
from pathlib import Path
from dask_site.calls import Calls, ServiceError, Where
from dask_site.history.lines import Lines
from dask_site.identity import request_credential

where = Where.read(Path("STATE"))
(line,) = Lines("CLUSTER").of([{"k": "end", "t": time.time(), "how": "stolen"}])

def send():
    query = {"file": "CLUSTER.7.spool", "at": 0}
    try:
        return Calls(where)("POST", ("records",), query, line.data)["at"] == len(line.data)
    except ServiceError as error:
        return error.status

def send_as(meant):
    uri = "/api/v1/records?file=CLUSTER.8.spool&at=0"
    word = request_credential(where.host, "POST", uri, meant)
    context = ssl._create_unverified_context()
    call = http.client.HTTPSConnection(where.host, where.port, timeout=30, context=context)
    call.request("POST", uri, line.data, {"Authorization": "MUNGE " + word})
    return call.getresponse().status

tell(sent=send(), other=send_as(b"other"), same=send_as(line.data))
"""


def where():
    """Return what the writer says of itself."""
    return json.loads(node("login1").check_output(f"cat {STATE}/where.json"))


@pytest.fixture
def history(as_user):
    """Return what `dask-site history ... --json` says to a user."""

    def ask(user, command, host="login1"):
        if command.startswith("ls") and "-n" not in command:
            command += " -n 1000"  # also what the tests before have left
        done = as_user(user, f"module load dask-site && dask-site history {command} --json", host)
        assert done.rc == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def latest(history):
    """Return the summary of a user's latest cluster that began after a moment."""

    def latest(user, since, host="login1"):
        found = [c for c in history(user, "ls", host) if _seconds(c["started"]) >= since - 1]
        return found[0] if found else None

    return latest


def _seconds(moment):
    return datetime.fromisoformat(moment).timestamp()


def sacct_core_seconds(user, since):
    """Return what was charged for the jobs that a user has submitted since a moment."""
    begun = time.strftime("%FT%T", time.gmtime(since - 1))
    asked = f"TZ=UTC sacct -X -n -P -S {begun} -u {user} -o Submit,CPUTimeRAW"
    rows = [line.split("|") for line in node("login1").check_output(asked).split()]
    # sacct also names those that had begun before and ran on.
    return sum(int(seconds) for submitted, seconds in rows if submitted >= begun)


def test_the_unit_may_do_little():
    told = node("login1").check_output(f"systemd-analyze security --no-pager {UNIT}")
    exposure = float(re.search(r"exposure level.*: ([0-9.]+)", told)[1])
    assert exposure < 2.0


def test_its_folders_are_open_as_far_as_they_must():
    modes = node("login1").check_output(f"stat -c '%a %U:%G' {STATE}/.. {STATE} {SPOOL}")
    assert modes.splitlines() == [
        "755 root:root",
        f"755 {UNIT}:{UNIT}",
        f"3773 root:{UNIT}",
    ]


def test_one_node_writes_and_the_other_waits():
    assert where()["host"] in {"login1", "login2"}
    for name in ("login1", "login2"):
        assert node(name).service(UNIT).is_running
        assert node(name).service(UNIT).is_enabled


def test_the_books_of_a_computation_close_against_slurm(python, history, latest):
    since = time.time()
    _, result = python("alice", WORK)
    assert result.rc == 0, result.stderr
    assert left_nothing("alice")
    assert until(lambda: (latest("alice", since) or {}).get("state") == "ended", 60)
    cluster = latest("alice", since)["id"]
    for host in ("login1", "login2"):
        assert history("alice", f"show {cluster}", host)["id"] == cluster
    billed = sacct_core_seconds("alice", since)

    def closes():
        ledger = history("alice", f"show {cluster}")["ledger"]
        return abs(ledger["allocated"] - billed) <= max(2.0, 0.01 * billed)

    assert until(closes, 120), (billed, history("alice", f"show {cluster}")["ledger"])
    jobs = history("alice", f"jobs {cluster}")
    assert {job["pool"] for job in jobs} == {"cpu"}

    def adds_up():
        (mine,) = history("alice", "where --by user")
        clusters = history("alice", "ls -n 1000 --days 30")
        assert mine["allocated"] == pytest.approx(sum(mine["parts"].values()))
        allocated = sum(one["core_seconds"] or 0.0 for one in clusters)
        return mine["allocated"] == pytest.approx(allocated, abs=1) and mine["allocated"] >= billed

    assert until(adds_up, 90)


def test_a_live_cluster_is_there_within_seconds(in_background, latest):
    since = time.time()
    in_background("alice", STARTED)
    assert until(lambda: (latest("alice", since) or {}).get("state") == "running", 60)
    # From when its scheduler began, long before a worker could answer.
    found = latest("alice", since)
    python = "/opt/dask-site/current/env/bin/python"
    command = f"runuser -u {UNIT} -- {python} -c {shlex.quote(HEARD)} {STATE} {found['id']}"
    heard = float(node(where()["host"]).check_output(command))
    assert heard - _seconds(found["started"]) <= 10


@pytest.mark.suite("trixie")
def test_others_see_nothing_of_it(python, history, latest, as_user):
    since = time.time()
    python("alice", WORK)
    assert until(lambda: latest("alice", since), 30)
    cluster = latest("alice", since)["id"]
    for command in (f"show {cluster}", f"forget --yes {cluster}", f"show {cluster[:8]}"):
        done = as_user("bob", f"module load dask-site && dask-site history {command}")
        assert done.rc == 1, done.stdout
        assert cluster in history("alice", f"show {cluster}")["id"]
    assert all(c["owner_name"] == "bob" for c in history("bob", "ls"))
    for path in (f"{SPOOL}/alice", f"{STATE}/history.db"):
        assert as_user("bob", f"cat {path} {path}/*").rc != 0
    assert as_user("bob", f"ls {SPOOL}").rc != 0
    assert as_user("bob", f"mv {SPOOL}/alice {SPOOL}/mine").rc != 0


@pytest.mark.suite("trixie")
def test_what_bob_puts_into_his_spool_harms_nobody(as_user, python, history, latest):
    python("bob", WORK)
    spool = f"{SPOOL}/bob"
    mess = f"""
        cd {spool} && ln -s /etc/shadow a.0.spool; mkfifo b.0.spool; mkdir c.0.spool
        head -c 3000000 /dev/urandom > d.0.spool
        ln -s {SPOOL}/alice e.0.spool; touch "$(printf 'f\\n<script>.0.spool')"
        ln {SPOOL}/alice/* . 2>/dev/null; chmod 0640 d.0.spool
    """
    assert "Permission denied" not in as_user("bob", mess).stderr
    since = time.time()
    python("alice", WORK)
    assert until(lambda: (latest("alice", since) or {}).get("state") == "ended", 60)
    for name in ("login1", "login2"):
        assert node(name).service(UNIT).is_running
    as_user("bob", f"rm -rf {spool}")


@pytest.fixture
def submitted(as_user):
    """Submit a script of Python as a user does, with options and a line of shell; return the id."""

    def submit(user, name, code, options, line=""):
        script = (
            f"#!/bin/bash -l\n#SBATCH -p standard -n 1 -c 1 --mem=800 {options}\n"
            f"module load dask-site\n{line}\nexec python {name}\n"
        )
        as_user(user, f"printf %s {shlex.quote(code)} > {name}")
        job = as_user(user, f"printf %s {shlex.quote(script)} | sbatch --parsable").stdout.strip()
        assert job.isdigit()
        return job

    return submit


@pytest.mark.suite("trixie")
def test_a_cluster_that_its_walltime_ends_says_so(submitted, history, latest):
    since = time.time()
    code = (
        "import time\nfrom distributed import LocalCluster, Client\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1) as c, Client(c) as client:\n"
        "        client.submit(time.sleep, 3600).result()\n"
    )
    job = submitted("carol", "for_ever.py", code, "-t 1")
    assert until(lambda: latest("carol", since), 60)
    assert until(lambda: ended(job) == ["TIMEOUT"], 150)
    assert until(lambda: latest("carol", since)["state"] == "ended", 90)
    # Its scheduler was told to end by a signal; the accounting of its job knows why.
    assert until(lambda: latest("carol", since)["how"] == "TIMEOUT", 150)


@pytest.mark.suite("trixie")
def test_a_job_that_can_not_write_to_the_spool_sends_its_records(
    submitted, python, history, latest
):
    since = time.time()
    spool = "export DASK_DASK_SITE__HISTORY__SPOOL='/proc/none/$USER'"
    submitted("alice", "sent.py", SENT, "-t 5 -o sent.log", spool)
    log = "/home/alice/sent.log"
    over = until(lambda: (latest("alice", since) or {}).get("state") == "ended", 150)
    assert over, node("login1").run(f"cat {log}").stdout
    found = latest("alice", since)
    assert (found["tasks"], found["how"]) == (40, "closed")
    assert not node("login1").check_output(f"find {SPOOL} -name '{found['id']}*'")
    assert "history of this cluster" not in node("login1").check_output(f"cat {log}")
    code = SENDING.replace("STATE", STATE).replace("CLUSTER", found["id"])
    facts, result = python("bob", code, host="c2")
    assert facts == {"sent": 403, "other": 401, "same": 403}, result.stderr
    time.sleep(8)
    assert latest("alice", since)["how"] == "closed"
    assert found["id"] not in {one["id"] for one in history("bob", "ls")}
    # The control: the same of alice is taken, and as it is older than what is known, says nothing.
    facts, result = python("alice", code, host="c2")
    assert facts == {"sent": True, "other": 401, "same": 200}, result.stderr
    time.sleep(8)
    assert latest("alice", since)["how"] == "closed"


@pytest.mark.suite("trixie")
def test_the_other_node_takes_over_and_nothing_is_lost_or_doubled(python, history, latest):
    before = {c["id"]: c["tasks"] for c in history("alice", "ls")}
    writer = where()["host"]
    other = {"login1": "login2", "login2": "login1"}[writer]
    since = time.time()
    node(writer).check_output(f"systemctl kill --signal=KILL {UNIT}; systemctl stop {UNIT}")
    try:
        _, result = python("alice", WORK)
        assert result.rc == 0
        assert until(lambda: where()["host"] == other, 60)
        assert until(lambda: (latest("alice", since) or {}).get("state") == "ended", 60)
        after = {c["id"]: c["tasks"] for c in history("alice", "ls", other)}
        assert {name: after[name] for name in before} == before
        assert history("alice", "ls", writer) == history("alice", "ls", other)
    finally:
        node(writer).check_output(f"systemctl start {UNIT}")
    assert node(writer).service(UNIT).is_running
    assert where()["host"] == other


@pytest.mark.suite("trixie")
def test_a_service_that_is_killed_is_there_again_with_all_it_had(history):
    writer = where()["host"]
    other = {"login1": "login2", "login2": "login1"}[writer]
    # The first, of which the accounting has long said all.
    *_, one = (c for c in history("alice", "ls") if c["state"] == "ended" and c["core_seconds"])
    tasks = {c["id"]: c["tasks"] for c in history("alice", "ls")}
    ledger = history("alice", f"show {one['id']}")["ledger"]
    # Nobody takes over: systemd alone has it started again.
    node(other).check_output(f"systemctl stop {UNIT}")
    try:
        main = f"systemctl show -p MainPID --value {UNIT}"
        before = node(writer).check_output(main)
        assert before != "0"
        node(writer).check_output(f"kill -KILL {before}")
        assert until(lambda: node(writer).check_output(main) not in {"0", before}, 60)
        status = f"systemctl show -p StatusText --value {UNIT}"
        assert until(lambda: node(writer).check_output(status) == "writing", 60)
        after = {c["id"]: c["tasks"] for c in history("alice", "ls")}
        assert {name: after[name] for name in tasks} == tasks
        assert history("alice", f"show {one['id']}")["ledger"] == ledger
    finally:
        node(other).check_output(f"systemctl start {UNIT}")


@pytest.mark.suite("trixie")
def test_a_backup_is_made_while_it_runs_and_is_put_back(python, history, latest, as_user):
    program = "/opt/dask-site/current/env/bin/dask-site"
    site = "/opt/dask-site/current/etc/dask/site.yaml"
    since = time.time()
    _, result = python("alice", WORK)
    assert result.rc == 0, result.stderr
    assert until(lambda: (latest("alice", since) or {}).get("state") == "ended", 60)
    cluster = latest("alice", since)["id"]
    assert until(lambda: {j["state"] for j in jobs(history, cluster)} == {"COMPLETED"}, 280)
    writer = node(where()["host"])
    before = history("alice", "ls")

    def told():
        return [history("alice", f"{what} {cluster}") for what in ("show", "jobs", "cost")]

    whole = told()
    copy = f"{STATE}/copy.db"
    as_service = f"runuser -u {UNIT} -- env DASK_CONFIG={site} {program} history"
    writer.check_output(f"{as_service} backup {copy}")
    try:
        forget = f"module load dask-site && dask-site history forget --yes {cluster}"
        assert as_user("alice", forget).rc == 0
        assert cluster not in {c["id"] for c in history("alice", "ls")}
        for name in ("login1", "login2"):
            node(name).check_output(f"systemctl stop {UNIT}")
        # Only the copy has it: there is nothing left to be read again.
        writer.check_output(f"rm -f {SPOOL}/alice/{cluster}.*")
        writer.check_output(f"{as_service} restore {copy}")
    finally:
        for name in ("login1", "login2"):
            node(name).check_output(f"systemctl start {UNIT}")
        writer.run(f"rm -f {copy}")
    assert until(lambda: {c["id"] for c in history("alice", "ls")} >= {c["id"] for c in before}, 60)
    assert told() == whole


@pytest.mark.suite("trixie")
def test_a_scheduler_that_is_killed_loses_less_than_a_tick(in_background, history, latest, login1):
    since = time.time()
    _, pid, _ = in_background("alice", COUNTING)
    assert until(lambda: (latest("alice", since) or {}).get("tasks", 0) > 50, 60)
    login1.check_output(f"kill -KILL {pid}")
    time.sleep(8)
    killed = latest("alice", since)
    done = int(login1.check_output("cat /home/alice/counted.txt"))
    assert done - 60 <= killed["tasks"], "more than five seconds of it are lost"
    ledger = history("alice", f"show {killed['id']}")["ledger"]
    assert ledger["allocated"] >= ledger["parts"]["non-cpu"] >= 0.1 * (done - 60)
    login1.check_output("rm /home/alice/counted.txt")


@pytest.mark.suite("trixie")
def test_what_slurms_accounting_could_not_say_comes_later(python, history, latest):
    since = time.time()
    node("ctl").check_output("systemctl stop slurmdbd")
    try:
        _, result = python("alice", WORK)
        assert result.rc == 0, result.stderr
        assert until(lambda: (latest("alice", since) or {}).get("state") == "ended", 60)
        assert history("alice", f"show {latest('alice', since)['id']}")["ledger"]["allocated"] > 0
    finally:
        node("ctl").check_output("systemctl start slurmdbd")
    cluster = latest("alice", since)["id"]
    assert until(lambda: any(j["state"] == "COMPLETED" for j in jobs(history, cluster)), 280)


def jobs(history, cluster):
    return history("alice", f"jobs {cluster}")


@pytest.fixture
def in_postgresql(login1):
    """Run the service a second time, with its store in PostgreSQL on the controller."""
    ctl, folder, port = node("ctl"), "/home/dask-site/in-postgresql", 8792
    programs = ctl.check_output("ls -d /usr/lib/postgresql/*/bin").split()[-1]
    as_postgres = f"cd / && runuser -u postgres -- {programs}"
    ctl.check_output(
        f"install -d -o postgres /tmp/pg && {as_postgres}/initdb -D /tmp/pg/data -A trust "
        "&& echo 'host all all samenet trust' >> /tmp/pg/data/pg_hba.conf "
        f"&& {as_postgres}/pg_ctl -w -D /tmp/pg/data -l /tmp/pg/log "
        "-o '-k /tmp/pg -c listen_addresses=*' start "
        f"&& {as_postgres}/createuser -h /tmp/pg history "
        f"&& {as_postgres}/createdb -h /tmp/pg -O history history"
    )
    login1.check_output(f"install -d -o {UNIT} -g {UNIT} {folder}")
    site = yaml.safe_load(login1.check_output("cat /opt/dask-site/current/etc/dask/site.yaml"))
    site["dask_site"]["history"] |= {
        "state": folder,
        "store": "postgresql+psycopg://history@ctl/history",
        "socket": f"/run/{UNIT}-2/history.sock",
        "port": port,
    }
    text = shlex.quote(json.dumps(site))
    login1.check_output(f"printf %s {text} > {folder}/site.yaml")
    for name in ("login1", "login2"):
        node(name).check_output(
            f"systemd-run --quiet --collect --unit={UNIT}-2 --uid={UNIT} --gid={UNIT} "
            f"-p RuntimeDirectory={UNIT}-2 -p Type=notify "
            f"/opt/dask-site/current/env/bin/dask-site history serve {folder}/site.yaml"
        )
    yield folder
    for name in ("login1", "login2"):
        node(name).run(f"systemctl stop {UNIT}-2")
    login1.run(f"rm -rf {folder}")
    ctl.run(f"{as_postgres}/pg_ctl -m immediate -D /tmp/pg/data stop; rm -rf /tmp/pg")


@pytest.mark.suite("trixie")
def test_the_same_in_postgresql(in_postgresql, as_user, history):
    def asked(host, command):
        setting = f"DASK_DASK_SITE__HISTORY__STATE={in_postgresql}"
        command = f"module load dask-site && {setting} dask-site history {command} --json"
        done = as_user("alice", command, host)
        assert done.rc == 0, done.stderr
        return json.loads(done.stdout)

    def listed(host):
        return {c["id"]: c["tasks"] for c in asked(host, "ls -n 1000")}

    def ledger(host):
        found = asked(host, f"show {one}")["ledger"]
        return found["allocated"], found["parts"]

    kept = {c["id"]: c for c in history("alice", "ls -n 1000")}
    spool = node("login1").check_output(f"ls {SPOOL}/alice")
    still = {name: c["tasks"] for name, c in kept.items() if name in spool}
    assert still
    ended = [n for n in still if kept[n]["state"] == "ended" and kept[n]["core_seconds"]]
    one = ended[-1]
    expected = history("alice", f"show {one}")["ledger"]
    whole = pytest.approx(expected["allocated"]), pytest.approx(expected["parts"], abs=1e-6)
    assert until(lambda: still.items() <= listed("login1").items(), 30)
    # Slurm's accounting is asked for anew.
    assert until(lambda: ledger("login1") == whole, 280), (ledger("login1"), expected)
    writer = json.loads(node("login1").check_output(f"cat {in_postgresql}/where.json"))["host"]
    other = {"login1": "login2", "login2": "login1"}[writer]
    node(writer).check_output(f"systemctl stop {UNIT}-2")
    found = f"grep -q '\"{other}\"' {in_postgresql}/where.json"
    assert until(lambda: node("login1").run(found).rc == 0, 30)
    assert still.items() <= listed(other).items()
    assert ledger(other) == whole
