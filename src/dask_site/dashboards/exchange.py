"""What a broker writes for the others and hears from them, and how old that may be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dask_site.dashboards.known import Known
from dask_site.dashboards.peers import Peers, Told

logger = logging.getLogger("dask_site")
_HEAR, _TELL = 1.0, 10.0
_TOGETHER = 0.2
_AGAIN = 0.3
#: Seconds after which a broker that can't read what the others tell lets nobody in.
STALE = 60.0


class Exchange:
    """What goes to the other brokers, and comes from them.

    Parameters
    ----------
    known : Known
    take_in : callable
        Given what the others tell, and who is locked.
    """

    def __init__(
        self,
        known: Known,
        take_in: Callable[[list[Told], frozenset[int]], Awaitable[None]],
    ) -> None:
        self.peers = Peers(known.places.secret, known.places.host, known.clock)
        self._known = known
        self._take_in = take_in
        self._changed = asyncio.Event()
        self._telling = asyncio.Lock()
        self._told_well = True
        self._hearing = asyncio.Lock()
        self._asked_again = -_AGAIN
        self._heard = known.clock()
        self._deaf = self._closed = False

    async def run(self) -> None:
        """Tell and hear again and again, until cancelled."""
        await asyncio.gather(self._tells(), self._hears(), self._tidies())

    def before(self) -> Told | None:
        """Return what this broker told before it was started anew.

        It holds from when the others are heard.

        Raises
        ------
        OSError
            If it can't be read.
        """
        self._heard = float("-inf")
        return self.peers.own()

    async def is_first(self, nonce: str) -> bool:
        """Say whether a link or a ticket is being used for the first time, on any node."""
        return await asyncio.to_thread(self.peers.first, nonce)

    # -- telling -----------------------------------------------------------------------------

    def changed(self) -> None:
        """Have the others told soon."""
        self._changed.set()

    async def tell(self) -> bool:
        """Tell the others, now; what can't be written is tried again.

        Returns
        -------
        bool
            Whether all that has changed before is on disk.
        """
        self._changed.set()
        async with self._telling:
            if not self._changed.is_set():  # another has told it meanwhile
                return self._told_well
            self._changed.clear()
            said: dict[str, Any] = {
                **self._known.sessions.told(),
                "clusters": [c.to_dict() for c in self._known.registry.own.values()],
            }
            try:
                await asyncio.to_thread(self.peers.tell, said)
            except OSError as error:
                logger.warning("%s can't be written to: %s", self._known.places.secret, error)
                self._told_well = False
            else:
                self._told_well = True
            return self._told_well

    async def _tells(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _TELL)
                await asyncio.sleep(_TOGETHER)
            await self.tell()

    # -- hearing -----------------------------------------------------------------------------

    def is_stale(self) -> bool:
        """Return whether it is too long ago that this broker knew who has logged out, or is locked.

        The folder that the login nodes share hangs, or can't be read: nobody is let in then.
        """
        stale = self._known.clock() - self._heard > STALE
        if stale and not self._closed:
            logger.error(
                "Nobody is let in: %s can't be read since more than %d s, nor what the other login "
                "nodes tell there; it goes on by itself when it can",
                self._known.places.secret,
                STALE,
            )
        self._closed = stale
        return stale

    async def hear(self) -> None:
        """Take in what the others tell, and let go what has ended.

        What can't be read leaves what is known as it is, for a while: see `is_stale`.
        """
        async with self._hearing:
            try:
                told, locked = await asyncio.to_thread(self._read)
            except (OSError, ValueError) as error:
                if not self._deaf:
                    logger.warning("What other login nodes tell can't be read: %s", error)
                self._deaf = True
                return
            self._deaf = False
            self._heard = self._known.clock()
            await self._take_in(told, locked)

    async def hear_again(self) -> None:
        """Hear of a session that another node may have opened just now."""
        now = time.monotonic()
        if now - self._asked_again > _AGAIN and not self._hearing.locked():
            self._asked_again = now
            await self.hear()

    def _read(self) -> tuple[list[Told], frozenset[int]]:
        return self.peers.others(), self._known.barred.locks.read()

    async def _hears(self) -> None:
        while True:
            await self.hear()
            await asyncio.sleep(_HEAR)

    async def _tidies(self) -> None:
        while True:
            await asyncio.to_thread(self.peers.tidy, 600.0)
            await asyncio.sleep(3600)
