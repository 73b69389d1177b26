"""What the collector does of one user in one pass, and what it looks at again."""

import os
from collections import Counter

import pytest
from history_storing import BEGUN, marks_in, record, spool, story
from sqlalchemy.exc import OperationalError

from dask_site.history import collector as collecting
from dask_site.history import finding
from dask_site.history.collector import Collector
from dask_site.history.store import Store

ME = os.geteuid()
NOW = BEGUN + 86400
MANY, FEW = 4_000_001, 4_000_002
as_root = pytest.mark.skipif(ME != 0, reason="only root can give files away")


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'history.db'}", timeout=0.2) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def sealed(monkeypatch):
    """As for the service, which may read spools and not write to them."""
    monkeypatch.setattr(finding.os, "access", lambda *_: False)


@pytest.fixture
def looks(monkeypatch):
    """Counts how often each file is looked at."""
    counted = Counter()
    stat = os.stat

    def counting(path, **options):
        if options.get("dir_fd") is not None:
            counted[path] += 1
        return stat(path, **options)

    monkeypatch.setattr(finding.os, "stat", counting)
    return counted


@pytest.fixture
def taken(store, monkeypatch):
    """Counts how often each record comes to the store."""
    counted = Counter()
    ingest = store.ingest_all

    def counting(batches, now):
        for batch in batches:
            counted.update((one.c, one.q) for one in batch.records)
        return ingest(batches, now)

    monkeypatch.setattr(store, "ingest_all", counting)
    return counted


def cluster(name):
    return [
        record(1, "cluster", name, started=BEGUN, kind="Cluster"),
        record(2, "end", name, how="closed"),
    ]


def give(path, uid):
    for one in (path, *path.rglob("*")):
        os.chown(one, uid, -1)


def age(path, seconds):
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def passes(collector, most=200):
    """Collect until nothing is left; return how many passes it took."""
    for number in range(1, most):
        if not collector.collect(NOW).more:
            return number
    raise AssertionError(f"more than {most} passes")


def names(store):
    return {one.id for one in store.clusters(limit=10_000)}


@as_root
@pytest.mark.parametrize("what", ["FILES", "ENTRIES"])
def test_others_are_taken_in_the_first_pass_and_all_in_the_end(
    store, folder, sealed, monkeypatch, taken, what
):
    monkeypatch.setattr(finding, what, 10)
    for number in range(95):
        spool(folder / "a-many", cluster(f"many{number}"))
    spool(folder / "b-few", cluster("few"))
    give(folder / "a-many", MANY)
    give(folder / "b-few", FEW)
    collector = Collector(store, [folder])
    assert collector.collect(NOW).more
    first = names(store)
    assert "few" in first
    assert 0 < len(first) <= 11
    assert passes(collector) >= 8
    assert len(names(store)) == 96
    assert set(taken.values()) == {1}
    assert len(taken) == 2 * 96


@as_root
def test_bytes_of_one_user_in_a_pass_are_bounded_over_his_files(
    store, folder, sealed, monkeypatch, taken
):
    for number in range(4):
        spool(folder / "a-many", story(f"many{number}", 20))
    spool(folder / "b-few", cluster("few"))
    give(folder / "a-many", MANY)
    give(folder / "b-few", FEW)
    size = (folder / "a-many/many0.0.spool").stat().st_size
    monkeypatch.setattr(finding, "BYTES", size // 3)
    monkeypatch.setattr(collecting, "_OPENING", 0)
    collector = Collector(store, [folder])
    assert collector.collect(NOW).more
    assert ("few", 1) in taken
    assert len(taken) < len(story("x", 20))
    assert 11 <= passes(collector) <= 13
    assert set(taken.values()) == {1}
    assert len(taken) == 4 * len(story("x", 20)) + 2


def test_small_files_are_bounded_by_what_opening_them_counts(store, folder, sealed, monkeypatch):
    monkeypatch.setattr(finding, "BYTES", 10 * collecting._OPENING)
    for number in range(35):
        spool(folder / "me", cluster(f"c{number}"))
    collector = Collector(store, [folder])
    assert collector.collect(NOW).files == 10
    passes(collector)
    assert len(names(store)) == 35


@as_root
def test_folders_without_number_neither_delay_others_nor_hide_what_is_in_them(
    store, folder, sealed, monkeypatch
):
    monkeypatch.setattr(finding, "FOLDERS", 10)
    monkeypatch.setattr(finding, "_ANEW", 0)
    for number in range(35):
        spool(folder / f"a-many-{number}", cluster(f"many{number}"))
        give(folder / f"a-many-{number}", MANY)
    spool(folder / "b-few", cluster("few"))
    give(folder / "b-few", FEW)
    collector = Collector(store, [folder])
    collector.collect(NOW)
    first = names(store)
    assert "few" in first
    assert len(first) == 11
    for _ in range(8):
        collector.collect(NOW)
    assert len(names(store)) == 36


def test_a_folder_of_users_is_listed_in_parts(store, folder, monkeypatch):
    monkeypatch.setattr(finding, "ENTRIES", 10)
    for number in range(35):
        spool(folder / f"user{number}", cluster(f"c{number}"))
    assert passes(Collector(store, [folder])) >= 4
    assert len(names(store)) == 35


@as_root
def test_who_has_more_than_the_bound_is_named_once(store, folder, sealed, monkeypatch, caplog):
    monkeypatch.setattr(finding, "ENTRIES", 10)
    for number in range(25):
        spool(folder / "many", cluster(f"many{number}"))
    spool(folder / "few", cluster("few"))
    give(folder / "many", MANY)
    give(folder / "few", FEW)
    collector = Collector(store, [folder])
    passes(collector)
    spool(folder / "many", cluster("another"))
    give(folder / "many", MANY)
    passes(collector)
    told = [one.message for one in caplog.records]
    assert len(told) == 1
    assert f"User {MANY} has 25 files in {folder / 'many'}" in told[0]


def test_silent_clusters_do_not_wait_for_a_user_without_end(store, folder, sealed, monkeypatch):
    monkeypatch.setattr(finding, "FILES", 1)
    for number in range(30):
        spool(folder, [record(1, "cluster", f"c{number}", started=BEGUN, kind="Cluster")])
    collector = Collector(store, [folder])
    assert collector.collect(NOW).more
    assert collector.silent(NOW + 1000) == []
    assert collector.collect(NOW + 901).more
    assert collector.silent(NOW + 5000)


def test_quiet_files_are_not_looked_at_in_an_idle_pass(store, folder, sealed, looks, monkeypatch):
    monkeypatch.setattr(finding, "_SURE", 0)
    quiet = spool(folder / "me", story("quiet", 2))
    spool(folder / "me", story("live", 2, ended=False))
    age(quiet, 3 * 3600)
    (folder / "me" / "notes.txt").write_text("")
    age(folder / "me" / "notes.txt", 3 * 3600)
    now = quiet.stat().st_mtime + 3 * 3600
    collector = Collector(store, [folder])
    assert collector.collect(now).skipped == {"no spool file's name": 1}
    looks.clear()
    assert collector.collect(now).skipped == {"no spool file's name": 1}
    assert looks == {"live.0.spool": 1}
    assert names(store) == {"quiet", "live"}


def test_a_live_file_is_read_in_the_next_pass_and_a_quiet_one_in_time(
    store, folder, sealed, monkeypatch, taken
):
    monkeypatch.setattr(finding, "_SURE", 0)
    quiet = spool(folder / "me", cluster("quiet")[:1])
    spool(folder / "me", cluster("live")[:1])
    age(quiet, 3 * 3600)
    now = quiet.stat().st_mtime + 3 * 3600
    collector = Collector(store, [folder])
    collector.collect(now)
    for name in ("quiet", "live"):
        spool(folder / "me", cluster(name)[1:])
    collector.collect(now)
    assert ("live", 2) in taken
    assert ("quiet", 2) not in taken
    monkeypatch.setattr(finding, "_ANEW", 0)
    collector.collect(now)
    assert ("quiet", 2) in taken
    assert set(taken.values()) == {1}


def test_a_new_file_among_quiet_ones_is_found_at_once(store, folder, sealed, looks, monkeypatch):
    monkeypatch.setattr(finding, "_SURE", 0)
    for number in range(20):
        age(spool(folder / "me", cluster(f"quiet{number}")), 3 * 3600)
    now = (folder / "me/quiet0.0.spool").stat().st_mtime + 3 * 3600
    collector = Collector(store, [folder])
    collector.collect(now)
    looks.clear()
    spool(folder / "me", cluster("new"))
    collector.collect(now)
    assert "new" in names(store)
    assert looks == {"new.0.spool": 1}


def test_a_change_within_a_tick_of_the_clock_is_found(store, folder, sealed):
    spool(folder / "me", cluster("first"))
    collector = Collector(store, [folder])
    collector.collect(NOW)
    times = (folder / "me").stat()
    spool(folder / "me", cluster("second"))
    os.utime(folder / "me", ns=(times.st_atime_ns, times.st_mtime_ns))
    collector.collect(NOW)
    assert names(store) == {"first", "second"}


def test_what_could_not_be_stored_is_read_again(store, folder, sealed, monkeypatch, taken):
    monkeypatch.setattr(finding, "_SURE", 0)
    spool(folder / "me", cluster("c1"))
    counting = store.ingest_all

    def locked(*_):
        raise OperationalError("", {}, Exception("locked"))

    monkeypatch.setattr(store, "ingest_all", locked)
    collector = Collector(store, [folder])
    assert collector.collect(NOW).problem is not None
    monkeypatch.setattr(store, "ingest_all", counting)
    assert collector.collect(NOW).problem is None
    assert names(store) == {"c1"}


def test_a_users_files_beyond_what_is_remembered_are_read_too(
    store, folder, sealed, monkeypatch, taken
):
    monkeypatch.setattr(finding, "_REMEMBERED", 5)
    for number in range(20):
        spool(folder / "me", cluster(f"c{number}"))
    collector = Collector(store, [folder])
    passes(collector)
    passes(collector)
    assert len(names(store)) == 20
    assert set(taken.values()) == {1}


def test_a_torn_end_is_not_read_again_until_it_grows(store, folder, sealed, monkeypatch):
    file = spool(folder / "me", cluster("c1"))
    with file.open("ab") as out:
        out.write(b"torn")
    opened = []
    read = collecting.read_spool
    monkeypatch.setattr(
        collecting, "read_spool", lambda *given: opened.append(given[1]) or read(*given)
    )
    collector = Collector(store, [folder])
    collector.collect(NOW)
    collector.collect(NOW)
    assert opened == [0]
    with file.open("ab") as out:
        out.write(b" line\n")
    assert collector.collect(NOW).bad == 1


def test_marks_of_files_that_are_gone_go_a_part_at_a_time(store, folder, sealed, monkeypatch):
    monkeypatch.setattr(collecting, "_SWEPT", 3)
    files = [spool(folder / "me", cluster(f"c{number}")) for number in range(10)]
    collector = Collector(store, [folder])
    collector.collect(NOW)
    assert len(marks_in(store)) == 10
    for file in files[1:]:
        file.unlink()
    for _ in range(5):
        collector.collect(NOW)
    assert [path for _, _, path in marks_in(store)] == [str(files[0])]


@as_root
def test_only_so_many_files_are_held_and_all_users_get_their_turn(
    store, folder, sealed, monkeypatch, taken
):
    monkeypatch.setattr(finding, "TOGETHER", 4)
    uids = range(FEW, FEW + 6)
    for uid in uids:
        for number in range(3):
            spool(folder / str(uid), cluster(f"c{uid}-{number}"))
        give(folder / str(uid), uid)
    collector = Collector(store, [folder])
    first = collector.collect(NOW)
    # The root folder's owner has none; two users fill what is held.
    assert (first.files, first.more) == (6, True)
    assert collector.silent(NOW + 1e6) == [], "not all has been read"
    assert passes(collector) == 3, "two and two more, and one that finds nothing"
    assert len(names(store)) == 18
    assert set(taken.values()) == {1}
    assert passes(collector) == 1


@as_root
def test_those_who_are_never_done_at_once_do_not_keep_it_going(store, folder, sealed, monkeypatch):
    monkeypatch.setattr(finding, "FILES", 5)
    collector = Collector(store, [folder])
    for uid in (FEW, MANY):  # one begins when the other is half done
        for number in range(7):
            spool(folder / f"u{uid}", cluster(f"c{uid}-{number}"))
        give(folder / f"u{uid}", uid)
        collector.collect(NOW)
    # All of these files may grow, so that a round always takes two passes.
    assert passes(collector, 30) < 10
    assert len(names(store)) == 14
