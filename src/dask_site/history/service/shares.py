"""Threads that many ask for, of which nobody takes more than a share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class CrowdedError(Exception):
    """One caller has as many calls waiting as are kept for him; the message says so."""


class Shares:
    """Calls functions in threads: a few of each caller at once, his others in order.

    As those of one caller wait here and not before the threads, another finds at most `each` of
    his ahead of him.

    Parameters
    ----------
    threads : concurrent.futures.Executor
    each : int
        Calls of one caller that are done at once.
    waiting : int
        Of one caller, that wait for those.
    """

    def __init__(self, threads: Executor, each: int = 2, waiting: int = 30) -> None:
        self._threads = threads
        self._each = each
        self._waiting = waiting
        self._of: dict[Hashable, _Share] = {}

    async def call(
        self, who: Hashable, function: Callable[_P, _T], *args: _P.args, **more: _P.kwargs
    ) -> _T:
        """Call a function for a caller, when it is his turn.

        Raises
        ------
        CrowdedError
            If too many of his wait already.
        """
        share = self._of.setdefault(who, _Share(self._each))
        if share.inside >= self._each + self._waiting:
            raise CrowdedError(
                f"{share.inside} questions of yours are not answered yet: wait for them, and ask "
                "again."
            )
        share.inside += 1
        try:
            async with share.turns:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, partial(function, *args, **more))
        finally:
            share.inside -= 1
            if not share.inside:
                del self._of[who]

    def __len__(self) -> int:
        return len(self._of)


class _Share:
    def __init__(self, each: int) -> None:
        self.inside = 0
        self.turns = asyncio.Semaphore(each)
