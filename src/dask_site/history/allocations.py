"""What the resource manager gave to a cluster, and how much of it had workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.records import JobRecord, WorkerRecord

#: Where an allocation is known from, best first.
ACCOUNTING = "accounting"
CLUSTER = "the cluster's job records"
WORKERS = "the threads of its workers"
SOURCES = (ACCOUNTING, CLUSTER, WORKERS)

#: Seconds by which the clocks of the scheduler and of the manager may differ.
_SKEW = 300.0
_KNOWN = "_allocations"  # beside the fields of a history


@dataclass(frozen=True)
class Stay:
    """A worker while it was there, within its job."""

    worker: WorkerRecord
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return max(0.0, self.end - self.start)

    @property
    def thread_seconds(self) -> float:
        """Threads times seconds."""
        return self.worker.threads * self.seconds


@dataclass(frozen=True)
class Allocation:
    """One run of one job, or a worker of which no job is known.

    Attributes
    ----------
    job, name : str
        The manager's id and the cluster's name; empty if unknown.
    pool : str or None
    start, end : float
        Seconds since 1970; `end` is when the cluster was last heard of, while the job runs.
    cores, gpus, memory : int
        Held from start to end; memory in bytes.
    source : str
        One of `SOURCES`.
    planned : int
        Workers that the job was to bring.
    stays : tuple of Stay
        Its workers.
    row : AccountedJob or None
    record : JobRecord or None
    """

    pool: str | None
    start: float
    end: float
    cores: int
    gpus: int
    memory: int
    source: str
    job: str = ""
    name: str = ""
    planned: int = 1
    stays: tuple[Stay, ...] = ()
    row: AccountedJob | None = field(default=None, repr=False)
    record: JobRecord | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """How long it was held."""
        return max(0.0, self.end - self.start)

    @property
    def core_seconds(self) -> float:
        """Cores times seconds."""
        return self.cores * self.seconds

    @property
    def cores_per_worker(self) -> float:
        """Cores that each worker has to itself if all that the job brings are there."""
        return self.cores / max(self.planned, _most_at_once(self.stays), 1)

    @property
    def thread_seconds(self) -> float:
        """Threads times seconds of its workers."""
        return sum(stay.thread_seconds for stay in self.stays)

    @property
    def threaded(self) -> float:
        """Core-seconds of cores with a thread; several threads of one core count once."""
        each = self.cores_per_worker
        return sum(min(stay.worker.threads, each) * stay.seconds for stay in self.stays)

    @property
    def spare(self) -> float:
        """Core-seconds of cores of workers that have fewer threads than cores."""
        each = self.cores_per_worker
        return sum(max(each - stay.worker.threads, 0.0) * stay.seconds for stay in self.stays)

    @property
    def vacant(self) -> float:
        """Core-seconds for which a worker was not there yet, no longer, or between restarts."""
        there = self.cores_per_worker * sum(stay.seconds for stay in self.stays)
        return max(0.0, self.core_seconds - there)

    @property
    def state(self) -> str:
        """How it ended: in the manager's words, else as the cluster saw it."""
        if self.row is not None and self.row.state:
            return self.row.state
        return self.record.state if self.record is not None else ""


def allocations(history: ClusterHistory) -> list[Allocation]:
    """Return what was allocated to a cluster, by start.

    Of each job the accounting counts; else, as long as there is none or it says that the job has
    not started, what the cluster saw of it; else its workers' threads for as long as they were
    there. The job in which only the scheduler runs is the user's session, and not counted; where
    its workers run there too, it counts for as long as the cluster was there, and of several
    clusters at once for the one that was started last. Where it is a job that another cluster has
    asked for, it is that one's.

    The scheduler's clock may be behind the manager's by up to 5 min: workers that joined before
    their job began are moved with it. Whatever of them is outside of the job then doesn't count.
    """
    # Books, bill, each rule of advice and pages ask; a history doesn't change.
    if _KNOWN not in history.__dict__:
        object.__setattr__(history, _KNOWN, tuple(_found(history)))
    return list(history.__dict__[_KNOWN])


def _found(history: ClusterHistory) -> list[Allocation]:
    jobs = _jobs(history)
    finder = _Finder(jobs)
    found: list[list[Stay]] = [[] for _ in jobs]
    loose: list[Allocation] = []
    for stay in _stays(history):
        nearest = finder.job_of(stay)
        if nearest is None and _passing(stay) and finder.held(stay.start):
            # It was in one of the jobs, in the little that these had no worker yet.
            continue
        if nearest is None and history.elsewhere and stay.worker.job == history.cluster.job:
            continue
        if nearest is None:
            loose.append(_without_job(stay))
        elif history.elsewhere and stay.worker.job == history.cluster.job:
            for i, part in _parts(stay, jobs, jobs[nearest].job):
                found[i].append(part)
        else:
            found[nearest].append(stay)
    own = history.cluster.job
    kept = [
        _with_workers(job, stays)
        for job, stays in zip(jobs, found, strict=True)
        if stays or job.record or job.row is None or own not in ids(job.row)
    ]
    return sorted(kept + loose, key=lambda a: (a.start, a.job, a.name))


def _parts(stay: Stay, jobs: Sequence[Allocation], job_id: str) -> Iterable[tuple[int, Stay]]:
    """Yield what of a stay is in each of the times of a job."""
    for i, job in enumerate(jobs):
        start, end = max(stay.start, job.start), min(stay.end, job.end)
        if job.job == job_id and start < end:
            yield i, Stay(stay.worker, start, end)


def ids(row: AccountedJob) -> set[str]:
    """Return the ids by which a job goes."""
    return {row.id, row.raw} - {""}


def unique(rows: Iterable[AccountedJob]) -> list[AccountedJob]:
    """Return the last of each run of each job: accounting is asked again and again."""
    return list({(row.id, row.start): row for row in rows}.values())


def _jobs(history: ClusterHistory) -> list[Allocation]:
    """Return the jobs that started, without workers."""
    by_id = {record.id: record for record in history.jobs if record.id}
    found, told = [], set()
    for row in unique(history.accounting):
        if row.start is None:
            # One that has ended never will, whatever the cluster believed to see.
            told |= ids(row) if row.end is not None else set()
            continue
        told |= ids(row)
        record = by_id.get(row.id) or by_id.get(row.raw)
        end = record.ended if row.end is None and record is not None else row.end
        start, end = row.start, history.seen if end is None else end
        times = [(start, max(start, end))]
        if history.cluster.job in ids(row) and record is None:
            # Several clusters may be in it, one after the other or at once: each has its own time.
            start, end = max(start, history.cluster.started), min(end, history.seen)
            times = _without(start, max(start, end), history.elsewhere)
        for begun, over in times:
            job = Allocation(
                pool=record.pool if record else row.pool,
                start=begun,
                end=over,
                cores=row.cores,
                gpus=row.gpus,
                memory=row.memory,
                source=ACCOUNTING,
                job=row.id,
                row=row,
            )
            found.append(_planned(job, record))
    for record in history.jobs:
        if record.id in told or record.started is None or not record.cores:
            continue
        end = history.seen if record.ended is None else record.ended
        job = Allocation(
            pool=record.pool,
            start=record.started,
            end=max(record.started, end),
            cores=record.cores,
            gpus=record.gpus,
            memory=record.memory,
            source=CLUSTER,
            job=record.id or "",
        )
        found.append(_planned(job, record))
    return found


def _without(
    start: float, end: float, gone: Iterable[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return what is left of a time when others are taken out of it."""
    left = []
    for begun, over in sorted(gone):
        if begun > start:
            left.append((start, min(begun, end)))
        start = max(start, over)
        if start >= end:
            return left
    return [*left, (start, end)]


def _planned(job: Allocation, record: JobRecord | None) -> Allocation:
    if record is None:
        return job
    return replace(job, name=record.name, planned=record.workers, record=record)


def _stays(history: ClusterHistory) -> list[Stay]:
    """Return when each worker was there; of a name that was restarted one at a time."""
    by_name: dict[tuple[str | None, str], list[WorkerRecord]] = defaultdict(list)
    for worker in history.workers:
        by_name[worker.job, worker.name].append(worker)
    found = []
    for workers in by_name.values():
        workers.sort(key=lambda w: w.started)
        nexts = [*(w.started for w in workers[1:]), float("inf")]
        for worker, following in zip(workers, nexts, strict=True):
            end = history.seen if worker.ended is None else worker.ended
            found.append(Stay(worker, worker.started, max(worker.started, min(end, following))))
    return found


class _Finder:
    """Says which job brought a worker."""

    def __init__(self, jobs: Sequence[Allocation]) -> None:
        self._jobs = jobs
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for i, job in enumerate(jobs):
            for name in {job.job} if job.row is None else ids(job.row):
                self._by_id[name].append(i)
            self._by_name[job.name].append(i)

    def job_of(self, stay: Stay) -> int | None:
        """Return its index: of several runs of one job that of the time; None if there is none."""
        worker = stay.worker
        mine = self._by_id.get(worker.job or "") or [
            i for i in self._named(worker.name) if not worker.job or self._vague(i)
        ]

        def fit(i: int) -> tuple[float, float]:
            job = self._jobs[i]
            overlap = min(stay.end, job.end) - max(stay.start, job.start)
            return -overlap, abs(stay.start - job.start)

        return min(mine, key=fit, default=None)

    def held(self, moment: float) -> bool:
        """Return whether there was a job at a moment."""
        return any(job.start - _SKEW <= moment <= job.end + _SKEW for job in self._jobs)

    def _named(self, worker: str) -> list[int]:
        base = worker.rpartition("-")[0]
        several = [i for i in self._by_name.get(base, ()) if self._jobs[i].planned > 1]
        return self._by_name.get(worker) or several

    def _vague(self, i: int) -> bool:
        # A worker in an array knows the number of its element, the cluster only its index.
        job = self._jobs[i]
        return not job.job or (job.row is None and "_" in job.job)


def _passing(stay: Stay) -> bool:
    """Return whether a worker came and went before anybody could look at it."""
    return not stay.worker.job and stay.worker.id.startswith("gone-")


def _without_job(stay: Stay) -> Allocation:
    worker = stay.worker
    return Allocation(
        pool=worker.pool,
        start=stay.start,
        end=stay.end,
        cores=worker.threads,
        gpus=worker.gpus,
        memory=worker.memory,
        source=WORKERS,
        job=worker.job or "",
        name=worker.name,
        stays=(stay,),
    )


def _with_workers(job: Allocation, stays: Sequence[Stay]) -> Allocation:
    if not stays:
        return job
    early = job.start - min(stay.start for stay in stays)
    shift = early if 0 < early <= _SKEW else 0.0
    inside = tuple(
        Stay(
            stay.worker,
            min(max(stay.start + shift, job.start), job.end),
            max(job.start, min(stay.end + shift, job.end)),
        )
        for stay in stays
    )
    return replace(job, stays=inside, pool=stays[0].worker.pool)


def _most_at_once(stays: Iterable[Stay]) -> int:
    """Return how many workers were there at once, at most."""
    steps = [(s.start, 1) for s in stays if s.end > s.start]
    steps += [(s.end, -1) for s in stays if s.end > s.start]
    most = now = 0
    for _, step in sorted(steps):  # those that go before those that come
        now += step
        most = max(most, now)
    return most
