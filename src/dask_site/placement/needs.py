"""Saying what a function needs; the scheduler finds it again in whatever became of the graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType, TracebackType
from typing import Any

from dask._task_spec import Alias, DataNode, Task, TaskRef

from dask_site.sitefile.problems import Mistake
from dask_site.sitefile.units import parse_memory

# What can hold no function: most of what graphs hold.
_PLAIN = frozenset(
    (str, bytes, int, float, complex, bool, slice, range, type, NoneType, BuiltinFunctionType)
    + (TaskRef, Alias)
)
# True once a function with needs was made or unpickled here: until then no graph holds any.
_met = False


@dataclass(frozen=True)
class Need:
    """What one task takes of its worker.

    Attributes
    ----------
    gpu : float
        GPUs.
    memory : int
        Bytes.
    pool : str or None
        The pool by name.
    """

    gpu: float = 0
    memory: int = 0
    pool: str | None = None

    def resources(self) -> dict[str, float]:
        """Return it as Dask's resource restrictions."""
        from dask_site.cluster.resources import GPU, MEMORY, pool_restriction

        wanted: dict[str, float] = pool_restriction(self.pool) if self.pool else {}
        if self.gpu:
            wanted[GPU] = self.gpu
        if self.memory:
            wanted[MEMORY] = self.memory
        return wanted

    def __str__(self) -> str:
        from dask_site.placement.matching import describe

        return describe(self.resources())


class needs:  # noqa: N801  # a decorator, and a context manager
    """Say what a function needs, or all work that is submitted inside a block.

    As a decorator it survives every collection's optimiser: the function carries its need, and
    the scheduler finds it in fused graphs too. As a block it covers what is submitted inside, as
    `pool` does: `persist`, `compute`, `Client.submit` and `Client.map`.

    The cheapest pool that satisfies a need runs the task. A need in memory also limits how many
    such tasks run at once on a worker.

    Parameters
    ----------
    gpu : float, optional
        GPUs of one task; a fraction shares one GPU among several.
    memory : str or int, optional
        Memory of one task: ``"64GiB"``, or bytes.
    pool : str, optional
        A pool of the site by name.

    Raises
    ------
    ValueError
        If nothing is asked for, or an amount can't be read.

    Examples
    --------
    >>> @needs(gpu=1)
    ... def infer(block):
    ...     return model(block)

    >>> y = x.map_blocks(needs(memory="64GiB")(np.linalg.svd))  # doctest: +SKIP

    >>> with needs(pool="highmem"):  # doctest: +SKIP
    ...     wide = x.rechunk({"time": -1}).persist()
    """

    def __init__(
        self, *, gpu: float = 0, memory: str | int | None = None, pool: str | None = None
    ) -> None:
        self.need = Need(_gpus(gpu), _bytes(memory), _name(pool))
        if self.need == Need():
            raise ValueError(
                'needs() asks for nothing: write gpu=1, memory="64GiB" or pool="highmem".'
            )
        self._blocks: list[AbstractContextManager[Any]] = []

    def __call__(self, function: Callable[..., Any]) -> NeedingFunction:
        """Return the function with its need."""
        if isinstance(function, type):
            raise TypeError(
                f"needs() decorates functions, and {function.__name__} is a class. For an actor: "
                "with needs(...): client.submit(..., actor=True)"
            )
        if not callable(function):
            raise TypeError(f"needs() decorates functions; {function!r} is none.")
        return NeedingFunction(function, self.need)

    def __enter__(self) -> Need:
        from dask_site.placement.pool import placed

        block = placed(self.need.resources(), self.need.pool)
        block.__enter__()
        self._blocks.append(block)
        return self.need

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocks.pop().__exit__(kind, error, trace)


class NeedingFunction:
    """A function with its need; calling it calls the function."""

    def __init__(self, function: Callable[..., Any], need: Need) -> None:
        global _met
        _met = True
        functools.update_wrapper(self, function)
        self.function = function
        self.need = need
        if inspect.iscoroutinefunction(function):
            # What distributed and Tornado look at; inspect only believes true functions.
            self.__tornado_coroutine__ = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return NeedingFunction, (self.function, self.need)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return "dask-site-needs", normalize_token(self.function), str(self.need)

    def __repr__(self) -> str:
        return f"<{getattr(self, '__qualname__', self.function)} with needs: {self.need}>"


def any_met() -> bool:
    """Say whether a graph in this process can hold a function with needs at all."""
    return _met


def _gpus(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1000:
        raise ValueError(f"needs(gpu={given!r}): a number of GPUs, such as 1 or 0.5.")
    return given


def _bytes(given: Any) -> int:
    if given is None:
        return 0
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    try:
        return parse_memory(given)
    except Mistake as mistake:
        mend = f' Write: memory="{mistake.write}"' if mistake.write else ""
        raise ValueError(f"needs(memory={given!r}): {mistake.why}.{mend}") from None


def _name(given: Any) -> str | None:
    if given is not None and (not isinstance(given, str) or not given):
        raise ValueError(f"needs(pool={given!r}): a pool's name, such as 'gpu'.")
    return given


class NeedFinder:
    """Finds the needs of functions in the tasks of one graph.

    Looks into partial functions, closures, NumPy's vectorize, containers, and the tasks that an
    optimiser fused into one. Remembers what it saw, so that blocks which share their functions
    cost little.
    """

    _DEPTH = 12

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, tuple[Need, ...]]] = {}

    def find(self, thing: Any, depth: int = 0) -> tuple[Need, ...]:
        """Return the needs in a task, function or argument, without duplicates."""
        kind = type(thing)
        if kind in _PLAIN or depth > self._DEPTH:
            return ()
        if kind is Task:  # each is met once
            return _together(self.find(part, depth + 1) for part in _parts(thing))
        known = self._seen.get(id(thing))
        if known is not None:
            return known[1]
        # Before its parts: a recursive function's closure holds the function itself.
        self._seen[id(thing)] = (thing, ())
        if kind is NeedingFunction:
            found = _together([(thing.need,), self.find(thing.function, depth + 1)])
        else:
            found = _together(self.find(part, depth + 1) for part in _parts(thing))
        self._seen[id(thing)] = (thing, found)
        return found


def _together(parts: Iterable[tuple[Need, ...]]) -> tuple[Need, ...]:
    found: tuple[Need, ...] = ()
    for part in parts:
        if part and part != found:
            found = tuple(dict.fromkeys((*found, *part)))
    return found


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, Task):
        return (thing.func, *thing.args, *thing.kwargs.values())
    if isinstance(thing, DataNode):
        return (thing.value,)
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    if isinstance(thing, FunctionType):
        return _captured(thing)
    if isinstance(thing, MethodType):
        return (thing.__func__, thing.__self__)
    return _callable_parts(thing)


def _captured(function: FunctionType) -> Iterable[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is assigned later
            continue


def _callable_parts(thing: Any) -> Iterable[Any]:
    """Return what callable objects call: toolz.curry and compose, np.vectorize, joblib's batches.

    By their attributes, so that none of those packages has to be imported.
    """
    if not callable(thing) or isinstance(thing, type):
        return ()
    held = getattr(thing, "__dict__", None) or {}
    names = ("func", "first", "funcs", "pyfunc", "args", "keywords", "items", "_partial")
    return [held[name] if name in held else getattr(thing, name, None) for name in names]
