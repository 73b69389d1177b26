"""The collector on real spools and real SQLite files."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import date

import pytest
from history_storing import BEGUN, close_all, dump, lines, marks_in, record, spool, story

from dask_site.history.collector import Collector
from dask_site.history.store import Retention, Store

ME = os.geteuid()
NOW = BEGUN + 86400


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture
def store(path):
    with Store(f"sqlite:///{path}", timeout=0.2) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def test_what_is_written_bit_by_bit_is_taken_in_once(store, folder, path, tmp_path):
    said = story(ended=False)
    collector = Collector(store, [folder])
    file = folder / "me" / "c1.0.spool"
    data = lines(said)
    file.parent.mkdir()
    for start in range(0, len(data), 7777):  # torn in the middle of lines
        with file.open("ab") as out:
            out.write(data[start : start + 7777])
        collector.collect(NOW)
    applied = collector.collect(NOW)
    assert (applied.files, applied.taken.applied, applied.bad, applied.more) == (0, 0, 0, False)
    with Store(f"sqlite:///{tmp_path / 'plain.db'}") as plain:
        plain.ingest(ME, said, now=NOW)
    assert dump(f"sqlite:///{path}", "files") == dump(f"sqlite:///{tmp_path / 'plain.db'}", "files")
    assert marks_in(store).popitem()[1].offset == len(data)


def test_a_personal_folder_and_one_of_users(store, folder):
    spool(folder / "alice", story("c1", 2))
    spool(folder, story("c2", 2))
    Collector(store, [folder]).collect(NOW)
    assert {c.id for c in store.clusters()} == {"c1", "c2"}
    assert store.owner_of("c1") == ME


def test_files_go_when_their_cluster_has_ended_and_all_is_stored(store, folder):
    said = story()
    first = spool(folder / "me", said[:100], 0)
    second = spool(folder / "me", said[100:-1], 1)
    collector = Collector(store, [folder])
    assert collector.collect(NOW).deleted == 0
    spool(folder / "me", said[-1:], 1)
    with second.open("ab") as file:
        file.write(lines([record(9999, "end", how="torn")])[:30])
    assert collector.collect(NOW).deleted == 1
    assert (first.exists(), second.exists()) == (False, True)  # it may still grow
    assert collector.collect(NOW).taken.applied == 0
    late = time.time() + 15 * 86400
    assert collector.collect(late).deleted == 1
    collector.collect(late)
    assert marks_in(store) == {}
    assert store.load("c1").end.how == "closed"


def test_a_running_clusters_file_stays(store, folder):
    file = spool(folder / "me", story(ended=False))
    collector = Collector(store, [folder])
    assert [collector.collect(NOW).deleted, collector.collect(NOW).deleted] == [0, 0]
    assert collector.silent(NOW + 1000, 900) == ["c1"]
    assert collector.collect(NOW).deleted == 0  # it may speak again
    assert file.exists()


def test_a_forgotten_cluster_does_not_come_back_and_its_file_goes(store, folder):
    file = spool(folder / "me", story(ended=False))
    collector = Collector(store, [folder])
    collector.collect(NOW)
    store.forget("c1")
    spool(folder / "me", [record(5000, "end", how="closed")])
    done = collector.collect(NOW)
    assert done.taken.refused == {"forgotten": 1}
    assert (store.clusters(), file.exists()) == ([], False)


def test_a_pruned_cluster_is_not_counted_again_when_its_file_is_another(store, folder):
    file = spool(folder / "me", story())
    data = file.read_bytes()
    collector = Collector(store, [folder])
    collector.collect(NOW)
    close_all(store)
    days = date(1970, 1, 1), date(2100, 1, 1)
    before = store.sums(*days)
    for day in (181, 182, 1000):
        store.prune(Retention(), NOW + day * 86400)
        (folder / "me" / f"c1.{day}.spool").write_bytes(data)
        done = collector.collect(NOW + day * 86400)
        assert (done.taken.applied, store.clusters()) == (0, [])
        close_all(store)
        assert store.sums(*days) == before


def test_what_a_hostile_user_leaves_is_passed_over(store, folder, tmp_path):
    mine = folder / "me"
    spool(mine, story("good", 2))
    secret = spool(tmp_path / "elsewhere", story("secret", 2))
    (mine / "link.0.spool").symlink_to(secret)
    os.link(secret, mine / "hard.0.spool")
    os.mkfifo(mine / "fifo.0.spool")
    (mine / "dir.0.spool").mkdir()
    (mine / "odd\udcff\n.0.spool").write_bytes(lines(story("odd", 2)))
    (mine / "notes.txt").write_text("x")
    with (mine / "huge.0.spool").open("wb") as file:
        file.truncate(1 << 40)
    (mine / "garbage.0.spool").write_bytes(random.Random(1).randbytes(300_000))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    done = Collector(store, [folder]).collect(NOW)
    assert [c.id for c in store.clusters()] == ["good"]
    assert done.bad > 0
    assert done.skipped == {
        "no regular file": 2 + 1,  # the linked folder too
        "several names": 1,
        "no spool file's name": 2,
        "larger than a spool file gets": 1,
    }
    assert secret.exists()


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
def test_a_file_counts_for_its_owner_and_only_in_his_folder(store, folder):
    alice, bob = 4_000_001, 4_000_002
    for name, uid in (("alice", alice), ("bob", bob)):
        os.chown(spool(folder / name, story(name, 2)), uid, -1)
        os.chown(folder / name, uid, -1)
    os.chown(spool(folder / "alice", story("put-here", 2)), bob, -1)
    os.chown(spool(folder, story("at-the-top", 2)), bob, -1)
    collector = Collector(store, [folder])
    collector.collect(NOW)
    os.chown(spool(folder / "bob", [record(999, "end", "alice", how="stolen")], 1), bob, -1)
    done = collector.collect(NOW)
    assert {c.id: c.owner for c in store.clusters()} == {"alice": alice, "bob": bob}
    assert done.skipped["not the owner of its folder"] == 2
    assert store.refusals() == {(bob, "another's cluster"): 1}
    assert store.load("alice").end.how == "closed"


def test_one_user_with_very_much_leaves_others_their_turn(store, folder, monkeypatch):
    monkeypatch.setattr("dask_site.history.finding.BYTES", 10_000)
    spool(folder / "a", story("many", 100, ended=False))
    spool(folder / "b", story("few", 2))
    collector = Collector(store, [folder])
    first = collector.collect(NOW)
    assert first.more
    assert collector.silent(NOW + 10_000) == []  # there may be more to hear of it
    assert {c.id for c in store.clusters()} == {"many", "few"}
    while collector.collect(NOW).more:
        pass
    assert len(store.load("many").samples) == 200


def test_an_idle_file_stays_until_all_of_it_was_read(store, folder, monkeypatch):
    monkeypatch.setattr("dask_site.history.finding.BYTES", 10_000)
    file = spool(folder / "me", story("many", 100, ended=False))
    late = file.stat().st_mtime + 15 * 86400
    collector = Collector(store, [folder])
    passes = [collector.collect(late)]
    while passes[-1].more:
        assert file.exists()
        passes.append(collector.collect(late))
    assert len(passes) > 5
    assert [done.deleted for done in passes] == [0] * (len(passes) - 1) + [1]
    assert len(store.load("many").samples) == 200


def test_an_idle_file_that_cant_be_read_stays(store, folder, monkeypatch):
    said = story("c1", 5, ended=False)
    file = spool(folder / "me", said[:10])
    collector = Collector(store, [folder])
    collector.collect(NOW)
    spool(folder / "me", said[10:])
    late = file.stat().st_mtime + 15 * 86400

    def broken(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("dask_site.history.collector.read_spool", broken)
        done = collector.collect(late)
    assert (done.skipped, done.deleted, file.exists()) == ({"file: Input/output error": 1}, 0, True)
    assert collector.collect(late).deleted == 1
    assert store.load("c1").seen == said[-1].t


def test_a_file_made_anew_is_read_from_its_start(store, folder):
    file = spool(folder / "me", story("c1", 5, ended=False))
    collector = Collector(store, [folder])
    collector.collect(NOW)
    with file.open("wb") as out:
        out.write(lines(story("c2", 2, ended=False)))
    collector.collect(NOW)
    assert {c.id for c in store.clusters()} == {"c1", "c2"}


def test_a_locked_store_is_caught_up_with_later(store, folder, path):
    spool(folder / "me", story())
    collector = Collector(store, [folder])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = collector.collect(NOW)
    assert "locked" in done.problem
    assert done.deleted == 0
    other.execute("ROLLBACK")
    other.close()
    done = collector.collect(NOW)
    assert (done.problem, done.deleted) == (None, 1)
    assert len(store.load("c1").workers) == 7


_COLLECT = """
import resource, signal, sys
from dask_site.history import collector as module
from dask_site.history.store import Retention, Store
module._AT_ONCE = 40
most = int(sys.argv[3])
store = Store(f"sqlite:///{sys.argv[1]}")
print("ready", flush=True)
if most:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
done = module.Collector(store, [sys.argv[2]]).collect(float(sys.argv[4]))
print(done.problem, done.deleted, flush=True)
"""


def _collector(path, folder, most=0):
    command = [sys.executable, "-c", _COLLECT, str(path), str(folder), str(most), str(NOW)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _undisturbed(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'plain.db'}") as plain:
        for n in range(6):
            plain.ingest(ME, story(f"c{n}", 30), now=NOW)
    return dump(f"sqlite:///{tmp_path / 'plain.db'}", "files")


def _write_six(folder):
    for n in range(6):
        spool(folder / "me", story(f"c{n}", 30))


@pytest.mark.slow
def test_killed_at_any_instant_it_ends_as_if_it_had_not_been(tmp_path, folder, path):
    _write_six(folder)
    with Store(f"sqlite:///{path}"):
        pass
    chance = random.Random(7)
    killed = 0
    for _ in range(20):
        process = _collector(path, folder)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.12))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed >= 5
    with Store(f"sqlite:///{path}") as store:
        done = Collector(store, [folder]).collect(NOW)
        assert done.problem is None
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert dump(f"sqlite:///{path}", "files") == _undisturbed(tmp_path)
    assert not list((folder / "me").iterdir())


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path, folder, path):
    _write_six(folder)
    with Store(f"sqlite:///{path}"):
        pass
    undisturbed = _undisturbed(tmp_path)
    whole = (tmp_path / "plain.db").stat().st_size
    problems = []
    for most in (whole // 2, whole * 3 // 4, 0):
        before = sorted((folder / "me").iterdir())
        process = _collector(path, folder, most)
        out = process.communicate(timeout=60)[0].splitlines()
        problem, deleted = out[-1].rsplit(" ", 1)
        problems.append(problem)
        if most:
            assert deleted == "0"
            assert sorted((folder / "me").iterdir()) == before
    assert "disk" in problems[0]
    assert problems[-1] == "None"
    assert dump(f"sqlite:///{path}", "files") == undisturbed


@pytest.mark.skipif(ME != 0, reason="only root can mount")
@pytest.mark.slow
def test_a_full_file_system_loses_nothing(tmp_path, folder):
    small = tmp_path / "small"
    small.mkdir()
    undisturbed = _undisturbed(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no mount here")
    try:
        _write_six(folder)
        path = small / "history.db"
        with Store(f"sqlite:///{path}") as store:
            room = path.stat().st_size + 40_000
            subprocess.run(["mount", "-o", f"remount,size={room}", small], check=True)
            done = Collector(store, [folder]).collect(NOW)
            assert "full" in done.problem
            assert len(list((folder / "me").iterdir())) == 6
            subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
            done = Collector(store, [folder]).collect(NOW)
            assert (done.problem, done.deleted) == (None, 6)
        assert dump(f"sqlite:///{path}", "files") == undisturbed
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
