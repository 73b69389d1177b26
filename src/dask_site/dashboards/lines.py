"""The lines to the schedulers of this broker, by which they are told what to cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_site.dashboards.known import Known
from dask_site.dashboards.sessions import Session

Line = Callable[[dict[str, Any]], None]


class Lines:
    """A line to each scheduler that is there."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._lines: dict[str, Line] = {}

    def put(self, name: str, line: Line) -> None:
        """Take the line to a cluster's scheduler, in the place of one before."""
        self._lines[name] = line

    def is_of(self, name: str, line: Line) -> bool:
        """Return whether a cluster has this line still."""
        return self._lines.get(name) is line

    def drop(self, name: str) -> None:
        """Forget the line to a cluster, if there is one."""
        self._lines.pop(name, None)

    def cut(self, session: Session) -> None:
        """End what a session has open."""
        for name in list(self._lines):
            self.cut_at(name, session)

    def cut_at(self, name: str, session: Session) -> None:
        """End what a session has open of one cluster."""
        line = self._lines.get(name)
        if line is not None:
            line({"cut": [self._known.sessions.view(session.id, name)]})

    def cut_guests(self) -> None:
        """End what others have open of users who are kept out."""
        for cluster in self._known.registry.own.values():
            if cluster.shares and self._known.barred.is_barred(cluster.uid):
                for session in self._known.sessions.all():
                    if session.uid in cluster.shares:
                        self.cut_at(cluster.id, session)
