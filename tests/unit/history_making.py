"""Histories of clusters for tests, with few words."""

import itertools
import time

from dask_site.history import records as r
from dask_site.history.model import AccountedJob, ClusterHistory


def lately(moment: float) -> float:
    """Return it, some half years later where it was long ago: no store takes what is too old."""
    half = 182 * 86400.0  # whole weeks
    return moment + max(0.0, (time.time() - 30 * 86400 - moment) // half) * half


T0 = lately(1_800_000_000.0)
_numbers = itertools.count(1)
GIB = 2**30


def base(kind, t=None, **values):
    when = T0 if t is None else t
    return {"v": 1, "c": "c1", "q": next(_numbers), "t": when, "k": kind, **values}


def cluster(**values):
    return r.ClusterRecord(**base("cluster", **{"started": T0, **values}))


def worker(name="w0", start=0.0, end=None, threads=2, pool="cpu", **values):
    moments = {"started": T0 + start, "seen": T0 + (start if end is None else end)}
    moments["ended"] = None if end is None else T0 + end
    given = {"id": f"{name}-{next(_numbers)}", "name": name, "threads": threads, "pool": pool}
    return r.WorkerRecord(**base("worker", **moments, **{**given, **values}))


def span(name="work", execute=None, tasks=None, **values):
    names = (name,) if isinstance(name, str) else name
    given = {"id": f"s{next(_numbers)}", "enqueued": T0, "start": T0, "stop": T0 + 1, "done": True}
    more = {"execute": execute or {}, "tasks": tasks or {}}
    return r.SpanRecord(**base("span", name=names, **more, **{**given, **values}))


def job(name="cpu-0", number="1", submitted=0.0, started=None, ended=None, pool="cpu", **values):
    def moment(t):
        return None if t is None else T0 + t

    moments = {k: moment(t) for k, t in [("started", started), ("ended", ended)]}
    given = {"state": "ended" if ended else "running", "cores": 2, "memory": 8 * GIB}
    whole = {"name": name, "id": number, "pool": pool, "submitted": T0 + submitted, **moments}
    return r.JobRecord(**base("job", **whole, **{**given, **values}))


def script(name="5c21", text="#!/bin/bash\nrun @arguments@ --nthreads 2\n"):
    return r.ScriptRecord(**base("script", id=name, text=text))


def usage(pool="cpu", t=100.0, busy=0.0, idle=None, **values):
    causes = {k.replace("_", " "): n for k, n in (idle or {}).items()}
    return r.UsageRecord(
        **base("usage", T0 + t, pool=pool, threads={"busy": busy, **causes}, **values)
    )


def traffic(seconds=None, sizes=None):
    return r.TrafficRecord(**base("traffic", seconds=seconds or {}, sizes=sizes or {}))


def error(count=1, exception="ValueError", message="no", prefix="f", **values):
    given = {"prefix": prefix, "exception": exception, "message": message, "count": count}
    return r.ErrorRecord(**base("error", **given, **values))


def row(number="1", submit=0.0, start=0.0, end=100.0, cores=2, **values):
    def moment(t):
        return None if t is None else T0 + t

    times = {"submit": moment(submit), "start": moment(start), "end": moment(end)}
    return AccountedJob(id=number, **times, **{"state": "COMPLETED", "cores": cores, **values})


def history(*records, accounting=(), seen=100.0, ended=True, **of_cluster):
    """Return the history of some records; `seen` is when the cluster was last heard of."""
    everything = [cluster(t=T0 + seen, **of_cluster), *records]
    if ended:
        everything.append(r.EndRecord(**base("end", T0 + seen, how="closed")))
    return ClusterHistory.from_records("alice", everything, list(accounting))
