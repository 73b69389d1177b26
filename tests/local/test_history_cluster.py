"""A cluster with pools leaves a record of what it cost."""

import logging
import re
import time
from pathlib import Path

import dask
import pytest
import yaml
from distributed import Client, LocalCluster
from machine import SITE, until
from places import here, slow

from dask_site import Cluster, Site, pool
from dask_site.history.ledger import close_books
from dask_site.history.model import ClusterHistory
from dask_site.history.naming import span
from dask_site.history.reading import read_spool
from dask_site.render import render_site_yaml
from dask_site.web.verdict import Counts, counts


@pytest.fixture
def site(state_dir, tmp_path):
    spool = tmp_path / "spool"
    history = {"enabled": True, "spool": str(spool), "interval": 1}
    return Site.from_mapping({**SITE, "state_dir": str(state_dir), "history": history})


def read(folder):
    records = [record for path in sorted(folder.iterdir()) for record, _ in read_spool(path)]
    return ClusterHistory.from_records("me", records)


@pytest.mark.slow
def test_what_a_cluster_did_is_on_file_and_its_books_close(site):
    with Cluster(site, name="terrain") as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1, gpu=2)
        cluster.wait_for_workers(timeout=60)
        assert all("job" in ws.extra for ws in cluster.scheduler.workers.values())
        with span("smooth"):
            client.gather(client.map(slow, range(20), [0.1] * 20))
        with span("light"), pool("gpu"):
            assert set(client.gather(client.map(here, range(10)))) == {"gpu"}
        failed = client.submit(divmod, 1, 0)
        assert until(lambda: failed.status == "error")
        time.sleep(1.5)
    history = read(Path(site.history.spool))
    assert (history.cluster.kind, history.cluster.name) == ("Cluster", "terrain")
    assert re.fullmatch(r"[0-9a-f-]{36}", history.cluster.c)
    assert history.end.how == "closed"
    assert sorted(job.pool for job in history.jobs) == ["cpu", "gpu"]
    assert all(job.ended is not None for job in history.jobs)
    assert sorted(worker.pool for worker in history.workers) == ["cpu", "gpu", "gpu"]
    assert {name for s in history.spans for name in s.name} >= {"smooth", "light"}
    assert [(e.exception, e.count) for e in history.errors] == [("ZeroDivisionError", 1)]
    ledger = close_books(history)
    parts = {part: seconds for part, seconds, _ in ledger.whole.rows()}
    assert sum(parts.values()) == pytest.approx(ledger.whole.allocated, abs=1e-6)
    assert abs(parts["unexplained"]) < 0.2 * ledger.whole.allocated
    used = {name for name, books in ledger.pools.items() if books.allocated}
    assert used == {"cpu", "gpu"}


@pytest.mark.slow
def test_results_that_are_held_to_the_end_are_no_work_undone(site):
    with Cluster(site) as cluster:
        client = cluster.get_client()
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)
        futures = client.map(here, range(5))
        assert client.gather(futures) == ["cpu"] * 5
        waiting = client.submit(slow, 1, 600)
        assert until(lambda: any(ws.processing for ws in cluster.scheduler.workers.values()))
    assert futures and waiting
    assert counts(read(Path(site.history.spool))) == Counts(done=5, failed=0, undone=1)


@pytest.mark.slow
def test_work_that_is_given_up_is_no_work_done(site):
    with Cluster(site) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=1)
        cluster.wait_for_workers(timeout=60)
        assert client.gather(client.map(here, range(5))) == ["cpu"] * 5
        assert client.submit(divmod, 1, 0).exception()
        futures = client.map(slow, range(30), [600] * 30)
        assert until(lambda: any(ws.processing for ws in cluster.scheduler.workers.values()))
        del futures  # as an interrupt does
    assert counts(read(Path(site.history.spool))) == Counts(done=5, failed=1, undone=30)


def test_a_spool_that_can_not_be_is_one_warning(site, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # no other name can be kept there
    for name in ("spool", *(f"spool.{number}" for number in range(1, 10))):
        (tmp_path / name).write_text("no folder")
    with Cluster(site) as cluster, caplog.at_level(logging.WARNING, "dask_site"):
        assert until(lambda: "history of this cluster" in caplog.text, 10)
        cluster.scale(cpu=1)
        with cluster.get_client() as client:
            assert client.submit(here).result() == "cpu"
    assert caplog.text.count("history of this cluster") == 1


def test_what_a_rollout_renders_records_other_clusters_too(site):
    rendered = yaml.safe_load(render_site_yaml(site))
    with (
        dask.config.set(dask.config.merge(dask.config.config, rendered)),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(sum, [1, 2]).result() == 3
    history = read(Path(site.history.spool))
    assert (history.cluster.kind, history.cluster.site) == ("LocalCluster", site.name)
    assert len(history.workers) == 1
    assert history.end.how == "closed"


def test_nothing_is_recorded_where_the_site_does_not_say_so(state_dir, tmp_path):
    spool = tmp_path / "spool"
    site = Site.from_mapping(
        {**SITE, "state_dir": str(state_dir), "history": {"spool": str(spool)}}
    )
    with Cluster(site):
        pass
    assert not spool.exists()
