"""How far spool files were taken in, and which are not needed any more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, select

from dask_site.history.store import tables
from dask_site.history.store.batches import Mark
from dask_site.history.store.keys import named, parts
from dask_site.history.store.listing import Ask

_Key = tuple[str, str, str]
_MARKS = (
    'SELECT device, inode, path, "offset", cluster FROM files'
    " WHERE device = :device AND inode IN ({})"
)


def marks_of(ask: Ask, keys: Iterable[_Key]) -> dict[_Key, Mark]:
    """Return how far these files were taken in, of those that were."""
    inodes: defaultdict[str, list[str]] = defaultdict(list)
    for device, inode, _ in keys:
        inodes[device].append(inode)
    found = {}
    for device, wanted in inodes.items():
        for some in parts(wanted):
            names, values = named(some)
            for row in ask(_MARKS.format(names), {**values, "device": device}):
                mark = Mark(*row)
                found[mark.device, mark.inode, mark.path] = mark
    return found


def marks_after(ask: Ask, key: _Key | None, most: int) -> list[_Key]:
    """Return the next files of which something was taken in, in their order, at most so many."""
    values = dict(zip(("device", "inode", "path"), key or ("", "", ""), strict=True))
    sql = (
        "SELECT device, inode, path FROM files"
        " WHERE (device, inode, path) > (:device, :inode, :path)"
        " ORDER BY device, inode, path LIMIT :most"
    )
    return [(device, inode, path) for device, inode, path in ask(sql, {**values, "most": most})]


def drop(conn: Connection, keys: Iterable[_Key]) -> None:
    """Forget files that are there no more."""
    c = tables.files.c
    for device, inode, path in keys:
        same = (c.device == device) & (c.inode == inode) & (c.path == path)
        conn.execute(delete(tables.files).where(same))


def done(conn: Connection, clusters: Sequence[str]) -> set[str]:
    """Return which clusters have ended, or are not to be taken in."""
    c, ends, gone = tables.clusters.c, tables.ends.c, tables.forgotten.c
    ended = select(c.id).join(tables.ends, ends.cluster == c.no)
    # What was only found silent may go on.
    said = (ends.said == 1) | (ends.how != "silent")
    found: set[str] = set()
    for some in parts(clusters):
        found.update(conn.execute(ended.where(c.id.in_(some), said)).scalars())
        found.update(conn.execute(select(gone.id).where(gone.id.in_(some))).scalars())
    return found
