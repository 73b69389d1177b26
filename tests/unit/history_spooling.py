"""Spool folders with histories in them, for tests of what reads them."""

from dask_site.history import records as r
from dask_site.history.spool import SpoolWriter


def spooled(folder, history, name=None):
    """Write the records of a history into a spool folder; return the cluster's id."""
    cluster = name or history.cluster.c
    writer = SpoolWriter(folder, cluster)
    parts = [
        history.cluster,
        *history.workers,
        *history.spans,
        *history.jobs,
        *history.scripts,
        *history.samples,
        *history.errors,
    ]
    parts += [part for part in (history.traffic, history.end) if part is not None]
    assert len(writer.write([_plain(part) for part in parts])) == len(parts)
    writer.close()
    return cluster


def _plain(record: r.Record):
    return record.model_dump(mode="json", exclude={"v", "c", "q"})
