"""What tasks carry in their definitions, and what is computed again, is seen by the recorder."""

import time

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, Event, LocalCluster, wait
from machine import until

from dask_site.history.advice import advise
from dask_site.history.model import ClusterHistory
from dask_site.history.naming import span
from dask_site.history.records import AGAIN
from dask_site.history.spans import Spans
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


def held(block, event):
    event.wait()
    return block


@pytest.mark.parametrize(("second", "share"), [(slice(4), 1), (slice(4, 8), 0)])
def test_tasks_that_come_again_are_told_from_others_of_their_group(second, share):
    options = {"n_workers": 1, "threads_per_worker": 4, "processes": False}
    with (
        LocalCluster(**options, dashboard_address=":0", silence_logs=False) as cluster,
        Client(cluster) as client,
    ):
        scheduler, event = cluster.scheduler, Event()
        spans = Spans(scheduler)
        array = da.ones(8, chunks=1).map_blocks(held, event, meta=np.ones(0))
        blocks = array.to_delayed(optimize_graph=False)

        def compute(which):
            event.clear()
            futures = client.compute(list(blocks[which]))
            (worker,) = scheduler.workers.values()
            assert until(lambda: sum(ts.prefix.name == "held" for ts in worker.processing) == 4)
            # Those that are kept are few at a time.
            for _ in range(8):
                seen.extend(spans.changes(time.time(), None))
            event.set()
            wait(futures)
            del futures
            assert until(lambda: not scheduler.tasks)
            seen.extend(spans.changes(time.time(), None))

        seen = []
        compute(slice(4))
        assert all(AGAIN not in c.record["tasks"]["held"]["seconds"] for c in seen)
        compute(second)
        told = [change.record["tasks"]["held"]["seconds"] for change in seen]
        again = max(seconds.get(AGAIN, 0.0) for seconds in told)
        assert again == pytest.approx(share * told[-1]["compute"])
