"""What a worker was doing when it died, and how it died: reported by its nanny.

A preload for both: `dask worker --preload dask_site.faults.blackbox --preload-nanny
dask_site.faults.blackbox`. The worker keeps the keys that it executes in memory that it shares
with its nanny, which outlives it. Nothing here ever fails a worker: a box that does not work is
left off, with a line in the debug log.

The nanny's and worker's internals that serve here are held in place by
`tests/contract/test_nannies.py`.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from distributed import Nanny, WorkerPlugin
from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from dask_site.faults.oom import OomKills
from dask_site.upstream.processes import between_end, ended_for_memory

logger = logging.getLogger(__name__)

#: Topic of the events that the nannies send to the scheduler.
TOPIC = "dask-site-blackbox"
#: Name under which the nanny tells its worker where the shared memory is.
PATH = "DASK_SITE_BLACKBOX"

_SAMPLE_MS = 200
# How long before the end the memory counts that a worker held: the tasks of then, not of before.
_RECENT_SAMPLES = 25
_SLOT = 1024
_SLOTS = 256
_HEADER = 256
_ADDRESS = 16
_ERROR = _HEADER + _SLOT * _SLOTS
_SIZE = _ERROR + _SLOT
_CLOSING, _UNKNOWN = 0, 1
_LENGTH = struct.Struct("<I")
_SIGKILL = -9


async def dask_setup(server: Any) -> None:
    """Set the box up in a nanny or in a worker (Dask's preload interface)."""
    try:
        if isinstance(server, Nanny):
            NannyBox(server).attach()
        else:
            await _attach_worker(server)
    except Exception:
        logger.debug("No black box for %s", server, exc_info=True)


async def dask_teardown(server: Any) -> None:
    """Tell the scheduler that a nanny closes, before its worker goes (Dask's preload interface)."""
    box = getattr(server, "_dask_site_blackbox", None)
    if box is not None:
        await box.farewell()


class Memo:
    """The keys that a worker executes now, in memory that outlives the worker.

    Parameters
    ----------
    memory : mmap
        `Memo.SIZE` bytes, shared with the process that is to read them.
    """

    SIZE = _SIZE

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._free = list(range(_ERROR - _SLOT, _HEADER - 1, -_SLOT))
        self._slots: dict[Any, int] = {}

    def sign(self, address: str) -> None:
        """Note whose memo this is: a worker may die before its nanny has heard of its address."""
        data = address.encode()[: _HEADER - _ADDRESS]
        self._memory[_ADDRESS : _ADDRESS + len(data)] = data

    def __contains__(self, key: Any) -> bool:
        return key in self._slots

    def begin(self, key: Any) -> None:
        """Note that a task begins."""
        if key in self._slots:
            return
        data = pickle.dumps(key, 5)
        if len(data) > _SLOT - 4 or not self._free:
            self._slots[key] = 0
            self._count_unknown(1)
            return
        at = self._slots[key] = self._free.pop()
        self._memory[at : at + 4 + len(data)] = _LENGTH.pack(len(data)) + data

    def end(self, key: Any) -> None:
        """Note that a task ended, whatever its end."""
        at = self._slots.pop(key, None)
        if at is None:
            return
        if at == 0:
            self._count_unknown(-1)
            return
        self._memory[at] = self._memory[at + 1] = 0
        self._free.append(at)

    def close(self) -> None:
        """Note that the worker ends in order: what runs now is not why."""
        self._memory[_CLOSING] = 1

    def give_up(self, error: str) -> None:
        """Note that the worker ends because of an error of its own."""
        data = error.encode()[: _SLOT - 4]
        self._memory[_ERROR : _ERROR + 4 + len(data)] = _LENGTH.pack(len(data)) + data

    def _count_unknown(self, change: int) -> None:
        self._memory[_UNKNOWN] = min(255, max(0, self._memory[_UNKNOWN] + change))


def read(memory: mmap.mmap) -> tuple[list[Any], bool, bool]:
    """Return what a worker noted: the keys, whether these are all, whether it ended in order."""
    keys, complete = [], memory[_UNKNOWN] == 0
    for at in range(_HEADER, _ERROR, _SLOT):
        (length,) = _LENGTH.unpack_from(memory, at)
        if length:
            try:
                keys.append(pickle.loads(memory[at + 4 : at + 4 + length]))  # noqa: S301  # our own
            except Exception:
                complete = False
    return keys, complete, memory[_CLOSING] == 1


def signature(memory: mmap.mmap) -> str:
    """Return the address of the worker whose memo this is; empty if it did not come so far."""
    return memory[_ADDRESS:_HEADER].rstrip(b"\0").decode(errors="replace")


def error_of(memory: mmap.mmap) -> str:
    """Return the error on which a worker gave up; empty if it did not."""
    (length,) = _LENGTH.unpack_from(memory, _ERROR)
    return memory[_ERROR + 4 : _ERROR + 4 + length].decode(errors="replace")


def wipe(memory: mmap.mmap) -> None:
    """Forget everything, for the next worker."""
    memory[0:_HEADER] = bytes(_HEADER)
    for at in range(_HEADER, _SIZE, _SLOT):
        memory[at : at + 4] = b"\0\0\0\0"


class BlackBox(WorkerPlugin):
    """Follows which tasks a worker executes."""

    name = "dask-site-blackbox"

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    def setup(self, worker: Any) -> None:
        """Keep what the worker knows of its tasks."""
        self._state = worker.state

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:  # noqa: ARG002  # distributed's signature
        """Note a task that begins or ends."""
        if finish == "executing":
            self._memo.begin(key)
        elif key in self._memo:
            # A task that was released may well run on: nothing can stop its thread.
            ts = self._state.tasks.get(key)
            if ts not in self._state.executing and ts not in self._state.long_running:
                self._memo.end(key)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002  # distributed's signature
        """Note that the worker closes in order."""
        self._memo.close()


async def _attach_worker(worker: Any) -> None:
    path = os.environ.pop(PATH, "")
    if not path:
        return
    with Path(path).open("r+b", buffering=0) as file:
        memory = mmap.mmap(file.fileno(), _SIZE)
    memo = Memo(memory)
    memo.sign(worker.address)
    await worker.plugin_add(BlackBox(memo))
    listen = worker.handle_stream

    async def handle_stream(*args: Any, **kwargs: Any) -> None:
        # distributed closes the worker as if its connection were broken, and says no more: so it
        # ends when a task is of a module that it does not have.
        try:
            await listen(*args, **kwargs)
        except Exception as error:
            memo.give_up(f"{type(error).__name__}: {error}")
            raise

    worker.handle_stream = handle_stream


class NannyBox:
    """Watches one worker process from its nanny, and reports its end.

    Parameters
    ----------
    nanny : distributed.Nanny
        Before it starts its worker.
    """

    def __init__(self, nanny: Any) -> None:
        self._nanny = nanny
        # It has no name in any file system: nothing is left, however this process ends.
        self._file = os.memfd_create("dask-site-blackbox")
        os.ftruncate(self._file, _SIZE)
        self._memory = mmap.mmap(self._file, _SIZE)
        self._kills = OomKills.shared()
        self._samples: list[int] = []
        self._pid = 0

    def attach(self) -> None:
        """Put the box between the nanny and its worker's end."""
        nanny = self._nanny
        nanny.env[PATH] = f"/proc/{os.getpid()}/fd/{self._file}"
        between_end(nanny, self._reporting)
        nanny.periodic_callbacks[TOPIC] = PeriodicCallback(self.sample, _SAMPLE_MS)
        nanny._dask_site_blackbox = self

    def sample(self) -> None:
        """Look how much memory the worker holds now."""
        try:
            self._kills.look()
            process = self._nanny.process
            pid = process.pid if process is not None else None
            if not pid:
                return
            if pid != self._pid:
                self._pid, self._samples = pid, []
            self._samples.append(psutil.Process(pid).memory_info().rss)
            del self._samples[:-_RECENT_SAMPLES]
        except Exception:
            logger.debug("The memory of worker %s is not known", self._pid, exc_info=True)

    async def farewell(self) -> None:
        """Tell that the nanny was told to end, with its worker."""
        address = signature(self._memory) or self._nanny.worker_address
        error = error_of(self._memory)
        await self._send({"worker": address, "how": "closing", "error": error}, 1)

    async def _send(self, report: dict[str, Any], seconds: float) -> None:
        try:
            sending = self._nanny.scheduler.log_event(topic=TOPIC, msg=report)
            await asyncio.wait_for(sending, seconds)
        except Exception:
            logger.debug("The scheduler was not told of a worker's end", exc_info=True)

    def report(self, exit_code: int) -> dict[str, Any]:
        """Return what is known of a worker process that has ended.

        Returns
        -------
        dict
            Made of what msgpack takes: `worker` (its address), `how` ("exit"), `exit_code` (of
            the process; negative: by that signal), `executing` (keys), `complete` (whether these
            are all), `closing` (it ended in order), `error` (that made it give up), `oom_kill` (by
            the kernel, for memory), `nanny_kill` (by its nanny, for memory), `peak` and `limit`
            (bytes; 0: not known).
        """
        keys, complete, closing = read(self._memory)
        address = signature(self._memory)
        error = error_of(self._memory)
        wipe(self._memory)
        plain = [key for key in keys if _is_plain(key)]
        manager = self._nanny.memory_manager
        return {
            "worker": address or self._nanny.worker_address,
            "how": "exit",
            "exit_code": exit_code,
            "executing": plain,
            "complete": complete and len(plain) == len(keys),
            "closing": closing,
            "error": error,
            "oom_kill": exit_code == _SIGKILL and self._kills.claim(),
            "nanny_kill": self._pid != 0 and ended_for_memory(self._nanny) == self._pid,
            "peak": max(self._samples, default=0),
            "limit": int(manager.memory_limit or 0),
        }

    def _reporting(self, usual: Callable[[int], None]) -> Callable[[int], None]:
        def on_exit(exit_code: int) -> None:
            try:
                # A nanny that closes has told so, and has no connection any more.
                if self._nanny.status not in {Status.closing, Status.closed}:
                    self._sending = asyncio.ensure_future(self._send(self.report(exit_code), 10))
            except Exception:
                logger.debug("The end of worker %s is not told", self._pid, exc_info=True)
            usual(exit_code)

        return on_exit


def _is_plain(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_is_plain, key))
    return type(key) in {str, bytes, int, float}
