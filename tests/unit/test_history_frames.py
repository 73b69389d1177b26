"""The history as DataFrames: shapes, types, units."""

import os
import sys
import time

import dask.config
import history_making
import pandas as pd
import pytest
from history_making import GIB, error, history, job, span, usage, worker
from history_spooling import spooled

import dask_site
from dask_site import history as sdk
from dask_site.history import files, sheets
from dask_site.history.books import PARTS
from dask_site.history.source import find

NAME = "3f2a0001-aaaa"


def one():
    return history(
        worker("cpu-0", end=100, job="17", memory=8 * GIB),
        span(
            "<b>regrid</b>", {"thread-cpu": 80}, {"f": {"states": {"forgotten": 9}, "nbytes": 72}}
        ),
        span("never"),
        job("cpu-0", "17", submitted=-30, started=0, ended=100, walltime=3600),
        usage("cpu", t=100, busy=90, idle={"no_work": 110}),
        error(2),
        name="<script>x</script>",
    )


@pytest.fixture(autouse=True)
def lately(monkeypatch):
    monkeypatch.setattr(history_making, "T0", time.time() // 1 - 200)


@pytest.fixture
def spool(tmp_path):
    where = tmp_path / "spool"
    where.mkdir(mode=0o700)
    with dask.config.set({"dask-site.history.spool": str(where), "dask-site.history.state": None}):
        yield where


@pytest.fixture
def mine(spool):
    spooled(spool, one(), NAME)
    return sdk.cluster("3f2a")


UTC = pd.DatetimeTZDtype("us", "UTC")


def test_clusters_are_rows_by_id(spool, mine):
    frame = sdk.clusters()
    assert list(frame.index) == [NAME]
    assert frame["started"].dtype == UTC
    assert frame.loc[NAME, "started"] == pd.Timestamp(history_making.T0, unit="s", tz="UTC")
    assert frame.loc[NAME, "tasks"] == 9
    assert frame.loc[NAME, "core_seconds"] == 200
    assert frame.loc[NAME, "cpu_core_seconds"] == pytest.approx(80)
    assert len(sdk.clusters(days=1)) == 1
    assert sdk.clusters(user="nobody-else").empty
    os.unlink(spool / f"{NAME}.0.spool")
    empty = sdk.clusters()
    assert empty.empty
    assert list(empty.columns) == list(frame.columns)
    assert empty["started"].dtype == UTC


def test_a_ledger_adds_up_and_shows_as_a_bar(mine):
    ledger = mine.ledger
    assert list(ledger.index) == [*PARTS, "unexplained"]
    assert ledger["core_seconds"].sum() == pytest.approx(ledger.attrs["allocated"]) == 200
    assert ledger["share"].sum() == pytest.approx(1)
    assert "<svg" in ledger._repr_html_() and "<table" in ledger._repr_html_()
    assert type(ledger.head()) is pd.DataFrame
    assert mine.pools["pool"].unique().tolist() == ["cpu"]
    shown = mine._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;" in shown and "<svg" in shown
    assert NAME in repr(mine)


def test_types_say_what_a_quantity_is(mine):
    spans = mine.spans.set_index("name")
    assert spans["start"].dtype == UTC
    assert spans["lasted"].dtype == "timedelta64[us]"
    regrid = spans.loc["<b>regrid</b>"]
    assert (regrid["tasks"], regrid["result_bytes"]) == (9, 72)
    assert regrid["cpu_core_seconds"] == regrid["core_seconds"] == 80
    (jobs,) = mine.jobs.itertuples()
    assert (jobs.waited, jobs.ran) == (pd.Timedelta("30s"), pd.Timedelta("100s"))
    assert jobs.walltime == pd.Timedelta("1h")
    assert pd.isna(jobs.energy_j) and pd.isna(jobs.max_rss_bytes)
    (samples,) = mine.samples.itertuples()
    assert (samples.busy_thread_seconds, samples.no_work_thread_seconds) == (90, 110)
    (workers,) = mine.workers.itertuples()
    assert (workers.memory_bytes, workers.expected) == (8 * GIB, True)
    assert mine.errors["count"].tolist() == [2]
    assert mine.cost.loc["cpu", "core_hours"] == pytest.approx(200 / 3600)
    assert pd.isna(mine.cost.loc["cpu", "energy_j"])
    assert "waiting" in mine.advice.columns
    for name in ("spans", "workers", "jobs", "samples", "errors", "advice"):
        assert not [c for c in getattr(mine, name) if c.endswith(("_s", "_b"))]


def test_absurd_records_are_tables_all_the_same(spool):
    end = 253_402_300_799.0 - history_making.T0
    hostile = history(
        worker(end=end, lost_seconds=1e18, memory=2**53),
        job(ended=end, walltime=1e18, cores=2**53),
        usage(t=end, busy=1e18),
        seen=end,
    )
    spooled(spool, hostile, "abad0000")
    found = sdk.cluster("abad0000")
    for name in ("spans", "workers", "jobs", "samples", "errors", "ledger", "cost", "advice"):
        assert getattr(found, name) is not None
    (jobs,) = found.jobs.itertuples()
    assert pd.isna(jobs.walltime)
    told = find(lambda text: None, spool).cluster("abad0000")
    for what in sheets.SHEETS:
        for form in files.FORMATS:
            assert files.encoded(sheets.sheet(told, what), form)


def test_a_frame_that_is_changed_does_not_change_the_cluster(mine):
    frame = mine.spans
    frame["name"] = "x"
    assert "x" not in mine.spans["name"].tolist()


def test_where_and_diff(spool, mine):
    spooled(spool, one(), "91c00002-bbbb")
    pools = sdk.where("pool", 3660)
    assert pools.loc["cpu", "core_hours"] == pytest.approx(400 / 3600)
    assert pools.loc["cpu", [*PARTS, "unexplained"]].sum() == pytest.approx(400 / 3600)
    assert pools.loc["cpu", "gpu_hours"] == 0
    assert sdk.where("span", 3660)["cpu"].sum() == pytest.approx(160 / 3600)
    found = sdk.diff("3f2a", "91c0")
    assert found.attrs == {"before": NAME, "after": "91c00002-bbbb"}
    assert (found["change"] == 0).all()
    assert found.loc[("parts", "cpu"), "before"] == 80
    with pytest.raises(sdk.SourceError, match="is none of user, account"):
        sdk.where("moon")
    with pytest.raises(sdk.SourceError, match="too few or too many"):
        sdk.where("pool", 0)
    with pytest.raises(sdk.SourceError, match="no cluster has an id"):
        sdk.diff("ffff", "91c0")


def test_without_pandas_it_says_what_to_do(mine, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(sdk.SourceError, match="DataFrames need pandas.*export --format csv"):
        mine.spans  # noqa: B018  # raises
    assert "core-hours" in repr(mine)


def test_span_is_public():
    from dask_site.history.naming import span

    assert dask_site.span is span
    assert "span" in dir(dask_site)
    assert {"cluster", "clusters", "where", "diff"} <= set(dir(sdk))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sdk.nothing  # noqa: B018  # raises
