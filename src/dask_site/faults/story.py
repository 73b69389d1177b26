"""What users read about workers that died: warnings, and the story of a task that is given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from dask_site.faults import ruling
from dask_site.faults.evidence import MEMORY, Finding
from dask_site.faults.ruling import Court, Ordeal, Place, Ruling
from dask_site.sitefile.units import format_walltime

if TYPE_CHECKING:
    from dask_site.site import Site

_SHOWN = 3


def line(place: Place, finding: Finding, peak: int, company: int) -> str:
    """Return one line of a task's story.

    Parameters
    ----------
    place : Place
        Where its worker was.
    finding : Finding
        Why the worker died.
    peak : int
        Bytes that it held; 0 if not known.
    company : int
        How many other tasks it may have been executing.
    """
    beside = f", with {_count(company, 'other task')} beside it" if company else ""
    return f"{str(place)[len('Worker ') :]} {finding.how}{_memory(place, finding, peak)}{beside}"


def warning(
    place: Place, finding: Finding, peak: int, rulings: Sequence[Ruling], others: int, court: Court
) -> str:
    """Return what to tell the user of a worker's death: what died where, why, and what is next."""
    parts = [f"{place} {finding.how}{_memory(place, finding, peak)}."]
    parts += [_fate(do, group, court) for do, group in _grouped(rulings)]
    if others and rulings:
        go = "go" if others > 1 else "goes"
        parts.append(f"{_count(others, 'task')} that had not begun there {go} on.")
    elif others:
        parts.append(f"{others} of its tasks {'go' if others > 1 else 'goes'} on.")
    return " ".join(parts)


def did(rulings: Sequence[Ruling]) -> str:
    """Return in few words what became of the suspects, for a table."""
    words = {
        ruling.AGAIN: "runs again",
        ruling.ALONE: "runs again alone",
        ruling.LONGER: "runs again where the walltime is longer",
        ruling.CRASHED: "given up",
        ruling.TOO_LARGE: "given up",
    }
    texts = []
    for do, group in _grouped(rulings):
        pools = sorted({r.pool for r in group if r.pool})
        word = words.get(do) or f"runs again on {', '.join(pools)}"
        texts.append(f"{len(group)}: {word}" if len(rulings) > 1 else word)
    return "; ".join(texts)


def crashed(key: Any, ordeal: Ordeal, error: str = "") -> str:
    """Return the story of a task that is given up because its workers died.

    Parameters
    ----------
    key
        The task.
    ordeal : Ordeal
        What was tried.
    error : str
        What the last worker failed to read; empty if it died of something else.
    """
    if ordeal.strikes:
        brought = f"it brought {ordeal.strikes} workers down" + (
            "" if ordeal.by_itself else ", though never seen to do so by itself"
        )
        mend = (
            "The workers cannot read what they are sent of it: they need each module that it uses. "
            "Install it where they run, or send a file of yours: "
            "client.upload_file('my_module.py')."
            if error
            else "It does so by itself: a crash in compiled code, or a call that ends the process. "
            "cluster.logs() has what the workers printed."
        )
    else:
        brought = f"{ordeal.losses} workers were lost under it, and nothing says why"
        mend = (
            "Something kills the workers from outside, or takes their jobs away: "
            "cluster.jobs and cluster.logs() may tell more."
        )
    return "\n".join([f"Task {shown(key)} was given up: {brought}.", *_lines(ordeal), mend])


def too_large(key: Any, ordeal: Ordeal, site: Site, largest: tuple[str, int]) -> str:
    """Return the story of a task that no worker has enough memory for.

    Parameters
    ----------
    key
        The task.
    ordeal : Ordeal
        What was tried.
    site : Site
        Its name and its order of pools are named.
    largest : str, int
        The pool whose workers have the most memory, and how many bytes.
    """
    pool, memory = largest
    used = (
        f": a worker that ran nothing else was killed with {_bytes(ordeal.peak)}"
        if ordeal.peak
        else ""
    )
    mend = "Smaller chunks or partitions make smaller tasks"
    if site.escalate and pool in site.escalate:
        mend += "."
    else:
        ladder = f" ({', '.join(site.escalate)})" if site.escalate else ", which names none"
        mend += (
            f"; or ask for a larger pool: `with pool({pool!r}):`, or name it in the site file's "
            f"`escalate`{ladder}."
        )
    return "\n".join(
        [
            f"Task {shown(key)} was given up: it needs more memory than any worker has that it "
            f"may run on{used}.",
            *_lines(ordeal),
            f"The largest workers of {site.name} are those of pool {pool!r}, {_bytes(memory)} "
            f"each. {mend}",
        ]
    )


def shown(key: Any) -> str:
    """Return a key for people, not longer than a line."""
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def cut_off(key: Any, ordeal: Ordeal, place: Place, to: str, site: Site) -> str:
    """Return what to tell of a task that reached the end of its job more than once.

    Parameters
    ----------
    key
        The task.
    ordeal : Ordeal
        How often it was cut off.
    place : Place
        Where it was, the last time.
    to : str
        The pool where it goes now; empty if it is tried again where it was.
    site : Site
        Its walltimes are named.
    """
    limit = site.pools[place.pool].walltime if place.pool in site.pools else None
    of = f" of pool {place.pool!r}" if place.pool else ""
    told = f", {format_walltime(limit)}" if limit else ""
    text = (
        f"Task {shown(key)} was cut off {ordeal.cut_off} times by the end of its job: it seems to "
        f"take longer than the walltime{of}{told}."
    )
    if to:
        longer = site.pools[to].walltime
        has = f"where it may take {format_walltime(longer)}" if longer else "which has no walltime"
        return f"{text} It goes to pool {to!r}, {has}."
    return (
        f"{text} No pool that it may run on has a longer one, so it is tried again there. Make it "
        "shorter, such as by smaller chunks or partitions, or have the pool's `walltime` raised."
    )


def _fate(do: str, group: list[Ruling], court: Court) -> str:
    many = len(group) > 1
    names = _names([r.key for r in group])
    if do == ruling.MOVED:
        where = sorted({r.pool for r in group})
        pools = " or ".join(f"{p!r} ({_bytes(court.memory_of(p))} a worker)" for p in where)
        return f"{names} {'run' if many else 'runs'} again on pool {pools}."
    if do == ruling.ALONE:
        why = ", for any of them may be the cause" if many else ""
        return f"{names} {'run' if many else 'runs'} again alone on a worker{why}."
    if do == ruling.LONGER:
        where = sorted({r.pool for r in group})
        return f"{names} {'run' if many else 'runs'} again on pool {' or '.join(map(repr, where))}."
    if do == ruling.AGAIN:
        return f"{names} {'run' if many else 'runs'} again."
    return (
        f"{names} {'are' if many else 'is'} given up: {'their' if many else 'its'} error says why."
    )


def _grouped(rulings: Sequence[Ruling]) -> list[tuple[str, list[Ruling]]]:
    groups: dict[str, list[Ruling]] = {}
    for one in rulings:
        groups.setdefault(one.do, []).append(one)
    return list(groups.items())


def _names(keys: list[Any]) -> str:
    names = ", ".join(shown(key) for key in keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{'Tasks' if len(keys) > 1 else 'Task'} {names}{more}"


def _memory(place: Place, finding: Finding, peak: int) -> str:
    if finding.cause != MEMORY or not place.memory:
        return ""
    return f" ({f'{_bytes(peak)} of ' if peak else ''}{_bytes(place.memory)})"


def _lines(ordeal: Ordeal) -> list[str]:
    return [f"  {number}. {text}" for number, text in enumerate(ordeal.story, 1)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _bytes(amount: int) -> str:
    return str(format_bytes(amount))
