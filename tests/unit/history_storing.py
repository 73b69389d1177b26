"""Records as a scheduler would write them, for tests of the store and the collector."""

import json
import os
from pathlib import Path
from zlib import crc32

from history_making import lately
from sqlalchemy import create_engine, inspect, text

from dask_site.history.bookkeeper import Bookkeeper
from dask_site.history.costs import Tariff
from dask_site.history.records import Record, parse
from dask_site.history.store import spools

BEGUN = lately(1_780_000_000.0)


def record(q: int, k: str, c: str = "c1", t: float | None = None, **values) -> Record:
    moment = BEGUN + q if t is None else t
    return parse({"v": 1, "k": k, "c": c, "q": q, "t": moment, **values})


def marks_in(store):
    """Return how far each spool file was taken in."""
    with store.asking() as ask:
        return spools.marks_of(ask, spools.marks_after(ask, None, 1000))


def story(c: str = "c1", ticks: int = 40, every: float = 7200.0, ended: bool = True):
    """All that a cluster says: things appear, change and end; usage crosses days."""
    said: list[Record] = []

    def say(k: str, **values) -> None:
        t = BEGUN + len(said) // 6 * every
        said.append(record(len(said) + 1, k, c, t, **values))

    say(
        "cluster", started=BEGUN, kind="Cluster", name="n", program="run.py", versions={"dask": "1"}
    )
    for tick in range(ticks):
        busy = {"busy": 10.5 * tick, "no work": 1.25 * tick, "starved": 0.0}
        say("usage", pool="cpu", threads=busy, workers=2, nthreads=8, cpu=1.5, peak=tick)
        say("usage", threads={"busy": 0.5 * tick, "novel": 0.125 * tick})
        say(
            "span",
            id=f"s{tick % 5}",
            name=["outer", f"n{tick % 5}"],
            enqueued=BEGUN + tick % 5,
            start=BEGUN,
            stop=BEGUN + tick,
            tasks={
                f"p{n}": {
                    "states": {"memory": tick, "erred": n},
                    "seconds": {"compute": tick * 0.25},
                    "nbytes": 10 * tick,
                }
                # One prefix goes into the others after a while.
                for n in range(3 if tick < ticks // 2 else 2)
            },
            execute={"thread-cpu": tick * 0.5},
            code="x.compute()",
        )
        say(
            "worker",
            id=f"w{tick % 7}",
            name=f"cpu-{tick % 7}",
            started=BEGUN + tick % 7,
            seen=BEGUN + tick,
            threads=4,
            pool="cpu",
            job="77",
            ended=BEGUN + tick if tick > ticks - 7 else None,
            expected=tick % 2 == 0,
            lost_seconds=0.5,
            again_tasks=tick,
            again_seconds=tick / 4,
        )
        say("job", name=f"j{tick % 3}", pool="cpu", state="running", submitted=BEGUN + tick % 3)
        say("error", prefix="p", exception=f"E{tick % 2}", message="no", count=tick + 1)
        say("traffic", seconds={"get-data": tick * 1.0}, sizes={"get-data": 2.0 * tick})
    if ended:
        say("end", how="closed")
    return said


def close_all(store, tariff: Tariff | None = None) -> None:
    """Close the books of all clusters."""
    bookkeeper = Bookkeeper(store, lambda: tariff or Tariff())
    moment = BEGUN
    while store.due(moment := moment + 1000, 0, 0):
        bookkeeper.close(moment)


def dump(url: str, *left_out: str) -> dict[str, list[tuple]]:
    """Return all rows of a store, with clusters by their id, in an order of their own."""
    engine = create_engine(url)
    found = {}
    with engine.connect() as conn:
        names = dict(tuple(row) for row in conn.execute(text("SELECT no, id FROM clusters")))
        for table in inspect(engine).get_table_names():
            if table.startswith(("sqlite_", "alembic_")) or table in left_out:
                continue
            rows = []
            for row in conn.execute(text(f"SELECT * FROM {table}")).mappings():
                values = dict(row)
                if table == "clusters":
                    for name in ("no", "changes", "closed", "closed_at"):
                        values.pop(name, None)  # how often something came, and when
                elif "cluster" in values and table != "files":
                    values["cluster"] = names[values["cluster"]]
                rows.append(tuple(sorted(values.items())))
            found[table] = sorted(rows, key=repr)
    engine.dispose()
    return found


def lines(records: list[Record]) -> bytes:
    """Return records as they stand in a spool."""
    out = b""
    for one in records:
        body = json.dumps(one.model_dump(mode="json")).encode()
        out += b"%08x %b\n" % (crc32(body), body)
    return out


def spool(folder: Path, records: list[Record], number: int = 0) -> Path:
    """Append records to a spool file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{records[0].c}.{number}.spool"
    with path.open("ab") as file:
        file.write(lines(records))
        file.flush()
        os.fsync(file.fileno())
    return path
