"""What a cluster with pools records beside its scheduler: the jobs that it asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dask_site.history.preload import service_folder, spool_folder
from dask_site.history.recorder import Recorder, recorder_of
from dask_site.history.scripts import Scripts

if TYPE_CHECKING:
    from dask_site.cluster.records import JobRecord
    from dask_site.site import Site

logger = logging.getLogger("dask_site")
_LONGEST_REASON = 2000
_LONGEST_NODE = 255


def begin(
    site: Site,
    scheduler: Any,
    records: Iterable[JobRecord],
    scripts: Scripts | None = None,
    label: str = "",
) -> Recorder | None:
    """Record a cluster; call it in the scheduler's event loop.

    Parameters
    ----------
    site : Site
        Says where, and has the pools.
    scheduler : distributed.Scheduler
        May be recorded already, by the preload of the site's configuration.
    records : iterable of JobRecord
        The cluster's jobs, past ones included, as they are whenever it is iterated.
    scripts : Scripts, optional
        What they are submitted with.
    label : str
        What stands in the names that the resource manager shows.

    Returns
    -------
    Recorder or None
        None where it did not work; the cluster goes on without, with one warning.
    """
    try:
        recorder = recorder_of(scheduler)
        if recorder is None:
            history = site.history
            recorder = Recorder(
                scheduler,
                spool_folder(history.spool),
                interval=history.interval,
                service=service_folder(history.state, history.spool),
                first=history.records,
            )
            recorder.start()
        known = recorder.scripts = scripts or Scripts()
        recorder.label = label
        recorder.jobs = lambda: jobs(site, records, known)
    except Exception as error:
        logger.warning("The history of this cluster is not recorded: %s", error)
        return None
    return recorder


def jobs(site: Site, records: Iterable[JobRecord], scripts: Scripts) -> Iterator[dict[str, Any]]:
    """Yield jobs as `dask_site.history.records.JobRecord` has them."""
    for record in records:
        pool = site.pools[record.pool]
        submitted = record.submitted or record.since
        yield {
            "name": record.name,
            "pool": record.pool,
            "id": record.job_id or None,
            "state": record.state,
            "reason": record.reason[:_LONGEST_REASON],
            "submitted": submitted.timestamp(),
            "started": record.started and record.started.timestamp(),
            "ended": record.finished and record.finished.timestamp(),
            "node": record.node[:_LONGEST_NODE],
            "workers": record.processes,
            "cores": pool.cores,
            "memory": pool.memory,
            "gpus": pool.gpus,
            "walltime": record.walltime and record.walltime.total_seconds(),
            **scripts.of(record.name),
        }
