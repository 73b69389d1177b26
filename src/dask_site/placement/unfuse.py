"""Taking tasks apart again that an optimiser fused although their parts need different pools."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dask.tokenize import tokenize
from dask.utils import funcname, key_split

from dask_site.placement.finder import NOTHING, NeedFinder, Needs
from dask_site.upstream.graphs import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    execute_subgraph,
)

Fits = Callable[[Needs], bool]


@dataclass
class Piece:
    """A part of a fused task that is a task of its own.

    Attributes
    ----------
    key : key
        The fused task's own for the last piece, whose result is that of the whole.
    task : Task
        What it does.
    needs : frozenset of Need
        What it needs.
    """

    key: Any
    task: Task
    needs: Needs


def fused(task: Any) -> bool:
    """Say whether a task consists of others."""
    return isinstance(task, Task) and task.func is execute_subgraph


def take_apart(task: Task, finder: NeedFinder, fits: Fits) -> list[Piece] | None:
    """Return the fewest pieces of a task that each have a pool, inputs first.

    Each piece has one result, and is as large as what it needs allows: data stays where it is
    as far as possible. The same task gives the same pieces with the same keys.

    Parameters
    ----------
    task : Task
        One that as a whole no pool can run.
    finder : NeedFinder
        Tells the needs of a node.
    fits : callable
        Whether some pool has all of some needs.

    Returns
    -------
    list of Piece or None
        None if a part by itself needs what no pool has.
    """
    inside = _Inside(task, finder)
    if not inside.open_up(fits):
        return None
    return list(inside.pieces(fits))


def solid(result: Any) -> Any:
    """Return a result that can travel: bags hand lazy iterators on inside of a fused task."""
    if _lazy(result):
        result = list(result)
        if result and _lazy(result[0]):
            result = list(map(list, result))
    return result


def _lazy(thing: Any) -> bool:
    return hasattr(type(thing), "__next__") and hasattr(type(thing), "__iter__")


@dataclass
class _Draft:
    root: str
    needs: Needs
    members: list[str] = field(default_factory=list)


class _Inside:
    """The inner graph of a task, opened further and further.

    Nodes have names of their own, so that those of several levels can stand side by side. A
    reference that is no name here is one to the graph outside.
    """

    def __init__(self, task: Task, finder: NeedFinder) -> None:
        self._key = task.key
        self._data_producer = task.data_producer
        self._finder = finder
        self._outside = task.dependencies
        self._given_out = 0
        self._nodes: dict[str, GraphNode] = {}
        # Where each comes from: names of the inner graphs, from the outermost.
        self._path: dict[str, tuple[str, ...]] = {}
        self._root = self._new_name(())
        self._add(self._root, task, ())

    # -- opening ---------------------------------------------------------------------------

    def open_up(self, fits: Fits) -> bool:
        """Open nodes until each has a pool; False if one can't be opened."""
        todo = [self._root]
        while todo:
            name = todo.pop()
            if name in self._nodes and not fits(self._needs(name)):
                parts = self._open(name)
                if not parts:
                    return False
                todo.extend(parts)
        return True

    def _open(self, name: str) -> list[str]:
        node = self._nodes[name]
        if not isinstance(node, Task):
            return []
        return self._open_fused(name, node) if fused(node) else self._open_nested(name, node)

    def _open_fused(self, name: str, node: Task) -> list[str]:
        graph, out, inputs, *given = node.args
        path = self._path[name]
        names: dict[Any, Any] = {}
        fresh = []
        for key, value in zip(inputs, given, strict=True):
            if isinstance(value, TaskRef):
                names[key] = value.key
            else:
                names[key] = self._new_name((*path, _stem(key)))
                node = value if isinstance(value, GraphNode) else DataNode(None, value)
                self._add(names[key], node, (*path, _stem(key)))
                fresh.append(names[key])
        for key in graph:
            names[key] = name if key == out else self._new_name((*path, _stem(key)))
            fresh.append(names[key])
        for key, inner in graph.items():
            self._add(names[key], _renamed(inner, names), (*path, _stem(key)))
        return fresh

    def _open_nested(self, name: str, node: Task) -> list[str]:
        fresh = []

        def hoisted(position: int | str, value: Any) -> Any:
            if not isinstance(value, Task):
                return value
            path = (*self._path[name], f"{funcname(value.func)}-{position}")
            fresh.append(self._new_name(path))
            self._add(fresh[-1], value, path)
            return TaskRef(fresh[-1])

        args = [hoisted(i, value) for i, value in enumerate(node.args)]
        kwargs = {key: hoisted(key, value) for key, value in node.kwargs.items()}
        if fresh:
            self._nodes[name] = Task(name, node.func, *args, **kwargs)
            fresh.append(name)
        return fresh

    def _add(self, name: str, node: GraphNode, path: tuple[str, ...]) -> None:
        self._nodes[name] = node
        self._path[name] = path

    def _new_name(self, path: tuple[str, ...]) -> str:
        name = f"{'/'.join(path)}#{self._given_out}"
        self._given_out += 1
        while name in self._outside:
            name += "#"
        return name

    def _needs(self, name: str) -> Needs:
        """Return the needs of a node, those of functions that it is handed as data included."""
        found = self._finder.find(self._nodes[name])
        for reference in self._nodes[name].dependencies:
            data = self._nodes.get(reference)
            if isinstance(data, DataNode):
                found |= self._finder.find(data)
        return found

    # -- pieces ----------------------------------------------------------------------------

    def pieces(self, fits: Fits) -> Iterator[Piece]:
        """Yield the pieces, inputs first."""
        drafts = self._drafts(fits)
        keys = self._keys(drafts)
        for draft in reversed(drafts):
            task = self._task(draft, keys)
            yield Piece(keys[draft.root], task, draft.needs)

    def _drafts(self, fits: Fits) -> list[_Draft]:
        order = self._consumers_first()
        home: dict[str, _Draft] = {}
        consumers: dict[str, list[str]] = {name: [] for name in order}
        drafts: list[_Draft] = []
        for name in order:
            needs = self._needs(name)
            homes = {id(home[user]): home[user] for user in consumers[name]}
            draft = next(iter(homes.values())) if len(homes) == 1 else None
            if draft is None or not fits(draft.needs | needs):
                draft = _Draft(name, NOTHING)
                drafts.append(draft)
            draft.needs |= needs
            draft.members.append(name)
            home[name] = draft
            for reference in self._inner(name):
                consumers[reference].append(name)
        return drafts

    def _inner(self, name: str) -> list[str]:
        """Return the nodes that a node uses, in a fixed order; data is at hand everywhere."""
        return sorted(
            used
            for used in self._nodes[name].dependencies
            if used in self._nodes and not isinstance(self._nodes[used], DataNode)
        )

    def _consumers_first(self) -> list[str]:
        done: dict[str, None] = {}
        stack = [(self._root, iter(self._inner(self._root)))]
        entered = {self._root}
        while stack:
            name, below = stack[-1]
            following = next((used for used in below if used not in entered), None)
            if following is None:
                done[name] = None
                stack.pop()
            else:
                entered.add(following)
                stack.append((following, iter(self._inner(following))))
        return list(reversed(done))

    def _keys(self, drafts: list[_Draft]) -> dict[str, Any]:
        keys = {self._root: self._key}
        met: Counter[tuple[str, ...]] = Counter()
        for draft in drafts:
            if draft.root != self._root:
                path = self._path[draft.root]
                keys[draft.root] = self._key_of_part(path, met[path])
                met[path] += 1
        return keys

    def _key_of_part(self, path: tuple[str, ...], number: int) -> Any:
        key, stem = self._key, _stem_name(path[-1])
        if isinstance(key, tuple) and key and isinstance(key[0], str):
            return (f"{stem}-{_token(key[0], path, number)}", *key[1:])  # a group for all blocks
        return f"{stem}-{_token(key, path, number)}"

    def _task(self, draft: _Draft, keys: dict[str, Any]) -> Task:
        members = set(draft.members)
        inner = {name: self._nodes[name] for name in draft.members}
        out = draft.root
        if out != self._root:
            out = f"{out}-solid"
            inner[out] = Task(out, solid, TaskRef(draft.root))
        wanted = {ref: None for name in draft.members for ref in self._references(name)}
        given = {name: self._given(name, keys) for name in wanted if name not in members}
        return Task(
            keys[draft.root],
            execute_subgraph,
            inner,
            out,
            tuple(given),
            *given.values(),
            _data_producer=any(node.data_producer for node in inner.values()),
        )

    def _references(self, name: str) -> list[Any]:
        return sorted(self._nodes[name].dependencies, key=str)

    def _given(self, name: Any, keys: dict[str, Any]) -> Any:
        node = self._nodes.get(name)
        if isinstance(node, DataNode):
            return node
        return TaskRef(keys.get(name, name))


def _renamed(node: GraphNode, names: dict[Any, Any]) -> GraphNode:
    if isinstance(node, Alias):
        return Alias(node.key, names.get(node.target, node.target))
    used = {name: names[name] for name in node.dependencies if name in names}
    return node.substitute(used) if used else node


def _stem(key: Any) -> str:
    """Return an inner key without its block, so that all blocks have the same."""
    return str(key[0] if isinstance(key, tuple) and key else key)


def _stem_name(stem: str) -> str:
    return str(key_split(stem)).strip("_") or "part"


@functools.lru_cache(10_000)
def _token(key: Any, path: tuple[str, ...], number: int) -> str:
    return str(tokenize(key, path, number))
