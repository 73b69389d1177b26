"""From a graph to Dask's resource restrictions: what each of its tasks needs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from dask._task_spec import Alias, Task
from dask.utils import key_split

from dask_site.cluster.resources import MEMORY, pool_of_resource
from dask_site.placement.matching import Matcher, Restrictions
from dask_site.placement.needs import Need, NeedFinder, any_met

Resources = dict[str, float]


class Placer:
    """Writes the needs of a graph's tasks down as annotations, before the scheduler reads them.

    The needs that functions carry come first, then the patterns of `Cluster.place`, then
    `dask.annotate(resources=...)` and the blocks around the submission.

    Parameters
    ----------
    matcher : Matcher
        Knows the pools.
    hungry : callable
        From a key prefix to the bytes that its tasks turned out to need; 0 if they are not known
        to.
    """

    def __init__(self, matcher: Matcher, hungry: Callable[[str], int] = lambda _: 0) -> None:
        self.hungry = hungry
        self.any_hungry = False
        self._matcher = matcher
        self._patterns: dict[str, tuple[re.Pattern[str], Resources]] = {}

    def set_patterns(self, places: Mapping[str, Resources | None]) -> None:
        """Add patterns of key prefixes, or with None take them away."""
        for pattern, resources in places.items():
            self._patterns.pop(pattern, None)
            if resources is not None:
                compiled = re.compile(fnmatch.translate(pattern))
                self._patterns[pattern] = (compiled, resources)

    def place(
        self,
        graph: Mapping[Any, Any],
        by_key: MutableMapping[Any, Resources],
        around: Resources | None,
    ) -> None:
        """Add to `by_key`, Dask's annotations by key, what the tasks of a graph need.

        Parameters
        ----------
        graph : dict
            Tasks by key.
        by_key : dict
            Resources by key, as collections were annotated; changed in place.
        around : dict, optional
            Resources of the whole submission.

        Raises
        ------
        NeedError
            If no pool can run one of the tasks. Nothing of the graph has been taken over then.
        """
        around = around or {}
        if around:
            self._matcher.check(around, "What is submitted here")
        for resources in by_key.values():
            self._matcher.check(resources, "An annotation")
        if any_met():
            self._own_needs(graph, by_key, around)
        if self._patterns or self.any_hungry:
            self._by_prefix(graph, by_key, around)

    def resources(
        self, graph: Mapping[Any, Any], around: Resources | None = None
    ) -> dict[Any, Any]:
        """Return what each task of a graph would need, by key; for a look ahead of submission."""
        by_key: dict[Any, Resources] = {}
        self.place(graph, by_key, around)
        return {key: by_key.get(key, around or {}) for key in graph}

    def _own_needs(
        self, graph: Mapping[Any, Any], by_key: MutableMapping[Any, Resources], around: Resources
    ) -> None:
        finder = NeedFinder()
        for key, task in graph.items():
            needs = finder.find(task) if isinstance(task, Task) else ()
            if needs:
                own = self._merged(needs, key)
                by_key[key] = self._stronger(own, {**around, **by_key.get(key, {})})
        self._follow_aliases(graph, by_key)

    def _by_prefix(
        self, graph: Mapping[Any, Any], by_key: MutableMapping[Any, Resources], around: Resources
    ) -> None:
        for key in graph:
            prefix = key_split(key)
            present = {**around, **by_key.get(key, {})}
            wanted = self._pattern(prefix)
            if wanted and not any(pool_of_resource(name) for name in by_key.get(key, ())):
                self._matcher.check(wanted, f"Work named {prefix!r}")
                present = self._stronger(wanted, present)
                by_key[key] = present
            memory = self.hungry(prefix)
            if memory > present.get(MEMORY, 0):
                grown = {**present, MEMORY: memory}
                if self._matcher.fits(grown):
                    by_key[key] = grown

    def _pattern(self, prefix: str) -> Resources | None:
        # The last that was set and matches counts.
        for pattern, resources in reversed(self._patterns.values()):
            if pattern.match(prefix):
                return resources
        return None

    def _merged(self, needs: Iterable[Need], key: Any) -> Resources:
        merged: Resources = {}
        for need in needs:
            for name, amount in need.resources().items():
                merged[name] = max(amount, merged.get(name, 0))
        self._matcher.check(merged, f"{key_split(key)!r}")
        return merged

    def _stronger(self, own: Resources, around: Restrictions) -> Resources:
        """Return both together where some pool has that, otherwise what the task says itself."""
        both = {**around, **own}
        for name in set(own) & set(around):
            both[name] = max(own[name], around[name])
        return both if self._matcher.fits(both) else own

    def _follow_aliases(
        self, graph: Mapping[Any, Any], by_key: MutableMapping[Any, Resources]
    ) -> None:
        """Keep other names of a result where the result is; elsewhere they would copy it."""
        for key, task in graph.items():
            if isinstance(task, Alias) and key not in by_key:
                target = by_key.get(task.target)
                if target:
                    by_key[key] = {n: a for n, a in target.items() if n != MEMORY}
