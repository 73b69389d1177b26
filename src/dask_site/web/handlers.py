"""Answers to browsers: who may see what, and which page it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tornado.web import StaticFileHandler

from dask_site.history.books import Books
from dask_site.history.model import ClusterHistory
from dask_site.history.service.api import ApiHandler
from dask_site.history.service.requests import RefusedError
from dask_site.history.store import looking
from dask_site.history.store.listing import Sum, last_days
from dask_site.people import name_of
from dask_site.web import bars, lists, overview
from dask_site.web.cluster import cluster_page, cluster_table, safe_link
from dask_site.web.comparison import choose_page, compare_page, comparison
from dask_site.web.frames import Frame
from dask_site.web.query import Query
from dask_site.web.rendering import STATIC, render
from dask_site.web.tables import FORMATS, NoFormat, Table

_DAYS = 30
_LIVE = 3600.0
_TITLES = {
    400: "That can't be asked",
    401: "Nobody is logged in",
    403: "That is not for you",
    404: "There is nothing here",
    405: "That can't be done here",
    429: "Too many questions at once",
    503: "The history can't be asked now",
}


class Page(ApiHandler):
    """Base of the pages."""

    @property
    def query(self) -> Query:
        """The page's state."""
        arguments = self.request.query_arguments
        values = {name: self.get_query_argument(name, "") for name in list(arguments)[:30]}
        return Query(self.request.path, values)

    @property
    def frame(self) -> Frame:
        """What is around the page."""
        viewer = getattr(self, "viewer", None)
        site = self.context.site.name
        if viewer is None or not viewer.user:
            return Frame("", site, self.request.path)
        overseer = bool(viewer.admin or viewer.accounts)
        proxy = self.context.settings.proxy
        dashboards = "" if proxy is None else f"{proxy.dashboards}/"
        shared = self.proxied is not None
        return Frame(viewer.user, site, self.request.path, overseer, dashboards, shared)

    def page(self, text: str, status: int = 200) -> None:
        """Send a page."""
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(text)

    async def file(self, table: Table | None, stem: str) -> None:
        """Send a table as the file that the query asks for."""
        query = self.query
        if table is None:
            raise RefusedError(404, "There is no such table.")
        sort, form = query.sort(table.name), query.text("format")
        try:
            data = await self.aside((table.sorted(sort) if sort else table).file, form)
        except NoFormat as error:
            raise RefusedError(400, f"{error}.") from None
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{stem}-{table.name}")[:100]
        self.set_header("Content-Type", FORMATS[form])
        self.set_header("Content-Disposition", f'attachment; filename="{name}.{form}"')
        self.finish(data)

    def write_error(self, status_code: int, **more: Any) -> None:
        """Send what was wrong as a page."""
        message = self.message_of(status_code, **more)
        command = "dask-site history open" if status_code == 401 else ""
        title = _TITLES.get(status_code, "Something went wrong here")
        text = render(
            "problem.html",
            frame=self.frame,
            status=status_code,
            title=title,
            message=message,
            command=command,
        )
        self.page(text, status_code)

    async def history(self, given: str) -> ClusterHistory:
        """Return a cluster that the viewer may see; an admin's look at another's is noted."""
        name, owner = await self.cluster(given)
        if owner != self.viewer.uid:
            await self.noted("look", cluster=name, owner=await self.aside(name_of, owner))
        try:
            return await self.aside(self.context.store.load, name)
        except KeyError:  # forgotten meanwhile
            raise RefusedError(404, "There is no such cluster, or none that you may see.") from None


class ClustersPage(Page):
    """A user's clusters."""

    async def get(self) -> None:
        """Answer."""
        query = self.query
        owner, account = await self.scope(
            own=True
        )  # an admin's own first page is his clusters, too
        store, first = self.context.store, lists.since(query)
        last = lists.until(query)
        found = await self.aside(store.clusters, owner, first, last, lists.MOST, account)
        whole = len(found) < lists.MOST
        if query.text("format"):
            if not whole:
                found = await self._every(owner, first, last, account)
            chosen = lists.chosen(found, query)
            await self.file(await self.aside(self._table, chosen, owner), "clusters")
            return
        chosen = lists.chosen(found, query)
        older = None if whole else lists.older(query, found)
        sums = await self.aside(store.sums, *last_days(_DAYS), ("pool",), owner, account)
        self.page(await self.aside(self._made, query, chosen, owner, sums, bool(found), older))

    async def _every(
        self, owner: int | None, first: float | None, last: float | None, account: str | None
    ) -> list[Any]:
        """Return all clusters that are asked for, not only those that a page looks at."""
        found: dict[str, Any] = {}
        for skip in range(0, lists.MOST_IN_FILE + 1, lists.MOST):
            asked = (owner, first, last, lists.MOST, account, None, skip)
            some = await self.aside(self.context.store.clusters, *asked)
            for one in some:
                found.setdefault(one.id, one)
            if len(some) < lists.MOST:
                return list(found.values())
        why = f"These are more than {lists.MOST_IN_FILE} clusters: ask for those of fewer days."
        raise RefusedError(400, why)

    def _table(self, chosen: list[Any], owner: int | None) -> Table:
        dashboards: dict[str, str] = {}
        viewer = self.viewer
        full = [one for one in chosen if viewer.admin or one.owner == viewer.uid]
        for one in [one for one in full if one.state == "running"][:10]:
            link = safe_link(self.context.store.load(one.id).cluster.dashboard)
            if link:
                dashboards[one.id] = link
        return lists.cluster_list(
            chosen,
            dashboards,
            others=owner is None,
            interval=self.context.site.history.interval,
        )

    def _made(
        self,
        query: Query,
        chosen: list[Any],
        owner: int | None,
        sums: list[Sum],
        some: bool,
        older: str | None,
    ) -> str:
        # Only those that are shown are looked at closely.
        sort = query.sort("clusters")
        table = lists.cluster_list(chosen, {}, others=owner is None)
        order = {row["_href"]: i for i, row in enumerate((table.sorted(sort)).rows)}
        chosen.sort(key=lambda one: order[f"/clusters/{one.id}"])
        part = table.part(query.page("clusters"), lists.ROWS)
        start = (part.page - 1) * lists.ROWS
        shown = self._table(chosen[start : start + lists.ROWS], owner)
        empty = (
            "No cluster is like that: `Show all` shows every one."
            if some
            else "No cluster yet. Start one, and it stands here within seconds: "
            "`from dask_site import Cluster; cluster = Cluster()`"
        )
        table = Table(
            "clusters", "Clusters", shown.columns, shown.rows, empty, part.page, part.pages,
            len(chosen), sort, cards=True,
        )  # fmt: skip
        whose = "" if owner == self.viewer.uid else query.text("user") or query.text("account")
        filtered = any(query.text(name) for name in ("name", "state", "pool", "since", "until"))
        return lists.clusters_page(
            self.frame,
            query,
            table,
            sums,
            overview.pools_of(sums),
            whose=whose,
            filtered=filtered,
            older=older,
        )


class ClusterPage(Page):
    """One cluster."""

    async def get(self, given: str) -> None:
        """Answer."""
        query, history = self.query, await self.history(given)
        tariff = self.context.tariff
        if query.text("format"):
            name = query.text("table") or "ledger"
            table = await self.aside(cluster_table, history, tariff, name)
            await self.file(table, history.cluster.c)
            return
        owner = self.viewer.uid
        others = await self.aside(self.context.store.clusters, owner, None, None, 50)
        self.page(await self.aside(cluster_page, self.frame, history, tariff, query, others))


class ComparePage(Page):
    """Two clusters."""

    async def get(self) -> None:
        """Answer."""
        query = self.query
        a, b = query.text("a"), query.text("b")
        if not (a and b):
            found = await self.aside(self.context.store.clusters, self.viewer.uid, None, None, 100)
            self.page(choose_page(self.frame, query, lists.choices(found)))
            return
        one, other = await self.history(a), await self.history(b)
        if query.text("format"):
            tables = await self.aside(comparison, one, other)
            await self.file(tables.get(query.text("table") or "spans"), "compare")
            return
        tariff = self.context.tariff
        self.page(await self.aside(compare_page, self.frame, query, one, other, tariff))


class WherePage(Page):
    """Where the time went."""

    async def get(self) -> None:
        """Answer."""
        query = self.query
        by = query.choice("by", overview.BY)
        owner, account = await self.scope(own=by not in ("user", "account"))
        if by == "span" and owner != self.viewer.uid and not self.viewer.admin:
            why = "Spans bear lines of code: those of others are shown to administrators only."
            raise RefusedError(403, why)
        days = query.number("days", _DAYS, 1, 3660)
        table, more = await self.aside(self._found, by, owner, account, days)
        if query.text("format"):
            await self.file(table, "where")
            return
        self.page(await self.aside(overview.where_page, self.frame, query, by, table, **more))

    def _found(
        self, by: str, owner: int | None, account: str | None, days: int
    ) -> tuple[Table, dict[str, Any]]:
        store, (first, until) = self.context.store, last_days(days)
        by_day = store.sums(first, until, ("day",), owner, account)
        whole = sum((one.books for one in by_day), Books())
        more: dict[str, Any] = {"bar": bars.of_books(whole)}
        if by == "span":
            with store.asking() as ask:
                spans = looking.span_sums(ask, time.time() - days * 86400, owner, account)
            return overview.span_table(spans), more
        if by in ("day", "week"):
            if days <= 400:
                every = [first + timedelta(days=n) for n in range((until - first).days)]
                more["chart"] = bars.of_days(by_day, every)
            name: Callable[[Sum], str] = overview.by_week if by == "week" else _day
            return overview.sum_table(by, by_day[::-1], name, ordered=True), more
        key = {"user": "owner"}.get(by, by)
        sums = store.sums(first, until, (key,), owner, account)
        with store.asking() as ask:
            people = looking.owner_names(ask, [s.owner for s in sums if s.owner is not None])
        names: dict[str, Callable[[Sum], str]] = {
            "user": lambda s: people.get(s.owner or 0, str(s.owner)),
            "account": lambda s: s.account or "(none)",
            "pool": lambda s: s.pool or "(no pool)",
        }
        return overview.sum_table(by, sums, names[by]), more


def _day(one: Sum) -> str:
    return str(one.day)


class SitePage(Page):
    """The site, for admins; for coordinators one of their accounts."""

    async def get(self) -> None:
        """Answer."""
        query, viewer = self.query, self.viewer
        account = query.text("account") or None
        if not viewer.admin:
            account = account or min(viewer.accounts, default=None)
            if account is None or account not in viewer.accounts:
                raise RefusedError(403, "This page is for admins and coordinators of accounts.")
        days = query.number("days", _DAYS, 1, 366)
        await self.noted("sums", path=self.request.uri)
        found = await self.aside(self._found, account, days)
        if query.text("format"):
            tables = await self.aside(overview.overview_tables, found)
            await self.file(tables.get(query.text("table")), "site")
            return
        scope = f"Account {account}" if account else self.context.site.name or "The site"
        self.page(await self.aside(overview.site_page, self.frame, query, found, scope))

    def _found(self, account: str | None, days: int) -> overview.Overview:
        store, (first, until) = self.context.store, last_days(days)
        now = time.time()
        sums = {
            by: store.sums(first, until, (by,), None, account)
            for by in ("day", "owner", "account", "pool")
        }
        with store.asking() as ask:
            return overview.Overview(
                [first + timedelta(days=n) for n in range((until - first).days)],
                sums["day"],
                sums["owner"],
                sums["account"],
                sums["pool"],
                looking.unused(ask, now - _LIVE, account),
                # What is in them is for their users and for administrators.
                looking.shared_errors(ask, now - days * 86400, account)
                if self.viewer.admin
                else [],
                looking.owner_names(ask, [s.owner for s in sums["owner"] if s.owner is not None]),
            )


class Static(StaticFileHandler):
    """Style, script and icon: the same for all, kept by browsers until they change."""

    def set_default_headers(self) -> None:
        """See tornado."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "dask-site")


def rules() -> list[Any]:
    """Return the paths and their handlers."""
    return [
        (r"/", ClustersPage),
        (r"/clusters/?", ClustersPage),
        (r"/clusters/([^/]+)", ClusterPage),
        (r"/compare", ComparePage),
        (r"/where", WherePage),
        (r"/site", SitePage),
        (r"/static/(site\.css|site\.js|icon\.svg)", Static, {"path": str(STATIC)}),
    ]
