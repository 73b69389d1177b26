"""What clusters say of themselves: in Python, on the command line, on the dashboard."""

import json
import os
import signal
import time
import urllib.request

import dask
import dask.array as da
import pytest
from click.testing import CliRunner
from machine import until
from places import here, slow

from dask_site import Cluster, Site, needs, pool
from dask_site.cli import main
from dask_site.cluster.explain import Explanation


def wait_for(path, *_):
    """Return when the file is there."""
    while not os.path.exists(path):
        time.sleep(0.05)


def die_once(path):
    """End the worker's process, but not the second time."""
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.path.basename(path)


@needs(gpu=1)
def on_a_gpu(x):
    return x


@pytest.fixture
def gate(tmp_path):
    """A file that tasks wait for, made in the end."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def run(site, monkeypatch):
    config = {**dask.config.global_config, "dask_site": site.to_mapping()}
    monkeypatch.setattr(dask.config, "global_config", config)
    return lambda *arguments: CliRunner().invoke(main, ["explain", *arguments])


def lines_of(explanation):
    return {line.needs: dict(line.tasks) for line in explanation.tasks}


def test_what_was_just_submitted_is_there(cluster, client, gate):
    for number in range(5):
        waits = dask.delayed(wait_for)(str(gate), number, dask_key_name=f"just-{number}")
        mine = client.compute(on_a_gpu(dask.delayed(list)([waits] * 100)))
        assert lines_of(cluster.explain())["nothing in particular"]
        assert lines_of(cluster.explain(mine))
        mine.cancel()


def test_work_by_need_and_state(cluster, client, gate):
    with pool("highmem"):
        wide = client.map(wait_for, [str(gate)] * 5, range(5))
    last = client.submit(on_a_gpu, wide)
    assert until(lambda: lines_of(cluster.explain()).get("pool 'highmem'"))
    ordinary = client.map(wait_for, [str(gate)] * 12, range(100, 112))
    assert until(lambda: lines_of(cluster.explain()).get("nothing in particular"))
    told = cluster.explain()
    # Queued on a worker, behind others, and queued on the scheduler.
    assert lines_of(told) == {
        "pool 'highmem'": {"ready": 4, "running": 1},
        "1 GPU": {"waiting": 1},
        "nothing in particular": {"ready": 10, "running": 2},
    }
    assert [line.pool for line in told.pools] == ["cpu", "highmem", "gpu"]
    assert [(line.workers, line.target) for line in told.pools] == [(2, 2), (1, 1), (2, 2)]
    assert all(line.standing == "scaled by hand" for line in told.pools)
    assert told.tasks[0].pools == ("cpu", "highmem")
    assert "tasks need" in repr(told)
    assert "<table>" in told._repr_html_()
    assert repr(Explanation.from_dict(json.loads(told.to_json()))) == repr(told)

    # Only what is asked about, with what it waits for.
    mine = cluster.explain(last)
    assert lines_of(mine) == {
        "1 GPU": {"waiting": 1},
        "pool 'highmem'": {"ready": 4, "running": 1},
    }
    gate.touch()
    client.gather([*ordinary, last])
    assert lines_of(cluster.explain(last)) == {"1 GPU": {"done": 1}}
    assert repr(cluster.explain()).startswith("Nothing to do.\n")


def test_a_collection_that_is_not_submitted(cluster):
    x = da.ones((40, 40), chunks=10).map_blocks(on_a_gpu)
    told = cluster.explain(x.sum())
    assert lines_of(told)["1 GPU"] == {"not submitted": 16}
    assert told.tasks[0].needs == "nothing in particular"
    assert told.to_dict()["tasks"][0]["tasks"]["not submitted"] > 0


def test_a_collection_that_is_computed_shows_its_inputs_too(cluster, client, gate):
    first = [dask.delayed(wait_for, pure=False)(str(gate), n) for n in range(3)]
    y = dask.delayed(on_a_gpu, pure=False)(first)
    future = client.compute(y)

    def unfinished():
        told = lines_of(cluster.explain(y))
        return sum(sum(states.values()) for states in told.values()), told.get("1 GPU")

    assert until(lambda: unfinished() == (4, {"waiting": 1})), cluster.explain(y)
    gate.touch()
    future.result()


def by_key(key):
    return {"GPU": 1} if "lit" in str(key) else {}


def test_resources_by_a_function_of_the_key(cluster, client, caplog):
    work = dask.delayed(sorted)(
        [dask.delayed(here)(dask_key_name="lit"), dask.delayed(here)(dask_key_name="dark")]
    )
    with dask.annotate(resources=by_key):
        told = lines_of(cluster.explain(work))
        found = client.compute(work).result()
    assert told["1 GPU"] == {"not submitted": 1}
    assert found.count("gpu") == 1
    assert not [r.message for r in caplog.records if "went wrong" in r.message]


def test_a_pool_without_workers_by_hand_is_a_reason(site):
    with Cluster(site, dashboard=False) as cluster, cluster.get_client() as client:
        cluster.scale(gpu=0)
        future = client.submit(on_a_gpu, 1, pure=False)
        assert until(lambda: cluster.explain().reasons)
        assert cluster.explain().reasons == [
            "1 task with a need of 1 GPU gets no worker: you scaled pool 'gpu' to 0. "
            "cluster.scale(gpu=1) asks for one, cluster.adapt(gpu=None) lets the pool follow the "
            "work."
        ]
        future.release()


@pytest.mark.slow
def test_a_lost_worker_is_a_reason(site, tmp_path):
    with Cluster(site, dashboard=False) as cluster, cluster.get_client() as client:
        future = client.submit(die_once, str(tmp_path / "died"), key="fatal")
        assert future.result(timeout=60) == "died"
        (reason,) = [r for r in cluster.explain().reasons if "SIGSEGV" in r]
        assert " ago: worker cpu-0 (pool 'cpu' on " in reason
        assert reason.endswith("Its task 'fatal': runs again.")


def test_the_command_explains_every_cluster_under_its_name(cluster, client, site, run):
    futures = client.map(slow, range(30), seconds=0.3, pure=False)
    with Cluster(site, name="second", dashboard=False):
        done = run()
        assert done.exit_code == 0
        assert done.stderr == ""
        assert "tasks need" in done.stdout
        pid = os.getpid()
        head = f"Cluster second (Test machine; process {pid} on {os.uname().nodename})\n\n"
        assert f"{head}Nothing to do.\n\npool" in done.stdout
        assert f"Cluster {cluster.name} (" in done.stdout
        second = run("second")
        assert second.stdout.startswith(head)
        assert cluster.name not in second.stdout
        told = json.loads(run("--json").stdout)
        assert {one["name"] for one in told} == {"second", cluster.name}
        assert {one["explanation"]["cluster"] for one in told} == {"second", cluster.name}
        assert run("secund").stderr.endswith("Did you mean 'second'?\n")
    assert "second" not in run().stdout
    client.cancel(futures)


def test_watching_ends_with_ctrl_c(cluster, run, monkeypatch):
    from dask_site import cli

    rounds = []

    def pause(seconds):
        rounds.append(seconds)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.time, "sleep", pause)
    done = run("--watch", "--json", cluster.name)
    assert done.exit_code == 0
    assert [json.loads(line)[0]["name"] for line in done.stdout.splitlines()] == [cluster.name] * 2


def test_a_stranger_gets_no_explanation(cluster, run, site, tmp_path):
    """The keys in the folder are what lets the command in."""
    from distributed.security import Security

    folder = cluster._folder.path
    kept = (folder / "tls" / "cert.pem").read_text(), (folder / "tls" / "key.pem").read_text()
    other = Security.temporary()
    try:
        (folder / "tls" / "cert.pem").write_text(other.tls_ca_file)
        (folder / "tls" / "key.pem").write_text(other.tls_client_key)
        done = run(cluster.name)
    finally:
        (folder / "tls" / "cert.pem").write_text(kept[0])
        (folder / "tls" / "key.pem").write_text(kept[1])
    assert done.exit_code == 1
    assert done.stdout == ""


def test_the_dashboard_has_the_pools(cluster):
    base = cluster.dashboard_link.removesuffix("/status")
    for page in ("pools", "individual-pools"):
        with urllib.request.urlopen(f"{base}/{page}") as answer:
            assert "bokeh" in answer.read().decode()
    with urllib.request.urlopen(f"{base}/status") as answer:
        assert '<a href="pools">' in answer.read().decode()


def test_what_the_page_shows(cluster, client):
    """The page's models, without a browser."""
    from dask_site.cluster import panel_page

    assert until(lambda: len(cluster._controller.history) > 3)
    futures = client.map(slow, range(60), seconds=0.3, pure=False)
    time.sleep(2.5)

    async def look():
        shown = panel_page.Pools(cluster._panel)
        shown.update()
        before = len(shown.source.data["time"])
        shown._choose("active", 0, 1)
        shown._choose("active", 1, 0)
        return shown, before

    shown, before = cluster.sync(look)
    data = shown.source.data
    assert before >= 3
    assert len({len(column) for column in data.values()}) == 1
    assert data["workers0"][-1] == 2
    assert max(data["running0"]) >= 1
    assert [r.visible for r in shown._rows] == [True, True, True]
    assert "<td>cpu</td><td>2</td><td>2</td>" in shown._table.text
    assert "wait for their turn" in shown._reasons.text
    client.cancel(futures)


def test_names_on_the_page_are_text(site):
    """A pool's reason may hold what a job printed."""
    from dask_site.cluster import panel_page
    from dask_site.cluster.explain import PoolLine

    told = Explanation("c", [], [], ["<script>alert(1)</script>"])
    assert "<script>" not in panel_page._reasons_html(told)
    line = PoolLine("<b>", 0, 0, 0, True, False, 1.0)
    assert "<b>" not in panel_page._row_html(line, {"running": 0, "ready": 0})


def test_a_cluster_without_a_dashboard_keeps_nothing_for_it(site):
    with Cluster(Site.from_mapping(site.to_mapping()), dashboard=False) as cluster:
        assert cluster._panel._task is None
