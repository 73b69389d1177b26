"""How often the controller looks at the work."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace as Some

from dask_site.scaling import by_demand as module
from dask_site.scaling.by_demand import Controller


def test_looks_that_take_long_are_rarer_also_when_they_go_wrong(monkeypatch):
    now, pauses, took = 0.0, [], [0.001, 0.3, 0.3, 0.02]

    def look():
        nonlocal now
        now += took[len(pauses) - 1]
        if len(pauses) == 3:
            raise KeyError("wrong for a test")

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) > len(took):
            raise asyncio.CancelledError

    monkeypatch.setattr(module, "asyncio", Some(sleep=sleep))
    monkeypatch.setattr(module, "thread_time", lambda: now)
    controller = Some(tick=look, trouble="", _tell_of=lambda error: None)
    with suppress(asyncio.CancelledError):
        asyncio.run(Controller._run(controller))
    assert [round(pause, 3) for pause in pauses] == [1, 1, 6, 6, 1]
