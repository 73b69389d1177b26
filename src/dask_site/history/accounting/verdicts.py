"""How a cluster ended that fell silent: what the resource manager says of its jobs."""

from __future__ import annotations

from collections.abc import Iterable

from dask_site.history.model import AccountedJob

#: What says most about why all went silent, first.
_TELLING = (
    *("NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE", "PREEMPTED"),
    *("CANCELLED", "FAILED"),
)
_OVER = frozenset({*_TELLING, "COMPLETED", "REVOKED", "REQUEUED"})
#: Jobs of one cluster that end within so many seconds ended together.
_TOGETHER = 60.0
#: By which the clocks of the scheduler and of the manager may differ, and a job takes to be killed.
_SKEW = 300.0


def over(job: AccountedJob) -> bool:
    """Return whether a run has ended: what is said of it changes no more."""
    return job.end is not None and job.state in _OVER


def why_told(jobs: Iterable[AccountedJob], own: str | None, ended: float) -> str | None:
    """Return why a scheduler was told to end by a signal, in the manager's word.

    Parameters
    ----------
    own : str or None
        The job in which it ran.
    ended : float
        When the scheduler was last heard of, in seconds since 1970.

    Returns
    -------
    str or None
        As `verdict`; None unless that job ended then, and not by itself.
    """
    mine = [
        row
        for row in jobs
        if own
        and own in (row.id, row.raw)
        and row.end is not None
        and ended - _SKEW <= row.end <= ended + _SKEW
    ]
    return verdict(mine, own) if mine else None


def verdict(jobs: Iterable[AccountedJob], own: str | None = None) -> str | None:
    """Return how the jobs of a silent cluster ended, in the manager's word.

    Parameters
    ----------
    jobs : iterable of AccountedJob
        The cluster's.
    own : str, optional
        The job in which its scheduler ran (`ClusterRecord.job`): if it is among them it alone
        counts.

    Returns
    -------
    str or None
        ``NODE_FAIL``, ``OUT_OF_MEMORY``, ``TIMEOUT``, ``CANCELLED`` ...: of those that ended last
        what tells most. None if something still runs, or nothing tells anything.
    """
    rows = list(jobs)
    mine = [row for row in rows if own and own in (row.id, row.raw)]
    counted = mine or rows
    if any(row.start is not None and not over(row) for row in counted):
        return None
    ended = [(row.end, row.state) for row in counted if row.start is not None and row.end]
    if not ended:
        return None
    last = max(end for end, _ in ended)
    states = {state for end, state in ended if end > last - _TOGETHER}
    return next((state for state in _TELLING if state in states), None)
