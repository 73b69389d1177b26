"""What each pool did, in bulk: tasks, busy time and what took longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class PoolWork:
    """Work done on one pool: tasks, and thread-seconds of computing, by task prefix."""

    tasks: int = 0
    seconds: float = 0.0
    by_prefix: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def longest(self) -> tuple[str, float]:
        """The prefix that computed longest, and its share of the pool's seconds."""
        if not self.by_prefix:
            return "", 0.0
        prefix = max(self.by_prefix, key=self.by_prefix.__getitem__)
        return prefix, self.by_prefix[prefix] / self.seconds if self.seconds else 0.0


class Summary:
    """Counts of computed tasks by pool; cheap enough for every task."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolWork] = defaultdict(PoolWork)

    def computed(self, pool: str, prefix: str, startstops: Iterable[Mapping[str, Any]]) -> None:
        """Count one computed task from the intervals that its worker measured."""
        seconds = 0.0
        for interval in startstops:
            if interval["action"] == "compute":
                seconds += interval["stop"] - interval["start"]
        work = self.pools[pool]
        work.tasks += 1
        work.seconds += seconds
        work.by_prefix[prefix] += seconds
