"""A history as JSON is the same history."""

import json

import pytest
from history_making import error, history, job, row, span, traffic, usage, worker
from history_storing import story

from dask_site.history import wire
from dask_site.history.model import ClusterHistory
from dask_site.history.records import Tasks
from dask_site.history.store import Store


def there_and_back(one):
    return wire.from_dict(json.loads(json.dumps(wire.to_dict(one), allow_nan=False)))


def test_a_history_with_everything_is_the_same():
    whole = history(
        worker(end=90.0, lost_seconds=0.1 + 0.2),
        span(("a", "b"), {"thread-cpu": 1 / 3}, {"p": Tasks(states={"memory": 2**53})}),
        job(started=1.0, ended=99.0),
        usage(busy=1e-9, idle={"no_work": 1e18}),
        usage(pool=None),
        traffic({"get-data": 0.25}, {"get-data": 1e12}),
        error(message="<script>alert(1)</script>\u202e\U0001f600"),
        accounting=[row(energy=1.5, max_rss=2**40), row("2", start=None, end=None)],
        name="x" * 200,
    )
    assert there_and_back(whole) == whole


def test_a_history_with_next_to_nothing_is_the_same():
    assert there_and_back(found := history(ended=False)) == found
    assert there_and_back(ClusterHistory(found.cluster, "")) == ClusterHistory(found.cluster, "")


def test_what_the_store_gives_back_is_the_same(tmp_path):
    with Store(f"sqlite:///{tmp_path}/h.db") as store:
        store.ingest(1234, story())
        loaded = store.load("c1")
    assert loaded.samples
    assert there_and_back(loaded) == loaded


@pytest.mark.parametrize(
    "spoil",
    [
        lambda w: w.pop("workers"),
        lambda w: w.update(cluster=None),
        lambda w: w.update(cluster="x"),
        lambda w: w.update(spans=[{"k": "worker"}]),
        lambda w: w.update(spans=w["workers"]),
        lambda w: w["workers"][0].update(threads=-1),
        lambda w: w.update(accounting=[1]),
        lambda w: w.update(accounting=[{}]),
        lambda w: w.update(seen="late"),
        lambda w: w.update(usage=None),
    ],
)
def test_what_is_no_history_is_refused_in_words(spoil):
    values = wire.to_dict(history(worker()))
    spoil(values)
    with pytest.raises(ValueError, match="not the history of a cluster"):
        wire.from_dict(values)


def test_what_a_newer_release_adds_is_passed_over():
    values = wire.to_dict(found := history(worker(), accounting=[row()]))
    values["novel"] = 1
    values["workers"][0]["novel"] = 1
    values["accounting"][0]["novel"] = 1
    assert wire.from_dict(values) == found
