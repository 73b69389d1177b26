"""Saying what a function needs; the scheduler finds it again in whatever became of the graph."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from types import MethodType, TracebackType
from typing import Any, ClassVar

from dask_site.sitefile.problems import Mistake
from dask_site.sitefile.units import parse_memory


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
        from dask_site.cluster.resources import GPU, MEMORY, countable, pool_restriction

        wanted: dict[str, float] = pool_restriction(self.pool) if self.pool else {}
        if self.gpu:
            wanted[GPU] = self.gpu
        if self.memory:
            wanted[MEMORY] = self.memory
        return countable(wanted)

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
        if isinstance(function, staticmethod | classmethod):
            kind = type(function).__name__
            raise TypeError(f"needs() goes below @{kind}, next to the function: swap the two.")
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
    """A function with its need; calling it calls the function.

    It is pickled by reference where a function would be: what a module decorates is looked up
    there, and does not travel with everything that it refers to.
    """

    #: Whether one was made or unpickled in this process: until then no graph holds any.
    met: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Any], need: Need) -> None:
        NeedingFunction.met = True
        functools.update_wrapper(self, function)
        self.function = function
        self.need = need
        self.__name__ = _name_of(function)
        if inspect.iscoroutinefunction(function):
            # inspect, and so distributed, believes what has these; in a partial function too.
            self.__code__ = function.__code__
            self.__defaults__ = function.__defaults__
            self.__kwdefaults__ = function.__kwdefaults__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str | tuple[Any, ...]:
        place = self._place()
        return (NeedingFunction, (self.function, self.need)) if place is None else place[1]

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        what = self._place() or normalize_token(self.function)
        return "dask-site-needs", what, astuple(self.need)

    def _place(self) -> tuple[str, str] | None:
        """Return the module and the name under which this very object can be imported, if any."""
        own = self.__dict__
        module, name = own.get("__module__"), own.get("__qualname__")
        if not module or not name or module == "__main__" or _by_value(module):
            return None
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return (module, name) if found is self else None

    def __repr__(self) -> str:
        return f"<{self.__name__} with needs: {self.need}>"


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None)
    if isinstance(name, str):
        return name
    from dask.utils import funcname

    return str(funcname(function))


def _by_value(module: str) -> bool:
    """Say whether the user told cloudpickle to send this module's functions themselves."""
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle else ()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


def any_met() -> bool:
    """Say whether a graph in this process can hold a function with needs at all."""
    return NeedingFunction.met


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
