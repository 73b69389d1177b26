"""The store in a file of SQLite and in a real PostgreSQL server."""

import io
import itertools
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from history_storing import BEGUN, close_all, dump, marks_in, record, story
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from dask_site.history import bookkeeper, migrations
from dask_site.history.bookkeeper import Bookkeeper
from dask_site.history.books import PARTS, Books
from dask_site.history.costs import Rates, Tariff
from dask_site.history.daily import MOST_DAYS, by_day
from dask_site.history.ledger import close_books
from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.store import (
    Bounds,
    Mark,
    Retention,
    Store,
    StoreError,
    looking,
    reader,
    spools,
    tables,
)
from dask_site.history.store import listing as listings
from dask_site.history.store.engine import engine_for, reading, writing
from dask_site.history.store.failures import RunningError
from dask_site.history.store.journals import journal_for
from dask_site.history.store.keys import parts
from dask_site.web import overview

ALICE, BOB = 4_000_001, 4_000_002  # nobody's, so their names are these numbers
NOW = BEGUN + 86400
DAY = 86400
ALL_DAYS = (date(1970, 1, 1), date(2100, 1, 1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def new(request, tmp_path):
    """Return a function that returns the URL of a new database."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_postgresql")
    numbers = itertools.count()
    return lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"


@pytest.fixture
def url(new):
    return new()


@pytest.fixture
def store(url):
    with Store(url) as opened:
        yield opened


@pytest.fixture
def lite(path):
    """A store in a file."""
    with Store(f"sqlite:///{path}") as opened:
        yield opened


# -- the same, however it comes --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_tables_are_the_same_twice_in_pieces_and_in_any_order(new, seed):
    said = story("c1") + story("c2", ticks=9)
    first, second = new(), new()
    with Store(first) as one:
        one.ingest(ALICE, said, now=NOW)
    chance = random.Random(seed)
    mixed = said + chance.sample(said, len(said) // 2)
    chance.shuffle(mixed)
    with Store(second) as other:
        while mixed:
            size = chance.randrange(1, 60)
            other.ingest(ALICE, mixed[:size], now=NOW)
            mixed = mixed[size:]
    assert dump(second) == dump(first)


def test_what_is_loaded_is_what_the_records_say(store):
    said = story()
    store.ingest(ALICE, said[::-1], now=NOW)
    jobs = [AccountedJob(id="77", account="physics", cores=4, energy=None, end=BEGUN)]
    store.put_accounting("c1", jobs)
    assert store.load("c1") == ClusterHistory.from_records(str(ALICE), said, jobs)


def test_a_cluster_without_its_own_record_is_known_by_its_first(store):
    said = [r for r in story() if r.k != "cluster"]
    store.ingest(ALICE, said, now=NOW)
    loaded = store.load("c1")
    assert (loaded.cluster.kind, loaded.cluster.started) == ("scheduler", BEGUN)
    assert store.clusters()[0].started == BEGUN


def test_a_record_that_says_nothing_new_changes_nothing(store, url):
    store.ingest(ALICE, story(), now=NOW)
    before = dump(url)
    taken = store.ingest(ALICE, story(), now=NOW + 1000)
    assert (taken.applied, dict(taken.refused)) == (0, {})
    assert dump(url) == before


def test_samples_get_fewer_as_the_cluster_gets_older(store, url):
    said = [
        record(q, "usage", t=BEGUN + 10.0 * q, pool="cpu", threads={"busy": float(q)})
        for q in range(1, 5001)
    ]
    for start in range(0, 5000, 700):
        store.ingest(ALICE, said[start : start + 700], now=NOW)
    kept = store.load("c1").samples
    assert 256 <= len(kept) <= 513
    gaps = {round(b.t - a.t) for a, b in pairwise(kept)}
    assert max(gaps) - min(gaps) <= 10
    assert store.load("c1").usage[0].q == 5000


# -- whose it is -----------------------------------------------------------------------------


def test_nobody_else_can_write_to_a_cluster(store, url):
    store.ingest(ALICE, story(), now=NOW)
    before = dump(url, "owners", "refusals")
    taken = store.ingest(BOB, [record(10**6, "end", how="stolen"), *story("c2", 3)], now=NOW)
    assert dict(taken.refused) == {"another's cluster": 1}
    assert store.refusals(BOB) == {(BOB, "another's cluster"): 1}
    assert [c.id for c in store.clusters(owner=BOB)] == ["c2"]
    assert store.load("c1").end.how == "closed"
    store.forget(owner=BOB)
    after = dump(url, "owners", "refusals")
    assert {**after, "forgotten": []} == before


@pytest.mark.parametrize(
    ("bounds", "said", "why", "refused"),
    [
        ({"clusters": 2}, [record(1, "end", f"k{n}", how="x") for n in range(5)], "clusters", 3),
        (
            {"workers": 3},
            [
                record(n, "worker", id=f"w{n}", name="w", started=1, seen=1, threads=1)
                for n in range(5)
            ],
            "kind worker",
            2,
        ),
        (
            {"prefixes": 4},
            [
                record(n, "span", id=f"s{n}", name=["x"], enqueued=1, tasks={"a": {}, "b": {}})
                for n in range(5)
            ],
            "key prefixes",
            3,
        ),
        (
            {"bytes_cluster": 5000},
            [
                record(n, "error", prefix=f"p{n}", exception="E", message="m" * 1900)
                for n in range(5)
            ],
            "bytes",
            3,
        ),
        (
            {"bytes_owner": 5000},
            [
                record(n, "error", f"k{n}", prefix="p", exception="E", message="m" * 1900)
                for n in range(5)
            ],
            "bytes",
            3,
        ),
    ],
)
def test_a_user_has_bounds_and_others_go_on(url, bounds, said, why, refused):
    with Store(url, replace(Bounds(), **bounds)) as store:
        for one in said:
            store.ingest(ALICE, [one], now=NOW)
        ((owner, reason),) = store.refusals()
        assert owner == ALICE
        assert why in reason
        assert store.refusals() == {(ALICE, reason): refused}
        # What is there may still change.
        again = said[0].model_copy(update={"q": 9})
        assert store.ingest(ALICE, [again], now=NOW).applied == 1
        assert not store.ingest(BOB, [record(1, "end", "bobs", how="x")], now=NOW).refused


def test_one_record_that_cant_be_stored_spoils_no_other(store, monkeypatch):
    from dask_site.history.store import taking

    row_of = taking.row_of

    def odd(shape, one):
        row = row_of(shape, one)
        return {**row, "t": "no number"} if one.q == 3 else row

    monkeypatch.setattr(taking, "row_of", odd)
    said = [record(n, "error", prefix=f"p{n}", exception="E") for n in range(1, 6)]
    taken = store.ingest(ALICE, said, now=NOW)
    assert (taken.applied, dict(taken.refused)) == (4, {"can't be stored": 1})


def test_absurd_numbers_overflow_nothing(store):
    most = dict.fromkeys(("busy", "no work", "novel"), 1e18)
    for n in range(20):
        states = {f"s{i}": 2**53 for i in range(20)}
        tasks = {f"p{i}": {"states": states, "nbytes": 2**53} for i in range(5)}
        store.ingest(
            ALICE,
            [
                record(1, "usage", f"c{n}", t=253402300799.0 - DAY, pool="p", threads=most),
                record(2, "span", f"c{n}", id="s", name=["x"], enqueued=0, tasks=tasks),
                record(3, "error", f"c{n}", prefix="p", exception="\0'; DROP TABLE x", count=2**53),
            ],
            now=NOW,
        )
        worker = {"id": "w", "name": "w", "started": 0, "seen": 0, "threads": 100_000, "memory": 0}
        store.ingest(ALICE, [record(4, "worker", f"c{n}", **worker)], now=NOW)
    close_all(store)
    days = store.sums(date(1970, 1, 1), date(9999, 12, 31), by=("day",))
    assert len(days) == MOST_DAYS
    most = 100_000.0 * DAY  # that counts
    assert max(one.books.allocated for one in days) == 20 * most
    assert len({one.books.allocated for one in days[1:-1]}) == 1
    assert len(store.clusters()) == 20


# -- lists and sums --------------------------------------------------------------------------


def test_a_list_says_what_became_of_clusters(store):
    store.ingest(ALICE, story("c1"), now=NOW)
    store.ingest(BOB, story("c2", ticks=5, ended=False), now=NOW)
    store.ingest(BOB, story("c3", ticks=4, ended=False), now=NOW + 500)
    assert store.silent(NOW + 600, after=300) == ["c2"]
    found = {c.id: c for c in store.clusters()}
    assert {name: c.state for name, c in found.items()} == {
        "c1": "ended",
        "c2": "silent",
        "c3": "running",
    }
    one = found["c1"]
    # Five spans with what each said last, of two prefixes: ticks 35 to 39.
    assert one.tasks == sum(2 * tick + 1 for tick in range(35, 40))
    assert one.errors == 39 + 40
    assert (one.allocated, one.cpu, one.money, one.pools) == (None, None, None, ())
    close_all(store, Tariff(((0.0, {"cpu": Rates(core_hour=2.0)}),)))
    found = {c.id: c for c in store.clusters()}
    one, books = found["c1"], close_books(store.load("c1")).whole
    assert one.allocated == pytest.approx(books.allocated, abs=0.1)
    assert one.cpu == pytest.approx(books.of("cpu"), abs=0.1)
    assert one.money == pytest.approx(one.allocated / 3600 * 2)
    assert one.pools == ("cpu",)
    assert (one.how, one.program, one.owner, one.owner_name) == (
        "closed",
        "run.py",
        ALICE,
        str(ALICE),
    )
    assert [c.id for c in store.clusters(owner=BOB, limit=1)] == ["c2"]
    assert store.clusters(since=one.seen + 1) == []
    assert store.clusters(until=BEGUN) == []


def test_who_asks_sees_one_moment(store, url):
    store.ingest(ALICE, story("c1", ticks=3), now=NOW)
    with Store(url) as other, store.asking() as ask:
        before = [one.id for one in listings.clusters(ask)]
        other.ingest(ALICE, story("c2", ticks=3), now=NOW)
        assert [one.id for one in listings.clusters(ask)] == before == ["c1"]
    if store._engine.dialect.name == "postgresql":
        with writing(store._engine) as conn:  # what was written before it had the lock, it must see
            assert conn.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    assert {one.id for one in store.clusters()} == {"c1", "c2"}


def test_errors_that_many_share_are_whole_numbers_in_files(store):
    for owner, name in ((ALICE, "c1"), (BOB, "c2")):
        error = {"prefix": "p", "exception": "ValueError", "count": 3}
        store.ingest(owner, [record(1, "error", name, **error)], now=NOW)
    with store.asking() as ask:
        found = looking.shared_errors(ask, 0)
    for many, errors in ((6, found), (2**60, [replace(found[0], count=2**60)])):
        table = overview.error_table(errors)
        assert [row["count"] for row in json.loads(table.file("json"))["rows"]] == [many]
        assert f"ValueError,p,2,2,{many}," in table.file("csv").decode()
        read = pyarrow.parquet.read_table(io.BytesIO(table.file("parquet")))
        assert read["count"].to_pylist() == [many]


def test_without_sqlalchemy_the_answers_are_the_same(lite, path):
    lite.ingest(ALICE, story("c1"), now=NOW)
    lite.ingest(BOB, story("c2", ticks=5, ended=False), now=NOW)
    span = (date(2000, 1, 1), date(2100, 1, 1))
    close_all(lite)
    with reader(path) as ask:
        assert listings.clusters(ask) == lite.clusters()
        assert listings.sums(ask, *span, by=("pool",)) == lite.sums(*span, by=("pool",))


def test_a_silent_cluster_that_speaks_again_is_open_again(store):
    said = story(ended=False)
    store.ingest(ALICE, said[:50], now=NOW)
    assert store.silent(NOW + 1000, 900) == ["c1"]
    assert store.silent(NOW + 1000, 900) == []
    store.ingest(ALICE, said[:50], now=NOW + 1001)
    assert store.clusters()[0].state == "silent"
    store.ingest(ALICE, said[50:60], now=NOW + 1002)
    assert store.clusters()[0].state == "running"
    store.end("c1", "TIMEOUT", BEGUN)
    assert (store.clusters()[0].state, store.clusters()[0].how) == ("ended", "TIMEOUT")
    store.ingest(ALICE, [record(1000, "end", how="closed")], now=NOW)
    store.end("c1", "CANCELLED", BEGUN)
    assert store.load("c1").end.how == "closed"


def test_sums_by_day_are_those_of_the_clusters(store, url):
    store.ingest(ALICE, story("c1", ticks=40), now=NOW)
    store.ingest(BOB, story("c2", ticks=20), now=NOW)
    close_all(store, Tariff(((0.0, {"cpu": Rates(core_hour=2.0)}),)))
    days = store.sums(*ALL_DAYS, by=("day",))
    assert len(days) > 2
    books = {name: close_books(store.load(name)).whole for name in ("c1", "c2")}
    whole = sum((day.books for day in days), Books())
    assert whole.allocated == pytest.approx(sum(b.allocated for b in books.values()), abs=0.1)
    for part in PARTS:
        there = sum(b.of(part) for b in books.values())
        assert whole.of(part) == pytest.approx(there, abs=0.1), part
    assert whole.again == pytest.approx(sum(b.again for b in books.values()), abs=0.1)
    assert whole.again > 0
    mine = {(s.owner, s.pool): s for s in store.sums(*ALL_DAYS, by=("owner", "pool"))}
    alice = mine[ALICE, "cpu"]
    assert alice.books.of("idle: no work") == pytest.approx(
        books["c1"].of("idle: no work"), abs=0.1
    )
    assert alice.costs.core_hours == pytest.approx(alice.books.allocated / 3600)
    assert alice.costs.money == pytest.approx(2 * alice.costs.core_hours)
    assert (alice.costs.billing, alice.costs.energy) == (None, None)
    with pytest.raises(ValueError, match="by='user' is none of day, owner"):
        store.sums(*ALL_DAYS, by=("user",))
    before = dump(url)
    store.ingest(ALICE, story("c1", ticks=40), now=NOW)
    close_all(store)
    assert dump(url) == before


def test_books_are_closed_again_when_something_is_new(store):
    store.ingest(ALICE, story("c1", ticks=40)[:150], now=NOW)
    assert [one.cluster for one in store.due(NOW, every=60, again=5)] == ["c1"]
    keeper = Bookkeeper(store, Tariff)
    assert keeper.close(NOW) is False
    (first,) = store.sums(*ALL_DAYS, by=())
    assert store.due(NOW + 1000, 60, 5) == []
    store.ingest(ALICE, story("c1", ticks=40)[150:200], now=NOW)
    assert store.due(NOW + 59, 60, 5) == []
    assert len(store.due(NOW + 60, 60, 5)) == 1
    # At once when it has ended, and when the accounting says more.
    store.ingest(ALICE, story("c1", ticks=40)[200:], now=NOW)
    assert store.due(NOW + 4, 60, 5) == []
    assert len(store.due(NOW + 5, 60, 5)) == 1
    keeper.close(NOW + 5)
    (second,) = store.sums(*ALL_DAYS, by=())
    assert second.books.allocated != first.books.allocated
    job = AccountedJob(id="77", start=BEGUN, end=BEGUN + 36000, cores=1000, pool="cpu")
    store.put_accounting("c1", [job])
    assert len(store.due(NOW + 10, 60, 5)) == 1
    keeper.close(NOW + 10)
    (third,) = store.sums(*ALL_DAYS, by=())
    assert third.books.allocated == pytest.approx(close_books(store.load("c1")).whole.allocated)
    assert third.books.allocated >= 36000 * 1000 > second.books.allocated


def test_what_comes_while_books_are_closed_makes_them_due_again(store):
    store.ingest(ALICE, story("c1")[:100], now=NOW)
    (due,) = store.due(NOW, 60, 5)
    days = by_day(store.load("c1"))
    store.ingest(ALICE, story("c1")[100:], now=NOW)
    store.close_books([(due, days)], NOW)
    assert [one.cluster for one in store.due(NOW + 60, 60, 5)] == ["c1"]


def test_users_take_turns_when_books_are_closed(store, monkeypatch):
    for n in range(30):
        store.ingest(ALICE, [record(1, "cluster", f"a{n}", started=BEGUN, kind="k")], now=NOW)
    store.ingest(BOB, [record(1, "cluster", "b", started=BEGUN, kind="k")], now=NOW)
    assert [one.owner for one in store.due(NOW, 60, 5, most=3)] == [ALICE, BOB, ALICE]
    monkeypatch.setattr(bookkeeper, "_AT_ONCE", 2)
    assert Bookkeeper(store, Tariff).close(NOW) is True
    assert "b" not in {one.cluster for one in store.due(NOW, 60, 5)}


def test_a_cluster_whose_books_fail_keeps_no_other_open(store, monkeypatch, caplog):
    store.ingest(ALICE, story("c1"), now=NOW)
    store.ingest(BOB, story("c2"), now=NOW)

    def fails(history, tariff):
        if history.cluster.c == "c1":
            raise AttributeError("a mistake")
        return by_day(history, tariff)

    monkeypatch.setattr(bookkeeper, "by_day", fails)
    Bookkeeper(store, Tariff).close(NOW)
    assert [one.owner for one in store.sums(*ALL_DAYS, by=("owner",))] == [BOB]
    assert store.due(NOW + 1000, 60, 5) == []
    assert "The books of cluster c1 can't be closed" in caplog.text


def test_statements_are_few_whatever_is_asked(store):
    """Each that differs is kept, by SQLAlchemy and by the database's driver."""
    statements = set()

    @event.listens_for(store._engine, "before_cursor_execute")
    def note(conn, cursor, statement, *_):
        statements.add(statement)

    said = story("c0", ended=False)
    for start in range(0, len(said), 7):
        store.ingest(ALICE, said[start : start + 7], now=NOW + start)
    for n in range(1, 60):
        store.ingest(ALICE, story(f"c{n}", ticks=1), Mark("1", str(n), f"/{n}", 9), now=NOW + n)
        store.done([f"c{i}" for i in range(n)])
        store.claims(NOW + DAY, [f"c{i}" for i in range(n)])
        store.clusters(limit=n)
        with store.asking() as ask:
            keys = spools.marks_after(ask, None, n)
            assert spools.marks_of(ask, keys).keys() == set(keys)
            assert looking.owner_names(ask, range(ALICE, ALICE + n))[ALICE]
    kinds = Counter(" ".join(s.split()[:3]) for s in statements)
    assert kinds["UPDATE clusters SET"] == 2
    assert len(statements) < 120


def test_keys_come_in_few_lengths():
    for n in range(1, 1200):
        lists = list(parts(range(n)))
        assert {key for some in lists for key in some} == set(range(n))
        assert {len(some) for some in lists} <= {1 << power for power in range(10)}
    assert list(parts([])) == []


def test_a_clock_that_is_ahead_wins_no_first_place(store):
    far = [r.model_copy(update={"t": r.t + 366 * DAY}) for r in story("ahead")]
    store.ingest(ALICE, far, now=NOW - 1000)
    store.ingest(BOB, [r.model_copy(update={"t": NOW - 10 + r.q / 1e4}) for r in story()], now=NOW)
    assert [c.id for c in store.clusters()] == ["c1", "ahead"]
    assert [c.id for c in store.clusters(since=NOW - 500)] == ["c1"]


def test_the_account_moves_what_was_summed(store, url):
    store.ingest(ALICE, story()[:100], now=NOW)
    close_all(store)
    store.put_accounting("c1", [AccountedJob(id="1", account="physics")])
    (line,) = store.sums(*ALL_DAYS, by=("account",))
    assert line.account == "physics"
    assert line.books.allocated > 0
    store.ingest(ALICE, story()[100:], now=NOW)
    close_all(store)
    (line,) = store.sums(*ALL_DAYS, by=("account",))
    assert line.account == "physics"
    assert line.books.allocated == pytest.approx(store.clusters()[0].allocated)
    with pytest.raises(KeyError):
        store.put_accounting("none", [])


def test_each_pool_is_its_account_s(store, url):
    def job(pool, number, account):
        row = AccountedJob(id=number, account=account, submit=BEGUN, start=BEGUN, end=BEGUN + 60)
        return replace(row, pool=pool, cores=4 if pool == "cpu" else 32)

    def paid():
        return {s.account: s.books.allocated for s in store.sums(*ALL_DAYS, by=("account",))}

    store.ingest(ALICE, [record(0, "cluster", started=BEGUN, kind="Cluster", name="x")], now=NOW)
    of_cpu, of_gpu = job("cpu", "999", "climate"), job("gpu", "1000", "gpuproj")
    store.put_accounting("c1", [of_cpu])
    close_all(store)
    assert paid() == {"climate": 240}
    store.put_accounting("c1", [of_cpu, of_gpu])
    close_all(store)
    assert paid() == {"climate": 240, "gpuproj": 1920}
    store.put_accounting("c1", [of_gpu, of_cpu])
    assert paid() == {"climate": 240, "gpuproj": 1920}, "in whatever order it is told"
    store.put_accounting("c1", [replace(of_gpu, account="others")])
    assert paid() == {"climate": 240, "others": 1920}
    store.forget("c1", owner=ALICE)
    assert paid() == {}


def session(cluster, begun, end):
    """Return what a cluster says whose workers are in the job of its scheduler, number 5."""
    at = {"c": cluster, "t": end}
    return [
        record(0, "cluster", **at, started=begun, kind="LocalCluster", name=cluster, job="5"),
        record(1, "worker", **at, id=cluster, name="0", started=begun, seen=end, threads=8,
               memory=2**30, job="5"),
        record(2, "end", **at, how="closed"),
    ]  # fmt: skip


def test_clusters_at_once_in_one_job_have_together_what_it_had(store):
    job = AccountedJob(id="5", submit=BEGUN, start=BEGUN, end=BEGUN + 3600, cores=8)
    store.ingest(ALICE, session("old", BEGUN, BEGUN + 3600), now=NOW)
    store.put_accounting("old", [job])
    close_all(store)
    assert store.clusters()[0].allocated == 8 * 3600
    store.ingest(ALICE, session("new", BEGUN + 600, BEGUN + 2400), now=NOW)
    store.ingest(BOB, session("bobs", BEGUN + 600, BEGUN + 2400), now=NOW)
    store.put_accounting("new", [job])
    close_all(store)
    assert {c.id: c.allocated for c in store.clusters() if c.owner == ALICE} == {
        "old": 8 * 1800,
        "new": 8 * 1800,
    }


def test_a_cluster_in_a_job_of_another_has_nothing_of_its_own(store):
    asked = record(3, "job", "old", t=BEGUN + 9, name="cpu-0", pool="cpu", id="5", state="running",
                   submitted=BEGUN, started=BEGUN, cores=8, workers=1)  # fmt: skip
    store.ingest(ALICE, [*session("old", BEGUN, BEGUN + 3600)[:1], asked], now=NOW)
    store.ingest(ALICE, session("within", BEGUN + 600, BEGUN + 2400), now=NOW)
    job = AccountedJob(id="5", submit=BEGUN, start=BEGUN, end=BEGUN + 3600, cores=8)
    for name in ("old", "within"):
        store.put_accounting(name, [job])
    close_all(store)
    assert {c.id: c.allocated for c in store.clusters()} == {"old": 8 * 3600, "within": 0}


# -- who writes ------------------------------------------------------------------------------


def test_who_was_the_writer_before_writes_nothing_any_more(url):
    with Store(url) as first, Store(url) as second:
        first.lead()
        first.ingest(ALICE, story("c1"), now=NOW)
        assert first.leads() and not second.leads()
        second.lead()
        assert second.leads() and not first.leads()
        with pytest.raises(StoreError, match="another process has begun to write"):
            first.ingest(ALICE, story("c2"), now=NOW)
        with pytest.raises(StoreError, match="another process has begun to write"):
            first.prune(now=NOW + 365 * DAY)
        second.ingest(ALICE, story("c3"), now=NOW)
        assert {c.id for c in first.clusters()} == {"c1", "c3"}
        first.lead()
        first.ingest(ALICE, story("c2"), now=NOW)
        with pytest.raises(StoreError):
            second.forget("c1")


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /shared rw,relatime shared:2 - nfs4 server:/export rw
31 30 8:2 / /shared/fast\\040disk rw - xfs /dev/sdb1 rw
32 21 0:41 / /lustre rw - lustre mgs@tcp:/scratch rw
33 21 0:42 / /gpfs rw - gpfs gpfs rw
34 21 0:43 / /home rw - autofs auto.home rw
35 34 0:44 / /home rw - fuse.sshfs a@b: rw
broken
"""


@pytest.mark.parametrize(
    ("folder", "journal", "kind"),
    [
        ("/var/lib/dask-site", "wal", "ext4"),
        ("/shared/dask-site", "delete", "nfs4"),
        ("/shared/fast disk/x", "wal", "xfs"),
        ("/shared-not/x", "wal", "ext4"),
        ("/lustre/x", "delete", "lustre"),
        ("/gpfs/x/y", "delete", "gpfs"),
        ("/home/x", "delete", "fuse.sshfs"),
    ],
)
def test_the_journal_is_what_the_file_system_allows(tmp_path, folder, journal, kind):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert journal_for(Path(folder), tmp_path / "mounts") == (journal, kind)
    assert journal_for(Path(folder), tmp_path / "none") == ("wal", "")


def test_a_journal_that_network_file_systems_stand_serves_as_well(tmp_path):
    with Store(f"sqlite:///{tmp_path}/history.db", journal="delete") as store:
        store.lead()
        store.ingest(ALICE, story(), now=NOW)
        assert store.load("c1").end.how == "closed"
        store.backup(tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "history.db") as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert not (tmp_path / "history.db-wal").exists()


# -- letting go ------------------------------------------------------------------------------


def test_forgetting_leaves_nothing_and_takes_nothing_in_again(store, url):
    store.ingest(BOB, story("c2"), now=NOW)
    close_all(store)
    before = dump(url)
    store.ingest(ALICE, story("c1"), now=NOW)
    close_all(store)
    assert len(dump(url)["ledger"]) > len(before["ledger"])
    assert store.forget("c1", owner=BOB) == []
    assert store.forget("c1", now=NOW) == ["c1"]
    with pytest.raises(KeyError):
        store.load("c1")
    assert dict(store.ingest(ALICE, story("c1"), now=NOW).refused) == {"forgotten": len(story())}
    assert store.forget(owner=ALICE, now=NOW) == []
    after = dump(url, "forgotten")
    assert after == {name: rows for name, rows in before.items() if name != "forgotten"}
    with pytest.raises(ValueError, match="needs a cluster"):
        store.forget()


def test_what_runs_is_forgotten_only_where_that_is_said(store, url):
    for name, ended in (("c1", True), ("c2", False)):
        store.ingest(ALICE, story(name, ended=ended), now=NOW)
    close_all(store)
    first, after = date(1970, 1, 1), date(2100, 1, 1)
    (before,) = store.sums(first, after, ("owner",))
    with pytest.raises(RunningError, match="c2 is running, .*close it first"):
        store.forget("c2", owner=ALICE, running=False, now=NOW + 100)
    assert store.forget(owner=ALICE, running=False, now=NOW + 100) == ["c1"]
    assert [c.id for c in store.clusters()] == ["c2"]
    (line,) = store.sums(first, after, ("owner",))
    assert line.books.allocated == pytest.approx(before.books.allocated / 2)
    assert not store.ingest(ALICE, [record(999, "end", "c2", how="closed")], now=NOW).refused
    assert dict(dump(url)["owners"][0])["size"] > 0
    assert store.forget("c2", owner=ALICE, running=False, now=NOW + 100) == ["c2"]
    store.ingest(ALICE, story("c3", ended=False), now=NOW)
    silent = store.forget(owner=ALICE, running=False, now=NOW + 200)
    assert silent == ["c3"], "that it died nobody could say"
    assert dump(url)["owners"] == []


def test_age_thins_samples_then_takes_them_then_the_cluster_but_not_the_sums(store, url):
    said = [
        record(q, "usage", t=BEGUN + 10.0 * q, pool="cpu", threads={"busy": float(q)})
        for q in range(1, 501)
    ]
    worker = {"id": "w", "name": "w", "started": BEGUN, "seen": BEGUN, "threads": 4, "memory": 0}
    said.append(record(501, "worker", t=BEGUN + 5000, ended=BEGUN + 5000, **worker))
    store.ingest(ALICE, said, now=NOW)
    close_all(store)
    kept = Retention()
    assert store.prune(kept, NOW + DAY / 2) == 0
    assert store.prune(kept, NOW + 2 * DAY) == 1
    assert 64 <= len(store.load("c1").samples) <= 129
    assert store.prune(kept, NOW + 2 * DAY) == 0
    assert store.prune(kept, NOW + 15 * DAY) == 1
    assert store.load("c1").samples == []
    assert store.load("c1").usage[0].q == 500
    assert store.prune(kept, NOW + 181 * DAY) == 1
    assert store.clusters() == []
    (total,) = store.sums(*ALL_DAYS, by=())
    assert total.books.allocated == 4 * 5000.0
    assert set(store.ingest(ALICE, said, now=NOW + 182 * DAY).refused) == {"forgotten"}
    after = NOW + 1000 * DAY
    store.prune(kept, after)
    assert store.ingest(ALICE, said, now=after).refused == {"too old": len(said)}
    assert (store.clusters(), store.sums(*ALL_DAYS, by=())) == ([], [total])


def test_what_comes_late_is_taken_unless_it_may_have_been_here(store):
    said = story()
    last = said[-1].t
    assert store.ingest(ALICE, said, now=last + 367 * DAY).refused == {"too old": len(said)}
    assert store.refusals() == {(ALICE, "too old"): len(said)}
    # Whatever is kept for how long: the service was down, or an old copy has been put back.
    assert not store.ingest(ALICE, said, now=last + 365 * DAY).refused
    again = [record(10**6, "end", t=last + DAY, how="closed")]
    assert not store.ingest(ALICE, again, now=last + 400 * DAY).refused


@pytest.mark.parametrize("ahead", [0, 200 * DAY])
def test_what_was_forgotten_stays_away_as_long_as_it_goes_on(store, ahead):
    def said(day):
        return [record(10**6 + day, "usage", t=NOW + ahead + day * DAY, threads={"busy": 1.0})]

    def prune(day):
        store.prune(Retention(clusters=5 * DAY), NOW + day * DAY)

    store.ingest(ALICE, said(0), now=NOW)
    store.forget("c1", now=NOW)
    for day in range(100, 900, 200):
        prune(day)
        assert store.ingest(ALICE, said(day), now=NOW + day * DAY).refused == {"forgotten": 1}
    late = 900 + ahead // DAY
    prune(late)
    assert store.ingest(ALICE, said(700), now=NOW + late * DAY).refused == {"forgotten": 1}
    prune(1500)
    assert store.ingest(ALICE, said(700), now=NOW + 1500 * DAY).refused == {"too old": 1}
    assert store.clusters() == []


# -- versions --------------------------------------------------------------------------------

_NEXT = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0004", "0003"
def upgrade():
    with op.batch_alter_table("clusters") as batch:
        batch.add_column(sa.Column("novel", sa.Text, server_default="yes"))
def downgrade():
    with op.batch_alter_table("clusters") as batch:
        batch.drop_column("novel")
"""


def test_the_steps_make_the_tables_that_are_used(store, url):
    engine = create_engine(url)
    with engine.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), tables.metadata) == []
    assert migrations.HEAD == "0003"


def test_tables_in_a_file_are_strict(lite, path):
    with sqlite3.connect(path) as conn:
        strict = conn.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
        ours = {name: s for name, s in strict if name in tables.metadata.tables}
    assert ours == dict.fromkeys(tables.metadata.tables, 1)


def test_forward_and_one_back_with_data(url, tmp_path, monkeypatch):
    steps = tmp_path / "steps"
    steps.mkdir()
    (steps / "v0004_next.py").write_text(_NEXT)
    with Store(url) as store:
        store.ingest(ALICE, story(), now=NOW)
    before = dump(url)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "HEAD", "0004")
        patch.setattr(migrations, "FOLDERS", [*migrations.FOLDERS, steps])
        with pytest.raises(StoreError, match="is of version 0003, this release reads 0004"):
            Store(url, migrate=False)
        with Store(url) as store:
            assert len(store.load("c1").workers) == 7
        assert ("novel", "yes") in dump(url)["clusters"][0]
    with pytest.raises(StoreError, match="0004, which a newer release"):
        Store(url)
    if url.startswith("sqlite"):
        file = url.removeprefix("sqlite:///")
        with pytest.raises(StoreError, match="newer release"), reader(file):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "HEAD", "0004")
        patch.setattr(migrations, "FOLDERS", [*migrations.FOLDERS, steps])
        with Store(url) as store:
            with pytest.raises(
                StoreError, match="can't go back to 'base'; it can go back to: 0001, 0002, 0003"
            ):
                store.downgrade("base")
            store.downgrade("0003")
    assert dump(url) == before
    with Store(url) as store:
        assert store.load("c1").end.how == "closed"
        assert not store.ingest(ALICE, story("c2"), now=NOW).refused


def test_back_to_the_first_version_and_forward_again(url):
    with Store(url) as store:
        store.ingest(ALICE, story("c1"), now=NOW)
        store.ingest(BOB, story("c2", ticks=20), now=NOW)
        close_all(store)
        used = sum(u.threads["busy"] for c in ("c1", "c2") for u in store.load(c).usage)
        before = dump(url)
        store.downgrade("0001")
    old = dump(url)
    assert "ledger" not in old
    busy = [dict(row)["busy"] for row in old["days"]]
    assert sum(busy) == sum(dict(row)["busy"] for row in old["usage_days"]) == 1000 * used
    assert [dict(row)["clusters"] for row in old["day_clusters"]] == [1, 1]
    with Store(url) as store:
        assert len(store.due(NOW, 60, 5)) == 2
        close_all(store)
    after = dump(url)
    for found in (before, after):
        for table in (
            "workers",
            "books",
            "ledger",
        ):  # the first forgets which results
            rows = ([c for c in row if not c[0].startswith("again")] for row in found[table])
            found[table] = sorted(rows, key=repr)
    assert after == before


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "is no URL of a database"),
        ("mysql://u@h/d", "only sqlite and postgresql"),
        ("sqlite://", "needs a file"),
        ("sqlite:////nowhere/at/all.db", "can't be opened as a history"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url, why):
    with pytest.raises(StoreError, match=why):
        Store(url)


def test_another_database_is_left_alone(path):
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match="something else, with tables mine"):
        Store(f"sqlite:///{path}")
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="can't be opened as a history"):
        Store(f"sqlite:///{path}")


# -- copies ----------------------------------------------------------------------------------


def test_a_copy_is_made_while_others_write_and_is_whole(lite, tmp_path, path):
    stop = threading.Event()
    written = []

    def write():
        while not stop.is_set():
            name = f"k{len(written)}"
            lite.ingest(ALICE, story(name, ticks=3), now=NOW)
            written.append(name)

    thread = threading.Thread(target=write)
    thread.start()
    copies = []
    for n in range(4):
        at_least = len(written)
        lite.backup(tmp_path / f"copy{n}.db")
        copies.append((tmp_path / f"copy{n}.db", at_least))
    stop.set()
    thread.join()
    for copy, at_least in copies:
        with Store(f"sqlite:///{copy}") as old:
            found = {c.id for c in old.clusters(limit=10_000)}
            assert found == set(written[: len(found)])
            assert len(found) >= at_least
            assert all(c.state == "ended" for c in old.clusters(limit=10_000))
    assert not list(tmp_path.glob(".*"))


def test_a_copy_is_put_back(lite, path, tmp_path):
    lite.ingest(ALICE, story(), mark := Mark("1", "2", "/x", 77), now=NOW)
    before = dump(f"sqlite:///{path}")
    lite.backup(tmp_path / "copy.db")
    lite.forget(owner=ALICE)
    holder = sqlite3.connect(path)
    holder.execute("SELECT * FROM clusters").fetchall()
    with pytest.raises(StoreError, match="is in use .*: stop the service first"):
        lite.restore(tmp_path / "copy.db")
    holder.close()
    lite.restore(tmp_path / "copy.db")
    assert dump(f"sqlite:///{path}") == before
    assert marks_in(lite) == {("1", "2", "/x"): mark}
    path.write_bytes(b"broken" * 10_000)
    lite.restore(tmp_path / "copy.db")
    assert dump(f"sqlite:///{path}") == before


def test_a_broken_copy_is_not_put_back(lite, path, tmp_path):
    lite.ingest(ALICE, story(ticks=400), now=NOW)
    before = dump(f"sqlite:///{path}")
    lite.backup(tmp_path / "copy.db")
    whole = (tmp_path / "copy.db").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "copy.db").write_bytes(whole[:middle] + b"\xff" * 9000 + whole[middle + 9000 :])
    with pytest.raises(StoreError, match="not whole|no history|can't be copied"):
        lite.restore(tmp_path / "copy.db")
    with pytest.raises(StoreError, match="there is no such file"):
        lite.restore(tmp_path / "none.db")
    assert dump(f"sqlite:///{path}") == before
    assert not list(tmp_path.glob(".*"))


# -- others, and time ------------------------------------------------------------------------


def test_a_locked_store_takes_nothing_and_then_everything(path):
    with Store(f"sqlite:///{path}", timeout=0.1) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            store.ingest(ALICE, story(), now=NOW)
        assert store.clusters() == []  # readers don't wait
        other.execute("ROLLBACK")
        other.close()
        assert not store.ingest(ALICE, story(), now=NOW).refused


# -- a server elsewhere ----------------------------------------------------------------------


LIMITS = (
    *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
    *("tcp_user_timeout", "idle_in_transaction_session_timeout", "lock_timeout"),
)


def limits_of(conn):
    return {name: conn.exec_driver_sql(f"SHOW {name}").scalar() for name in LIMITS}


def test_a_server_and_its_client_notice_soon_that_the_other_lost_power(new_postgresql):
    url = make_url(new_postgresql())
    with Store(url.render_as_string(), timeout=2.5) as store:
        with writing(store._engine) as conn:
            assert list(limits_of(conn).values()) == ["0", "0", "0", "0", "1min", "2500ms"]
            conn.exec_driver_sql(f"ALTER ROLE {url.username} PASSWORD 'secret'")
        with writing(store._engine, migrating=True) as conn:
            assert list(limits_of(conn).values())[4:] == ["0", "0"]
    query = {"options": "-c lock_timeout=7000", "keepalives_idle": "20"}
    remote = url.set(host="127.0.0.1", port=int(url.query["port"]), password="secret", query=query)
    engine = engine_for(remote.render_as_string(hide_password=False), "wal", 10.0)
    try:
        for _ in range(2):
            with reading(engine) as conn:
                assert list(limits_of(conn).values()) == ["10", "5", "3", "30000", "1min", "7s"]
                with socket.socket(fileno=os.dup(conn.connection.fileno())) as used:
                    assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    options = ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
                    numbers = [getattr(socket, f"TCP_{name}") for name in options]
                    said = [used.getsockopt(socket.IPPROTO_TCP, number) for number in numbers]
                    assert said == [20, 5, 3, 30_000]
    finally:
        engine.dispose()


def test_who_waits_too_long_for_another_writer_says_so(new_postgresql):
    url = new_postgresql()
    with Store(url, timeout=0.1) as store, Store(url) as other:
        with writing(other._engine), pytest.raises(OperationalError, match="lock timeout"):
            store.ingest(ALICE, story(), now=NOW)
        assert not store.ingest(ALICE, story(), now=NOW).refused


def test_listing_imports_neither_sqlalchemy_nor_alembic_nor_pydantic():
    code = (
        "import sys; from dask_site.history.store import listing;"
        "bad = {'sqlalchemy', 'alembic', 'pydantic'} & sys.modules.keys();"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_opening_a_store_imports_no_alembic(lite, path):
    code = (
        f"import sys; from dask_site.history.store import Store; Store('sqlite:///{path}').clusters();"
        "sys.exit('alembic' in sys.modules or 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
