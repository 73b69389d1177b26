"""Where the history of clusters is asked for: the site's service, or the user's own spool."""

from __future__ import annotations

import difflib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from dask_site.calls import SourceError
from dask_site.history import personal
from dask_site.history.preload import service_folder, spool_folder
from dask_site.history.spool import own_folder
from dask_site.history.store.listing import ClusterSummary, Sum
from dask_site.people import name_of

if TYPE_CHECKING:
    from dask_site.history.costs import Tariff
    from dask_site.history.model import ClusterHistory

__all__ = ["LAST", "SHORTEST", "Found", "Source", "SourceError", "SpoolSource", "find"]

#: Characters of an id that are enough, if no other begins with them.
SHORTEST = 4
#: Stands for the cluster that was heard of last.
LAST = "-"
_LOOKED_THROUGH, _AT_ONCE = 500, 1000
_DAY = 86400.0


@dataclass(frozen=True)
class Found:
    """A cluster, and the rates that hold for it."""

    history: ClusterHistory
    tariff: Tariff

    @property
    def id(self) -> str:
        """The cluster's."""
        return self.history.cluster.c


class Source(ABC):
    """What is known of clusters, as far as the caller may see it.

    All methods raise `SourceError` for what isn't there or can't be done.
    """

    @abstractmethod
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
        """Return clusters, those heard of last first.

        Parameters
        ----------
        user, account : str, optional
            Only theirs.
        since, until : float, optional
            Only those that were there between these times, in seconds since 1970.
        most : int
            At most so many; a service gives at most 1000 at once.
        skip : int
            Leave out the first so many.
        """

    @abstractmethod
    def cluster(self, name: str) -> Found:
        """Return one cluster.

        Parameters
        ----------
        name : str
            Its id, or the first characters of it, at least 4; ``-`` for the last one.
        """

    @abstractmethod
    def sums(
        self,
        by: str,
        first: date,
        last: date,
        *,
        user: str | None = None,
        account: str | None = None,
    ) -> list[Sum]:
        """Return the books of some days, the first and the last included, UTC.

        Parameters
        ----------
        by : str
            ``user``, ``account``, ``pool`` or ``day``.
        user, account : str, optional
            Only theirs.
        """

    @abstractmethod
    def forget(self, name: str | None) -> int:
        """Delete a cluster, or with None all of the caller's; return how many."""

    @abstractmethod
    def open(self, path: str) -> str:
        """Return an address at which a browser sees a page of the history, once."""

    def id_of(self, name: str) -> str:
        """Return the id of a cluster that is given as `cluster` takes it."""
        if name == LAST:
            last = self.clusters(user=name_of(), most=1)
            if not last:
                raise SourceError(self._nothing())
            return last[0].id
        if len(name) < SHORTEST:
            raise SourceError(
                f"{name!r} is too short: write at least {SHORTEST} characters of the id, or - for "
                "your last cluster"
            )
        return name

    def every(self, user: str) -> list[ClusterSummary]:
        """Return all clusters of a user, those heard of last first."""
        found: dict[str, ClusterSummary] = {}
        skip = 0
        while some := self.clusters(user=user, most=_AT_ONCE, skip=skip):
            # One that begins meanwhile moves all others on: each is there once.
            for each in some:
                found.setdefault(each.id, each)
            skip += len(some)
            if len(some) < _AT_ONCE:
                break
        return list(found.values())

    def _nothing(self) -> str:
        return "No cluster of yours is recorded yet."

    def _unknown(self, name: str) -> SourceError:
        return SourceError(_not_found(name, self.clusters(most=_LOOKED_THROUGH)))


class SpoolSource(Source):
    """The calling user's own spool folder.

    Parameters
    ----------
    folder : path, optional
        By default the one that Dask's configuration names, or one beside it; see `own_folder`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            self.folder = Path(folder) if folder is not None else own_folder(spool_folder())
        except ValueError as error:
            raise SourceError(str(error)) from None

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
        """See `Source`; nobody else's clusters and no accounts are here."""
        if account or (user is not None and user != name_of()):
            return []
        found: list[ClusterSummary] = []
        tariff = _tariff_here()
        for history in self._histories(since):
            if len(found) >= skip + most:
                break
            if until is None or history.cluster.started < until:
                found.append(personal.summary(history, tariff))
        return found[skip:]

    def cluster(self, name: str) -> Found:
        """See `Source`; the rates are those of the configured site."""
        there = self._files()
        wanted = self.id_of(name)
        fitting = [wanted] if wanted in there else [n for n in there if n.startswith(wanted)]
        if len(fitting) > 1:
            raise _ambiguous(wanted, fitting)
        if not fitting:
            raise self._unknown(wanted)
        history = personal.load(fitting[0], there[fitting[0]])
        if history is None:
            raise SourceError(
                f"nothing can be read in the files of cluster {fitting[0]}: "
                f"{there[fitting[0]][0]}; remove them: dask-site history forget {fitting[0]}"
            )
        return Found(history, _tariff_here())

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
        if account or (user is not None and user != name_of()):
            return []
        since = _seconds(first)
        word = "owner" if by == "user" else by
        return personal.sums(self._histories(since), word, first, last, _tariff_here())

    def forget(self, name: str | None) -> int:
        """See `Source`. Nothing of what is running goes: it would come again."""
        there = self._files()
        if name is None:
            gone = [cluster for cluster, paths in there.items() if not _runs(cluster, paths)]
        else:
            fitting = [cluster for cluster in there if cluster.startswith(name)]
            if len(fitting) > 1 and name not in there:
                raise _ambiguous(name, fitting)
            if not fitting:
                raise self._unknown(name)
            gone = [name if name in there else fitting[0]]
            if _runs(gone[0], there[gone[0]]):
                raise SourceError(
                    f"cluster {gone[0]} is running, and would be recorded again: close it first"
                )
        for cluster in gone:
            for path in there[cluster]:
                path.unlink(missing_ok=True)
        return len(gone)

    def open(self, path: str) -> str:
        """Raise: there are no pages without the service."""
        raise SourceError(
            f"there is no page {path} to open, as no history service is configured here; "
            "see: dask-site history show"
        )

    def _files(self) -> dict[str, list[Path]]:
        try:
            return personal.files(self.folder)
        except OSError as error:
            raise SourceError(f"the records can't be read: {error}") from None

    def _histories(self, since: float | None = None) -> Iterator[ClusterHistory]:
        for cluster, paths in self._files().items():
            if since is not None and max((_changed(path) for path in paths), default=0) < since:
                continue
            history = personal.load(cluster, paths)
            if history is not None and (since is None or history.seen >= since):
                yield history

    def _nothing(self) -> str:
        return (
            f"No cluster of yours is recorded in {self.folder}. Clusters are recorded where the "
            "site file says `history: {enabled: true}`."
        )


def find(say: Callable[[str], None], spool: str | os.PathLike[str] | None = None) -> Source:
    """Return the site's service, where Dask's configuration names one, else the own spool.

    Parameters
    ----------
    say : callable
        Told, in a sentence, if the service doesn't answer.
    spool : path, optional
        A spool folder that is looked at in any case.
    """
    if spool is None and (state := service_folder()) is not None:
        from dask_site.history.remote import FallingBack, ServiceSource

        return FallingBack(ServiceSource(state), say)
    return SpoolSource(spool)


def _not_found(name: str, known: list[ClusterSummary]) -> str:
    """Return what to say of a cluster that isn't there, with those whose ids or names are near."""
    words = {cluster.id[: max(8, len(name))]: cluster for cluster in known}
    words |= {cluster.name: cluster for cluster in known if cluster.name}
    near = {words[word].id: words[word] for word in difflib.get_close_matches(name, words, 3, 0.5)}
    text = f"no cluster has an id that begins with {name!r}"
    if near:
        told = ", ".join(f"{c.id[:8]}{f' ({c.name})' if c.name else ''}" for c in near.values())
        return f"{text}; nearest: {told}"
    return f"{text}; see: dask-site history ls"


def _ambiguous(name: str, fitting: list[str]) -> SourceError:
    shown = ", ".join(cluster[: len(name) + SHORTEST] for cluster in fitting[:5])
    return SourceError(f"{name!r} is the beginning of {len(fitting)} ids, write more: {shown}")


def _tariff_here() -> Tariff:
    from dask_site.history.costs import Tariff
    from dask_site.site import Site, SiteError

    with suppress(SiteError):
        return Tariff.of_site(Site.find())
    return Tariff()


def _runs(cluster: str, paths: list[Path]) -> bool:
    if time.time() - max((_changed(path) for path in paths), default=0) > _DAY:
        return False
    history = personal.load(cluster, paths)
    return history is not None and personal.state(history) == "running"


def _changed(path: Path) -> float:
    with suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _seconds(day: date) -> float:
    return (day - date(1970, 1, 1)).days * _DAY
