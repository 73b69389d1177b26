"""The JSON API: everything that a page or a command can ask."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dask_site.history import wire
from dask_site.history.service.requests import Handler, RefusedError
from dask_site.history.service.sessions import COOKIE, SESSION_SECONDS
from dask_site.history.store.failures import RunningError
from dask_site.history.store.listing import ClusterSummary, Sum, last_days
from dask_site.people import name_of
from dask_site.services.access import uid_of

_ID = re.compile(r"[A-Za-z0-9._:@+-]{1,128}")
_SHORTEST = 4
_BY = {"user": "owner", "account": "account", "pool": "pool", "day": "day"}
_MOST = 1000
_LONGEST_DAYS = 3660


class ApiHandler(Handler):
    """Base of the API's handlers: their arguments."""

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Return a whole number of the query."""
        given = self.get_query_argument(name, "")
        if not given:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", given) or not least <= int(given) <= most:
            raise RefusedError(400, f"{name} must be a whole number from {least} to {most}.")
        return int(given)

    def moment(self, name: str) -> float | None:
        """Return a time of the query: seconds since 1970, or ISO 8601 (UTC unless it says so)."""
        given = self.get_query_argument(name, "")
        if not given:
            return None
        try:
            seconds = float(given)
        except ValueError:
            try:
                when = datetime.fromisoformat(given)
            except ValueError:
                why = f"{name} must be seconds since 1970, or a time as 2026-01-31T12:00."
                raise RefusedError(400, why) from None
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if not math.isfinite(seconds):
            raise RefusedError(400, f"{name} must be a finite number of seconds.")
        return seconds

    def day(self, name: str) -> date | None:
        """Return a day of the query."""
        given = self.get_query_argument(name, "")
        try:
            return date.fromisoformat(given) if given else None
        except ValueError:
            raise RefusedError(400, f"{name} must be a day as 2026-01-31.") from None

    def yes(self, name: str) -> bool | None:
        """Return a truth of the query, None if it isn't there."""
        given = self.get_query_argument(name, "").lower()
        if given in {"", "1", "true", "yes", "0", "false", "no"}:
            return given in {"1", "true", "yes"} if given else None
        raise RefusedError(400, f"{name} must be 1 or 0.")

    async def scope(self, *, own: bool = False) -> tuple[int | None, str | None]:
        """Return the user and the account that are asked about, as far as the caller may.

        A user alone is himself; an administrator asks about all unless he names one.

        Parameters
        ----------
        own : bool
            Who names nobody asks about himself, an administrator too.
        """
        viewer = self.viewer
        user = self.get_query_argument("user", "") or None
        account = self.get_query_argument("account", "") or None
        if own and user is None and account is None:
            return viewer.uid, None
        owner = None if user is None else await self.aside(uid_of, user)
        if user is not None and owner is None:
            raise RefusedError(404, "There is nothing of that user that you may see.")
        if owner is None and not viewer.admin and account not in viewer.accounts:
            owner = viewer.uid
        if owner != viewer.uid and not viewer.may_see(-1 if owner is None else owner, account):
            raise RefusedError(404, "There is nothing of that user that you may see.")
        if owner != viewer.uid:
            await self.noted("list", path=self.request.uri, user_asked=user, account=account)
        return owner, account

    async def noted(self, what: str, **details: Any) -> None:
        """Write into the audit log what the caller is about to see or do."""
        try:
            await self.aside(self.context.audit.note, self.viewer, what, **details)
        except OSError as error:
            why = f"The audit log can't be written ({error.strerror}): ask who runs the service."
            raise RefusedError(503, why) from error

    async def cluster(self, given: str, *, own: bool = False) -> tuple[str, int]:
        """Return the id of a cluster that the caller may see, and the number of its owner.

        Parameters
        ----------
        given : str
            The id, or at least four characters with which no other begins.
        own : bool
            Whether it must be his.

        Raises
        ------
        RefusedError
            404 if there is none or it isn't for him; 400 if there are several; 403 if he is the
            coordinator of its account only, who sees sums.
        """
        viewer = self.viewer
        # What another has is not told apart from what is not there.
        nothing = RefusedError(404, "There is no such cluster, or none that you may see.")
        if not _ID.fullmatch(given):
            raise nothing
        wide = (viewer.admin or viewer.accounts) and not own
        only = None if wide else viewer.uid
        found = await self.aside(self.context.store.find, given, only, 1000 if wide else 10)
        seen = [row for row in found if viewer.may_see(row[1], row[2])]
        mine = [row for row in seen if row[1] == viewer.uid]
        if not seen or (seen[0][0] != given and len(given) < _SHORTEST):
            raise nothing
        chosen = seen if len(seen) == 1 else mine
        if len(chosen) != 1:
            some = ", ".join(name for name, _, _ in (mine or seen)[:5])
            raise RefusedError(400, f"Several clusters begin like this: {some}.")
        name, owner, account = chosen[0]
        if owner != viewer.uid and not viewer.admin:
            # Lines of code, errors and scripts are its user's.
            raise RefusedError(
                403,
                f"As a coordinator of {account} you see the sums of its clusters, not one in full: "
                "its user and the administrators do.",
            )
        return name, owner


class WhoAmI(ApiHandler):
    """Says who asks."""

    def get(self) -> None:
        """Answer."""
        viewer = self.viewer
        self.answer(
            {
                "user": viewer.user,
                "uid": viewer.uid,
                "admin": viewer.admin,
                "accounts": sorted(viewer.accounts),
            }
        )


class Clusters(ApiHandler):
    """Lists clusters, and forgets all of the caller's."""

    async def get(self) -> None:
        """Answer with those heard of last first."""
        owner, account = await self.scope()
        found = await self.aside(
            self.context.store.clusters,
            owner,
            self.moment("since"),
            self.moment("until"),
            self.whole("most", 100, 1, _MOST),
            account,
            self.yes("live"),
            self.whole("skip", 0, 0, 10**9 - 1),
        )
        self.send_json(await self.aside(_clusters_json, found))

    async def delete(self) -> None:
        """Forget all of the caller's but those that run."""
        viewer = self.viewer
        await self.noted("forget", clusters="all of the user's")
        store = self.context.store
        gone = await self.aside(store.forget, owner=viewer.uid, running=False)
        self.answer({"forgotten": len(gone)})


class Cluster(ApiHandler):
    """One cluster."""

    async def get(self, given: str) -> None:
        """Answer with all that is known of it."""
        name, owner = await self.cluster(given)
        if owner != self.viewer.uid:
            await self.noted("look", cluster=name, owner=await self.aside(name_of, owner))
        tariff = self.context.tariff.to_list()
        try:
            self.send_json(await self.aside(self._json, name, tariff))
        except KeyError:  # forgotten meanwhile
            raise RefusedError(404, "There is no such cluster, or none that you may see.") from None

    def _json(self, name: str, tariff: list[Any]) -> str:
        history = self.context.store.load(name)
        return json.dumps({"history": wire.to_dict(history), "tariff": tariff})

    async def delete(self, given: str) -> None:
        """Forget it: only its owner may, and not while it runs."""
        name, owner = await self.cluster(given, own=True)
        await self.noted("forget", cluster=name)
        store = self.context.store
        try:
            gone = await self.aside(store.forget, name, owner=owner, running=False)
        except RunningError as error:
            raise RefusedError(409, str(error)) from None
        self.answer({"forgotten": len(gone)})


class Sums(ApiHandler):
    """What was done by day, user, account or pool."""

    async def get(self) -> None:
        """Answer for the last days, or from a first to a last day."""
        by = self.get_query_argument("by", "day")
        if by not in _BY:
            raise RefusedError(400, f"by must be one of: {', '.join(_BY)}.")
        first, until = self._days()
        owner, account = await self.scope()
        found = await self.aside(self.context.store.sums, first, until, (_BY[by],), owner, account)
        self.send_json(await self.aside(_sums_json, found))

    def _days(self) -> tuple[date, date]:
        first, last = self.day("first"), self.day("last")
        if first is None and last is None:
            return last_days(self.whole("days", 30, 1, _LONGEST_DAYS))
        today = datetime.now(UTC).date()
        end = min(last or today, today)
        start = first or end - min(timedelta(days=29), end - date.min)
        if start > end or (end - start).days > _LONGEST_DAYS:
            raise RefusedError(400, "first must be before last, by ten years at most.")
        return start, end + timedelta(days=1)


class NewSession(ApiHandler):
    """Makes the link with which a browser gets in."""

    async def post(self) -> None:
        """Answer with the link: it lets in once, within a minute."""
        if not self.by_system:
            why = "Only a program on a login node can ask for a link: dask-site history open."
            raise RefusedError(403, why)
        try:
            said = json.loads(self.request.body or b"{}")
            path = said.get("path", "/")
            token = self.context.sessions.token(self.viewer.uid, path)
        except (ValueError, AttributeError, RecursionError) as error:
            raise RefusedError(400, f'The body must be JSON as {{"path": "/"}}: {error}') from None
        settings = self.context.settings
        self.answer({"url": f"https://{settings.host}:{settings.port}/open/{token}"})

    async def delete(self) -> None:
        """End the caller's session, also for whoever writes after this process."""
        if self.proxied is not None:
            why = f"This session is that of your dashboards: log out at {self.proxied.dashboards}/."
            raise RefusedError(403, why)
        sessions = self.context.sessions
        sessions.close(self.get_cookie(COOKIE) or "")
        try:
            await self.aside(sessions.save)
        except OSError as error:
            why = f"This session has ended, but that can't be written down ({error.strerror})."
            raise RefusedError(503, why) from error
        self.clear_cookie(COOKIE, path="/", secure=True)
        self.answer({})


class Open(ApiHandler):
    """Lets a browser in."""

    open_to_all = True

    def get(self, token: str) -> None:
        """Turn the link into a session, and go to its page."""
        opened = self.context.sessions.open(token)
        if opened is None:
            why = (
                "This link was used, or is older than a minute. Run `dask-site history open` "
                "again: it prints another."
            )
            raise RefusedError(401, why)
        word, path, _ = opened
        self.set_cookie(
            COOKIE,
            word,
            path="/",
            secure=True,
            httponly=True,
            samesite="Lax",
            max_age=int(SESSION_SECONDS),
        )
        self.redirect(path, status=303)


class Health(Handler):
    """Says that the process is there."""

    open_to_all = True

    async def prepare(self) -> None:
        """Ask nobody who he is."""

    def get(self) -> None:
        """Answer, with whether it is the writer."""
        self.answer({"role": "writer" if self.context.writer else "standby"})


def _clusters_json(found: list[ClusterSummary]) -> str:
    return json.dumps({"clusters": [asdict(summary) for summary in found]})


def _sums_json(found: list[Sum]) -> str:
    names: dict[int, str] = {}
    rows = []
    for one in found:
        values = asdict(one)
        values["day"] = one.day.isoformat() if one.day else None
        if one.owner is not None:
            values["user"] = names.setdefault(one.owner, "") or name_of(one.owner)
            names[one.owner] = values["user"]
        rows.append(values)
    return json.dumps({"sums": rows})


def rules() -> list[tuple[str, type[Handler]]]:
    """Return the paths and their handlers."""
    return [
        (r"/api/v1/whoami", WhoAmI),
        (r"/api/v1/clusters", Clusters),
        (r"/api/v1/clusters/([^/]+)", Cluster),
        (r"/api/v1/sums", Sums),
        (r"/api/v1/sessions", NewSession),
        (r"/healthz", Health),
    ]
