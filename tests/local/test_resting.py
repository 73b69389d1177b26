"""What workers that nobody asks for still get, on a real scheduler and workers in one process."""

import asyncio
import time

import machine
import pytest
from distributed import Client, Worker
from places import slow

from dask_site import Site
from dask_site.cluster.resources import worker_resources
from dask_site.cluster.scheduler import PoolScheduler

SITE = Site.from_mapping(machine.SITE)


class Stage:
    """A scheduler without work stealing, its client, and workers of pools."""

    def __init__(self, scheduler, client):
        self.scheduler = scheduler
        self.client = client
        self._workers = []

    async def worker(self, pool):
        offers = worker_resources(SITE.pools[pool])
        address = self.scheduler.address
        made = await Worker(address, nthreads=1, name=pool, resources=offers, dashboard=False)
        self._workers.append(made)
        assert await until(lambda: len(self.scheduler.running) == len(self._workers))
        return made

    async def close(self):
        for worker in self._workers:
            await worker.close(timeout=2, executor_wait=False)

    def rest(self, *workers):
        self.scheduler.let_rest([worker.address for worker in workers], 0.1)

    def assigned(self, worker):
        return len(self.scheduler.workers[worker.address].processing)


def on_a_stage(test):
    """Run a test, which gets a `Stage`, in an event loop."""

    def run():
        async def main():
            own = {"port": 0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
            async with (
                PoolScheduler(site=SITE, dashboard=False, **own) as scheduler,
                Client(scheduler.address, asynchronous=True) as client,
            ):
                scheduler.periodic_callbacks["stealing"].stop()
                stage = Stage(scheduler, client)
                try:
                    await asyncio.wait_for(test(stage), 40)
                finally:
                    await stage.close()

        asyncio.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(condition):
    for _ in range(100):
        if condition():
            return True
        await asyncio.sleep(0.05)
    return False


@on_a_stage
async def test_what_a_cheap_worker_has_no_time_for_goes_to_the_one_that_rests(stage):
    cheap, dear = await stage.worker("cpu"), await stage.worker("highmem")
    stage.scheduler.set_ending({cheap.address: (time.time() + 0.2, 100.0)}, 0.5)
    await asyncio.sleep(0.3)
    stage.rest(dear)
    one = stage.client.submit(slow, 1)
    assert await asyncio.wait_for(one, 5) == 1
    many = stage.client.map(slow, range(40), [0.01] * 40, pure=False)
    stage.rest(dear)
    assert await asyncio.wait_for(stage.client.gather(many), 10) == list(range(40))


@on_a_stage
async def test_what_it_has_goes_to_the_cheap_worker_that_comes_later(stage):
    dear = await stage.worker("highmem")
    data = await stage.client.scatter(list(range(10)))
    stage.rest(dear)
    tasks = stage.client.map(slow, data * 40, [0.01] * 400, pure=False)
    assert await until(lambda: stage.assigned(dear) > 300), "nobody else is there"
    cheap = await stage.worker("cpu")
    stage.rest(dear)
    assert stage.assigned(cheap) > 250 and stage.assigned(dear) < 50
    assert await until(lambda: stage.assigned(dear) == 0)
    assert await stage.client.gather(tasks) == list(range(10)) * 40


@on_a_stage
async def test_queued_tasks_are_handed_to_it_again_when_the_cheap_worker_has_left(stage):
    cheap, dear = await stage.worker("cpu"), await stage.worker("highmem")
    stage.rest(dear)
    tasks = stage.client.map(slow, range(60), [0.02] * 60, pure=False)
    assert await until(lambda: stage.assigned(cheap))
    assert stage.assigned(dear) == 0 and stage.scheduler.queued
    assert dear.address not in stage.scheduler.idle, "nor does it steal"
    await cheap.close()
    stage.rest(dear)
    assert await asyncio.wait_for(stage.client.gather(tasks), 20) == list(range(60))


@on_a_stage
async def test_its_own_work_stays(stage):
    cheap, dear = await stage.worker("cpu"), await stage.worker("highmem")
    own = {"resources": {"pool:highmem": 1}, "pure": False}
    tasks = stage.client.map(slow, range(50), [0.01] * 50, **own)
    assert await until(lambda: stage.assigned(dear) > 40)
    stage.rest(dear)
    assert stage.assigned(dear) > 30 and stage.assigned(cheap) == 0
    assert await stage.client.gather(tasks) == list(range(50))


@pytest.mark.parametrize("rests", [True, False])
def test_it_rests_only_as_long_as_somebody_says_so(rests):
    @on_a_stage
    async def check(stage):
        cheap, dear = await stage.worker("cpu"), await stage.worker("highmem")
        stage.rest(dear)
        if not rests:
            stage.rest()
        tasks = stage.client.map(slow, range(40), [0.02] * 40, pure=False)
        await stage.client.gather(tasks)
        ran = {w for held in (await stage.client.who_has(tasks)).values() for w in held}
        assert ran == ({cheap.address} if rests else {cheap.address, dear.address})

    check()
