"""How fast the store takes records in and answers, on SQLite or PostgreSQL.

    python bench/history/store.py --rows 10000000 --folder /var/tmp
    python bench/history/store.py --url postgresql+psycopg://user@host/empty

Fills a store through SQL with as many coarse rows as asked, as of clusters of 1,000 tasks spread
over 90 days and 300 users, and then measures through `Store`: rows a second that are taken in while
readers list and load all the time, loading one cluster, and the sums over the site's last 30 days.
The disk's own share is in it: name a folder on the disk that the service will use. With `--url`
only what is taken in is measured, into a database that is empty.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dask_site.history.bookkeeper import Bookkeeper
from dask_site.history.costs import Tariff
from dask_site.history.records import parse
from dask_site.history.store import Batch, Store
from dask_site.history.store.batches import Bounds
from dask_site.history.store.columns import SUMS

OWNERS, POOLS, DAYS = 300, ("cpu", "gpu"), 90
SPANS, PREFIXES, WORKERS, SAMPLES = 8, 6, 16, 32


def cluster_records(name: str, begun: float, tick: int) -> list:
    """Return what a busy cluster says in one tick."""
    q = tick * 1000
    out = [{"k": "cluster", "started": begun, "kind": "Cluster", "program": "run.py"}]
    threads = {"busy": 40.0 * tick, "no work": 3.0 * tick, "starved": 1.5 * tick}
    now = {"workers": 8, "nthreads": 32, "cpu": 20.5}
    out += [{"k": "usage", "pool": pool, "threads": threads, **now} for pool in POOLS]
    one = {"k": "worker", "started": begun, "seen": begun + tick, "threads": 4, "memory": 2**34}
    one.update(pool="cpu", busy=10.0 * tick)
    out += [
        {**one, "id": f"w{n}", "name": f"cpu-{n}", "job": str(n), "host": f"n{n}"}
        for n in range(WORKERS)
    ]
    tasks = {
        f"prefix-{n}": {
            "states": {"memory": tick, "released": 10 * tick},
            "seconds": {"compute": 1.5 * tick, "transfer": 0.25 * tick},
            "nbytes": 1000 * tick,
        }
        for n in range(PREFIXES)
    }
    span = {"k": "span", "enqueued": begun, "start": begun, "stop": begun + tick, "tasks": tasks}
    span["execute"] = {"thread-cpu": 2.0 * tick, "other": 1.0}
    out += [{**span, "id": f"s{n}", "name": ["outer", f"span-{n}"]} for n in range(SPANS)]
    t = begun + 5.0 * tick
    return [
        parse({"v": 1, "c": name, "q": q + i, "t": t, **values}) for i, values in enumerate(out)
    ]


def rows_of(records: list) -> int:
    """Return how many rows records write: of a span also its prefixes, of usage also a sample."""
    extra = {"span": PREFIXES, "usage": 1}
    return sum(1 + extra.get(record.k, 0) for record in records)


def fill(path: Path, rows: int, begun: float) -> list[str]:
    """Add clusters to a store by copying one that was taken in, until it has so many rows."""
    model = "model"
    with Store(f"sqlite:///{path}", Bounds(clusters=10**9)) as store:
        records = [r for tick in range(1, SAMPLES + 1) for r in cluster_records(model, begun, tick)]
        store.ingest(1, records, now=begun)
        Bookkeeper(store, Tariff).close(begun)
    conn = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous=OFF", "foreign_keys=OFF", "journal_mode=MEMORY"):
        conn.execute(f"PRAGMA {pragma}")
    (no,) = conn.execute("SELECT no FROM clusters WHERE id = ?", (model,)).fetchone()
    children = ["workers", "spans", "span_tasks", "usage", "samples", "books"]
    per = sum(
        conn.execute(f"SELECT count(*) FROM {t} WHERE cluster = ?", (no,)).fetchone()[0]
        for t in children
    )
    count = max(1, rows // per)
    conn.execute("BEGIN")
    conn.executemany(
        "INSERT OR IGNORE INTO owners (uid, name) VALUES (?, ?)",
        [(uid, f"u{uid}") for uid in range(1, OWNERS + 1)],
    )
    conn.execute("CREATE TEMP TABLE n (no INTEGER PRIMARY KEY, owner, back)")
    chance = random.Random(1)
    conn.executemany(
        "INSERT INTO n VALUES (?, ?, ?)",
        [
            (no + 1 + n, chance.randint(1, OWNERS), 86400 * (DAYS - DAYS * n // count))
            for n in range(count)
        ],
    )
    columns = [row[1] for row in conn.execute("PRAGMA table_info(clusters)")]
    values = {"no": "n.no", "id": "'k' || n.no", "owner": "n.owner"}
    values.update(
        {t: f"c.{t} - n.back" for t in ("created", "heard", "first", "seen", "latest", "started")}
    )
    picked = ", ".join(values.get(name, f'c."{name}"') for name in columns)
    conn.execute(f"INSERT INTO clusters SELECT {picked} FROM n, clusters c WHERE c.no = {no}")
    for table in children:
        columns = [row[1] for row in conn.execute(f"PRAGMA table_info({table})")]
        shifted = {"cluster": "n.no"}
        if table == "books":
            shifted["day"] = "c.day - n.back / 86400"
        picked = ", ".join(shifted.get(name, f'c."{name}"') for name in columns)
        source = f"n CROSS JOIN {table} c WHERE c.cluster = {no}"
        conn.execute(f"INSERT INTO {table} SELECT {picked} FROM {source}")
    conn.execute("DELETE FROM ledger")
    sums = ", ".join(f"sum(b.{column})" for column in SUMS)
    conn.execute(
        f"INSERT INTO ledger SELECT b.day, c.owner, 'a' || c.owner % 40, b.pool, {sums}"
        " FROM books b JOIN clusters c ON c.no = b.cluster GROUP BY 1, 2, 3, 4"
    )
    conn.execute("COMMIT")
    conn.execute("ANALYZE")
    conn.close()
    print(f"filled: {count} clusters, {count * per} rows, {path.stat().st_size / 2**20:.0f} MiB")
    return [f"k{no + 1 + n}" for n in range(count)]


def timed(what: str, times: int, function, *args) -> dict:
    """Return the median and the 95th percentile of calls, in ms."""
    took = []
    for n in range(times):
        start = time.perf_counter()
        function(n, *args)
        took.append((time.perf_counter() - start) * 1000)
    took.sort()
    found = {"median_ms": statistics.median(took), "p95_ms": took[int(0.95 * (len(took) - 1))]}
    print(f"{what}: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()))
    return found


def ingest(store: Store, seconds: float, begun: float, ids: list[str]) -> dict:
    """Return rows a second taken in while two readers ask all the time."""
    ready = [
        [Batch(n % OWNERS + 1, cluster_records(f"new{n}", begun, tick)) for n in range(40)]
        for tick in range(1, 200)
    ]
    stop = threading.Event()
    asked = [0]

    def read() -> None:
        while not stop.is_set():
            store.clusters(limit=50)
            store.load(random.choice(ids))
            asked[0] += 1
            time.sleep(0.1)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rows, start = 0, time.perf_counter()
    for batches in ready:
        store.ingest_all(batches)
        rows += sum(rows_of(batch.records) for batch in batches)
        if time.perf_counter() - start > seconds:
            break
    took = time.perf_counter() - start
    stop.set()
    for reader in readers:
        reader.join()
    print(f"taken in: {rows / took:.0f} rows/s over {took:.1f} s, {asked[0]} reads meanwhile")
    return {"rows_per_s": rows / took, "seconds": took, "reads": asked[0]}


def closing(store: Store) -> dict:
    """Return how many clusters' books are closed a second, of those that were taken in."""
    keeper, count, now = Bookkeeper(store, Tariff), 0, time.time() + 3600
    start = time.perf_counter()
    while due := store.due(now, 0, 0):
        count += len(due)
        keeper.close(now)
        count -= len(store.due(now, 0, 0))
    took = time.perf_counter() - start
    print(f"books: {count / took:.0f} clusters/s, {count} of them")
    return {"clusters_per_s": count / took}


def into(url: str, seconds: float) -> None:
    """Measure what is taken in, beside readers of clusters that were taken in before."""
    begun = time.time()
    with Store(url, Bounds(clusters=10**9)) as store:
        ids = [f"old{n}" for n in range(40)]
        store.ingest_all(
            [Batch(n % OWNERS + 1, cluster_records(id_, begun, 1)) for n, id_ in enumerate(ids)]
        )
        print(json.dumps({"ingest": ingest(store, seconds, begun, ids)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--url", help="of an empty database")
    arguments = parser.parse_args()
    if arguments.url:
        into(arguments.url, arguments.seconds)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "history.db"
        today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
        begun = today.timestamp()
        ids = fill(path, arguments.rows, begun)
        chance = random.Random(2)
        with Store(f"sqlite:///{path}", Bounds(clusters=10**9)) as store:
            until = today.date() + timedelta(days=1)
            span = (until - timedelta(days=30), until)
            found = {
                "rows": arguments.rows,
                "load": timed("load", 200, lambda _: store.load(chance.choice(ids))),
                "list": timed("list of 100", 100, lambda _: store.clusters()),
                "sums": timed(
                    "30 days by day and pool",
                    50,
                    lambda _: store.sums(*span, by=("day", "pool")),
                ),
                "owners": timed("30 days by owner", 50, lambda _: store.sums(*span, by=("owner",))),
                "ingest": ingest(store, arguments.seconds, begun, ids),
                "books": closing(store),
            }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
