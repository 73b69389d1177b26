"""What users of this node ask the broker, on a socket that tells whose process it is.

Lines of JSON. A scheduler keeps its connection: while it is open the cluster is there, and through
it comes what has to be cut. Its listening socket comes with the first answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dask_site.dashboards.broker import Broker
from dask_site.dashboards.registry import EACH, RefusedError
from dask_site.identity import peer_of

logger = logging.getLogger("dask_site")
_LONGEST = 64 * 1024
_SECONDS = 10.0
_MOST, _MOST_EACH = 3000, EACH + 50
TOO_FAST: dict[str, Any] = {"error": "You ask too often: wait some seconds", "status": 429}
_WAITING = 1000  # lines for a scheduler that doesn't read


class Control:
    """Answers on the socket for users.

    Parameters
    ----------
    broker : Broker
    listener : socket.socket
        Non-blocking.
    """

    def __init__(self, broker: Broker, listener: socket.socket) -> None:
        self._broker = broker
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: Counter[int] = Counter()

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:  # no descriptor left: those that are open go on
                    logger.warning("A connection can't be taken: %s", error)
                    await asyncio.sleep(0.5)
                    continue
                connection.setblocking(False)
                task = asyncio.create_task(self._served(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def _served(self, connection: socket.socket) -> None:
        with connection:
            try:
                uid = peer_of(connection).uid
            except OSError:
                return
            if self._open[uid] >= _MOST_EACH or self._open.total() >= _MOST:
                with contextlib.suppress(OSError):
                    connection.send(_line({"error": "too many connections of yours are open"}))
                return
            if not self._broker.questions.take(uid):
                with contextlib.suppress(OSError):
                    connection.send(_line(TOO_FAST))
                return
            self._open[uid] += 1
            try:
                await self._answered(connection, uid)
            except (OSError, TimeoutError):
                pass  # the caller went away
            except Exception:
                logger.exception("A question of user %d went wrong", uid)
            finally:
                self._open[uid] -= 1
                if not self._open[uid]:
                    del self._open[uid]

    async def _answered(self, connection: socket.socket, uid: int) -> None:
        loop = asyncio.get_running_loop()
        asked = await asyncio.wait_for(_read(connection), _SECONDS)
        if asked is None:
            return
        if asked.get("op") == "register":
            await self._keep(connection, uid, asked)
            return
        said = await answer(self._broker, uid, asked)
        await asyncio.wait_for(loop.sock_sendall(connection, _line(said)), _SECONDS)

    async def _keep(self, connection: socket.socket, uid: int, asked: Mapping[str, Any]) -> None:
        lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_WAITING)

        def line(what: dict[str, Any]) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                lines.put_nowait(what)

        await self._broker.accounts.know([uid])
        try:
            said, listener = self._broker.clusters.register(uid, asked, line)
        except RefusedError as error:
            connection.send(_line({"error": str(error)}))
            return
        try:
            try:
                descriptors = [listener.fileno()] if listener is not None else []
                socket.send_fds(connection, [_line(said)], descriptors)
            finally:
                if listener is not None:
                    listener.close()
            ended = await _until_it_ends(connection, lines)
        except OSError:
            ended = False
        finally:
            self._broker.clusters.lost(said["id"], line)
        if ended:
            self._broker.clusters.forget(said["id"])


async def answer(broker: Broker, uid: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to answer to a user's question; errors under the key ``error``."""
    op = asked.get("op")
    operation = _OPERATIONS.get(op) if isinstance(op, str) else None
    if operation is None:
        return {"error": f"op must be one of {', '.join(sorted(_OPERATIONS))}", "status": 400}
    try:
        said = await operation(broker, uid, asked)
        if op in _LASTING and not await broker.exchange.tell():
            why = (
                "It holds on this login node alone, and is tried again: what it tells the others, "
                f"and itself after a restart, can't be written to {broker.places.secret}"
            )
            raise RefusedError(why, 503)
    except RefusedError as error:
        there = {"host": error.host} if error.host else {}
        return {"error": str(error), "status": error.status, **there}
    return said


async def _link(broker: Broker, uid: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"url": broker.logins.link(uid, asked.get("cluster"), asked.get("path", "/"))}


async def _list(broker: Broker, uid: int, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"dashboards": await broker.shares.listed(uid), "origin": broker.places.origin()}


async def _log_out(broker: Broker, uid: int, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"ended": broker.logins.log_out(uid)}


async def _log_out_everyone(broker: Broker, uid: int, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"ended": await broker.logins.log_out_everyone(uid)}


_Operation = Callable[[Broker, int, Mapping[str, Any]], Awaitable[dict[str, Any]]]
_OPERATIONS: dict[str, _Operation] = {
    "link": _link,
    "list": _list,
    "share": lambda b, uid, a: b.shares.share(
        uid, a.get("cluster"), a.get("user"), a.get("seconds")
    ),
    "unshare": lambda b, uid, a: b.shares.share(uid, a.get("cluster"), a.get("user"), 0),
    "logout": _log_out,
    "logout-everyone": _log_out_everyone,
    "lock": lambda b, uid, a: b.logins.lock(uid, str(a.get("user")), True),
    "unlock": lambda b, uid, a: b.logins.lock(uid, str(a.get("user")), False),
}
#: What is on disk before it is answered.
_LASTING = frozenset(_OPERATIONS) - {"link", "list"}


async def _until_it_ends(connection: socket.socket, lines: asyncio.Queue[dict[str, Any]]) -> bool:
    """Pass lines on until the other end goes; return whether it said that it has ended."""
    loop = asyncio.get_running_loop()

    async def write() -> None:
        while True:
            await loop.sock_sendall(connection, _line(await lines.get()))

    writing = asyncio.create_task(write())
    try:
        while True:
            # It says nothing but that it ends.
            data = await loop.sock_recv(connection, 256)
            if not data:
                return False
            if b"end" in data:
                return True
    finally:
        writing.cancel()


async def _read(connection: socket.socket) -> dict[str, Any] | None:
    loop = asyncio.get_running_loop()
    data = b""
    while b"\n" not in data:
        part = await loop.sock_recv(connection, 8192)
        data += part
        if not part or len(data) > _LONGEST:
            return None
    try:
        said = json.loads(data[: data.index(b"\n")])
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"
