"""Who is to blame for a worker's death, and what becomes of each task. Knows no cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dask_site.cluster.resources import MEMORY, pool_of_resource, pool_restriction
from dask_site.placement.matching import Matcher

if TYPE_CHECKING:
    from dask_site.site import Site

AGAIN = "again"
ALONE = "alone"
MOVED = "moved"
CRASHED = "crashed"
TOO_LARGE = "too large"
LONGER = "longer"

#: A task that brought down so many workers by itself is given up.
STRIKES = 3
# As many of them with other tasks beside it each time: nobody saw it do it by itself.
_STRIKES_IN_COMPANY = 6
#: A task that was lost so often for reasons that nobody knows is given up.
LOSSES = 10
#: A task that the end of its job cut off so often takes longer than the walltime, it seems.
CUT_OFF = 2
_HUNGRY_FROM = 3
_HUNGRY_SHARE = 0.3
_STORY_LINES = 20


@dataclass(frozen=True)
class Place:
    """Where a worker was.

    Attributes
    ----------
    worker, pool, node : str
        Names; `pool` is empty for a worker that no job of ours brought.
    memory : int
        Bytes that the worker offered to its tasks; 0 if not known.
    """

    worker: str
    pool: str
    node: str
    memory: int

    def __str__(self) -> str:
        words = [f"pool {self.pool!r}"] if self.pool else []
        words += [f"node {self.node}"] if self.node else []
        return f"Worker {self.worker} ({', '.join(words)})" if words else f"Worker {self.worker}"


@dataclass
class Ordeal:
    """What one task has been through.

    Attributes
    ----------
    strikes, present : int
        Crashes that it is blamed for, and at which it was executing.
    by_itself : bool
        Whether one of the strikes was while nothing else was executing.
    losses : int
        Workers lost under it for reasons that nobody knows.
    cut_off : int
        Jobs that reached their walltime while it was executing.
    ooms : int
        Workers that ran out of memory, which it is blamed for.
    peak : int
        Bytes that a worker held when it died with this task only; 0 if that was not seen.
    alone : bool
        Whether it was sent to run alone because of its memory.
    last_resort : bool
        Whether it runs alone on the largest worker that it may run on.
    pending : dict or None
        Restrictions found too late, for when it is lost again.
    story : list of str
        One line per worker lost.
    trouble : str
        What keeps it from ending, and the mend; empty if nothing is known to.
    """

    strikes: int = 0
    present: int = 0
    by_itself: bool = False
    losses: int = 0
    cut_off: int = 0
    ooms: int = 0
    peak: int = 0
    alone: bool = False
    last_resort: bool = False
    pending: dict[str, float] | None = None
    story: list[str] = field(default_factory=list)
    trouble: str = ""

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(line)
        del self.story[:-_STORY_LINES]


@dataclass(frozen=True)
class Suspect:
    """A task that may have been executing when its worker died.

    Attributes
    ----------
    key, prefix
        The task, and the name that it shares with its like.
    restrictions : mapping
        Dask resources that it takes.
    ordeal : Ordeal
        What it has been through; rulings write to it.
    movable : bool
        False for a task that is bound to certain workers or nodes.
    """

    key: Any
    prefix: str
    restrictions: Mapping[str, float]
    ordeal: Ordeal
    movable: bool = True


@dataclass(frozen=True)
class Ruling:
    """What becomes of one task.

    Attributes
    ----------
    key
        The task.
    do : str
        AGAIN, ALONE, MOVED, LONGER, CRASHED or TOO_LARGE.
    resources : dict or None
        Its new restrictions; None if they stay.
    pool : str
        Where it goes (ALONE, MOVED, LONGER).
    """

    key: Any
    do: str
    resources: dict[str, float] | None = None
    pool: str = ""


@dataclass
class _Prefix:
    ooms: int = 0
    peak: int = 0
    crashed: bool = False


class Court:
    """Rules on tasks whose worker died, and remembers which kinds of tasks were to blame.

    Parameters
    ----------
    site : Site
        The pools, and the order in which tasks move on.
    done : callable
        Prefix to how many of its tasks have finished.
    """

    def __init__(self, site: Site, done: Callable[[str], int]) -> None:
        self.site = site
        self._matcher = Matcher(site)
        self._done = done
        self._prefixes: dict[str, _Prefix] = {}

    def need_of_prefix(self, prefix: str) -> int | None:
        """Return the bytes that tasks of a prefix are known to need; None: not known.

        Known once three of them died of memory, and more than 3 in 10 of all.
        """
        known = self._prefixes.get(prefix)
        if known is None or known.ooms < _HUNGRY_FROM:
            return None
        share = known.ooms / (known.ooms + self._done(prefix))
        return known.peak if share > _HUNGRY_SHARE else None

    def hungry(self) -> dict[str, int]:
        """Return the prefixes whose tasks are known to need memory, and how many bytes."""
        needs = {prefix: self.need_of_prefix(prefix) for prefix in self._prefixes}
        return {prefix: need for prefix, need in needs.items() if need is not None}

    @property
    def largest(self) -> tuple[str, int]:
        """The pool whose workers have the most memory, and how many bytes."""
        return self._matcher.largest_memory()

    def memory_of(self, pool: str) -> int:
        """Return the bytes that one worker of a pool has."""
        return self.site.pools[pool].memory // self.site.pools[pool].processes

    # -- memory ------------------------------------------------------------------------------

    def memory(
        self, suspects: Sequence[Suspect], place: Place, peak: int, *, sole: bool
    ) -> list[Ruling]:
        """Rule on a worker that ran out of memory.

        A task that is surely to blame moves on to a pool with more memory. Of several, those are
        blamed whose like has run out of memory before, else those that were to run alone; if there
        are none, each runs alone first.

        Parameters
        ----------
        suspects : sequence of Suspect
            What it may have been executing.
        place : Place
            Where that was.
        peak : int
            Bytes that the worker held at its end, as far as seen.
        sole : bool
            Whether nothing else can be to blame than the one suspect.
        """
        if sole:
            return [self._too_large(suspects[0], place, peak, sole=True)]
        blamed = [s for s in suspects if self._hungry(s.prefix)]
        blamed = blamed or [s for s in suspects if s.ordeal.alone]
        if not blamed:
            for suspect in suspects:
                suspect.ordeal.alone = True
            return [self._alone(s, place) for s in suspects]
        return [
            self._too_large(s, place, 0, sole=False) if s in blamed else Ruling(s.key, AGAIN)
            for s in suspects
        ]

    def _hungry(self, prefix: str) -> bool:
        known = self._prefixes.get(prefix)
        return known is not None and known.ooms > 0

    def _alone(self, suspect: Suspect, place: Place, pool: str = "") -> Ruling:
        """Have it take all memory of its worker, so that it meets no other of its kind there."""
        if not suspect.movable or not place.pool:
            return Ruling(suspect.key, AGAIN)
        memory = self.memory_of(pool) if pool else place.memory
        pool = pool or place.pool
        return Ruling(suspect.key, ALONE, self._restrictions(suspect, pool, memory), pool)

    def _too_large(self, suspect: Suspect, place: Place, peak: int, *, sole: bool) -> Ruling:
        ordeal = suspect.ordeal
        need = max(peak, place.memory + 1)
        ordeal.ooms += 1
        ordeal.peak = max(ordeal.peak, peak)
        known = self._prefixes.setdefault(suspect.prefix, _Prefix())
        known.ooms += 1
        known.peak = max(known.peak, need)
        if not suspect.movable or not place.pool:
            return Ruling(suspect.key, TOO_LARGE if ordeal.ooms >= STRIKES else AGAIN)
        for wanted in (self.need_of_prefix(suspect.prefix) or 0, need):
            pool = self._above(suspect, place, max(wanted, need))
            if pool is not None:
                resources = self._restrictions(suspect, pool, max(wanted, need))
                return Ruling(suspect.key, MOVED, resources, pool)
        return self._nowhere(suspect, place, sole=sole)

    def _nowhere(self, suspect: Suspect, place: Place, *, sole: bool) -> Ruling:
        """Rule on a task that no pool seems to have enough memory for."""
        ordeal = suspect.ordeal
        largest, memory = "", place.memory
        while (higher := self._above(suspect, place, memory + 1)) is not None:
            largest, memory = higher, self.memory_of(higher)
        # Whoever had other tasks beside it on its last resort gets another chance or two.
        if largest or not ordeal.last_resort or not (sole or ordeal.ooms >= 2 * STRIKES):
            ordeal.alone = ordeal.last_resort = True
            return self._alone(suspect, place, largest)
        return Ruling(suspect.key, TOO_LARGE)

    def _above(self, suspect: Suspect, place: Place, memory: int) -> str | None:
        return self._matcher.escalate(suspect.restrictions, place.pool, memory)

    @staticmethod
    def _restrictions(suspect: Suspect, pool: str, memory: int) -> dict[str, float]:
        kept = {
            name: amount
            for name, amount in suspect.restrictions.items()
            if name != MEMORY and not pool_of_resource(name)
        }
        return {**pool_restriction(pool), MEMORY: memory, **kept}

    # -- walltime ----------------------------------------------------------------------------

    def time_up(self, suspects: Sequence[Suspect], place: Place) -> list[Ruling]:
        """Rule on a worker whose job reached its walltime: no blame, however often.

        A task that was cut off more than once goes to the next pool that satisfies its need and
        has a longer walltime, if there is one.
        """
        rulings = []
        for suspect in suspects:
            suspect.ordeal.cut_off += 1
            pool = self.longer(suspect, place) if suspect.ordeal.cut_off >= CUT_OFF else None
            if pool is None or not suspect.movable:
                rulings.append(Ruling(suspect.key, AGAIN))
                continue
            kept = {k: v for k, v in suspect.restrictions.items() if not pool_of_resource(k)}
            there = {**pool_restriction(pool), **kept}
            rulings.append(Ruling(suspect.key, LONGER, there, pool))
        return rulings

    def longer(self, suspect: Suspect, place: Place) -> str | None:
        """Return the cheapest pool for a task with a longer walltime than where it was."""
        if place.pool not in self.site.pools:
            return None
        limit = self._walltime(place.pool)
        able = self._matcher.shape(suspect.restrictions).slots
        return next((name for name in able if self._walltime(name) > limit), None)

    def _walltime(self, pool: str) -> timedelta:
        return self.site.pools[pool].walltime or timedelta.max

    # -- crashes -----------------------------------------------------------------------------

    def crash(self, suspects: Sequence[Suspect], place: Place, *, sole: bool) -> list[Ruling]:
        """Rule on a worker that died by itself, such as of a segmentation fault.

        Of several tasks those are blamed whose like has crashed a worker by itself; among these
        or, if there are none, among all, those that were there most often. They meet no more.
        """
        blamed = self._blamed(suspects)
        if len({s.prefix for s in suspects}) == 1 and (sole or len(suspects) > 1):
            self._prefixes.setdefault(suspects[0].prefix, _Prefix()).crashed = True
        rulings = []
        for suspect in suspects:
            ordeal = suspect.ordeal
            ordeal.present += 1
            if suspect not in blamed:
                rulings.append(Ruling(suspect.key, AGAIN))
                continue
            ordeal.strikes += 1
            ordeal.by_itself = ordeal.by_itself or sole
            enough = STRIKES if ordeal.by_itself else _STRIKES_IN_COMPANY
            if ordeal.strikes >= enough:
                rulings.append(Ruling(suspect.key, CRASHED))
            elif not sole:
                rulings.append(self._alone(suspect, place))
            else:
                rulings.append(Ruling(suspect.key, AGAIN))
        return rulings

    def _blamed(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        known = [
            s for s in suspects if (p := self._prefixes.get(s.prefix)) is not None and p.crashed
        ]
        among = known or list(suspects)
        most = max((s.ordeal.present for s in among), default=0)
        return [s for s in among if s.ordeal.present == most]

    # -- what nobody knows -------------------------------------------------------------------

    def unknown(self, suspects: Sequence[Suspect]) -> list[Ruling]:
        """Rule on a worker that is gone for reasons that nobody knows: no blame, but an end."""
        rulings = []
        for suspect in suspects:
            suspect.ordeal.losses += 1
            over = suspect.ordeal.losses > LOSSES
            rulings.append(Ruling(suspect.key, CRASHED if over else AGAIN))
        return rulings
