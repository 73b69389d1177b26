"""What distributed counts of spans and task groups, and shows nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def groups_mark(groups: set[Any]) -> int:
    """Return a number that differs when something has changed in task groups, cheaply."""
    mark = len(groups)
    for group in groups:
        mark += hash((group._duration_us, group.nbytes_total, *group.states.values()))
    return mark


def own_metrics(span: Any) -> Mapping[Any, float]:
    """Return what workers did for the tasks of a span itself, without those of its children."""
    metrics: Mapping[Any, float] = span._cumulative_worker_metrics
    return metrics


def own_code(span: Any) -> Sequence[Any]:
    """Return the frames of code from which the tasks of a span itself were submitted."""
    return list(span._code)
