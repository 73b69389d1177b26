"""How long the collector takes over spools in which nothing is new, and beside one huge user.

    python bench/history/spools.py [--idle 40000] [--huge 200000]

The files of the first are three hours old and are those of 50 users; as the service's, the
collector's account may not delete them. Then a normal user has one file beside a user with as many
as are asked for: how long until the one file is in the store, and all are. Run it as root, which
gives files away.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from zlib import crc32

from dask_site.history.collector import Collector
from dask_site.history.store import Bounds, Store

USERS, FIRST, PASSES = 50, 4_000_000, 20
OLD = 3 * 3600.0
# The bound of new clusters a day is another's.
BOUNDS = Bounds(clusters=10**9)


@contextmanager
def service(folder: Path, what: str) -> Iterator[tuple[Store, Collector]]:
    """Collect as the service's account does, which may read spools and not write to them."""
    with (
        Store(f"sqlite:///{folder}/state/{what}.db", BOUNDS) as store,
        mock.patch("os.access", return_value=False),
    ):
        yield store, Collector(store, [folder / what])


def lines_of(name: str) -> bytes:
    """Return the file of a small cluster that has ended."""
    began = time.time() - OLD
    said = [
        {"k": "cluster", "started": began, "kind": "Cluster"},
        {"k": "usage", "pool": "cpu", "threads": {"busy": 1.0}},
        {"k": "end", "how": "closed"},
    ]
    text = b""
    for q, values in enumerate(said):
        body = json.dumps({"v": 1, "c": name, "q": q, "t": began, **values}).encode()
        text += b"%08x %b\n" % (crc32(body), body)
    return text


def write(folder: Path, uid: int, names: list[str]) -> None:
    """Write a user's files; nobody but him may delete them."""
    folder.mkdir(mode=0o755)
    old = time.time() - OLD
    for name in names:
        path = folder / f"{name}.0.spool"
        path.write_bytes(lines_of(name))
        os.utime(path, (old, old))
        os.chown(path, uid, uid)
    os.chown(folder, uid, uid)


def idle(folder: Path, files: int) -> None:
    """Print how long a pass takes when all has been read."""
    with service(folder, "idle") as (_, collector):
        begun = time.monotonic()
        while collector.collect().more:
            pass
        took = time.monotonic() - begun
        time.sleep(4)  # until the folders' times are old enough to be believed
        collector.collect()
        passes, used = [], []
        for _ in range(PASSES):
            begun, before = time.monotonic(), time.process_time()
            collector.collect()
            passes.append(time.monotonic() - begun)
            used.append(time.process_time() - before)
    print(
        f"{files} files read in {took:.1f} s; then a pass takes {statistics.median(passes):.4f} s"
        f" (median of {PASSES}, at most {max(passes):.4f}), {statistics.median(used):.4f} s of CPU",
        flush=True,
    )


def beside(folder: Path, files: int) -> None:
    """Print how long a normal user waits beside a huge one."""
    with service(folder, "huge") as (store, collector):
        begun, number, normal, longest = time.monotonic(), 0, 0.0, 0.0
        more = True
        while more:
            at = time.monotonic()
            more = collector.collect().more
            number += 1
            longest = max(longest, time.monotonic() - at)
            if not normal and store.owner_of("normal") is not None:
                normal = time.monotonic() - begun
                print(f"beside {files} files one file is taken in after {normal:.1f} s", flush=True)
        took = time.monotonic() - begun
    print(f"all of them in {took:.0f} s and {number} passes of at most {longest:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=40_000)
    parser.add_argument("--huge", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("idle", "huge", "state"):
            (folder / part).mkdir()
        for user in range(USERS):
            mine = [f"c{n:07}" for n in range(user, arguments.idle, USERS)]
            write(folder / "idle" / f"u{user}", FIRST + user, mine)
        write(folder / "huge" / "a", FIRST, [f"h{n:07}" for n in range(arguments.huge)])
        write(folder / "huge" / "b", FIRST + 1, ["normal"])
        if arguments.idle:
            idle(folder, arguments.idle)
        if arguments.huge:
            beside(folder, arguments.huge)


if __name__ == "__main__":
    main()
