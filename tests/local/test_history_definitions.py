"""What tasks carry in their definitions is seen by the recorder, and said in the advice."""

import time

import dask
import numpy as np
import pytest
from distributed import Client, Event, LocalCluster, wait

from dask_site.history.advice import advise
from dask_site.history.model import ClusterHistory
from dask_site.history.naming import span
from dask_site.history.spool import read_spool

SETTINGS = {
    "distributed.scheduler.preload": ["dask_site.history.preload"],
    "dask-site.history.interval": 1,
}


def light(number, event):
    event.wait()
    return number


def heavy(number, _data, event):
    event.wait()
    return number


def test_data_in_the_graph_is_seen_and_small_tasks_are_not_taken_for_it(tmp_path):
    folder = tmp_path / "spool"
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with (
        dask.config.set({**SETTINGS, "dask-site.history.spool": str(folder)}),
        LocalCluster(**options, dashboard_address=":0", silence_logs=False) as cluster,
        Client(cluster) as client,
    ):
        event = Event()
        with span("light"):
            first = [client.submit(light, n, event) for n in range(300)]
        # As one step would be: the recorder looks in between.
        time.sleep(2)
        with span("heavy"):
            data = np.ones(2**18)
            second = [client.submit(heavy, n, data + n, event) for n in range(60)]
        time.sleep(3)
        event.set()
        wait([*first, *second])
    (path,) = folder.iterdir()
    history = ClusterHistory.from_records("me", [record for record, _ in read_spool(path)])
    sizes = {each.name: each.sizes for each in history.spans}
    assert sizes["heavy",]["largest definition"] == pytest.approx(2**21, rel=0.01)
    assert sizes["heavy",]["definitions"] == pytest.approx(60 * 2**21, rel=0.1)
    assert sizes["light",]["definitions"] < 300 * 20_000
    (found,) = [advice for advice in advise(history) if advice.rule == "large graph"]
    assert "'heavy'" in found.evidence[0]
    assert "60 tasks" in found.evidence[0]
