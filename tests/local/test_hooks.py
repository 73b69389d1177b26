"""Where one of our hooks fails, distributed goes on as it would without it."""

import logging

import dask
import dask.array as da
import pytest
from machine import until

from dask_site import needs
from dask_site.cluster.resources import pool_restriction

# These break what spreads the output of a P2P shuffle as well.
SPREADS_AS_DISTRIBUTED = {"able_workers", "is_rootish", "_refusal", "spread"}


def broken(*_, **__):
    raise KeyError("broken for a test")


# What each hook asks first: of the scheduler, and of its shuffle plugin.
BREAKS = {
    "able_workers": ("scheduler", "_refresh_places", broken),
    "valid_workers": ("scheduler", "resting", True),
    "_must_stay": ("scheduler", "_small_inputs", None),
    "is_rootish": ("scheduler", "_held", 1),
    "_keep_queue_off": ("scheduler", "_not_for_root_tasks", None),
    "_note": ("scheduler", "_exclusive", None),
    "_forget": ("scheduler", "_exclusive_workers", None),
    "_refusal": ("shuffles", "_places", broken),
    "spread": ("shuffles", "_places", broken),
    "_begun_anew": ("scheduler", "offers", broken),
    "follow": ("matcher", "shape", broken),
    "transition": ("counter", "_demand", None),
    "_let_rest": ("controller", "_unasked", None),
    "_share": ("controller", "_sharing", None),
}


def where(cluster):
    scheduler = cluster.scheduler
    return {
        "controller": cluster._controller,
        "scheduler": scheduler,
        "shuffles": scheduler.shuffles,
        "counter": scheduler.plugins["dask-site-pools"],
        "matcher": scheduler.matcher,
    }


def of_pool(scheduler, pool):
    return [
        ws.address
        for ws in scheduler.workers.values()
        if pool_restriction(pool).keys() & ws.resources.keys()
    ]


def total(client):
    return client.submit(sum, client.map(abs, range(20), pure=False), pure=False).result()


@pytest.mark.slow
@pytest.mark.parametrize("hook", BREAKS)
def test_work_is_done_although_a_hook_fails(cluster, client, caplog, hook):
    of, name, value = BREAKS[hook]
    scheduler = cluster.scheduler
    caplog.set_level(logging.WARNING, "dask_site")
    whole = getattr(where(cluster)[of], name)
    setattr(where(cluster)[of], name, value)
    try:
        with dask.config.set({"array.rechunk.method": "p2p"}):
            x = da.random.random((32, 32), chunks=(32, 8)).rechunk((8, 32))
            y = x.map_blocks(needs(pool="cpu")(abs)).sum()
            # distributed's own spread knows workers, not needs: without, it may wait for ever.
            workers = of_pool(scheduler, "cpu") if hook in SPREADS_AS_DISTRIBUTED else None
            assert client.compute(y, workers=workers).result() > 0
        assert total(client) == 190
        if hook == "follow":
            one = client.submit(abs, 1)
            one.result()
            cluster.sync(follow, scheduler, one.key)
        if hook in {"_note", "_forget"}:
            cluster.scale(cpu=3)
            assert until(lambda: len(cluster.scheduler.workers) == 6)
            cluster.scale(cpu=2)
            assert until(lambda: len(cluster.scheduler.workers) == 5)
        assert total(client) == 190
        # The controller calls its hooks once a second.
        assert until(lambda: any(f".{hook} went wrong" in r.message for r in caplog.records), 10)
    finally:
        setattr(where(cluster)[of], name, whole)
        for one in where(cluster).values():
            for switched_off in BREAKS.keys() & vars(one).keys():
                delattr(one, switched_off)
    said = [r.message for r in caplog.records if f".{hook} went wrong" in r.message]
    assert len(said) == 1, [r.message for r in caplog.records]
    assert "is switched off; " in said[0]


async def follow(scheduler, key):
    scheduler.shuffles.follow(scheduler.tasks[key])


def test_pools_that_do_not_follow_the_work_say_so(cluster, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "dask_site")
    controller = cluster._controller
    # The tests before have broken it as well.
    assert until(lambda: not controller.trouble)
    controller._remind_at = 0.0
    monkeypatch.setattr(controller, "_limits", broken)
    assert until(lambda: controller.trouble)
    first, *_ = cluster.explain().reasons
    assert first.startswith("Pools don't follow the work, which goes wrong each time it is tried ")
    assert "(KeyError: 'broken for a test'): cluster.scale(...)" in first

    def said():
        return sum("Following the work went wrong" in r.message for r in caplog.records)

    assert said() == 1
    controller._remind_at = 0.0
    assert until(lambda: said() == 2)
    monkeypatch.undo()
    assert until(lambda: not controller.trouble)
    assert cluster.explain().reasons == []
