"""Who else may look at a cluster, and what a user may look at."""

from __future__ import annotations

from typing import Any

from dask_site.dashboards.accounts import uid_for
from dask_site.dashboards.exchange import Exchange
from dask_site.dashboards.known import Known
from dask_site.dashboards.lines import Lines
from dask_site.dashboards.notes import Notes
from dask_site.dashboards.registry import Cluster, RefusedError

_LONGEST_SHARE = 7 * 86400.0


class Shares:
    """Lets users look at clusters of others."""

    def __init__(self, known: Known, lines: Lines, exchange: Exchange, notes: Notes) -> None:
        self._known = known
        self._lines = lines
        self._exchange = exchange
        self._notes = notes

    def _own(self, uid: int, name: Any) -> Cluster:
        """Return a cluster of a user by its id or its name.

        Raises
        ------
        RefusedError
            404 if there is none; 400 if several have the name; 421 if another login node has it.
        """
        mine = [c for c in self._known.registry.seen_by(uid) if c.uid == uid]
        found = [c for c in mine if c.id == name] or [c for c in mine if c.name == name]
        if not found:
            raise RefusedError("You have no such cluster: dask-site dashboards lists them", 404)
        if len(found) > 1:
            some = ", ".join(c.id for c in found[:5])
            raise RefusedError(f"Several of your clusters have this name, take the id: {some}")
        if found[0].id not in self._known.registry.own:
            where = found[0].host
            raise RefusedError(f"Its broker is on {where}: call this there", 421, where)
        return found[0]

    async def share(self, uid: int, name: Any, user: Any, seconds: Any) -> dict[str, Any]:
        """Let another look at a cluster; with 0 s, no longer.

        Raises
        ------
        RefusedError
            If there is no such cluster or user, the time is none, or another login node has it.
        """
        if self._known.places.paths:
            why = "Nothing is shared at this site: its dashboards have no names of their own"
            raise RefusedError(why, 403)
        self._own(uid, name)
        whose = await uid_for(user)
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= _LONGEST_SHARE:
            raise RefusedError("a dashboard can be shared for up to 7 days")
        if whose == uid:
            raise RefusedError("It is yours already")
        await self._exchange.hear()  # perhaps its scheduler has gone over to another node
        cluster = self._own(uid, name)
        what = "share" if seconds else "unshare"
        await self._notes.of_owner(cluster, what, user_asked=user, seconds=seconds)
        cluster = self._known.registry.share(self._own(uid, cluster.id).id, whose, seconds)
        if not seconds:
            for session in self._known.sessions.of_user(whose):
                self._lines.cut_at(cluster.id, session)
        self._exchange.changed()
        return {"id": cluster.id, "user": user, "until": cluster.shares.get(whose)}

    async def listed(self, uid: int) -> list[dict[str, Any]]:
        """Return what a user may look at, as JSON-ready values."""
        now = self._known.clock()
        seen = self._known.registry.seen_by(uid)
        await self._known.accounts.know({u for c in seen for u in (c.uid, *c.shares)})
        name_of = self._known.accounts.name
        return [
            {
                "id": c.id,
                "name": c.name,
                "kind": c.kind,
                "pools": list(c.pools),
                "owner": name_of(c.uid),
                "host": c.host,
                "node": c.node,
                "begun": c.begun,
                "silent": bool(c.lost),
                "url": self._known.places.page(c.id),
                "until": None if c.uid == uid else c.shares.get(uid),
                "shares": {name_of(u): t for u, t in c.shares.items() if t > now}
                if c.uid == uid
                else {},
            }
            for c in seen
            if c.uid == uid or not self._known.places.paths
        ]

    async def end(self, now: float) -> None:
        """End what was shared for a time that is over."""
        ended = []
        for cluster in list(self._known.registry.own.values()):
            for uid in [uid for uid, until in cluster.shares.items() if until <= now]:
                self._known.registry.share(cluster.id, uid, 0)
                for session in self._known.sessions.of_user(uid):
                    self._lines.cut_at(cluster.id, session)
                self._exchange.changed()
                ended.append((cluster, uid))
        for cluster, uid in ended:
            user = await self._known.accounts.named(uid)
            await self._notes.of_owner(cluster, "share-ended", user_asked=user)
