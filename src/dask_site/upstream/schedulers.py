"""A scheduler, and its shuffles, with moments that distributed offers to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.shuffle._core import P2PBarrierTask, barrier_key, id_from_key
from distributed.shuffle._exceptions import ShuffleClosedError
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin
from distributed.stealing import LATENCY as STEALING_TAKES

__all__ = [
    "STEALING_TAKES",
    "HookedScheduler",
    "HookedShuffles",
    "P2PBarrierTask",
    "ShuffleClosedError",
    "barrier_key",
    "id_from_key",
]


class HookedScheduler(Scheduler):
    """A scheduler that says when a graph has come, and when work builds on what is not there."""

    def _create_taskstate_from_graph(self, **graph: Any) -> Any:
        return self.take_graph(**graph)

    def take_graph(
        self,
        *,
        dsk: dict[Any, Any],
        annotations_by_type: Any,
        global_annotations: dict[str, Any] | None,
        **kwargs: Any,
    ) -> Any:
        """Make tasks of a graph, with annotations by kind and key, and those of all of it."""
        return super()._create_taskstate_from_graph(
            dsk=dsk,
            annotations_by_type=annotations_by_type,
            global_annotations=global_annotations,
            **kwargs,
        )

    def _find_lost_dependencies(self, dsk: dict[Any, Any], keys: set[Any]) -> Any:
        return self.find_lost(dsk, keys)

    def find_lost(self, dsk: dict[Any, Any], keys: set[Any]) -> Any:
        """Return the keys that a graph builds on and that are not known, or no more."""
        return super()._find_lost_dependencies(dsk, keys)

    def guessed_seconds(self, prefix: Any) -> float:
        """Return how long a task of a prefix takes, by distributed's own guess."""
        return float(self._get_prefix_duration(prefix))

    def in_background(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a coroutine function, which is cancelled if the scheduler closes."""
        self._ongoing_background_tasks.call_soon(function, *arguments)


class HookedShuffles(ShuffleSchedulerPlugin):
    """P2P shuffles that say when the outputs are spread over workers."""

    def _calculate_worker_for(self, spec: Any) -> dict[Any, str]:
        return self.spread(spec)

    def spread(self, spec: Any) -> dict[Any, str]:
        """Return on which worker each output of a shuffle comes to lie."""
        pinned: dict[Any, str] = super()._calculate_worker_for(spec)
        return pinned

    def begin_anew(self, shuffle_id: Any, stimulus: str) -> None:
        """Begin a shuffle that is active from its start."""
        self._restart_shuffle(shuffle_id, self.scheduler, stimulus_id=stimulus)
