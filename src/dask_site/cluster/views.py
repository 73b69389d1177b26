"""How a cluster shows itself: representations, the summary, progress while waiting."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from distributed.utils import Logs

from dask_site.cluster.records import PENDING, JobRecord, Table
from dask_site.cluster.summary import Summary
from dask_site.site import format_memory

if TYPE_CHECKING:
    from dask_site.cluster.core import Cluster
    from dask_site.site import Pool


class JobLogs(Logs):
    """Text by job; distributed's Logs, readable on a terminal as well."""

    def __repr__(self) -> str:
        return "\n".join(f"==> {title} <==\n{text.rstrip()}\n" for title, text in self.items())


#: Stands for "whatever pool" where a number of workers in all was asked for.
ANY = ""


def missing(
    records: Sequence[JobRecord], wanted: Mapping[str, int], in_all: int | None
) -> dict[str, tuple[int, int]]:
    """Return pool to (workers that are there, workers wanted) where they fall short."""
    there = {
        name: sum(len(r.workers) for r in records if r.pool == name and r.live) for name in wanted
    }
    short = {name: (there[name], count) for name, count in wanted.items() if there[name] < count}
    everyone = sum(len(r.workers) for r in records if r.live)
    if in_all is not None and everyone < in_all:
        short[ANY] = (everyone, in_all)
    return short


def waiting(records: Sequence[JobRecord], short: Mapping[str, tuple[int, int]]) -> str:
    """Return, for people, what is missing and what the resource manager says of it."""
    parts = []
    for name, (there, wanted) in short.items():
        jobs = [
            r for r in records if r.live and name in {ANY, r.pool} and len(r.workers) < r.processes
        ]
        states = ", ".join(
            f"job {r.job_id} {r.state}{f': {r.reason}' if r.state == PENDING and r.reason else ''}"
            for r in jobs[:3]
            if r.job_id
        )
        more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
        parts.append(
            f"{name or 'workers'} {there}/{wanted}" + (f" ({states}{more})" if states else "")
        )
    return "; ".join(parts)


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line every half minute.

    Parameters
    ----------
    stream : TextIO
        Where to write to.
    """

    _PATIENCE = 2.0
    _SELDOM = 30.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._drawn = False
        self._next = self._SELDOM

    def __enter__(self) -> Progress:
        return self

    def show(self, text: str, waited: float) -> None:
        """Say `text` if it is time to, after `waited` seconds."""
        if waited < self._PATIENCE:
            return
        line = f"{text}, {waited:.0f} s"
        if self._terminal:
            self._stream.write(f"\r\x1b[2K{line}")
            self._drawn = True
        elif waited > self._next:
            self._stream.write(f"{line}\n")
            self._next += self._SELDOM
        self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


@dataclass(frozen=True)
class PoolState:
    """One pool of a cluster as it is now: a row of its representation."""

    name: str
    workers: int
    target: int
    cores: int
    memory: int
    gpus: int
    jobs: int
    pending: int
    exclusive: bool


def pool_states(cluster: Cluster) -> Table:
    """Return the pools of a cluster with what they have now."""
    records = list(cluster.jobs)
    rows = [
        _pool_state(pool, [r for r in records if r.pool == name], cluster.target(name))
        for name, pool in cluster.pools.items()
    ]
    return Table(
        rows,
        {
            "pool": lambda p: p.name + (" *" if p.exclusive else ""),
            "workers ": lambda p: f"{p.workers}/{p.target}",
            "cores ": lambda p: str(p.cores),
            "memory ": lambda p: format_memory(p.memory),
            "GPUs ": lambda p: str(p.gpus),
            "jobs ": lambda p: str(p.jobs),
            "pending ": lambda p: str(p.pending),
        },
    )


def _pool_state(pool: Pool, records: list[JobRecord], target: int) -> PoolState:
    live = [r for r in records if r.live]
    workers = sum(len(r.workers) for r in live)
    return PoolState(
        pool.name,
        workers,
        target,
        cores=workers * (pool.cores // pool.processes),
        memory=workers * (pool.memory // pool.processes),
        gpus=workers * pool.gpus // pool.processes,
        jobs=sum(bool(r.workers) for r in live),
        pending=sum(r.state == PENDING for r in live),
        exclusive=pool.exclusive,
    )


@dataclass(frozen=True)
class PoolReport:
    """What one pool did since the cluster started: a row of the summary."""

    pool: str
    jobs: int
    core_hours: float
    gpu_hours: float
    tasks: int
    busy_seconds: float
    longest: str
    share: float
    cost: float | None


def summary_table(pools: Mapping[str, Pool], records: Sequence[JobRecord], done: Summary) -> Table:
    """Return what each pool did: allocation from its jobs' run times, work from its tasks."""
    rows = []
    for name, pool in pools.items():
        jobs = [r for r in records if r.pool == name and r.started]
        hours = sum(r.seconds for r in jobs) / 3600
        work = done.pools[name]
        longest, share = work.longest
        rows.append(
            PoolReport(
                name,
                len(jobs),
                hours * pool.cores,
                hours * pool.gpus,
                work.tasks,
                work.seconds,
                longest,
                share,
                _cost(pool, hours),
            )
        )
    columns = {
        "pool": lambda p: p.pool,
        "jobs ": lambda p: str(p.jobs),
        "core-h ": lambda p: f"{p.core_hours:.3f}",
        "GPU-h ": lambda p: f"{p.gpu_hours:.3f}",
        "tasks ": lambda p: str(p.tasks),
        "computing ": lambda p: f"{p.busy_seconds:.1f} s",
        "mostly": lambda p: f"{p.longest} ({p.share:.0%})" if p.longest else "-",
    }
    if any(row.cost is not None for row in rows):
        columns["cost "] = lambda p: "-" if p.cost is None else f"{p.cost:.4f}"
    return Table(rows, columns)


def _cost(pool: Pool, hours: float) -> float | None:
    if pool.cost is None:
        return None
    return hours * (pool.cores * pool.cost.core_hour + pool.gpus * pool.cost.gpu_hour)


def cluster_text(cluster: Cluster) -> str:
    """Return a cluster's representation for a terminal."""
    head = f"Cluster({cluster.name!r}, {cluster.site.name!r}, {cluster.status.name})"
    table = repr(pool_states(cluster))
    note = "\n* only work that names it" if any(p.exclusive for p in cluster.pools.values()) else ""
    return f"{head}\n{table}{note}"


def cluster_html(cluster: Cluster) -> str:
    """Return a cluster's representation for a notebook."""
    link = cluster.dashboard_link
    rows: list[tuple[str, Any]] = [
        ("Site", f"{cluster.site.name} ({cluster.site.resource_manager})"),
        ("Scheduler", cluster.scheduler_address),
        ("Status", cluster.status.name),
    ]
    facts = "".join(f"<div><b>{k}</b>: {html.escape(str(v))}</div>" for k, v in rows)
    if link:
        facts += (
            f'<div><b>Dashboard</b>: <a href="{html.escape(link)}">{html.escape(link)}</a></div>'
        )
    table = pool_states(cluster)._repr_html_()
    return f"<div><h4>Cluster {html.escape(cluster.name)}</h4>{facts}{table}</div>"
