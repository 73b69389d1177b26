"""The history of a cluster as JSON, from the service to whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from dask_site.history.model import AccountedJob, ClusterHistory
from dask_site.history.records import Record, parse

_ONE = {"cluster": "cluster", "traffic": "traffic", "end": "end"}
_MANY = {
    "workers": "worker",
    "spans": "span",
    "jobs": "job",
    "scripts": "script",
    "usage": "usage",
    "samples": "usage",
    "errors": "error",
}


def to_dict(history: ClusterHistory) -> dict[str, Any]:
    """Return JSON-ready values from which `from_dict` makes an equal history.

    Of records, what has its default value is left out.
    """
    wire: dict[str, Any] = {"owner": history.owner, "seen": history.seen}
    for name in _ONE:
        record: Record | None = getattr(history, name)
        wire[name] = None if record is None else _dump(record)
    for name in _MANY:
        wire[name] = [_dump(record) for record in getattr(history, name)]
    wire["accounting"] = [asdict(job) for job in history.accounting]
    wire["elsewhere"] = [list(times) for times in history.elsewhere]
    return wire


def from_dict(wire: Mapping[str, Any]) -> ClusterHistory:
    """Return the history that `to_dict` made these values of.

    Raises
    ------
    ValueError
        If they are no history, or one of a release that this one can't read.
    """
    try:
        values: dict[str, Any] = {"owner": str(wire["owner"]), "seen": float(wire["seen"])}
        for name, kind in _ONE.items():
            values[name] = None if wire[name] is None else _record(kind, wire[name])
        for name, kind in _MANY.items():
            values[name] = [_record(kind, each) for each in wire[name]]
        known = {field.name for field in fields(AccountedJob)}
        values["accounting"] = [
            AccountedJob(**{name: value for name, value in row.items() if name in known})
            for row in wire["accounting"]
        ]
        values["elsewhere"] = [(float(a), float(b)) for a, b in wire.get("elsewhere", ())]
        if values["cluster"] is None:
            raise ValueError("there is no record of the cluster")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"this is not the history of a cluster as this release reads it ({said}): use the "
            "release of dask-site that the service runs"
        ) from None
    return ClusterHistory(**values)


def _dump(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_defaults=True)


def _record(kind: str, values: Any) -> Record:
    record = parse(values)
    if values["k"] != kind:
        raise ValueError(f"{values['k']!r} stands where {kind!r} should")
    return record
