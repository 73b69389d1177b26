"""The ends of a process of which no cluster hears: signals, and the interpreter's own end."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ending(Protocol):
    """What wants to know."""

    def process_ends(self, how: str) -> None:
        """Write the end."""

    def signalled(self, how: str) -> None:
        """Write what there is: the program has a handler, and may go on."""


_watching: list[Ending] = []
_before: dict[int, Any] = {}
_pid = 0


def watch(one: Ending) -> None:
    """Tell `one` when the process ends, until `forget`."""
    global _pid  # noqa: PLW0603  # there is one process
    if _pid != os.getpid():
        # Also in a fork: what the parent records is not the child's to end.
        _pid = os.getpid()
        _watching.clear()
        atexit.register(_at_exit)
    _watching.append(one)
    if threading.current_thread() is threading.main_thread():
        _install()
    else:
        _in_main_thread(_install)


def forget(one: Ending) -> None:
    """Tell `one` no more."""
    if one in _watching:
        _watching.remove(one)


def _install() -> None:
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        # None: not set by Python, and so not to be called from here. Who ignores it lives on.
        if handler not in {None, signal.SIG_IGN, _handle}:
            _before[number] = handler
            signal.signal(number, _handle)


def _handle(number: int, frame: Any) -> None:
    name = signal.Signals(number).name
    before = _before.get(number, signal.SIG_DFL)
    mine = os.getpid() == _pid
    if callable(before):
        if mine:
            _tell("signalled", name)
        before(number, frame)
        return
    if mine:
        _tell("process_ends", name)
    # As if we had never been here.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _at_exit() -> None:
    if os.getpid() == _pid:
        failed = getattr(sys, "last_type", None)
        _tell("process_ends", f"exit: {failed.__name__}" if failed is not None else "exit")


def _tell(what: str, how: str) -> None:
    for one in _watching:
        with suppress(Exception):  # the end must not be held up
            getattr(one, what)(how)


_Callback = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_calls: list[Any] = []


def _in_main_thread(function: Callable[[], None]) -> None:
    """Call a function in the main thread soon: Python sets signal handlers nowhere else."""

    def call(_: Any) -> int:
        # If it fails, a signal ends the record without an end.
        with suppress(Exception):
            if threading.current_thread() is threading.main_thread():
                function()
        return 0

    callback = _Callback(call)
    _calls[:] = [*_calls[-7:], callback]  # must outlive the call
    ctypes.pythonapi.Py_AddPendingCall(callback, None)
