"""The store, as all other parts see it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select, text

from dask_site.history.store import copies, listing, spools, tables, versions
from dask_site.history.store.batches import Batch, Bounds, Mark, Taken
from dask_site.history.store.engine import (
    engine_for,
    file_of,
    plainly,
    reading,
    writing,
)
from dask_site.history.store.failures import StoreError
from dask_site.history.store.journals import Journal
from dask_site.history.store.listing import ClusterSummary, Sum

if TYPE_CHECKING:
    from dask_site.history.costs import Tariff
    from dask_site.history.daily import DayBooks
    from dask_site.history.model import AccountedJob, ClusterHistory
    from dask_site.history.records import Record
    from dask_site.history.store.bookkeeping import Due
    from dask_site.history.store.claims import Claim
    from dask_site.history.store.upkeep import Retention


class Store:
    """The records of all clusters, in a database.

    Opening it brings it to the form of this release; an empty database becomes a store.

    Parameters
    ----------
    url : str
        ``sqlite:////var/lib/dask-site/history.db``, or that of a PostgreSQL database.
    bounds : Bounds
        Of each user.
    journal : str
        Of SQLite: ``wal``, or ``delete`` for a file on a network file system.
    timeout : float
        Seconds to wait for another who writes.
    migrate : bool
        False: refuse a store of another version instead.

    Raises
    ------
    StoreError
        If it can't be opened, or a newer release has written it.
    """

    def __init__(
        self,
        url: str,
        bounds: Bounds | None = None,
        *,
        journal: Journal = "wal",
        timeout: float = 10.0,
        migrate: bool = True,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._engine = engine_for(url, journal, timeout)
        self._url = self._engine.url.render_as_string()
        self._number: int | None = None
        with plainly(f"{self._url} can't be opened as a history"):
            (versions.upgrade if migrate else versions.check)(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the one who writes ------------------------------------------------------------------

    def lead(self) -> None:
        """Make this the one that writes: from now on no other that was it before writes anything.

        A store that never did this writes without asking.
        """
        from dask_site.history.store import writers

        self._number = None
        with self._writing() as conn:
            number = writers.begin(conn)
        self._number = number

    def leads(self) -> bool:
        """Say whether no other has become the one that writes since `lead`."""
        from dask_site.history.store import writers

        with reading(self._engine) as conn:
            return self._number == writers.current(conn)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with writing(self._engine) as conn:
            if self._number is not None:
                from dask_site.history.store import writers

                # Within the transaction: nobody can become the writer before it ends.
                if writers.current(conn) != self._number:
                    raise StoreError(f"{self._url}: another process has begun to write")
            yield conn

    # -- taking in ---------------------------------------------------------------------------

    def ingest(
        self,
        owner: int,
        records: Sequence[Record],
        mark: Mark | None = None,
        now: float | None = None,
    ) -> Taken:
        """Take records of a user in, and how far his file was read: both or neither.

        Of each thing the record with the highest `q` counts, so it makes no difference whether
        records come twice, in pieces or in another order.

        Parameters
        ----------
        owner : int
            User number of the spool file, which is who counts.
        now : float, optional
            Time of the collector's clock, in seconds since 1970.

        Raises
        ------
        sqlalchemy.exc.OperationalError
            If another writes for too long, or the disk is full: nothing has changed, try again.
        """
        return self.ingest_all([Batch(owner, records, mark)], now)[0]

    def ingest_all(self, batches: Iterable[Batch], now: float | None = None) -> list[Taken]:
        """Take in batches of several users in one transaction; see `ingest`."""
        from dask_site.history.store.taking import take

        moment = time.time() if now is None else now
        with self._writing() as conn:
            return [take(conn, batch, self._bounds, moment) for batch in batches]

    def drop_marks(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """Forget files that are there no more."""
        with self._writing() as conn:
            spools.drop(conn, keys)

    def put_accounting(self, cluster: str, jobs: list[AccountedJob]) -> None:
        """Keep what the resource manager accounts for of a cluster's jobs, the latest of each.

        The account of the first of them that has one is the cluster's, also in sums made so far.

        Raises
        ------
        KeyError
            If the cluster isn't there.
        """
        from dask_site.history.store import upkeep

        with self._writing() as conn:
            upkeep.account(conn, cluster, jobs)

    def claims(self, heard: float, also: Collection[str] = ()) -> list[Claim]:
        """Return the jobs of clusters, of which the resource manager knows more; `claims.claims`.

        Parameters
        ----------
        heard : float
            Of the clusters that were heard of since, in seconds since 1970.
        also : collection of str
            And of these clusters.
        """
        from dask_site.history.store.claims import claims

        with reading(self._engine) as conn:
            return claims(conn, heard, also)

    def refuse(self, owner: int, reason: str, count: int, now: float) -> None:
        """Count what was not believed of a user; see `refusals`."""
        from dask_site.history.store import rollup

        with self._writing() as conn:
            rollup.add(conn, tables.refusals, {(owner, reason): (count,)}, {"last": now})

    def end(self, cluster: str, how: str, t: float) -> None:
        """Note how a cluster ended that could not say so itself: the resource manager's verdict.

        What the scheduler said itself stays, but for the signal that ended it: the manager knows
        why. Records that it writes later open it again.
        """
        from dask_site.history.store import upkeep

        with self._writing() as conn:
            upkeep.end(conn, cluster, how, t)

    def silent(self, now: float, after: float) -> list[str]:
        """Close the clusters not heard of for longer than `after` seconds; return their ids."""
        from dask_site.history.store import upkeep

        gone: list[str] = []
        while True:
            with self._writing() as conn:
                some = upkeep.silence(conn, now, after)
            gone += some
            if len(some) < upkeep.AT_ONCE:
                return gone

    def due(self, now: float, every: float, again: float, most: int = 1000) -> list[Due]:
        """Return clusters whose books are not those of their last change.

        Users take turns, each with those that are longest due: nobody's clusters wait for all
        those of another.

        Parameters
        ----------
        every, again : float
            Seconds since they were closed last: of a cluster that runs, and of one that has ended.
        """
        from dask_site.history.store.bookkeeping import due

        with reading(self._engine) as conn:
            return due(conn, now, every, again, most)

    def close_books(
        self, closed: Sequence[tuple[Due, Sequence[DayBooks] | None]], now: float
    ) -> None:
        """Keep the books of clusters, and all sums with them; see `bookkeeping.close`."""
        from dask_site.history.store import bookkeeping

        with self._writing() as conn:
            for one, days in closed:
                bookkeeping.close(conn, one, days, now)

    def keep_tariff(self, tariff: Tariff) -> None:
        """Keep the site's rates of all times."""
        from dask_site.history.store import tariffs

        with self._writing() as conn:
            tariffs.keep(conn, tariff)

    def silenced(self, most: int) -> list[str]:
        """Return clusters that fell silent and of which nobody has said why, the latest first."""
        c, ends = tables.clusters.c, tables.ends.c
        query = (
            select(c.id)
            .join(tables.ends, ends.cluster == c.no)
            .where(ends.how == "silent", ends.said == 0)
            .order_by(c.latest.desc())
            .limit(most)
        )
        with reading(self._engine) as conn:
            return [str(name) for (name,) in conn.execute(query)]

    # -- asking ------------------------------------------------------------------------------

    def load(self, cluster: str) -> ClusterHistory:
        """Return all that is known of a cluster.

        Raises
        ------
        KeyError
            If it isn't there.
        """
        from dask_site.history.store.loading import load

        with reading(self._engine) as conn:
            history = load(conn, cluster)
        if history is None:
            raise KeyError(cluster)
        return history

    def clusters(
        self,
        owner: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        account: str | None = None,
        live: bool | None = None,
        skip: int = 0,
    ) -> list[ClusterSummary]:
        """Return clusters, those heard of last first; see `listing.clusters`."""
        with reading(self._engine) as conn:
            ask = _ask(conn)
            return listing.clusters(ask, owner, since, until, limit, account, live, skip)

    def find(
        self, prefix: str, owner: int | None = None, limit: int = 10
    ) -> list[tuple[str, int, str]]:
        """Return clusters whose ids begin so: id, user number and account, by id.

        The one that is named so in full comes alone.

        Parameters
        ----------
        owner : int, optional
            Only this user's.
        """
        c = tables.clusters.c
        query = select(c.id, c.owner, c.account)
        if owner is not None:
            query = query.where(c.owner == owner)
        begins = func.substr(c.id, 1, len(prefix)) == prefix
        with reading(self._engine) as conn:
            rows = conn.execute(query.where(c.id == prefix)).all() or conn.execute(
                query.where(begins).order_by(c.id).limit(limit)
            )
            return [(str(name), int(uid), str(account)) for name, uid, account in rows]

    def counts(self) -> dict[str, int]:
        """Return how many clusters there are, by what is the matter with them.

        ``clusters``: all; ``live``: have not ended; ``open``: have changed since their books were
        closed.
        """
        c = tables.clusters.c
        with reading(self._engine) as conn:
            every, over = (
                int(conn.execute(select(func.count()).select_from(table)).scalar_one())
                for table in (tables.clusters, tables.ends)
            )
            due = select(func.count()).where(c.changes != c.closed)
            opened = int(conn.execute(due).scalar_one())
        return {"clusters": every, "live": every - over, "open": opened}

    def sums(
        self,
        since: date,
        until: date,
        by: Sequence[str] = ("day",),
        owner: int | None = None,
        account: str | None = None,
    ) -> list[Sum]:
        """Return what was done from one day until before another; see `listing.sums`."""
        with reading(self._engine) as conn:
            return listing.sums(_ask(conn), since, until, by, owner, account)

    @contextmanager
    def asking(self) -> Iterator[listing.Ask]:
        """Yield what the questions of `listing` and `looking` are asked through, at one moment."""
        with reading(self._engine) as conn:
            yield _ask(conn)

    def tariff(self) -> Tariff:
        """Return the site's rates of all times; without any if none were kept yet."""
        from dask_site.history.store import tariffs

        with reading(self._engine) as conn:
            return tariffs.load(conn)

    def owner_of(self, cluster: str) -> int | None:
        """Return the user number of whose cluster it is, None if it isn't there."""
        c = tables.clusters.c
        with reading(self._engine) as conn:
            found = conn.execute(select(c.owner).where(c.id == cluster)).scalar()
        return None if found is None else int(found)

    def done(self, clusters: Sequence[str]) -> set[str]:
        """Return which of these clusters have ended, or are not to be taken in."""
        with reading(self._engine) as conn:
            return spools.done(conn, clusters)

    def refusals(self, owner: int | None = None) -> dict[tuple[int, str], int]:
        """Return how many records were refused, by user and reason."""
        table = tables.refusals
        query = select(table.c.owner, table.c.reason, table.c["count"])
        if owner is not None:
            query = query.where(table.c.owner == owner)
        with reading(self._engine) as conn:
            return {(uid, reason): count for uid, reason, count in conn.execute(query)}

    # -- letting go --------------------------------------------------------------------------

    def forget(
        self,
        cluster: str | None = None,
        *,
        owner: int | None = None,
        running: bool = True,
        now: float | None = None,
    ) -> list[str]:
        """Delete a cluster, or all of a user; return the ids. They are not taken in again.

        Parameters
        ----------
        running : bool
            Whether those that run go too; else, of all of a user, they stay.

        Raises
        ------
        RunningError
            If the one cluster runs, and shall not go then.
        ValueError
            Unless one of the two is given; with both, the cluster goes only if it is the user's.
        """
        from dask_site.history.store import upkeep

        moment = time.time() if now is None else now
        c = tables.clusters.c
        with self._writing() as conn:
            if cluster is not None:
                which = c.id == cluster
                mine = which if owner is None else which & (c.owner == owner)
                return upkeep.forget(conn, mine, moment, running=running)
            if owner is None:
                raise ValueError("forget() needs a cluster, or owner=")
            return upkeep.forget_owner(conn, owner, moment, running=running)

    def prune(self, retention: Retention | None = None, now: float | None = None) -> int:
        """Delete some of what is too old; return of how many clusters, 0 when nothing is left."""
        from dask_site.history.store import upkeep

        kept = retention or upkeep.Retention()
        moment = time.time() if now is None else now
        for step in (upkeep.prune_clusters, upkeep.prune_samples):
            with self._writing() as conn:
                some = step(conn, kept, moment)
            if some:
                return some
        return 0

    # -- copies ------------------------------------------------------------------------------

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the store as it is now, while it is in use; see `copies.backup`."""
        copies.backup(self._file("backup", "pg_dump"), Path(path))

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Put a copy in the place of this store, which nobody else may use; `copies.restore`."""
        file = self._file("restore", "pg_restore")
        self._engine.dispose()
        copies.restore(Path(path), file)
        with plainly(f"{self._url} can't be opened as a history"):
            versions.upgrade(self._engine)

    def downgrade(self, version: str) -> None:
        """Bring the store to the form of an older release; this one can't use it then.

        Raises
        ------
        StoreError
            If there is no such version.
        """
        with plainly(f"{self._url} can't go back to version {version}"):
            versions.downgrade(self._engine, version)

    def _file(self, what: str, instead: str) -> Path:
        file = file_of(self._engine)
        if file is None:
            raise StoreError(f"{self._url}: {what} is for SQLite; use {instead} for PostgreSQL")
        return file


def _ask(conn: Any) -> listing.Ask:
    def ask(sql: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = conn.execute(text(sql), dict(values)).all()
        return found

    return ask
