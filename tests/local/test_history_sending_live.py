"""Recorders that send to real services, which are killed; and the spool for when there are none."""

import json
import logging
import os
import signal
import time

import dask
import pytest
from distributed import Client, LocalCluster, wait
from serving import tasks_of, two_nodes

from dask_site.history import sending
from dask_site.history.recorder import recorder_of
from dask_site.identity import has_munge


@pytest.fixture
def nodes(tmp_path):
    """Two nodes, of which the first writes."""
    (tmp_path / "spool").mkdir()
    with two_nodes(tmp_path) as nodes:
        yield nodes


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Return a function that gives a cluster that records, into a spool that can't be written."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sending, "_FIRST_PAUSE", 0.5)
    monkeypatch.setattr(sending, "_LONGEST_PAUSE", 0.5)
    (tmp_path / "not-mounted").write_text("")

    def begin(spool=None, records="spool", state=tmp_path / "state"):
        settings = {
            "distributed.scheduler.preload": ["dask_site.history.preload"],
            "dask-site.history.interval": 1,
            "dask-site.history.spool": str(spool or tmp_path / "not-mounted" / "$USER"),
            "dask-site.history.records": records,
            "dask-site.history.state": str(state),
        }
        with dask.config.set(settings):
            return LocalCluster(
                n_workers=1,
                threads_per_worker=2,
                processes=False,
                dashboard_address=":0",
                silence_logs=False,
            )

    return begin


def work(client, first, last):
    wait(client.map(lambda x: x + 1, range(first, last), pure=False))


def told(node, name):
    status, answer = node.call("GET", f"/api/v1/clusters/{name}")
    return tasks_of(answer) if status == 200 else 0


def ended(node, name):
    status, answer = node.call("GET", f"/api/v1/clusters/{name}")
    return answer if status == 200 and answer["history"]["end"] else None


def warnings(caplog):
    return [r.message for r in caplog.records if "history of this cluster" in r.message]


def test_where_the_spool_can_not_be_written_nothing_is_lost_as_the_writer_is_killed(
    nodes, recording, caplog
):
    first, second = nodes
    caplog.set_level(logging.WARNING, "dask_site")
    with recording() as cluster, Client(cluster) as client:
        name = recorder_of(cluster.scheduler).cluster_id
        work(client, 0, 30)
        first.until(lambda: told(first, name) == 30)
        first.stop(signal.SIGKILL)
        work(client, 30, 50)
        second.writes()
        second.until(lambda: told(second, name) == 50)
    answer = second.until(lambda: ended(second, name))
    assert tasks_of(answer) == 50 and answer["history"]["end"]["how"] == "closed"
    # It goes once it is in the store.
    second.until(lambda: not list((second.folder / "state" / "inbox").glob("*/*")))
    assert not list((second.folder / "spool").iterdir())
    assert len(warnings(caplog)) <= 1


def test_what_is_to_be_sent_goes_to_the_spool_while_the_service_is_away(nodes, recording, caplog):
    first, second = nodes
    second.stop(signal.SIGKILL)
    caplog.set_level(logging.WARNING, "dask_site")
    spool = first.folder / "spool" / "me"
    with recording(spool, "http") as cluster, Client(cluster) as client:
        name = recorder_of(cluster.scheduler).cluster_id
        work(client, 0, 30)
        first.until(lambda: told(first, name) == 30)
        assert not spool.exists()
        first.stop(signal.SIGKILL)
        work(client, 30, 50)
        deadline = time.monotonic() + 60
        while not (spool.exists() and list(spool.iterdir())):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        first.start().writes()
        work(client, 50, 60)
        first.until(lambda: told(first, name) == 60)
    assert tasks_of(first.until(lambda: ended(first, name))) == 60
    assert warnings(caplog) == []


def test_without_any_way_there_is_one_warning_and_the_work_is_done(tmp_path, recording, caplog):
    state = tmp_path / "nothing"
    with recording(state=state) as cluster, Client(cluster) as client:
        work(client, 0, 5)
        time.sleep(2.5)
        assert client.submit(abs, -4).result() == 4
        time.sleep(2.5)
    (warning,) = warnings(caplog)
    assert "not-mounted" in warning and str(state) in warning


def test_a_setting_that_is_none_is_named(recording, caplog):
    with recording(records="ftp") as cluster:
        assert recorder_of(cluster.scheduler) is None
    (warning,) = [r.message for r in caplog.records if "not recorded" in r.message]
    assert "dask-site.history.records is 'ftp': write spool or http" in warning


@pytest.mark.skipif(not has_munge(), reason="no munge daemon answers here")
def test_from_another_node_munge_vouches_for_it(nodes, recording, tmp_path, caplog):
    first, second = nodes
    # As it is on a compute node: the socket isn't there. The writer's port is the only way.
    there, here = tmp_path / "state" / "where.json", tmp_path / "seen-from-elsewhere"
    here.mkdir()
    said = json.loads(there.read_text())
    (here / "where.json").write_text(json.dumps({**said, "socket": ""}))
    with recording(state=here) as cluster, Client(cluster) as client:
        name = recorder_of(cluster.scheduler).cluster_id
        work(client, 0, 30)
        first.until(lambda: told(first, name) == 30)
        # The one that waits takes nothing, and says who does.
        (here / "where.json").write_text(json.dumps({**said, "socket": "", "port": second.port}))
        work(client, 30, 40)
        time.sleep(2)
        (here / "where.json").write_text(json.dumps({**said, "socket": ""}))
        first.until(lambda: told(first, name) == 40)
    answer = first.until(lambda: ended(first, name))
    assert tasks_of(answer) == 40
    (one,) = first.call("GET", "/api/v1/clusters")[1]["clusters"]
    assert one["owner"] == os.getuid()
