"""The clock that the benchmark of a day lays under all programs of a cluster."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "bench/history/clock.c"
CC = shutil.which("cc")
RATE = 20
#: Each wait is for ten seconds of the fast clock.
LOOK = """
import asyncio, json, os, queue, select, subprocess, sys, threading, time
def took(wait):
    begun = time.monotonic()
    wait()
    return time.monotonic() - begun
def spun():
    cpu = time.process_time()
    while time.process_time() < cpu + 10:
        pass
def waited(wait, *errors):
    try:
        wait()
    except errors:
        pass
open(sys.argv[1], "w").close()
waits = dict(
    sleep=lambda: time.sleep(10),
    event=lambda: threading.Event().wait(10),
    lock=lambda: [lock := threading.Lock(), lock.acquire(), lock.acquire(timeout=10)],
    queue=lambda: waited(lambda: queue.Queue().get(timeout=10), queue.Empty),
    select=lambda: select.select([], [], [], 10),
    poll=lambda: select.poll().poll(10_000),
    asyncio=lambda: asyncio.run(asyncio.sleep(10)),
    child=lambda: waited(
        lambda: subprocess.run(["sleep", "1000"], timeout=10), subprocess.TimeoutExpired
    ),
    spinning=spun,
)
times = {name: took(wait) for name, wait in waits.items()}
open(sys.argv[1], "w").close()
written = os.stat(sys.argv[1]).st_mtime - time.time()
os.utime(sys.argv[1], (86400, time.time() - 3600))
back = time.time() - os.stat(sys.argv[1]).st_mtime
print(json.dumps(dict(times=times, written=written, back=back, now=time.time())))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if CC is None:
        pytest.skip("needs a C compiler")
    made = tmp_path_factory.mktemp("clock") / "clock.so"
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([CC, *flags, "-o", made, SOURCE, "-ldl"], check=True)
    return made


def look(library, rate, tmp_path):
    """Return what a program sees whose clock begins to be fast as the file with the rate says."""
    (tmp_path / "rate").write_text(rate)
    env = os.environ | {"LD_PRELOAD": str(library), "CLOCK_RATE": str(tmp_path / "rate")}
    command = [sys.executable, "-c", LOOK, tmp_path / "file"]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True).stdout)


def test_what_waits_for_ten_seconds_waits_for_half_of_one(library, tmp_path):
    start, before = time.time() - 1000, time.monotonic()
    seen = look(library, f"{start:.6f} {RATE}", tmp_path)
    really = time.monotonic() - before
    assert min(seen["times"].values()) >= 10
    assert sum(seen["times"].values()) <= RATE * really
    assert seen["now"] == pytest.approx(start + RATE * (time.time() - start), abs=RATE * 10)


def test_files_have_the_times_of_that_clock(library, tmp_path):
    seen = look(library, f"{time.time() - 1000:.6f} {RATE}", tmp_path)
    assert -RATE * 5 < seen["written"] <= 0
    assert 3600 <= seen["back"] < 3600 + RATE * 5


@pytest.mark.parametrize("rate", ["", "no number", "-5 20", "1700000000 0.5"])
def test_nonsense_leaves_the_clock_as_it_is(library, tmp_path, rate):
    (tmp_path / "rate").write_text(rate)
    env = os.environ | {"LD_PRELOAD": str(library), "CLOCK_RATE": str(tmp_path / "rate")}
    said = subprocess.run(["date", "+%s"], env=env, check=True, capture_output=True).stdout
    assert int(said) == pytest.approx(time.time(), abs=10)
