"""From a graph to Dask's resource restrictions: what each of its tasks needs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from dask.utils import key_split, methodcaller

from dask_site.cluster.resources import MEMORY, countable, pool_of_resource, pool_restriction
from dask_site.cluster.shuffles import is_barrier
from dask_site.placement.finder import NeedFinder, Needs
from dask_site.placement.matching import Matcher, Restrictions
from dask_site.placement.needs import Need, any_met
from dask_site.placement.places import resources_by_pattern
from dask_site.placement.unfuse import Piece, fused, take_apart
from dask_site.upstream.graphs import Alias, DataNode, Task

Resources = dict[str, float]
Graph = MutableMapping[Any, Any]
#: Resources of a whole submission; as in Dask a function gives them by key.
Around = Resources | Callable[[Any], Resources | None] | None
# Marks the step of a fused task that takes the output of a shuffle.
_UNPACKS = Need(pool="")


class Placer:
    """Writes the needs of a graph's tasks down as annotations, before the scheduler reads them.

    The needs that functions carry come first, then the patterns of `Cluster.place`, then
    `dask.annotate(resources=...)` and the blocks around the submission. What comes later is
    added where some pool has it all, and otherwise gives way.

    Parameters
    ----------
    matcher : Matcher
        Knows the pools.
    hungry : callable, optional
        Returns the key prefixes whose tasks turned out to need memory, and how many bytes.
    """

    def __init__(self, matcher: Matcher, hungry: Callable[[], Mapping[str, int]] = dict) -> None:
        self.hungry = hungry
        self._matcher = matcher
        self._patterns: dict[str, tuple[re.Pattern[str], Resources]] = {}

    def set_patterns(self, places: Mapping[str, Any]) -> None:
        """Add patterns of key prefixes, or with None take them away; all of them or none.

        Parameters
        ----------
        places : dict
            From a pattern to a pool's name, `needs(...)`, a mapping with the same words, or None.

        Raises
        ------
        ValueError
            For a pool that isn't there, with the nearest one; NeedError for more than any has.
        TypeError
            For what is none of these.
        """
        for pattern, resources in resources_by_pattern(places, self._matcher).items():
            self._patterns.pop(pattern, None)
            if resources is not None:
                compiled = re.compile(fnmatch.translate(pattern))
                self._patterns[pattern] = (compiled, resources)

    def place(
        self,
        graph: Graph,
        by_key: MutableMapping[Any, Resources],
        around: Around,
    ) -> dict[Any, Any]:
        """Add to `by_key`, Dask's annotations by key, what the tasks of a graph need.

        Parameters
        ----------
        graph : dict
            Tasks by key. Those that were fused although no pool has what all their parts need
            are replaced by their parts.
        by_key : dict
            Resources by key, as collections were annotated; changed in place.
        around : dict or callable, optional
            Resources of the whole submission; what a function gives is written to `by_key`.

        Returns
        -------
        dict
            From keys that are new in the graph to the key of the task that they were part of.

        Raises
        ------
        NeedError
            If no pool can run one of the tasks. Nothing of the graph has been taken over then.
        """
        if callable(around):
            for key in graph:
                if key not in by_key and (given := around(key)):
                    by_key[key] = given
            around = None
        self._check(by_key, around)
        around = around and countable(around)
        _count(by_key)
        own: dict[Any, Resources] = {}
        apart: dict[Any, list[Piece]] = {}
        if any_met():
            look = _Look(graph, self._matcher)
            own = look.own_needs()
            apart = look.apart
        hunger = self._hunger(graph)
        if not own and not self._patterns and not hunger:
            return {}
        # All or nothing: until the end both are copies.
        whole, found = graph, dict(by_key)
        if apart:
            whole = {**graph, **{piece.key: piece.task for p in apart.values() for piece in p}}
        for outer, pieces in apart.items():
            if outer in by_key:
                found.update(dict.fromkeys((piece.key for piece in pieces), by_key[outer]))
        self._apply(own, found, around)
        self._apply_patterns(whole, found, around, own)
        for key, memory in hunger.items():
            self._grow(found, key, memory, around)
        self._follow_aliases(whole, found)
        graph.update(whole if apart else {})
        by_key.update(found)
        return {piece.key: outer for outer, pieces in apart.items() for piece in pieces[:-1]}

    def resources(self, graph: Mapping[Any, Any], around: Around = None) -> dict[Any, Any]:
        """Return what each task of a graph would need, by key; for a look ahead of submission.

        With the keys that the graph would have: fused tasks that had to be taken apart have one
        for each part.
        """
        by_key: dict[Any, Resources] = {}
        graph = dict(graph)
        self.place(graph, by_key, around)
        others = {} if around is None or callable(around) else countable(around)
        return {key: by_key.get(key, others) for key in graph}

    def _check(self, by_key: Mapping[Any, Resources], around: Resources | None) -> None:
        if around:
            self._matcher.check(around, "What is submitted here")
        if by_key:
            # All keys of a layer share theirs.
            for resources in {id(wanted): wanted for wanted in by_key.values()}.values():
                self._matcher.check(resources, "An annotation")

    def _apply(
        self,
        wanted: Mapping[Any, Resources],
        by_key: MutableMapping[Any, Resources],
        around: Resources | None,
    ) -> None:
        """Put what is wanted for keys above what they have."""
        # Tasks share what they want, and mostly what is around them.
        known: dict[tuple[int, int], Resources] = {}
        nothing: Resources = {}
        for key, resources in wanted.items():
            present = by_key.get(key, nothing)
            pair = (id(resources), id(present))
            both = known.get(pair)
            if both is None:
                both = known[pair] = self._stronger(resources, {**(around or {}), **present})
            by_key[key] = both

    def _stronger(self, wanted: Resources, present: Restrictions) -> Resources:
        """Return as much of both together as some pool has, but all that is wanted."""
        amounts = {name: n for name, n in present.items() if not pool_of_resource(name)}
        if any(map(pool_of_resource, wanted)):
            present = amounts
        for weaker in (present, amounts):
            both = {**weaker, **wanted}
            for name in wanted.keys() & weaker.keys():
                both[name] = max(wanted[name], weaker[name])
            if self._matcher.fits(both):
                return both
        return wanted

    def _apply_patterns(
        self,
        graph: Graph,
        by_key: MutableMapping[Any, Resources],
        around: Resources | None,
        own: Mapping[Any, Resources],
    ) -> None:
        if not self._patterns:
            return
        matches: dict[str, tuple[int, Resources] | None] = {}
        found: dict[Any, Resources] = {}
        for key, task in graph.items():
            best = None
            for prefix in _prefixes(key, task):
                if prefix not in matches:
                    matches[prefix] = self._match(prefix)
                best = max(best, matches[prefix], key=lambda match: match[0] if match else -1)
            if best is not None:
                found[key] = best[1]
        self._apply(found, by_key, around)
        self._apply({key: own[key] for key in found if key in own}, by_key, around)

    def _match(self, prefix: str) -> tuple[int, Resources] | None:
        """Return the last pattern that was set and matches, with its number."""
        for number, (pattern, resources) in reversed([*enumerate(self._patterns.values())]):
            if pattern.match(prefix):
                self._matcher.check(resources, f"Work named {prefix!r}")
                return number, resources
        return None

    def _hunger(self, graph: Graph) -> dict[Any, int]:
        """Return the memory that tasks are known to need by their names, by key."""
        known = self.hungry()
        if not known:
            return {}
        return {key: known[prefix] for key in graph if (prefix := key_split(key)) in known}

    def _grow(
        self,
        by_key: MutableMapping[Any, Resources],
        key: Any,
        memory: int,
        around: Resources | None,
    ) -> None:
        present = by_key.get(key, around or {})
        grown = {**present, MEMORY: memory}
        if memory > present.get(MEMORY, 0) and self._matcher.fits(grown):
            by_key[key] = grown

    def _follow_aliases(self, graph: Graph, by_key: MutableMapping[Any, Resources]) -> None:
        """Keep other names of a result where the result is; elsewhere they would copy it."""
        beside: dict[int, Resources] = {}
        for key, task in graph.items():
            if type(task) is Alias:
                resources = by_key.get(_target(graph, task))
                if resources is not None:
                    place = beside.get(id(resources))
                    if place is None:
                        place = beside[id(resources)] = self._beside(resources)
                    by_key[key] = place

    def _beside(self, resources: Resources) -> Resources:
        """Return where a result lies that took these resources; a name takes none of them."""
        slots = self._matcher.shape(resources).slots
        return pool_restriction(next(iter(slots))) if len(slots) == 1 else resources


class _Look:
    """One look at a graph for the needs of its functions.

    Attributes
    ----------
    apart : dict
        The pieces of tasks that had to be taken apart, by their key.
    """

    def __init__(self, graph: Graph, matcher: Matcher) -> None:
        self.apart: dict[Any, list[Piece]] = {}
        self._graph = graph
        self._matcher = matcher
        self._finder = NeedFinder()
        self._merged: dict[Needs, Resources] = {}
        self._fitting: dict[Needs, bool] = {}

    def own_needs(self) -> dict[Any, Resources]:
        """Return what the tasks need that need something, by key.

        Raises
        ------
        NeedError
            If no pool can run one of them.
        """
        own: dict[Any, Resources] = {}
        functions: dict[Any, Needs] = {}
        look = self._finder.task
        for key, task in self._graph.items():
            needs = look(task)
            if not needs:
                continue
            if type(task) is DataNode:
                functions[key] = needs
            elif self._fits(needs):
                own[key] = self._resources(needs)
            else:
                own.update(self._in_pieces(key, task, needs))
        for key, needs in (*self._handed(functions), *self._methods()):
            if key not in self.apart:
                self._check(needs, key)
                own[key] = self._resources(needs)
        self._keep_shuffles_together(own)
        return own

    def _keep_shuffles_together(self, own: dict[Any, Resources]) -> None:
        """Take the output of P2P shuffles off what it is fused with, where no pool has it all."""
        barriers = {key for key, task in self._graph.items() if is_barrier(task)}
        outputs: dict[Any, list[Any]] = {barrier: [] for barrier in barriers}
        for key, task in self._graph.items() if barriers else ():
            for barrier in barriers & task.dependencies:
                outputs[barrier].append(key)
        finder = _UnpackFinder(self._finder, barriers)
        for keys in outputs.values():
            places = {id(own.get(key)): own.get(key) for key in keys}.values()
            slots = [set(self._matcher.shape(resources).slots) for resources in places]
            if not slots or set.intersection(*slots):
                continue
            for key in own.keys() & keys - self.apart.keys():
                pieces = take_apart(self._graph[key], finder, self._fits_apart)
                if pieces is not None:
                    self.apart[key] = pieces
                    own.update({p.key: self._resources(p.needs - {_UNPACKS}) for p in pieces})

    def _fits_apart(self, needs: Needs) -> bool:
        return needs == {_UNPACKS} or (_UNPACKS not in needs and self._fits(needs))

    def _in_pieces(self, key: Any, task: Any, needs: Needs) -> dict[Any, Resources]:
        pieces = take_apart(task, self._finder, self._fits)
        if pieces is None:
            self._check(needs, key)
        self.apart[key] = pieces or []
        return {p.key: self._resources(p.needs) for p in self.apart[key] if p.needs}

    def _check(self, needs: Needs, key: Any) -> None:
        self._matcher.check(self._resources(needs), repr(key_split(key)))

    def _handed(self, functions: Mapping[Any, Needs]) -> Iterator[tuple[Any, Needs]]:
        """Yield tasks that are handed functions with needs by other nodes of the graph."""
        if not functions:
            return
        for key, task in self._graph.items():
            handed = functions.keys() & task.dependencies
            if handed and isinstance(task, Task):
                yield key, self._finder.task(task).union(*map(functions.__getitem__, handed))

    def _methods(self) -> Iterator[tuple[Any, Needs]]:
        """Yield tasks that call a method with needs of an object elsewhere in the graph."""
        for key, task in self._graph.items():
            if type(task) is Task and type(task.func) is methodcaller and task.args:
                node = self._graph.get(getattr(task.args[0], "key", None))
                if isinstance(node, DataNode):
                    needs = self._finder.method(type(node.value), task.func.method)
                    if needs:
                        yield key, needs | self._finder.task(task)

    def _resources(self, needs: Needs) -> Resources:
        merged = self._merged.get(needs)
        if merged is None:
            merged = self._merged[needs] = {}
            for need in sorted(needs, key=str):
                for name, amount in need.resources().items():
                    merged[name] = max(amount, merged.get(name, 0))
        return merged

    def _fits(self, needs: Needs) -> bool:
        fits = self._fitting.get(needs)
        if fits is None:
            fits = self._fitting[needs] = self._matcher.fits(self._resources(needs))
        return fits


class _UnpackFinder(NeedFinder):
    """Finds needs, and what takes the output of a shuffle."""

    def __init__(self, finder: NeedFinder, barriers: set[Any]) -> None:
        self._finder = finder
        self._barriers = barriers

    def find(self, thing: Any, depth: int = 0) -> Needs:
        """Return the needs of a node, marked if it depends on a barrier."""
        needs = self._finder.find(thing, depth)
        unpacks = not self._barriers.isdisjoint(thing.dependencies)
        return needs | {_UNPACKS} if unpacks else needs


def inherit(parts: Mapping[Any, Any], values: Any) -> None:
    """Give the parts of tasks that were taken apart what was said of the whole.

    Parameters
    ----------
    parts : dict
        From the keys of parts to the key of the whole, as `Placer.place` returns it.
    values : Any
        Annotations or priorities by key, changed in place; anything else counts for all tasks.
    """
    if isinstance(values, dict):
        for part, whole in parts.items():
            if whole in values and part not in values:
                values[part] = values[whole]


def _count(by_key: MutableMapping[Any, Resources]) -> None:
    """Make the resources of annotations `countable`; what keys share they share afterwards."""
    distinct = {id(given): given for given in by_key.values()}
    changed = {n: new for n, given in distinct.items() if (new := countable(given)) != given}
    if changed:
        by_key.update({k: changed[id(r)] for k, r in by_key.items() if id(r) in changed})


def _prefixes(key: Any, task: Any) -> set[str]:
    if fused(task):
        return {key_split(key), *map(key_split, task.args[0])}
    return {key_split(key)}


def _target(graph: Graph, alias: Alias) -> Any:
    """Return what an alias stands for in the end."""
    target = alias.target
    met = [alias.key]
    while type(graph.get(target)) is Alias and target not in met:
        met.append(target)
        target = graph[target].target
    return target
