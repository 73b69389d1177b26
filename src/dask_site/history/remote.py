"""The site's history service as a source, and what stands in for it while it doesn't answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from dask_site.calls import Calls, ServiceDownError, ServiceError, Where
from dask_site.history.books import Books, Costs
from dask_site.history.source import Found, Source, SourceError, SpoolSource
from dask_site.history.store.listing import ClusterSummary, Sum

_T = TypeVar("_T")


class ServiceSource(Source):
    """The site's history service.

    Parameters
    ----------
    state : path
        The service's folder, in which it says where it is.
    """

    def __init__(self, state: str | os.PathLike[str]) -> None:
        self._state = Path(state)
        self._calls: Calls | None = None

    def whoami(self) -> dict[str, Any]:
        """Return who the service takes the caller for: user, uid, admin, accounts."""
        return dict(self._call("GET", ("whoami",)))

    def clusters(
        self,
        *,
        user: str | None = None,
        account: str | None = None,
        since: float | None = None,
        until: float | None = None,
        most: int = 100,
        skip: int = 0,
    ) -> list[ClusterSummary]:
        """See `Source`."""
        query: dict[str, Any] = {
            "user": user,
            "account": account,
            "since": since,
            "until": until,
            "most": most,
        }
        query |= {"skip": skip} if skip else {}
        answer = self._call("GET", ("clusters",), query)
        return [_summary(values) for values in answer["clusters"]]

    def cluster(self, name: str) -> Found:
        """See `Source`."""
        from dask_site.history.costs import Tariff
        from dask_site.history.wire import from_dict

        wanted = self.id_of(name)
        try:
            answer = self._call("GET", ("clusters", wanted))
        except ServiceError as error:
            if error.status == 404:
                raise self._unknown(wanted) from None
            raise
        try:
            tariff = Tariff.from_list(answer.get("tariff") or ())
            return Found(from_dict(answer["history"]), tariff)
        except (ValueError, KeyError) as error:
            raise SourceError(f"the history service's answer can't be read: {error}") from None

    def sums(
        self,
        by: str,
        first: date,
        last: date,
        *,
        user: str | None = None,
        account: str | None = None,
    ) -> list[Sum]:
        """See `Source`."""
        days = {"first": first.isoformat(), "last": last.isoformat()}
        query = {"by": by, **days, "user": user, "account": account}
        return [_sum(values) for values in self._call("GET", ("sums",), query)["sums"]]

    def forget(self, name: str | None) -> int:
        """See `Source`. What is in the caller's own spool folder goes with it."""
        if name is None:
            gone = int(self._call("DELETE", ("clusters",))["forgotten"])
        else:
            name = self.cluster(name).id
            gone = int(self._call("DELETE", ("clusters", name))["forgotten"])
        with suppress(SourceError):
            SpoolSource().forget(name)
        return gone

    def open(self, path: str) -> str:
        """See `Source`."""
        return str(self._call("POST", ("sessions",), body={"path": path})["url"])

    def _call(
        self,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        if self._calls is None:
            self._calls = Calls(Where.read(self._state))
        return self._calls(method, parts, query, body)


class FallingBack(Source):
    """The service, and from when it doesn't answer on the own spool.

    Parameters
    ----------
    service : ServiceSource
    say : callable
        Called with a sentence, once, when the service doesn't answer.
    """

    def __init__(self, service: ServiceSource, say: Callable[[str], None]) -> None:
        self._service: ServiceSource | None = service
        self._say = say
        self._own: SpoolSource | None = None

    def clusters(
        self,
        *,
        user: str | None = None,
        account: str | None = None,
        since: float | None = None,
        until: float | None = None,
        most: int = 100,
        skip: int = 0,
    ) -> list[ClusterSummary]:
        """See `Source`."""
        asked: dict[str, Any] = {"user": user, "account": account, "since": since, "until": until}
        return self._ask(lambda source: source.clusters(**asked, most=most, skip=skip))

    def cluster(self, name: str) -> Found:
        """See `Source`."""
        return self._ask(lambda source: source.cluster(name))

    def sums(
        self,
        by: str,
        first: date,
        last: date,
        *,
        user: str | None = None,
        account: str | None = None,
    ) -> list[Sum]:
        """See `Source`."""
        whose = {"user": user, "account": account}
        return self._ask(lambda source: source.sums(by, first, last, **whose))

    def forget(self, name: str | None) -> int:
        """Delete in the service; not in the spool alone, as the service would still have it."""
        return self._only_there(lambda service: service.forget(name))

    def open(self, path: str) -> str:
        """See `Source`. Where one login is for dashboards and the history, it is that."""
        from dask_site.dashboards.asking import DashboardError, history_link

        try:
            address = history_link(path)
        except DashboardError as error:
            raise SourceError(str(error)) from None
        return address or self._only_there(lambda service: service.open(path))

    def _ask(self, question: Callable[[Source], _T]) -> _T:
        if self._service is not None:
            try:
                return question(self._service)
            except ServiceDownError as error:
                self._service = None
                self._say(
                    f"The history service does not answer ({error}). What follows is from your "
                    "own records, as far as they are still there."
                )
        if self._own is None:
            self._own = SpoolSource()
        return question(self._own)

    def _only_there(self, question: Callable[[ServiceSource], _T]) -> _T:
        try:
            if self._service is not None:
                return question(self._service)
        except ServiceDownError as error:
            raise SourceError(f"the history service does not answer ({error})") from None
        raise SourceError("the history service does not answer")


def _summary(values: Mapping[str, Any]) -> ClusterSummary:
    known = {field.name: values[field.name] for field in fields(ClusterSummary)}
    return ClusterSummary(**{**known, "pools": tuple(known["pools"])})


def _sum(values: Mapping[str, Any]) -> Sum:
    day = values.get("day")
    books, costs = values["books"], values["costs"]
    return Sum(
        day=date.fromisoformat(day) if day else None,
        owner=values.get("owner"),
        account=values.get("account"),
        pool=values.get("pool"),
        books=Books(float(books["allocated"]), books["parts"], float(books["again"])),
        costs=Costs(**{field.name: costs[field.name] for field in fields(Costs)}),
    )
