"""How long tasks take: the mean of the last twenty or so of each kind, or of the last seconds."""

from __future__ import annotations

from typing import Any

# Of so many computed tasks the mean says more than distributed's moving average.
_ENOUGH = 3
_KEPT = 20
# Seconds that those took at least: of thousands of short tasks one that a busy machine delayed
# would make hours of work.
_KEPT_SECONDS = 2.0


class _Seen:
    """What of one prefix was seen: in all, and with the weight that it has in the mean."""

    __slots__ = ("computed", "longest", "mean", "seconds", "total", "weight")

    def __init__(self) -> None:
        self.computed = 0
        self.total = self.weight = self.seconds = self.mean = self.longest = 0.0


class Durations:
    """Means of what distributed sums up for each prefix since its first task.

    distributed's own average halves the weight of each earlier task, and where fused tasks share a
    name it swings with every one of them. The mean of all would never forget, and that of the last
    hundred not in time where one worker measures tasks of seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[Any, _Seen] = {}

    def mean(self, prefix: Any) -> float | None:
        """Return the seconds that the last tasks of a prefix took; None if they were too few.

        One that already runs for longer than all before counts as one more of them.
        """
        computed = prefix.state_counts["memory"]
        if computed < _ENOUGH:
            return None
        seen = self._seen.get(prefix)
        if seen is None:
            seen = self._seen[prefix] = _Seen()
        if computed != seen.computed:
            self._take(seen, computed, prefix.all_durations["compute"])
        if prefix.duration_average >= 0:
            seen.longest = prefix.max_exec_time
        elif prefix.max_exec_time > seen.longest:  # one runs for twice the average, or longer
            return (seen.seconds + float(prefix.max_exec_time)) / (seen.weight + 1)
        elif not seen.total:
            return None  # what clients bring is in memory too, and was never computed
        return seen.mean

    @staticmethod
    def _take(seen: _Seen, computed: int, total: float) -> None:
        seen.weight += computed - seen.computed
        seen.seconds += total - seen.total
        seen.computed, seen.total = computed, total
        seen.mean = max(1e-6, seen.seconds / seen.weight)
        if seen.weight > _KEPT and seen.seconds > _KEPT_SECONDS:
            seen.weight = _KEPT / 2
            seen.seconds = seen.mean * seen.weight
