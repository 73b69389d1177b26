"""The clusters that can be reached, whose they are, and who else may look."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

EACH = 100  # clusters of one user
_LETTERS = "abcdefghjkmnpqrstuvwxyz"
_DIGITS = "23456789"
_LONGEST = 100
_MOST_SHARES = 50


class RefusedError(Exception):
    """What was asked for can't be had; the message says why, and the mend.

    Attributes
    ----------
    status : int
        Of HTTP.
    host : str
        Of the login node that can answer, if another can.
    """

    def __init__(self, message: str, status: int = 400, host: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.host = host


@dataclass(frozen=True)
class Cluster:
    """A cluster whose scheduler has registered.

    Attributes
    ----------
    id : str
        Its label in the DNS.
    uid : int
        Of its owner.
    name, kind : str
        What it calls itself.
    host : str
        The login node whose broker knows it.
    address : str
        ``ip:port`` of a scheduler in a job; empty for one on the login node.
    begun : float
        Seconds since 1970.
    since : float
        When its scheduler came to this broker: of two that tell of it, the later one has it.
    lost : float
        Since when nothing is heard of it; 0 while its scheduler is there.
    pools : tuple of str
    node : str
        Where its scheduler says it is.
    shares : dict of int to float
        Until when others may look, by their number.
    """

    id: str
    uid: int
    name: str
    kind: str
    host: str
    address: str = ""
    begun: float = 0.0
    since: float = 0.0
    lost: float = 0.0
    pools: tuple[str, ...] = ()
    node: str = ""
    shares: Mapping[int, float] = field(default_factory=dict)

    def may_look(self, uid: int, now: float) -> bool:
        """Return whether a user may look at it."""
        return uid == self.uid or self.shares.get(uid, 0.0) > now

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "shares": {str(k): v for k, v in self.shares.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cluster:
        """Return the cluster of `to_dict`'s values.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they aren't.
        """
        known = {one.name: values[one.name] for one in fields(cls)}
        for name in ("id", "name", "kind", "host", "address", "node"):
            known[name] = str(known[name])
        known["uid"] = int(known["uid"])
        for name in ("begun", "since", "lost"):
            known[name] = float(known[name])
        known["pools"] = tuple(map(str, known["pools"]))
        known["shares"] = {int(uid): float(until) for uid, until in known["shares"].items()}
        return cls(**known)


class Registry:
    """The clusters of this broker, and those that others tell of."""

    def __init__(self, host: str, clock: Callable[[], float] = time.time) -> None:
        self._host = host
        self._clock = clock
        self.own: dict[str, Cluster] = {}
        self.others: dict[str, Cluster] = {}

    def new(self, uid: int, about: Mapping[str, Any], address: str = "") -> Cluster:
        """Put in a cluster under a name that nobody has had.

        Raises
        ------
        RefusedError
            429 if its owner has too many.
        """
        mine = sum(cluster.uid == uid for cluster in self.own.values())
        if mine >= EACH:
            raise RefusedError(
                f"You have {mine} dashboards on this node, and that is the most: end clusters that "
                "you don't need",
                429,
            )
        cluster = Cluster(
            id=new_id(),
            uid=uid,
            name=_line(about.get("name")) or "cluster",
            kind=_line(about.get("kind")),
            host=self._host,
            address=address,
            begun=self._clock(),
            since=self._clock(),
            pools=_lines(about.get("pools")),
            node=_line(about.get("node")) or self._host,
        )
        self.own[cluster.id] = cluster
        return cluster

    def get(self, name: str) -> Cluster | None:
        """Return a cluster by its id."""
        return self.own.get(name) or self.others.get(name)

    def seen_by(self, uid: int) -> list[Cluster]:
        """Return what a user may look at, the newest first."""
        now = self._clock()
        found = {**self.others, **self.own}.values()
        return sorted((c for c in found if c.may_look(uid, now)), key=lambda c: -c.begun)

    def change(self, name: str, **values: Any) -> Cluster:
        """Change what is known of a cluster of this broker."""
        self.own[name] = replace(self.own[name], **values)
        return self.own[name]

    def share(self, name: str, uid: int, seconds: float) -> Cluster:
        """Let another look at a cluster for some time; with 0 s, no longer.

        Raises
        ------
        RefusedError
            If too many may look already.
        """
        now = self._clock()
        shares = {u: until for u, until in self.own[name].shares.items() if until > now}
        shares.pop(uid, None)
        if seconds > 0:
            shares[uid] = now + seconds
        if len(shares) > _MOST_SHARES:
            raise RefusedError(f"{_MOST_SHARES} users may look at it already, and that is the most")
        return self.change(name, shares=shares)

    def drop(self, name: str) -> Cluster | None:
        """Forget a cluster of this broker."""
        return self.own.pop(name, None)

    def adopt(self, mine: Cluster) -> None:
        """Take over a cluster that another broker told of."""
        self.own[mine.id] = mine
        del self.others[mine.id]

    def restore(self, clusters: Iterable[Cluster]) -> None:
        """Take over the clusters that this broker had before it was started anew."""
        now = self._clock()
        for cluster in clusters:
            self.own[cluster.id] = replace(cluster, lost=cluster.lost or now)

    def heard(self, clusters: Iterable[Cluster]) -> None:
        """Take what all others tell; let go what has gone over to one of them."""
        found = {each.id: each for each in sorted(clusters, key=lambda each: each.since)}
        for name in [n for n, mine in self.own.items() if n in found and _later(found[n], mine)]:
            del self.own[name]
        self.others = {name: each for name, each in found.items() if name not in self.own}

    def silent(self, seconds: float) -> list[Cluster]:
        """Return the clusters of this broker of which nothing is heard for so long."""
        now = self._clock()
        return [c for c in self.own.values() if c.lost and now - c.lost > seconds]


def _later(other: Cluster, mine: Cluster) -> bool:
    # The socket of a scheduler on this node is here, whatever others say.
    return bool(mine.address) and other.uid == mine.uid and other.since > mine.since


def new_id() -> str:
    """Return a name that nobody has had and nobody can guess: 78 bits, a label of the DNS."""
    rest = (secrets.choice(_LETTERS + _DIGITS) for _ in range(15))
    return secrets.choice(_LETTERS) + "".join(rest)


def _line(given: Any) -> str:
    """Return what a user calls something, as one printable line."""
    text = given if isinstance(given, str) else ""
    return "".join(c for c in text[:_LONGEST] if c.isprintable()).strip()


def _lines(given: Any) -> tuple[str, ...]:
    items = given[:50] if isinstance(given, list) else []
    return tuple(filter(None, map(_line, items)))
