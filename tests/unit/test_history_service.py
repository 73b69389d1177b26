"""The parts of the history service, one by one."""

import asyncio
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from history_storing import close_all, record, spool, story
from sqlalchemy.exc import OperationalError

from dask_site.history.costs import Tariff
from dask_site.history.service import certificate, metrics
from dask_site.history.service.context import Context, NoStoreError
from dask_site.history.service.lease import DatabaseLease, FileLease
from dask_site.history.service.loops import Loops, _Step
from dask_site.history.service.rates import rates
from dask_site.history.service.requests import host_of
from dask_site.history.service.sessions import Sessions, local_path
from dask_site.history.service.settings import Settings
from dask_site.history.store import Store, StoreError
from dask_site.history.store.journals import journal_for
from dask_site.people import name_of
from dask_site.services.access import Directory, Viewer, uid_of
from dask_site.services.audit import AuditLog
from dask_site.site import Site, SiteError
from dask_site.whole import make_folder, write_whole

ROOT = Path(__file__).parents[2]
_ALL = (date(1970, 1, 1), date(2100, 1, 1))
NO_SPACE = sqlite3.OperationalError("no space")


def site(manager="local", **history):
    return Site.from_mapping(
        {
            "schema": 1,
            "name": "t",
            "resource_manager": manager,
            "pools": {"cpu": {"cores": 1, "memory": "1GiB", "walltime": "1h"}},
            "history": {"enabled": True, "spool": "/var/spool/x/$USER", **history},
        }
    )


@pytest.fixture
def context(tmp_path):
    (tmp_path / "spool").mkdir()
    described = site(state=str(tmp_path), spool=f"{tmp_path}/spool/$USER", admins=["root"])
    settings = Settings.of_site(described)
    with Store(settings.store) as store, ThreadPoolExecutor(2) as threads:
        directory = Directory(settings.admins)
        log = AuditLog(tmp_path / "audit")
        made = Context(described, settings, directory, Sessions(), log, threads)
        made.opened, made.writer = store, True
        yield made


# -- settings --------------------------------------------------------------------------------


def test_settings_of_a_site():
    found = Settings.of_site(
        site(
            hosts=["Dask.Example.org"], metrics_from=["10.0.0.1/8"], retention={"clusters": "3650d"}
        )
    )
    assert found.store == "sqlite:////var/lib/dask-site/history.db"
    assert found.spool == Path("/var/spool/x")
    assert {"dask.example.org", "localhost"} <= found.names
    assert found.retention.clusters == 3650 * 86400
    assert str(found.metrics_from[0]) == "10.0.0.0/8"
    assert found.made and found.key.parent == found.state


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ({"spool": "~/.local/spool"}, "ends with /$USER"),
        ({"spool": "$NOWHERE/x/$USER"}, "not an absolute path"),
        ({"state": "$NOWHERE/x"}, "not an absolute path"),
        ({"certificate": "/x.pem"}, "history.key: is missing"),
        ({"key": "/x.key"}, "history.certificate: is missing"),
        ({"store": "postgresql+psycopg://u:secret@h/d"}, "a password stands in the URL"),
        ({"store": "postgresql://h/d?password=x"}, "a password stands in the URL"),
        ({"store": "mysql://h/d"}, "is no store"),
        ({"admins": ["a b"]}, "admins"),
        ({"metrics_from": ["everywhere"]}, "neither an address nor a network"),
        ({"port": 0}, "less than 1"),
        ({"retention": {"samples": "0d"}}, "not longer than zero"),
    ],
)
def test_settings_that_can_not_serve_are_refused_in_words(history, why):
    with pytest.raises(SiteError, match=re.escape(why)) as error:
        Settings.of_site(site(**history))
    assert "secret" not in str(error.value)


# -- who may see what ------------------------------------------------------------------------


def test_who_may_see_what():
    user, lead = Viewer("alice", 1), Viewer("lead", 2, accounts=frozenset({"climate"}))
    assert user.may_see("alice") and user.may_see(1, "climate")
    assert not user.may_see("bob") and not user.may_see(2, "climate") and not user.may_see(-1)
    assert lead.may_see("bob", "climate") and not lead.may_see("bob", "other")
    assert not lead.may_see("bob", "") and not lead.may_see("bob")
    assert Viewer("x", 3, admin=True).may_see("bob")


def test_administrators_and_coordinators_are_users_and_groups():
    me = name_of(os.getuid())
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    assert Directory([me]).viewer(os.getuid()).admin
    assert Directory([f"@{group}"]).viewer(os.getuid()).admin
    assert not Directory([group + "x", "@"]).viewer(os.getuid()).admin
    found = Directory([], {"a": [me], "b": ["@no-such"], "c": [f"@{group}"]}).viewer(os.getuid())
    assert (found.admin, found.accounts) == (False, {"a", "c"})
    assert Directory(["4242424"]).viewer(4242424) == Viewer("4242424", 4242424)
    assert uid_of(me) == os.getuid()
    assert uid_of("4242424") == 4242424
    assert [uid_of(name) for name in ("no such", "-1", "²", "1\0", "9" * 99)] == [None] * 5


def test_the_audit_log_only_grows(tmp_path):
    log = AuditLog(tmp_path / "audit")
    viewer = Viewer("root", 0, admin=True)
    log.note(viewer, "look", cluster="c\n1", path="x" * 10_000)
    AuditLog(tmp_path / "audit").note(viewer, "forget", cluster="c2")
    (file,) = (tmp_path / "audit").iterdir()
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["user"], first["what"], first["cluster"]) == ("root", "look", "c\n1")
    assert len(first["path"]) == 500
    assert second["cluster"] == "c2"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# -- sessions --------------------------------------------------------------------------------


def test_a_link_lets_in_once_and_not_for_long():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    word, path, uid = sessions.open(sessions.token(7, "/clusters/x?a=b"))
    assert (path, uid, sessions.user(word)) == ("/clusters/x?a=b", 7, 7)
    token = sessions.token(7, "/")
    assert sessions.open(token) is not None
    assert sessions.open(token) is None
    late = sessions.token(7, "/")
    now[0] = 61.0
    assert sessions.open(late) is None
    assert sessions.user(word) == 7
    now[0] = 12 * 3600 + 1.0
    assert sessions.user(word) is None
    assert [sessions.user(x) for x in ("", "x", "\ud800")] == [None] * 3


def test_sessions_end_and_are_bounded_for_each_user():
    sessions = Sessions()
    others = sessions.open(sessions.token(8, "/"))[0]
    words = [sessions.open(sessions.token(7, "/"))[0] for _ in range(50)]
    assert len(sessions) == 21
    assert [sessions.user(word) for word in words] == [None] * 30 + [7] * 20
    assert sessions.user(others) == 8
    sessions.close(others)
    assert sessions.user(others) is None


@pytest.mark.parametrize(
    "path", ["", "x", "//x", "/\\x", "https://x/", "/a b", "/\t", "/é", "/" + "a" * 2000, "/\n"]
)
def test_links_lead_nowhere_else(path):
    with pytest.raises(ValueError, match=r"path"):
        local_path(path)


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.b:1", "a.b"), ("[::1]:5", "::1"), ("a.b.", "a.b"), ("", ""), ("[", ""), ("u@h", "h")],
)
def test_the_name_in_a_host_header(header, name):
    assert host_of(header) == name


# -- one writer ------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from dask_site.history.service.lease import FileLease
lease = FileLease(Path(sys.argv[1]))
print(lease.take(), flush=True)
time.sleep(60)
"""


def held_elsewhere(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"True\n"
    return process


def test_the_lease_of_one_who_died_is_free(tmp_path):
    path = tmp_path / "writer.lock"
    process = held_elsewhere(path)
    lease = FileLease(path)
    assert not lease.take() and not lease.held()
    assert f"process {process.pid}" in lease.holder()
    process.kill()
    process.wait()
    assert lease.take() and lease.held()
    lease.release()
    assert not lease.held()


@pytest.mark.parametrize(
    "lose",
    [
        lambda path: path.unlink(),
        lambda path: path.replace(path.with_name("other")),
        lambda path: path.write_text('{"word": "another"}'),
        lambda path: path.write_text("x"),
    ],
)
def test_a_lease_that_is_lost_stays_lost(tmp_path, lose):
    path = tmp_path / "writer.lock"
    lease = FileLease(path)
    assert lease.take()
    lose(path)
    assert not lease.held()


def test_a_lease_is_no_link(tmp_path):
    (tmp_path / "writer.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        FileLease(tmp_path / "writer.lock").take()


def test_a_lease_in_postgresql(new_postgresql):
    url = new_postgresql()
    one, other = DatabaseLease(url), DatabaseLease(url)
    assert one.take() and one.held()
    assert not other.take() and not other.held()
    one.release()
    assert not one.held()
    assert other.take() and other.held()
    # Whoever ends the connection ends the lease.
    other._connection.connection.driver_connection.close()
    assert not other.held()
    other.release()


# -- files -----------------------------------------------------------------------------------


def test_files_are_whole_and_as_open_as_they_shall_be(tmp_path):
    before = os.umask(0o077)
    try:
        make_folder(tmp_path / "a" / "b")
        write_whole(tmp_path / "a" / "b" / "f", b"1", 0o644)
        write_whole(tmp_path / "a" / "b" / "f", b"2", 0o644)
    finally:
        os.umask(before)
    path = tmp_path / "a" / "b" / "f"
    assert path.read_bytes() == b"2"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)] == [
        0o644,
        0o755,
        0o755,
    ]
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError):
        make_folder(path / "c")


def test_a_certificate_is_made_once_and_anew_for_other_names(tmp_path):
    files = tmp_path / "c.pem", tmp_path / "c.key"
    assert certificate.ensure(*files, ["a.example", "127.0.0.1"])
    assert stat.S_IMODE(files[1].stat().st_mode) == 0o600
    first = files[0].read_bytes()
    assert not certificate.ensure(*files, ["a.example", "127.0.0.1"])
    assert files[0].read_bytes() == first
    assert certificate.ensure(*files, ["a.example", "b.example"])
    files[1].write_bytes(b"spoiled")
    assert certificate.ensure(*files, ["a.example"])
    certificate.server_context(*files)


def test_the_journal_of_the_store_can_be_said(tmp_path):
    fitting = journal_for(tmp_path)[0]
    for said, used in (("delete", "delete"), ("wal", "wal"), ("auto", fitting)):
        (tmp_path / said).mkdir()
        settings = Settings.of_site(site(state=str(tmp_path / said), journal=said))
        assert settings.journal_used == used
        with settings.opened() as store:
            store.lead()
        with sqlite3.connect(tmp_path / said / "history.db") as conn:
            assert conn.execute("PRAGMA journal_mode").fetchone() == (used,)
    with pytest.raises(SiteError, match="history.journal.*\n?.*truncate"):
        site(journal="truncate")


def dearer(described, price=1.5):
    return Site.from_mapping(
        {
            **described.to_mapping(),
            "pools": {"cpu": {"cores": 1, "memory": "1GiB", "cost": {"core_hour": price}}},
        }
    )


def test_old_work_keeps_its_price(tmp_path):
    described, path = site(), tmp_path / "tariff.json"
    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        assert rates(store, path, described) == (Tariff.of_site(described), True)
        before = time.time()
        changed, _ = rates(store, path, dearer(described))
        assert [since >= before for since, _ in changed.dated] == [False, True]
        assert rates(store, path, dearer(described)) == (changed, True)
        store.backup(tmp_path / "copy.db")
    # A copy alone has them, and puts the file right.
    for spoil in (path.unlink, lambda: path.write_bytes(b"\xff[1]")):
        spoil()
        with Store(f"sqlite:///{tmp_path}/copy.db") as store:
            assert rates(store, path, dearer(described)) == (changed, True)
    assert Tariff.from_list(json.loads(path.read_bytes())) == changed
    # What an older release has beside its store, or what is newer than a copy, counts too.
    with Store(f"sqlite:///{tmp_path}/new.db") as store:
        assert rates(store, path, dearer(described)) == (changed, True)
        assert store.tariff() == changed
    with Store(f"sqlite:///{tmp_path}/other.db") as store:
        path.write_text("[1]")
        with pytest.raises(StoreError, match="put back a copy"):
            rates(store, path, described)


def test_a_clock_behind_the_last_rates_is_a_warning(tmp_path, caplog):
    described, path = site(), tmp_path / "tariff.json"
    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        rates(store, path, described)
        changed, _ = rates(store, path, dearer(described), 2000.0)
        assert rates(store, path, dearer(described, 9.0), 1000.0) == (changed, False)
        assert "clock of this node is behind" in caplog.text
        assert store.tariff() == changed
        later, whole = rates(store, path, dearer(described, 9.0), 3000.0)
        assert whole and [since for since, _ in later.dated] == [0, 2000, 3000]


# -- loops -----------------------------------------------------------------------------------


def test_without_a_store_it_says_where_it_is(context):
    store, context.opened, context.elsewhere = context.opened, None, "over there"
    with pytest.raises(NoStoreError, match="over there"):
        _ = context.store
    context.opened = store


def test_what_falls_silent_is_lost_after_a_while(context):
    old = time.time() - 5000
    context.store.ingest(1, [record(1, "cluster", "quiet", old, started=old)], now=old)
    context.store.ingest(1, [record(1, "cluster", "talking", started=old)])
    loops = Loops(context)
    loops._reap()
    assert context.store.load("quiet").end is None  # not before the spools were read
    loops._collect()
    loops._reap()
    end = context.store.load("quiet").end
    assert (end.how, end.t) == ("lost", old)
    assert context.store.load("talking").end is None
    assert context.progress.counts["silent"] == 1


def test_the_managers_verdict_counts_and_is_waited_for(context):
    from dask_site.history.model import AccountedJob

    old = time.time() - 5000
    for name in ("judged", "open"):
        records = [record(1, "cluster", name, old, started=old, job="1")]
        context.store.ingest(1, records, now=old)
    context.site = site("slurm")
    loops = Loops(context)
    loops._collect()
    loops._reap()
    assert context.store.load("judged").end.how == "silent"
    job = AccountedJob("1", state="TIMEOUT", start=old, end=old + 1, cores=1)
    context.store.put_accounting("judged", [job])
    # Another writer takes over in between.
    loops = Loops(context)
    loops._reap()
    assert context.store.load("judged").end.how == "TIMEOUT"
    assert context.store.load("open").end.how == "silent"
    loops._pending = {name: since - 4000 for name, since in loops._pending.items()}
    loops._reap()
    assert context.store.load("open").end.how == "lost"


@pytest.mark.parametrize("step", ["end", "silent"])
def test_a_verdict_is_not_lost_where_the_store_fails_for_once(context, monkeypatch, step):
    old = time.time() - 5000
    for name in ("one", "two"):
        context.store.ingest(1, [record(1, "cluster", name, old, started=old)], now=old)
    loops = Loops(context)
    loops._reap()
    loops._collect()
    real = getattr(context.store, step)

    def fails(*arguments):
        if step == "silent":
            real(*arguments)  # some are closed, and others are not
        raise OperationalError("BEGIN IMMEDIATE", {}, NO_SPACE)

    with monkeypatch.context() as patch:
        patch.setattr(context.store, step, fails)
        with pytest.raises(OperationalError):
            loops._reap()
    loops._reap()
    assert {context.store.load(name).end.how for name in ("one", "two")} == {"lost"}
    loops._reap()
    assert loops._pending == {}


def test_the_loops_collect_count_and_end(context):
    folder = context.settings.spool / "me"
    spool(folder, story("c1"))

    async def main():
        loops = Loops(context, collect_every=0.05)
        loops.start()
        while not context.progress.counts["records"]:
            await asyncio.sleep(0.02)
        await loops.stop()

    asyncio.run(main())
    assert context.store.load("c1").end.how == "closed"
    assert not list(folder.iterdir())
    assert context.progress.caught_up > 0


@pytest.mark.parametrize(
    "error", [OSError("no space"), OperationalError("BEGIN IMMEDIATE", {}, NO_SPACE)]
)
def test_a_loop_that_fails_says_so_once_and_goes_on(context, caplog, error):
    calls = []

    def step():
        calls.append(1)
        if len(calls) < 4:
            raise error
        return False

    async def main():
        loops = Loops(context)
        loops._tasks.append(
            asyncio.create_task(loops._run(_Step("try", 0, 0.01, step, loops._writing)))
        )
        while len(calls) < 5:
            await asyncio.sleep(0.01)
        await loops.stop()

    asyncio.run(main())
    told = [r.message for r in caplog.records if r.name == "dask_site"]
    assert told == ["Could not try, trying again: no space", "It goes on: try"]
    assert not any(r.exc_info for r in caplog.records)
    assert context.progress.counts["problems"] == 3
    assert not context.progress.problems


# -- metrics ---------------------------------------------------------------------------------


def test_metrics_are_as_prometheus_reads_them(context):
    context.store.ingest(1, story("c1"))
    close_all(context.store)
    context.progress.refused['a "reason"\nwith\\all'] += 2
    text = metrics.exposition(context)
    line = re.compile(
        r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? [-+.e0-9]+)'
    )
    assert [one for one in text.splitlines() if not line.fullmatch(one)] == []
    assert r'{reason="a \"reason\"\nwith\\all"} 2' in text
    total = sum(one.books.allocated for one in context.store.sums(*_ALL, ("pool",)))
    said = [float(one.rpartition(" ")[2]) for one in text.splitlines() if 'part="' in one]
    assert sum(said) == pytest.approx(total) != 0
    assert "dask_site_history_open_books 0" in text
    context.store.ingest(1, story("c2"))
    assert "dask_site_history_open_books 1" in metrics.exposition(context)
    context.writer, context.opened = False, None
    assert "dask_site_history_writer 0" in metrics.exposition(replace(context))


def test_the_dashboard_asks_for_what_there_is(context):
    context.progress.refused["x"] += 1
    context.progress.skipped["x"] += 1
    context.progress.problems["x"] = "y"
    text = metrics.exposition(context)
    path = ROOT / "roles" / "dask_history" / "files" / "grafana-dashboard.json"
    asked = set(re.findall(r"dask_site_history_[a-z_]+", path.read_text()))
    there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert asked and asked <= there
