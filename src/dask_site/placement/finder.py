"""Finding the needs of functions in tasks, whatever an optimiser made of them."""

from __future__ import annotations

import dis
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

from dask.utils import methodcaller

from dask_site.placement.needs import Need, NeedingFunction
from dask_site.upstream.graphs import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    execute_subgraph,
)

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
_NOWHERE = 1_000_000
# Things looked at in one task that are no plain values: a task is no place for data, and who
# puts some there all the same shall not wait for a search through it.
_MOST = 5000
_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
# A function that submits work of its own does not run it.
_SUBMITTING = frozenset(("worker_client", "get_client", "default_client", "Client"))


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
        # What is known or looked at by its identity must not make room for something else.
        self._kept: list[Any] = []
        self._kinds = dict(_KINDS)
        self._left = _MOST
        # The depth of what is being looked at, and of the outermost of it that a loop led back
        # to: what was found below that is not all there is.
        self._open: dict[int, int] = {}
        self._back_to = _NOWHERE

    def task(self, task: GraphNode) -> Needs:
        """Return the needs of a node of the graph."""
        self._left = _MOST
        self._back_to = _NOWHERE
        return self._in_task(task, 0) if type(task) is Task else self.find(task)

    def find(self, thing: Any, depth: int = 0) -> Needs:
        """Return the needs in a task, function or argument."""
        known = self._seen.get(id(thing))
        if known is not None:
            return known
        kind = type(thing)
        parts = self._kinds.get(kind, _unknown)
        if parts is _unknown:
            parts = self._kinds[kind] = _parts_for(kind, thing)
        if parts is None:
            return NOTHING
        if parts is _in_any_task and depth < _DEEPEST:  # each is met once
            return self._in_task(thing, depth)
        if parts is _in_sequence and _all_plain(thing):
            return NOTHING
        return self._look_into(thing, parts, depth)

    def _look_into(self, thing: Any, parts: Callable[[Any], Parts], depth: int) -> Needs:
        name = id(thing)
        if name in self._open:
            self._back_to = min(self._back_to, self._open[name])
            return NOTHING
        if depth > _DEEPEST or self._left <= 0:
            self._back_to = -1  # incomplete all the way up
            return NOTHING
        self._left -= 1
        self._kept.append(thing)
        self._open[name] = depth
        found = self._in_all(parts(thing), depth)
        del self._open[name]
        if type(thing) is NeedingFunction:
            found |= {thing.need}
        if self._back_to >= depth:
            self._back_to = _NOWHERE
            self._seen[name] = found
        return found

    def _in_task(self, task: Task, depth: int) -> Needs:
        function = task.func
        found = self._seen.get(id(function))
        if found is None:
            found = self.find(function, depth + 1)
        if function is execute_subgraph:  # without the keys of its dependencies
            found = self._in_all((task.args[0], *task.args[3:]), depth, found)
        elif task.args:
            found = self._in_all(task.args, depth, found)
        if task.kwargs:
            found = self._in_all(task.kwargs.values(), depth, found)
        if type(function) is methodcaller:
            found |= self._in_method(task, depth)
        return found

    def _in_all(self, parts: Parts, depth: int, found: Needs = NOTHING) -> Needs:
        kinds, seen = self._kinds, self._seen
        for part in parts:
            kind = type(part)
            if kind is DataNode:
                part, kind = part.value, part.typ  # noqa: PLW2901  # what is in it
            if kinds.get(kind, _unknown) is None:
                continue
            more = self._in_task(part, depth + 1) if kind is Task else seen.get(id(part))
            if more is None:
                more = self.find(part, depth + 1)
            if more and more is not found:
                found = found | more if found else more
            if self._left <= 0:
                break
        return found

    def _in_method(self, task: Task, depth: int) -> Needs:
        """Return the needs of a method that is called by its name, on an object of the graph."""
        target: Any = task.args[0] if task.args else None
        kind = target.typ if type(target) is DataNode else type(target)
        return self.method(kind, task.func.method, depth)

    def method(self, kind: type, name: str, depth: int = 0) -> Needs:
        """Return the needs of a class's method."""
        for base in kind.__mro__:
            if name in base.__dict__:
                return self.find(base.__dict__[name], depth + 1)
        return NOTHING


def _unknown(_: Any) -> Parts:
    """Stand for a kind that was not met yet."""
    return ()


def _parts_for(kind: type, thing: Any) -> Callable[[Any], Parts] | None:
    """Return how to take things of this kind apart; None if nothing can be in them."""
    if issubclass(kind, (type, TaskRef, Alias)):
        return None
    for base, parts in _KINDS.items():
        if parts is not None and issubclass(kind, base):
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
    held += _called(function.__code__, function.__globals__)
    return held


def _called(code: CodeType, known: dict[str, Any]) -> list[NeedingFunction]:
    """Return functions with needs that a function, or one inside it, knows by global names."""
    found = [known[n] for n in code.co_names if type(known.get(n)) is NeedingFunction]
    if found:  # attributes have names there too
        found = [known.get(i.argval) for i in dis.get_instructions(code) if i.opname in _LOADS]
        found = [value for value in found if type(value) is NeedingFunction]
    for constant in code.co_consts:
        if type(constant) is CodeType:
            found += _called(constant, known)
    return found


def _in_sequence(thing: Any) -> Parts:
    return tuple.__iter__(thing) if isinstance(thing, tuple) else list.__iter__(thing)


def _all_plain(sequence: Any) -> bool:
    return _PLAIN.issuperset(map(type, _in_sequence(sequence)))


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
    **dict.fromkeys(_PLAIN),
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
