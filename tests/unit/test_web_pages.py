"""The pages: what they say of histories, for whom, and that no name can harm them."""

import csv
import io
import json
import re
import time
from datetime import date
from html.parser import HTMLParser

import pytest
from history_making import (
    GIB,
    T0,
    error,
    history,
    job,
    row,
    span,
    traffic,
    usage,
    worker,
)
from web_serving import DAEMON, NOBODY, ROOT, serving

from dask_site.history import totals
from dask_site.history.books import PARTS, UNEXPLAINED, Books, Costs, Ledger
from dask_site.history.costs import Rates, Tariff, bill
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.records import EndRecord
from dask_site.history.store.listing import Sum
from dask_site.web import bars, lists, overview
from dask_site.web.cluster import cluster_page, cluster_table, strip_of
from dask_site.web.comparison import comparison
from dask_site.web.frames import Frame
from dask_site.web.looks import LOOKS
from dask_site.web.query import Query
from dask_site.web.spans import span_table
from dask_site.web.tables import Column, NoFormat, Table
from dask_site.web.timeline import MOST_BARS, timeline
from dask_site.web.verdict import verdict

EVIL = '<script>alert(1)</script>" onload=x \u202egnp.exe \u05e2\u05d1 \x00\x1b[31m' + "w" * 120
TARIFF = Tariff(((0.0, {"cpu": Rates(0.01)}),))
FRAME = Frame("alice", "Example Centre", "/clusters/c1")


def tasks(seconds=10.0, **states):
    return {"states": states, "seconds": {"compute": seconds}, "nbytes": 10}


def busy():
    first = span("load", {"thread-cpu": 60, "thread-noncpu": 20}, {"read": tasks(80, memory=8)})
    inner = span(
        ("load", "part"), {"thread-cpu": 20}, {"sum": tasks(20, memory=3)}, parent=first.id
    )
    return history(
        job(started=10, ended=100, walltime=3600.0),
        job("cpu-1", "2", submitted=5, state="pending", reason="Priority"),
        worker("cpu-0", 15, 95, job="1", memory=4 * GIB, busy=100),
        first,
        inner,
        usage(busy=100, idle={"no_work": 30, "starved": 30}, peak=GIB),
        traffic({"gather-dep, network": 3.0}),
        accounting=[row(start=10, memory=8 * GIB)],
        name="terrain",
        program="run.py",
    )


def page(one, **values):
    return cluster_page(FRAME, one, TARIFF, Query("/clusters/c1", values), now=T0 + 200)


class Tags(HTMLParser):
    """Collects what tags and attributes a page has."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_every_part_of_a_ledger_has_a_look_of_its_own():
    assert set(LOOKS) == {*PARTS, UNEXPLAINED}
    assert len({look.key for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.name for look in LOOKS.values()}) == len(LOOKS)


@pytest.mark.parametrize("extra", [0.0, -30.0, 50.0])
def test_a_bar_closes_whatever_is_unexplained(extra):
    books = Books(100.0, {"cpu": 60.0 - extra, "non-cpu": 40.0 / 3, "disk": 80.0 / 3})
    bar = bars.of_books(books)
    assert sum(s.width for s in bar.segments) == pytest.approx(100, abs=1e-2)
    assert sum(float(s.text.split()[0]) for s in bar.legend) == pytest.approx(100)
    assert bar.whole == pytest.approx(100 / 3600)


def test_a_day_is_what_was_allocated_also_where_its_parts_are_more():
    books = Books(3600.0, {"cpu": 5400.0})
    days = bars.of_days(
        [Sum(date(2026, 1, 2), None, None, None, books, Costs())], [date(2026, 1, 2)]
    )
    (day,) = days.stacks
    assert day.title.startswith("2026-01-02: 1.00 core-h (")
    assert days.label == "1.00 core-h in 1 days"
    assert days.top >= 1.5
    assert [look.key for look, *_ in day.parts] == ["cpu"]


def test_work_done_again_where_nothing_was_allocated():
    ledger = Ledger(Books(0.0, {}, 5.0))
    assert "Lost results" not in {item.label for item in strip_of(ledger, bill(history(), TARIFF))}


def test_a_cluster_says_whether_it_finished_and_where_its_core_hours_went():
    one = busy()
    text = page(one)
    assert "It finished: all 11 tasks are done" in text
    assert "Where did the core-hours go?" in text and "44.4 %" in text
    assert "regrid" not in text and "load" in text and "Priority" in text
    share = close_books(one).whole.share("cpu")
    assert f"{100 * share:.1f} %" in text
    assert "accounting" in text


def ended(how, *records, **values):
    """Return a history that ended so, None for not at all."""
    whole = history(*records, ended=False, **values)
    found = [whole.cluster, *whole.spans, *whole.workers, *whole.errors, *whole.usage]
    if how:
        found.append(EndRecord(v=1, k="end", c="c1", q=10**9, t=T0 + 100, how=how))
    return ClusterHistory.from_records("alice", found)


@pytest.mark.parametrize(
    ("how", "records", "mood", "words"),
    [
        (None, [], "live", "It has run for 2m00s"),
        ("closed", [], "poor", "no task was submitted"),
        ("closed", [span(tasks={"f": tasks(memory=1)})], "good", "its task is done"),
        ("closed", [span(tasks={"f": tasks(memory=1, processing=2)})], "poor", "2 tasks still"),
        ("closed", [span(tasks={"f": tasks(erred=3)}), error(3)], "poor", "ValueError in f"),
        ("closed", [span(tasks={"f": tasks(forgotten=3)}), error(1)], "poor", "1 task of 3 failed"),
        ("SIGTERM", [span(tasks={"f": tasks(waiting=3)})], "bad", "scancel"),
        ("silent", [span(tasks={"f": tasks(waiting=3)})], "bad", "nothing was heard"),
        ("TIMEOUT", [], "poor", "TIMEOUT"),
    ],
)
def test_the_headline_says_why(how, records, mood, words):
    found = verdict(ended(how, *records), T0 + 120)
    assert found.mood == mood
    assert words in found.sentence


def test_a_cluster_that_says_nothing_any_more_does_not_run():
    found = verdict(ended(None, span(tasks={"f": tasks(memory=2, waiting=3)})), T0 + 600)
    assert found.word == "not heard of"
    assert "Nothing was heard of it for 8m20s" in found.sentence, found.sentence
    assert "2 of 5 tasks were done" in found.sentence


@pytest.mark.parametrize(
    "one",
    [history(), history(ended=False), history(job(started=None, state="pending"), ended=False)],
)
def test_a_cluster_with_nothing_says_what_to_do(one):
    text = page(one)
    assert "Nothing was allocated" in text
    assert "cluster.scale" in text


def test_names_are_text_whatever_they_hold():
    one = history(
        worker(EVIL, 0, 90, id="w", host=EVIL, pool=EVIL, busy=50),
        job(pool=EVIL, reason=EVIL, state=EVIL, started=0, node=EVIL),
        span((EVIL, EVIL), {"thread-cpu": 9}, {EVIL: tasks(9, memory=1)}, code=EVIL),
        error(99, EVIL, EVIL, EVIL),
        usage(EVIL, busy=10),
        name=EVIL,
        program=EVIL,
        dashboard="javascript:alert(1)",
        ended=False,
    )
    text = page(one)
    plain = Tags(page(busy()))
    found = Tags(text)
    assert "onload" not in found.attributes
    assert "style" not in found.attributes
    assert found.tags <= plain.tags | {"ol", "h3"}
    assert "<script>alert" not in text
    assert "javascript:" not in text
    assert not re.search("[\u202e\x00\x1b]", text)
    assert text.count("<script") == 1


def test_a_huge_cluster_makes_a_page_of_bounded_size():
    jobs = [job(f"cpu-{i}", str(i), i % 50, i % 50 + 3, 90) for i in range(3000)]
    spans = [span(f"s{i}", {"thread-cpu": i}) for i in range(500)]
    one = history(*jobs, *spans)
    found = timeline(one)
    assert sum(len(r.bars) for r in found.rows) < 10 * MOST_BARS
    assert found.left_out > 400
    assert len(page(one)) < 300_000
    assert "2 of 60" in page(one, page="jobs:2")


def test_a_ring_of_parents_is_no_endless_tree():
    one = span("a", id="x", parent="y")
    other = span("b", id="y", parent="x")
    assert page(history(one, other, span("c", id="z")))


def test_tables_are_files_too():
    table = cluster_table(busy(), TARIFF, "jobs")
    rows = list(csv.DictReader(io.StringIO(table.file("csv").decode())))
    assert [r["job"] for r in rows] == ["1", "2"]
    assert rows[0]["waited_s"] == "10.0"
    assert json.loads(table.file("json"))["rows"][1]["reason"] == "Priority"
    pq = pytest.importorskip("pyarrow.parquet")
    read = pq.read_table(io.BytesIO(table.file("parquet")))
    assert read.column("job").to_pylist() == ["1", "2"]
    assert str(read.schema.field("submitted").type) == "timestamp[ms, tz=UTC]"
    with pytest.raises(NoFormat, match="csv, json, parquet"):
        table.file("xls")


def test_no_text_of_a_file_is_a_formula():
    table = Table("t", "T", [Column("a", "a", "name")], [{"a": "=1+1"}, {"a": "\ud800-"}])
    assert table.file("csv").decode().splitlines() == ["a", "'=1+1", "?-"]
    assert json.loads(table.file("json"))["rows"][0] == {"a": "=1+1"}


@pytest.mark.parametrize("name", ["ledger", "cost", "pools", "spans", "tasks", "errors", "workers"])
def test_each_table_can_be_had_in_each_format(name):
    table = cluster_table(busy(), TARIFF, name)
    assert all(table.file(form) for form in ("csv", "json", "parquet"))


def test_sorting_puts_what_is_missing_last():
    table = Table("t", "T", [Column("a", "a", "count")], [{"a": 1}, {"a": None}, {"a": 3}])
    assert [r["a"] for r in table.sorted("-a").rows] == [3, 1, None]
    assert [r["a"] for r in table.sorted("a").rows] == [1, 3, None]
    assert table.sorted("b") is table


def test_comparing_names_the_span_that_got_slower():
    fast = history(span("a", stop=T0 + 10), span("b", stop=T0 + 20), seen=30.0)
    slow = history(span("a", stop=T0 + 10), span("b", stop=T0 + 80), seen=90.0)
    rows = comparison(fast, slow)["spans"].rows
    assert rows[0]["span"] == "b"
    assert rows[0]["times"] == 4
    with_new = comparison(fast, history(span("new")))["spans"].rows
    assert {row["span"] for row in with_new} == {"a", "b", "new"}


def test_comparing_knows_what_is_a_spans_own_from_what_ran_beside_it():
    """`b` waits for the work of `a` on fewer workers, and has no more to do itself."""
    busy_a, a = {"thread-cpu": 8.0}, {"thread-cpu": 4.0}
    fast = history(span("a", a, stop=T0 + 10), span("b", a, stop=T0 + 10), worker("w"), seen=30.0)
    slow = history(
        span("a", busy_a, stop=T0 + 15), span("b", a, stop=T0 + 30), worker("w"), seen=60.0
    )
    tables = comparison(fast, slow)
    rows = {row["span"]: row for row in tables["spans"].rows}
    assert tables["spans"].rows[0]["span"] == "a"
    assert (rows["a"]["times_worked"], rows["b"]["times_worked"]) == (2, 1)
    assert (rows["a"]["times"], rows["b"]["times"]) == (1.5, 3)


def test_tasks_that_failed_count_in_their_span_also_when_nobody_wants_them_any_more():
    one = span("check", tasks={"f": tasks(forgotten=3)})
    other = span("read", tasks={"f": tasks(memory=2, erred=1)})
    whole = history(one, other, error(2, span=one.id), error(1, message="x", span=other.id))
    (first, second) = span_table(whole, close_books(whole)).rows
    assert (first["failed"], second["failed"]) == (2, 1)


def test_a_span_whose_measures_came_too_late_has_what_its_tasks_took():
    took = {"f": {"states": {"memory": 1}, "seconds": {"compute": 3.0}}}
    whole = history(span("fit", {"thread-cpu": 0.5}, took))
    (row,) = span_table(whole, close_books(whole)).rows
    assert row["core_hours"] == pytest.approx(3 / 3600)
    assert row["cpu_share"] == pytest.approx(0.5 / 3)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("web"), coordinators={"proj": ["nobody"]}) as found:
        one = busy()
        for name, uid in (("aaaa1111", DAEMON), ("bbbb2222", NOBODY)):
            mine = one.cluster.model_copy(update={"c": name, "t": T0})
            found.add(uid, ClusterHistory.from_records("x", [mine]))
            records = [*one.workers, *one.spans, *one.jobs, *one.usage, one.end]
            found.store.ingest(uid, [r.model_copy(update={"c": name}) for r in records])
        yield found


def test_who_is_not_known_is_told_how_to_get_in(served):
    for path in ("/", "/clusters/aaaa1111", "/site", "/where"):
        status, headers, body = served.get(path)
        assert status == 401
        assert b"dask-site history open" in body
        assert headers["Content-Type"].startswith("text/html")
        assert b"terrain" not in body


def test_a_user_sees_what_is_his(served):
    assert "terrain" in served.page("/")
    assert "aaaa1111" in served.page("/") and "bbbb2222" not in served.page("/")
    assert "It finished" in served.page("/clusters/aaaa1111")
    assert "It finished" in served.page("/clusters/aaaa")
    nothing, other = (
        served.get("/clusters/zzzz1111", DAEMON),
        served.get("/clusters/bbbb2222", DAEMON),
    )
    assert nothing[0] == other[0] == 404
    assert nothing[2] == other[2]
    assert served.get("/site", DAEMON)[0] == 403
    assert served.get("/?user=nobody", DAEMON)[0] == 404
    assert served.get("/compare?a=aaaa1111&b=bbbb2222", DAEMON)[0] == 404
    assert served.get("/clusters/bbbb2222?format=csv&table=jobs", DAEMON)[0] == 404


def test_an_admin_sees_all_and_it_is_noted(served, tmp_path):
    served.page("/clusters/bbbb2222", ROOT)
    assert "By account" in served.page("/site", ROOT)
    assert "bbbb2222" in served.page("/?user=nobody", ROOT)
    folder = served.context.settings.state / "audit"
    noted = [json.loads(line) for f in folder.iterdir() for line in f.read_text().splitlines()]
    assert {one["what"] for one in noted} >= {"look", "sums", "list"}
    assert {one["user"] for one in noted} <= {"root", "nobody"}
    assert any(one.get("cluster") == "bbbb2222" for one in noted)


@pytest.mark.parametrize("whose", ["user=nobody", "account=proj"])
def test_filters_keep_whose_clusters_are_shown(served, whose):
    text = served.page(f"/?{whose}&name=nothing&page=clusters:2", ROOT)
    name, _, value = whose.partition("=")
    assert f'<input type="hidden" name="{name}" value="{value}">' in text
    assert f'<a href="/?{whose}">Show all</a>' in text


def test_what_an_admin_asks_about_himself_is_not_noted(tmp_path):
    with serving(tmp_path) as served:
        for path in ("/", "/clusters", "/where", "/where?by=week", "/where?by=span"):
            served.page(path, ROOT)
        assert not list((tmp_path / "audit").glob("*"))
        served.page("/where?by=user", ROOT)
        (log,) = (tmp_path / "audit").iterdir()
        assert json.loads(log.read_text())["what"] == "list"


@pytest.mark.parametrize(
    ("samples", "unused"),
    [
        ([(0, 50, 0), (700, 50, 0)], True),
        ([(0, 50, 0), (500, 50, 0)], False),  # not for long enough
        ([(0, 40, 0), (700, 50, 0)], False),  # busy in between
        ([(0, 50, 0), (400, 50, 3), (700, 50, 0)], False),  # tasks that waited for their inputs
        ([(700, 50, 0)], False),  # it has just come
    ],
)
def test_what_has_no_task_for_ten_minutes_is_unused(tmp_path, samples, unused):
    with serving(tmp_path) as served:
        now = time.time()
        one = history(worker(), name="idle", ended=False)
        cluster = one.cluster.model_copy(update={"c": "idle0001", "t": now, "started": now - 800})
        made = [
            usage("cpu", busy=busy, workers=1, nthreads=2, processing=tasks).model_copy(
                update={"c": "idle0001", "t": now - 700 + when}
            )
            for when, busy, tasks in samples
        ]
        served.store.ingest(DAEMON, [cluster, *made], now=now)
        page = served.page("/site", ROOT)
    assert ("/clusters/idle0001" in page) is unused


def test_weeks_go_by_one_name_everywhere():
    monday = Sum(date(2026, 11, 23), None, None, None, Books(), Costs())
    assert overview.by_week(monday) == totals._name(monday, "week") == "2026-W48"


def test_a_coordinator_sees_the_sums_of_his_accounts(served):
    assert "Account proj" in served.page("/site", NOBODY)
    assert served.get("/site?account=other", NOBODY)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/?name=terr&state=finished&pool=cpu&since=2020-01-01&sort=clusters:-tasks",
        "/?since=nonsense&page=clusters:99&sort=x",
        "/?page=clusters:%C2%B2",
        "/clusters/aaaa1111?sort=workers:-busy_share&page=spans:7",
        "/compare",
        "/compare?a=aaaa1111&b=aaaa1111",
        *(f"/where?by={by}&days=3660" for by in ("day", "week", "pool", "span", "nonsense")),
        "/where?days=9999999999999",
    ],
)
def test_each_page_is_there_with_any_state(served, path):
    text = served.page(path)
    assert text.startswith("<!doctype html>")
    assert Tags(text).attributes.isdisjoint({"style", "onclick", "onload"})


@pytest.mark.parametrize(
    "path", ["/", "/clusters/aaaa1111?table=spans", "/compare?a=aaaa&b=aaaa", "/where?by=pool"]
)
@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_pages_give_their_tables_as_files(served, path, form):
    sep = "&" if "?" in path else "?"
    status, headers, body = served.get(f"{path}{sep}format={form}", DAEMON)
    assert status == 200
    assert headers["Content-Disposition"].endswith(f'.{form}"')
    assert body
    assert served.get(f"{path}{sep}format=exe", DAEMON)[0] == 400


def test_a_page_says_that_there_are_more_and_files_have_all(tmp_path, monkeypatch):
    with serving(tmp_path) as served:
        for n in range(3):
            one = history(worker(), name=f"n{n}", started=T0 + n * 86400, seen=n * 86400.0)
            cluster = one.cluster.model_copy(update={"c": f"cccc000{n}"})
            served.add(DAEMON, ClusterHistory.from_records("x", [cluster]))
        everything = json.loads(served.get("/?format=json", DAEMON)[2])["rows"]
        assert len(everything) == 3
        assert "Only the latest" not in served.page("/")
        monkeypatch.setattr(lists, "MOST", 2)
        text = served.page("/")
        assert "Only the latest 2 clusters are looked at here." in text
        assert "cccc0002" in text and "cccc0000" not in text
        (older,) = re.findall(r"until=(\d{4}-\d\d-\d\d)", text)
        assert "cccc0000" in served.page(f"/?until={older}")
        assert json.loads(served.get("/?format=json", DAEMON)[2])["rows"] == everything
        monkeypatch.setattr(lists, "MOST_IN_FILE", 0)
        status, _, body = served.get("/?format=json", DAEMON)
        assert status == 400 and "more than 0 clusters" in body.decode()


def test_static_files_are_kept_until_they_change(served):
    address = re.search(r'href="(/static/site\.css\?v=[0-9a-f]+)"', served.page("/"))[1]
    status, headers, body = served.get(address)
    assert status == 200 and body
    assert headers["ETag"]
    again = served.get(address, **{"If-None-Match": headers["ETag"]})
    assert again[0] == 304 and not again[2]
    assert served.get("/static/")[0] == 404
    assert served.get("/static/../rendering.py")[0] == 404


def test_pages_name_nothing_that_is_elsewhere(served):
    for path in ("/", "/clusters/aaaa1111", "/where"):
        _, headers, body = served.get(path, DAEMON)
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert not re.search(rb"(src|href)=\"https?:", body)
