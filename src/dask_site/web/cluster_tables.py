"""The tables of one cluster's page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dask_site.history.allocations import Allocation, allocations
from dask_site.history.books import Books, Ledger
from dask_site.history.costs import Bill
from dask_site.history.model import ClusterHistory
from dask_site.history.records import JobRecord
from dask_site.history.waits import Wait, state_of, waits
from dask_site.web import words
from dask_site.web.looks import LOOKS
from dask_site.web.spans import slow_table, span_table
from dask_site.web.tables import Column, Table

LEDGER = (
    Column("part", "part", "text"),
    Column("share", "share", "share"),
    Column("core_hours", "core-h", "hours"),
    Column("meaning", "what it means", "text"),
)
COSTS = (
    Column("pool", "pool", "name"),
    Column("core_hours", "core-h", "hours"),
    Column("gpu_hours", "GPU-h", "hours"),
    Column("gib_hours", "GiB-h", "hours"),
    Column("billing_hours", "billing unit-h", "hours"),
    Column("energy_kwh", "kWh", "hours", "as far as it was measured"),
    Column("money", "cost", "money", "in the site's currency, at the rates of its time"),
)
POOLS = (
    Column("pool", "pool", "name"),
    Column("jobs", "jobs", "count", "that ran, or workers where no job is known"),
    Column("cores", "cores", "count", "asked for, or allocated"),
    Column("cores_used", "cores busy", "number", "computing, on average of each job's time"),
    Column("cpu_share", "of cores", "share", bar=True),
    Column("memory_bytes", "memory of a worker", "bytes"),
    Column("peak_bytes", "most used", "bytes", "by one worker, as it told"),
    Column("memory_share", "of memory", "share", bar=True),
    Column("walltime_s", "walltime", "seconds"),
    Column("longest_s", "longest", "seconds"),
    Column("walltime_share", "of walltime", "share", bar=True),
)
WORKERS = (
    Column("worker", "worker", "name"),
    Column("pool", "pool", "name"),
    Column("host", "host", "name"),
    Column("job", "job", "name"),
    Column("started", "joined (UTC)", "moment"),
    Column("lasted_s", "stayed", "seconds"),
    Column("threads", "threads", "count"),
    Column("gpus", "GPUs", "count"),
    Column("memory_bytes", "memory", "bytes"),
    Column("busy_share", "threads busy", "share", "with tasks, computing or not", bar=True),
    Column("lost_tasks", "tasks lost", "count", "that it had not finished"),
    Column("again_tasks", "results lost", "count", "that were done again"),
    Column("end", "left", "text"),
)
JOBS = (
    Column("job", "job", "name", "the resource manager's id"),
    Column("name", "name", "name"),
    Column("pool", "pool", "name"),
    Column("state", "state", "name"),
    Column("reason", "reason", "name"),
    Column("submitted", "submitted (UTC)", "moment"),
    Column("eligible", "eligible (UTC)", "moment", "when it could have been started"),
    Column("started", "started (UTC)", "moment"),
    Column("ended", "ended (UTC)", "moment"),
    Column("held_s", "held", "seconds", "before it could have been started"),
    Column("waited_s", "in the queue", "seconds", "from when it could have been started"),
    Column("ran_s", "ran", "seconds"),
    Column("cores", "cores", "count"),
    Column("cpu_s", "CPU used", "seconds", "of all its cores, as the resource manager has it"),
    Column("memory_bytes", "memory", "bytes"),
    Column("max_rss_bytes", "most used", "bytes", "by a step on a node, as the manager has it"),
    Column("energy_j", "J", "number", "where it is measured"),
    Column("gpus", "GPUs", "count"),
    Column("walltime_s", "walltime", "seconds"),
    Column("node", "node", "name"),
    Column("exit_code", "exit", "name"),
    Column("arguments", "arguments", "name", "of this job alone in its script"),
    Column("script", "script", "name", "see Scripts"),
)
SCRIPTS = (
    Column("script", "script", "name"),
    Column("jobs", "jobs", "count"),
    Column("text", "text", "code", "with @arguments@ for what is each job's own"),
)
ERRORS = (
    Column("exception", "exception", "name"),
    Column("prefix", "in tasks named", "name"),
    Column("count", "times", "count"),
    Column("message", "message of the first", "name"),
    Column("span", "span", "name"),
)
SAMPLES = (
    Column("time", "time (UTC)", "moment"),
    Column("pool", "pool", "name"),
    Column("workers", "workers", "count"),
    Column("threads", "threads", "count"),
    Column("cores_busy", "cores busy", "number"),
    Column("processing", "tasks at workers", "count"),
    Column("queued", "tasks queued", "count"),
    Column("memory_bytes", "memory", "bytes"),
    Column("spilled_bytes", "on disk", "bytes"),
)


def tables(history: ClusterHistory, ledger: Ledger, bill: Bill) -> dict[str, Callable[[], Table]]:
    """Return how each table of a cluster is made, by its name in the page's query."""
    return {
        "ledger": lambda: ledger_table(ledger.whole),
        "cost": lambda: cost_table(bill),
        "pools": lambda: pool_table(history, ledger),
        "spans": lambda: span_table(history, ledger),
        "tasks": lambda: slow_table(history),
        "errors": lambda: error_table(history),
        "jobs": lambda: job_table(history),
        "scripts": lambda: script_table(history),
        "workers": lambda: worker_table(history),
        "samples": lambda: sample_table(history),
    }


def ledger_table(books: Books) -> Table:
    """Return the parts of an allocation that are not zero, and what is unexplained."""
    rows = [
        {
            "part": LOOKS[part].name,
            "share": share,
            "core_hours": seconds / 3600,
            "meaning": LOOKS[part].meaning,
            "_look": LOOKS[part],
        }
        for part, seconds, share in books.rows()
        if abs(seconds) > 1e-6 or part == "unexplained"
    ]
    foot = {"part": "allocated", "share": 1.0, "core_hours": books.allocated / 3600}
    return Table("ledger", "Where the core-hours went", LEDGER, rows, foot=foot)


def cost_table(bill: Bill) -> Table:
    """Return what was held and what it cost, by pool."""

    def row(pool: str, costs: Any) -> dict[str, Any]:
        return {
            "pool": pool,
            "core_hours": costs.core_hours,
            "gpu_hours": costs.gpu_hours or None,
            "gib_hours": costs.gib_hours,
            "billing_hours": costs.billing,
            "energy_kwh": None if costs.energy is None else costs.energy / 3.6e6,
            "money": costs.money if costs.unpriced < costs.core_hours else None,
        }

    rows = [row(pool or "(no pool)", costs) for pool, costs in bill.pools.items()]
    foot = row("all", bill.whole) if len(rows) > 1 else {}
    # Of what nothing measures at this site nobody asks.
    told = [c for c in COSTS if c.key != "energy_kwh" or any(row["energy_kwh"] for row in rows)]
    return Table(
        "cost", "What it cost", told, rows, "Nothing was allocated: no worker came.", foot=foot
    )


def pool_table(history: ClusterHistory, ledger: Ledger) -> Table:
    """Return what was asked of the resource manager against what of it was used, by pool."""
    jobs: dict[str | None, list[Allocation]] = defaultdict(list)
    for job in allocations(history):
        jobs[job.pool].append(job)
    peaks = {usage.pool: usage.peak for usage in history.usage}
    rows = []
    for pool, some in sorted(jobs.items(), key=lambda item: item[0] or ""):
        books = ledger.pools.get(pool, Books())
        seconds = math.fsum(job.seconds for job in some)
        used = books.of("cpu") / seconds if seconds else None
        memory = max((w.memory for w in history.workers if w.pool == pool), default=0) or None
        peak = peaks.get(pool) or None
        longest = max(job.seconds for job in some)
        asked = [job.record.walltime for job in some if job.record and job.record.walltime]
        walltime = max(asked, default=None)
        rows.append(
            {
                "pool": pool or "(no pool)",
                "jobs": len(some),
                "cores": max(job.cores for job in some),
                "cores_used": used,
                "cpu_share": books.share("cpu") if books.allocated else None,
                "memory_bytes": memory,
                "peak_bytes": peak,
                "memory_share": peak / memory if peak and memory else None,
                "walltime_s": walltime,
                "longest_s": longest,
                "walltime_share": longest / walltime if walltime else None,
            }
        )
    return Table("pools", "Asked for, and used", POOLS, rows, "No worker came.", cards=True)


def worker_table(history: ClusterHistory) -> Table:
    """Return the workers, in the order in which they joined."""
    rows = []
    for worker in history.workers:
        end = history.seen if worker.ended is None else worker.ended
        stayed = max(0.0, end - worker.started)
        whole = worker.threads * stayed
        left = "still there" if worker.ended is None else "in order" if worker.expected else "died"
        if worker.ended is None and history.end is not None:
            left = "with the cluster"
        rows.append(
            {
                "worker": worker.name,
                "pool": worker.pool,
                "host": worker.host,
                "job": worker.job,
                "started": worker.started,
                "lasted_s": stayed,
                "threads": worker.threads,
                "gpus": worker.gpus or None,
                "memory_bytes": worker.memory,
                # of one that is there it was noted a while ago
                "busy_share": min(1.0, worker.busy / whole) if whole and worker.ended else None,
                "lost_tasks": worker.lost_tasks or None,
                "again_tasks": worker.again_tasks or None,
                "end": left,
            }
        )
    return Table(
        "workers",
        "Workers",
        WORKERS,
        rows,
        "No worker joined. Whether jobs were submitted stands below; if none were, call "
        "`cluster.scale(...)` or `cluster.adapt()`.",
    )


def job_table(history: ClusterHistory) -> Table:
    """Return what was submitted to the resource manager, in this order."""
    by_name = {record.name: record for record in history.jobs}
    rows = [_job(wait, by_name.get(wait.name), history.seen) for wait in waits(history)]
    return Table(
        "jobs",
        "Submissions",
        JOBS,
        rows,
        "No job was submitted, or the cluster did not say so: its workers were started by "
        "themselves.",
    )


def _job(wait: Wait, record: JobRecord | None, seen: float) -> dict[str, Any]:
    row = wait.row
    state = state_of(wait, record)
    end = row.end if row and row.end is not None else record.ended if record else None
    held = row if row and wait.started else record or row
    return {
        "job": wait.job,
        "name": wait.name,
        "pool": wait.pool,
        "state": state or None,
        "submitted": wait.submitted,
        "eligible": wait.eligible,
        "started": wait.until if wait.started else None,
        "ended": end,
        "held_s": wait.held or None,
        "waited_s": wait.seconds,
        "ran_s": max(0.0, (seen if end is None else end) - wait.until) if wait.started else None,
        "cpu_s": row.cpu_seconds if row else None,
        "max_rss_bytes": row.max_rss if row else None,
        "energy_j": row.energy if row else None,
        "cores": held.cores if held else None,
        "memory_bytes": (held.memory if held else 0) or None,
        "gpus": (held.gpus if held else 0) or None,
        "walltime_s": record.walltime if record else None,
        "node": (row.nodes if row else "") or (record.node if record else ""),
        "exit_code": (row.exit_code if row else "") or (record.exit_code if record else ""),
        "reason": "" if wait.reason in {"None", "none", state} else wait.reason,
        "arguments": record.arguments if record else "",
        "script": record.script if record else None,
    }


def script_table(history: ClusterHistory) -> Table:
    """Return what the jobs were submitted with."""
    rows = [
        {
            "script": script.id,
            "jobs": sum(record.script == script.id for record in history.jobs),
            "text": script.text,
        }
        for script in history.scripts
    ]
    return Table("scripts", "Scripts", SCRIPTS, rows, "No script was recorded.")


def error_table(history: ClusterHistory) -> Table:
    """Return the errors, most frequent first."""
    names = {span.id: " / ".join(span.name) for span in history.spans}
    rows = [
        {
            "exception": error.exception,
            "prefix": error.prefix,
            "count": error.count,
            "message": error.message,
            "span": names.get(error.span or ""),
        }
        for error in history.errors
    ]
    return Table("errors", "Errors", ERRORS, rows, "No task failed.")


def sample_table(history: ClusterHistory) -> Table:
    """Return what pools did at moments."""
    rows = [
        {
            "time": sample.t,
            "pool": sample.pool,
            "workers": sample.workers,
            "threads": sample.nthreads,
            "cores_busy": sample.cpu,
            "processing": sample.processing,
            "queued": sample.queued,
            "memory_bytes": sample.memory,
            "spilled_bytes": sample.spilled,
        }
        for sample in history.samples
    ]
    return Table("samples", "Samples", SAMPLES, rows, "Samples are no longer kept.")


def facts(history: ClusterHistory) -> list[tuple[str, str]]:
    """Return what a cluster is, by what it is called."""
    c = history.cluster
    versions = ", ".join(f"{words.name(k)} {words.name(v)}" for k, v in c.versions.items())
    given = [
        ("kind", words.name(c.kind)),
        ("program", words.name(c.program)),
        ("owner", words.name(history.owner)),
        ("host", words.name(c.host)),
        ("session's job", words.name(c.job)),
        ("site", words.name(c.site)),
        ("versions", versions or words.NONE),
        ("id", words.name(c.c)),
    ]
    return [(what, value) for what, value in given if value != words.NONE]
