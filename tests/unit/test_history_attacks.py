"""What hostile users and tired administrators do to the history service."""

import json
import os
import resource
import socket
import sqlite3
import stat
import time
from datetime import date
from pathlib import Path

import pytest
from history_storing import BEGUN, close_all, record, story
from web_serving import DAEMON, NOBODY, ROOT, serving

from dask_site.calls import ServiceDownError, Where
from dask_site.history.service import metrics
from dask_site.history.service.server import ServeError, Service
from dask_site.history.service.settings import Settings
from dask_site.history.store import Store, StoreError
from dask_site.services.access import Viewer
from dask_site.services.audit import AuditLog
from dask_site.services.listening import unix_socket
from dask_site.site import Site

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")
NEVER = (date(1970, 1, 1), date(2100, 1, 1))
OTHERS = ("(others)", "cpu")
WORKER = {"id": "w", "name": "w", "started": BEGUN, "seen": BEGUN, "memory": 0}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, ["root"], {"climate": ["nobody"]}) as pages:
        yield pages


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/history.db") as made:
        yield made


# -- questions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "clusters?since=nan",
        "clusters?until=inf",
        "clusters?since=-infinity",
        "clusters?since=9" + "9" * 5000,
        "clusters?since=yesterday",
        "clusters?most=-1",
        "clusters?most=1e3",
        "clusters?most=%D9%A1",
        "clusters?most=99999999999999999999",
        "clusters?live=maybe",
        "clusters?since=%ff",
        "sums?days=0",
        "sums?days=-5",
        "sums?by=owner",
        "sums?by=day,(select+1)",
        "sums?first=9999-12-31",
        "sums?first=0001-01-01",
        "sums?last=2026-02-30",
    ],
)
def test_what_is_no_number_or_day_is_refused_in_words(served, query):
    status, headers, body = served.get(f"/api/v1/{query}", DAEMON)
    assert status == 400 and json.loads(body)["error"]
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    "query",
    [
        "clusters?since=1e308&until=-1e308",
        "clusters?since=0001-01-01T00:00:00%2B14:00",
        "clusters?until=9999-12-31T23:59:59-14:00",
        "clusters?account='%20OR%201=1%20--",
        "sums?last=0001-01-01",
        "sums?last=0001-01-29",
        "sums?first=0001-01-01&last=0002-01-01",
        "sums?days=3660",
    ],
)
def test_what_is_far_away_or_no_text_of_sql_is_answered(served, query):
    status, _, body = served.get(f"/api/v1/{query}", DAEMON)
    assert status == 200 and list(json.loads(body).values()) == [[]]


def test_a_coordinator_sees_sums_but_no_spans_nor_what_failed(served):
    for name, account in (("in-account", "climate"), ("elsewhere", "secret")):
        span = {"enqueued": 1.0, "execute": {"thread-cpu": 5.0}, "tasks": {"p": {}}}
        one = record(2, "span", name, id="s", name=[f"span-{name}"], **span)
        served.store.ingest(DAEMON, [record(1, "cluster", name, started=1.0), one])
        with served.store._engine.begin() as conn:
            changed = "UPDATE clusters SET account = ? WHERE id = ?"
            conn.exec_driver_sql(changed, (account, name))
    path = "/where?by=span&days=3660&account=climate"
    page = served.page(path, ROOT)
    assert "span-in-account" in page and "span-elsewhere" not in page
    status, _, body = served.get(path, NOBODY)
    assert status == 403 and b"span-" not in body and b"to administrators only" in body
    failed = record(3, "error", "in-account", prefix="p", exception="TheirError", message="no")
    served.store.ingest(DAEMON, [failed])
    days = "days=366&account=climate"
    with served.store._engine.begin() as conn:
        conn.exec_driver_sql("UPDATE clusters SET latest = ?", (time.time(),))
    assert "TheirError" in served.page(f"/site?{days}", ROOT)
    assert "TheirError" not in served.page(f"/site?{days}", NOBODY)
    assert "in-account" in served.page("/?account=climate", NOBODY)
    for where in ("/clusters/in-account", "/api/v1/clusters/in-account"):
        status, _, body = served.get(where, NOBODY)
        assert status == 403 and b"As a coordinator of climate" in body
        assert served.get(where.replace("in-account", "elsewhere"), NOBODY)[0] == 404
    assert "span-" not in served.page("/where?by=span&days=3660&account=secret", NOBODY)
    assert "span-elsewhere" in served.page("/where?by=span&days=3660", DAEMON)
    assert "span-elsewhere" in served.page("/where?by=span&days=3660&account=secret", ROOT)


# -- figures ---------------------------------------------------------------------------------


def test_sums_beyond_64_bits_are_answered(store):
    store.ingest(1, [record(1, "worker", **WORKER, threads=2)], now=BEGUN + 100)
    close_all(store)
    with store._engine.begin() as conn:
        conn.exec_driver_sql(f"UPDATE ledger SET allocated = {2**62}")
        row = "INSERT INTO ledger SELECT day + 1, owner, account, pool, allocated, {} FROM ledger"
        names = [c[1] for c in conn.exec_driver_sql("PRAGMA table_info(ledger)")][5:]
        conn.exec_driver_sql(row.format(", ".join(names)))
    (one,) = store.sums(*NEVER, ())
    assert one.books.allocated == pytest.approx(2**63 / 1000)


def test_pools_that_a_user_makes_up_are_one_in_the_metrics(served):
    made_up = []
    for n in range(1, 40):
        worker = {**WORKER, "id": f"w{n}", "name": f"w{n}", "threads": 1}
        made_up.append(record(n, "worker", "pools", **worker, pool=f'x{n}"}} 1\nfoo {{a="'))
    known = record(50, "worker", "pools", **WORKER, pool="cpu", threads=1)
    served.store.ingest(NOBODY, [*made_up, known])
    close_all(served.store)
    served.context.pool_sums = (0.0, [])
    lines = metrics.exposition(served.context).splitlines()
    idle = [line for line in lines if 'part="idle: unknown"' in line]
    assert {line.partition(",")[0].partition("{")[2] for line in idle} <= {
        'pool=""',
        'pool="cpu"',
        'pool="(others)"',
    }
    seconds = {line.partition(",")[0]: float(line.rpartition(" ")[2]) for line in idle}
    others, cpu = (seconds[f'dask_site_history_core_seconds{{pool="{p}"'] for p in OTHERS)
    assert (others, cpu) == (39 * 50, 50)


# -- files -----------------------------------------------------------------------------------


def test_no_half_line_stays_in_the_audit_log(tmp_path):
    log, viewer = AuditLog(tmp_path), Viewer("root", 0, admin=True)
    log.note(viewer, "look", cluster="c1")
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            log.note(viewer, "look", cluster="c2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    log.note(viewer, "look", cluster="c3")
    assert [json.loads(x)["cluster"] for x in file.read_text().splitlines()] == ["c1", "c3"]


@only_root
def test_another_user_does_not_say_where_the_service_is(tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    said = {"host": "evil", "port": 1, "socket": "", "certificate": "x"}
    file = state / "where.json"
    file.write_text(json.dumps(said))
    os.chown(state, DAEMON, DAEMON)
    assert Where.read(state).host == "evil"  # root wrote it
    os.chown(file, DAEMON, DAEMON)
    assert Where.read(state).host == "evil"  # the service's account
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(ServiceDownError, match="belongs to user 65534"):
        Where.read(state)
    # Who makes a folder in which all may write is no more to be believed than they.
    os.chown(file, DAEMON, DAEMON)
    state.chmod(0o1777)
    with pytest.raises(ServiceDownError, match="not followed"):
        Where.read(state)


def test_the_socket_of_a_service_that_runs_is_not_taken(tmp_path):
    path = tmp_path / "s"
    first = unix_socket(path)
    inode = path.stat().st_ino
    with pytest.raises(OSError, match="another process listens"):
        unix_socket(path)
    assert path.stat().st_ino == inode
    callers = [socket.socket(socket.AF_UNIX) for _ in range(300)]
    for one in callers:  # until no more wait
        one.setblocking(False)
        if one.connect_ex(str(path)):
            break
    with pytest.raises(OSError, match="another process listens"):
        unix_socket(path)
    for one in callers:
        one.close()
    first.close()
    unix_socket(path).close()  # what a dead one left is replaced


@only_root
def test_root_does_not_start_it_in_the_folder_of_its_account(tmp_path):
    described = Site.from_mapping(
        {
            "schema": 1,
            "name": "t",
            "resource_manager": "local",
            "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
            "history": {"state": f"{tmp_path}/state", "spool": f"{tmp_path}/spool/$USER"},
        }
    )
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, DAEMON, DAEMON)
    mask = os.umask(0o077)
    try:
        with pytest.raises(ServeError, match="systemctl start dask-history"):
            Service(described, Settings.of_site(described))._prepared()
    finally:
        os.umask(mask)
    assert list(state.iterdir()) == []


# -- copies ----------------------------------------------------------------------------------


def test_a_copy_takes_no_place_that_it_should_not(store, tmp_path):
    store.ingest(1, story())
    live = tmp_path / "history.db"
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    for path in (live, Path(f"{live}-wal"), tmp_path / "elsewhere" / "history.db"):
        with pytest.raises(StoreError, match="is the history itself"):
            store.backup(path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "fifo", tmp_path / "link", Path("/dev/null"), tmp_path):
        with pytest.raises(StoreError, match="is no regular file"):
            store.backup(path)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert len(store.clusters()) == 1


@only_root
def test_a_copy_is_not_open_because_another_has_opened_its_place(store, tmp_path):
    for uid, mode in ((NOBODY, 0o600), (0, 0o640)):
        place = tmp_path / f"copy-{uid}"
        place.touch()
        place.chmod(0o666 if uid else 0o640)
        os.chown(place, uid, uid)
        store.backup(place)
        assert (stat.S_IMODE(place.stat().st_mode), place.stat().st_uid) == (mode, 0)


@pytest.mark.parametrize("version", ["0000", "", "0001"])
def test_a_file_that_only_looks_like_a_copy_replaces_nothing(store, tmp_path, version):
    store.ingest(1, story())
    foreign = tmp_path / "foreign.db"
    conn = sqlite3.connect(foreign)
    conn.execute("CREATE TABLE alembic_version (version_num TEXT)")
    conn.execute("INSERT INTO alembic_version VALUES (?)", (version,))
    conn.commit()
    conn.close()
    with pytest.raises(StoreError):
        store.restore(foreign)
    assert len(store.clusters()) == 1
    assert not list(tmp_path.glob(".history.db*"))


# -- doors -----------------------------------------------------------------------------------


def test_browsers_are_told_in_a_page_and_programs_in_json(served):
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    token = served.context.sessions.token(DAEMON, "/")
    assert served.get(f"/open/{token}", **browser)[0] == 303
    status, headers, body = served.get(f"/open/{token}", **browser)
    assert status == 401 and headers["Content-Type"].startswith("text/html")
    assert "<code>dask-site history open</code>" in body.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "dask-site history open" in json.loads(served.get(f"/open/{token}")[2])["error"]
    for path in ("/<script>alert(1)</script>", "/open/short", "/clusters/a/b"):
        status, headers, body = served.get(path, **browser)
        assert status == 404 and headers["Content-Type"].startswith("text/html")
        assert b"<script>alert" not in body
        assert json.loads(served.get(path)[2])["error"] == "There is nothing here."
    assert json.loads(served.get("/api/v1/nothing", **browser)[2])["error"]
