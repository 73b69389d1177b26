"""Functions that bring their worker down; workers import this module."""

import ctypes
import os
import signal
import time

from places import here

MIB = 2**20


def fill(mebibytes, *, seconds=1.0):
    """Hold so much memory for a moment, then return the pool of this worker."""
    held = []
    for _ in range(0, mebibytes, 20):
        held.append(bytearray(20 * MIB))
        time.sleep(seconds * 20 / mebibytes)
    time.sleep(0.2)
    return here()


def gulp(mebibytes):
    """Hold so much memory at once, faster than anybody looks."""
    held = bytearray(mebibytes * MIB)
    time.sleep(1)
    return len(held) and here()


def segfault():
    time.sleep(0.05)
    ctypes.string_at(0)


def leave(code):
    time.sleep(0.05)
    os._exit(code)


def mark_and_leave(folder):
    """End the worker, having left one file per execution."""
    with open(os.path.join(folder, str(time.time_ns())), "w"):
        pass
    os._exit(3)


def run_as(name, folder, seconds=0.2):
    """Note the worker's process and sleep, so that it can be killed while this runs."""
    path = os.path.join(folder, f"{name}-{os.getpid()}")
    with open(path, "w"):
        pass
    time.sleep(seconds)
    os.unlink(path)
    return name


def end_myself(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)
    time.sleep(5)
