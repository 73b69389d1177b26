"""Hooks into distributed that fail once are switched off: what they stand in for goes on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, TypeVar

logger = logging.getLogger("dask_site")
Hook = TypeVar("Hook", bound=Callable[..., Any])


def guarded(stock: Callable[..., Any], consequence: str) -> Callable[[Hook], Hook]:
    """Guard a hook: where it fails, it is replaced for its object by what distributed does.

    Until then it costs one call more, which for hooks with one argument is the cheapest that there
    is, since several of them run for each task.

    Parameters
    ----------
    stock : callable
        What is called instead, with the object and the arguments of the hook: distributed's own
        method, or `nothing` for what is only done beside it.
    consequence : str
        What that means for the user; ends the one warning.
    """

    def guard(hook: Hook) -> Hook:
        name = hook.__name__

        @wraps(hook)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return hook(self, *args, **kwargs)
            except Exception:
                switch_off(self, name, stock, consequence)
                return stock(self, *args, **kwargs)

        @wraps(hook)
        def call_with_one(self: Any, argument: Any) -> Any:
            try:
                return hook(self, argument)
            except Exception:
                switch_off(self, name, stock, consequence)
                return stock(self, argument)

        one = len(inspect.signature(hook).parameters) == 2
        return call_with_one if one else call  # type: ignore[return-value]  # called like the hook

    return guard


def switch_off(thing: Any, name: str, stock: Callable[..., Any], consequence: str) -> None:
    """Replace a hook of an object that has just failed, and warn with the traceback."""
    setattr(thing, name, MethodType(stock, thing))
    logger.warning(
        "%s.%s went wrong and is switched off; %s.",
        type(thing).__name__,
        name,
        consequence,
        exc_info=True,
    )


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing instead of a hook."""
