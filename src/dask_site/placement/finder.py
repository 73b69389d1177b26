"""Finding the needs of functions in tasks, whatever an optimiser made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    NoneType,
)
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef
from dask.utils import methodcaller

from dask_site.placement.needs import Need, NeedingFunction

Needs = frozenset[Need]
Parts = Iterable[Any]

NOTHING: Needs = frozenset()
# What can hold no function: most of what graphs hold.
_PLAIN = frozenset(
    (
        *(str, bytes, int, float, complex, bool, NoneType, slice, range),
        *(type, BuiltinFunctionType, TaskRef, Alias),
    )
)
_DEEPEST = 60
# Things looked at in one task that are no plain values: a task is no place for data, and who
# puts some there all the same shall not wait for a search through it.
_MOST = 5000
# A function that submits work of its own does not run it.
_SUBMITTING = frozenset(("worker_client", "get_client"))


class NeedFinder:
    """Finds the needs of functions in the tasks of one graph.

    Looks into partial functions, bound methods, closures, functions that a function calls by
    their names, callable objects (such as NumPy's vectorize), containers, and the tasks that an
    optimiser fused into one. Runs no code of the user's: neither attributes that are computed,
    nor the methods of mappings, which may read files. Remembers what it saw, so that blocks
    which share their functions cost little.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Needs] = {}
        # What `_seen` knows by its identity must not make room for something else.
        self._kept: list[Any] = []
        self._kinds: dict[type, Callable[[Any], Parts] | None] = dict(_KINDS)
        self._left = _MOST

    def task(self, task: GraphNode) -> Needs:
        """Return the needs of a node of the graph."""
        self._left = _MOST
        return self._in_task(task, 0) if type(task) is Task else self.find(task)

    def find(self, thing: Any, depth: int = 0) -> Needs:
        """Return the needs in a task, function or argument."""
        kind = type(thing)
        if kind in _PLAIN:
            return NOTHING
        known = self._seen.get(id(thing))
        if known is not None:
            return known
        parts = self._parts_of(kind, thing)
        if parts is None or depth > _DEEPEST or self._left <= 0:
            return NOTHING
        self._left -= 1
        if parts is _in_any_task:  # each is met once
            return self._in_task(thing, depth)
        # Before its parts: a recursive function's closure holds the function itself.
        self._seen[id(thing)] = NOTHING
        self._kept.append(thing)
        found = self._in_all(parts(thing), depth)
        if kind is NeedingFunction:
            found |= {thing.need}
        if found:
            self._seen[id(thing)] = found
        return found

    def _in_task(self, task: Task, depth: int) -> Needs:
        found = self.find(task.func, depth + 1)
        for part in task.args:
            if type(part) not in _PLAIN and (more := self.find(part, depth + 1)):
                found |= more
        if task.kwargs:
            found |= self._in_all(task.kwargs.values(), depth)
        if type(task.func) is methodcaller:
            found |= self._in_method(task, depth)
        return found

    def _in_all(self, parts: Parts, depth: int) -> Needs:
        found = NOTHING
        for part in parts:
            if type(part) not in _PLAIN and (more := self.find(part, depth + 1)):
                found |= more
            if self._left <= 0:
                break
        return found

    def _in_method(self, task: Task, depth: int) -> Needs:
        """Return the needs of a method that is called by its name, on an object of the graph."""
        target = task.args[0] if task.args else None
        if type(target) is DataNode:
            target = target.value
        return self.method(type(target), task.func.method, depth)

    def method(self, kind: type, name: str, depth: int = 0) -> Needs:
        """Return the needs of a class's method."""
        for base in kind.__mro__:
            if name in base.__dict__:
                return self.find(base.__dict__[name], depth + 1)
        return NOTHING

    def _parts_of(self, kind: type, thing: Any) -> Callable[[Any], Parts] | None:
        try:
            return self._kinds[kind]
        except KeyError:
            parts = self._kinds[kind] = _parts_for(kind, thing)
            return parts


def _parts_for(kind: type, thing: Any) -> Callable[[Any], Parts] | None:
    """Return how to take things of this kind apart; None if nothing can be in them."""
    if issubclass(kind, (type, TaskRef, Alias)):
        return None
    for base, parts in _KINDS.items():
        if issubclass(kind, base):
            return parts
    return _in_object if callable(thing) else None


def _in_any_task(task: Any) -> Parts:
    return (task.func, *task.args, *task.kwargs.values())


def _in_partial(partial: Any) -> Parts:
    return (partial.func, *partial.args, *partial.keywords.values())


def _in_function(function: Any) -> Parts:
    if not _SUBMITTING.isdisjoint(function.__code__.co_names):
        return ()
    # Classes may put things of any kind here.
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a name that is assigned later
            continue
    known = function.__globals__
    for name in _names(function.__code__):
        value = known.get(name)
        if type(value) is NeedingFunction:
            held.append(value)
    return held


def _names(code: CodeType) -> Iterable[str]:
    """Yield the global names that a function uses, and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _names(constant)


def _in_sequence(thing: Any) -> Parts:
    sequence = tuple.__iter__ if isinstance(thing, tuple) else list.__iter__
    return () if _PLAIN.issuperset(map(type, sequence(thing))) else sequence(thing)


def _in_object(thing: Any) -> Parts:
    """Return what a callable object holds: toolz.curry and compose, np.vectorize, one's own.

    As it lies there: looking attributes up could run code.
    """
    try:
        held = list(object.__getattribute__(thing, "__dict__").values())
    except (AttributeError, TypeError):
        held = []
    for base in type(thing).__mro__:
        for name, slot in base.__dict__.items():
            if type(slot) is MemberDescriptorType or (
                type(slot) is GetSetDescriptorType and name in _COMPILED
            ):
                try:
                    held.append(slot.__get__(thing, type(thing)))
                except (AttributeError, TypeError):
                    continue
    return held


# What cytoolz's curry and compose hold; of other compiled classes, a look could run their code.
_COMPILED = frozenset(("func", "args", "keywords", "first", "funcs"))
# Most frequent first.
_KINDS: dict[type, Callable[[Any], Parts] | None] = {
    FunctionType: _in_function,
    Task: _in_any_task,
    list: _in_sequence,
    tuple: _in_sequence,
    dict: dict.values,
    functools.partial: _in_partial,
    DataNode: lambda node: (node.value,),
    NeedingFunction: lambda needing: (needing.function,),
    MethodType: lambda method: (method.__func__, method.__self__),
    set: set.__iter__,
    frozenset: frozenset.__iter__,
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
}
