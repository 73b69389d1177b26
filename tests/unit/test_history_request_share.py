"""One user's questions do not keep others from an answer, nor do those of strangers."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from web_serving import DAEMON, NOBODY, ROOT, serving

from dask_site.history.service import requests
from dask_site.history.service.shares import CrowdedError, Shares
from dask_site.identity import MungeError


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path) as pages:
        yield pages


@pytest.fixture
def asking():
    """Return a function that asks in a thread of its own; all have ended after the test."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(40))
        yield threads.submit


# -- shares ----------------------------------------------------------------------------------


class Steps:
    """Calls that begin in an order, and end when they shall."""

    def __init__(self):
        self.begun, self.go_on = [], threading.Event()
        self.met = threading.Barrier(3)

    def step(self, name):
        self.begun.append(name)
        self.met.wait(20)
        assert self.go_on.wait(20)
        return name


def test_two_of_a_caller_at_once_and_his_others_in_order():
    async def main():
        with ThreadPoolExecutor(8) as threads:
            shares, steps = Shares(threads, each=2, waiting=3), Steps()
            first = [asyncio.create_task(shares.call(7, steps.step, n)) for n in range(2)]
            await asyncio.to_thread(steps.met.wait, 20)
            later = [asyncio.create_task(shares.call(7, steps.begun.append, n)) for n in (2, 3, 4)]
            assert await shares.call(8, lambda: "another") == "another"
            with pytest.raises(CrowdedError, match="5 questions of yours"):
                await shares.call(7, steps.begun.append, 5)
            assert sorted(steps.begun) == [0, 1]
            steps.go_on.set()
            await asyncio.gather(*first, *later)
            assert steps.begun[2:] == [2, 3, 4]
            assert len(shares) == 0

    asyncio.run(main())


def test_a_call_that_fails_or_is_given_up_leaves_its_place():
    async def main():
        with ThreadPoolExecutor(1) as threads:
            shares, go_on = Shares(threads, each=1, waiting=1), threading.Event()
            with pytest.raises(ZeroDivisionError):
                await shares.call(7, lambda: 1 / 0)
            runs = asyncio.create_task(shares.call(7, go_on.wait, 20))
            waits = asyncio.create_task(shares.call(7, go_on.wait, 20))
            await asyncio.sleep(0)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            waits = asyncio.create_task(shares.call(7, go_on.is_set))
            await asyncio.sleep(0)
            go_on.set()
            assert await runs and await waits
            assert len(shares) == 0

    asyncio.run(main())


# -- requests --------------------------------------------------------------------------------


def held(store, monkeypatch, uid):
    """Hold what a user asks of the store; return what says that it came, and what lets it go."""
    came, go_on, ask = threading.Semaphore(0), threading.Event(), store.clusters

    def clusters(owner, *args, **more):
        if owner == uid:
            came.release()
            assert go_on.wait(60)
        return ask(owner, *args, **more)

    monkeypatch.setattr(store, "clusters", clusters)
    return came, go_on


@pytest.mark.parametrize("uid", [DAEMON, ROOT])
def test_who_asks_a_lot_waits_for_himself(served, asking, monkeypatch, uid):
    came, go_on = held(served.store, monkeypatch, uid)
    path = f"/api/v1/clusters?user={uid}"
    many = [asking(served.get, path, uid) for _ in range(12)]
    try:
        assert came.acquire(timeout=20) and came.acquire(timeout=20)
        assert served.get("/api/v1/clusters", NOBODY)[0] == 200
        assert not came.acquire(blocking=False)
    finally:
        go_on.set()
    assert [one.result()[0] for one in many] == [200] * 12


def test_beyond_what_may_wait_it_says_when_to_come_again(served, asking, monkeypatch):
    served.context.asking = Shares(served.context.threads, each=1, waiting=0)
    came, go_on = held(served.store, monkeypatch, DAEMON)
    first = asking(served.get, "/api/v1/clusters", DAEMON)
    try:
        assert came.acquire(timeout=20)
        status, headers, body = served.get("/api/v1/clusters", DAEMON)
        assert (status, headers["Retry-After"]) == (429, "5")
        assert "wait for them" in json.loads(body)["error"]
        status, headers, body = served.get("/clusters", DAEMON)
        assert (status, headers["Retry-After"]) == (429, "5") and b"wait for them" in body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    finally:
        go_on.set()
    assert first.result()[0] == 200
    status, headers, _ = served.get("/api/v1/clusters", DAEMON)
    assert status == 200 and "Retry-After" not in headers


def test_strangers_whom_munge_does_not_know_keep_nobody_waiting(served, asking, monkeypatch):
    came, go_on = threading.Event(), threading.Event()

    def slow(*_):
        came.set()
        assert go_on.wait(60)
        raise MungeError("nobody")

    monkeypatch.setattr(requests, "requesting_user", slow)
    headers = {"Authorization": "MUNGE x"}
    many = [asking(served.get, "/api/v1/whoami", **headers) for _ in range(12)]
    try:
        assert came.wait(20)
        assert served.get("/api/v1/clusters", NOBODY)[0] == 200
        served.context.knowing._waiting = 0
        assert served.get("/api/v1/whoami", **headers)[0] == 429
        assert served.get("/api/v1/clusters", NOBODY)[0] == 200
    finally:
        go_on.set()
    assert {one.result()[0] for one in many} <= {401, 429}
    assert len(served.context.knowing) == 0
