"""Tasks that failed, counted by what they failed of; and what the workers moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dask_site.history.measures import (
    clean,
    clean_id,
    own_failure,
    traffic_keys,
    watch_failures,
)
from dask_site.history.spans import OTHERS, Change

_MOST_KINDS = 500
_Kind = tuple[str, str, str | None]


class Errors:
    """Counts the tasks of a scheduler that fail; those that fail because of others not.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Its list of failed tasks is watched until `close`.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._counts: dict[_Kind, int] = {}
        self._messages: dict[_Kind, str] = {}
        self._sent: dict[_Kind, int] = {}
        self.close = watch_failures(scheduler, self._failed)

    def _failed(self, failed: Any) -> None:
        try:
            own = own_failure(self._scheduler, failed)
            if own is None:
                return
            prefix, exception, message, span = own
            kind = (clean(prefix, 200, "(unnamed)"), clean(exception, 200, "Exception"), span)
            if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
                kind = (OTHERS, OTHERS, None)
            self._messages.setdefault(kind, clean(message, 2000))
            self._counts[kind] = self._counts.get(kind, 0) + 1
        except Exception:  # noqa: S110  # the scheduler goes on whatever this is; the count is short
            pass

    def changes(self) -> Iterator[Change]:
        """Yield the kinds of errors of which there are more than were written."""
        for kind, count in list(self._counts.items()):
            if self._sent.get(kind) != count:
                prefix, exception, span = kind
                record = {
                    "k": "error",
                    "prefix": prefix,
                    "exception": exception,
                    "message": self._messages[kind],
                    "count": count,
                    "span": clean_id(span) if span else None,
                }
                yield Change(record, self._setter(kind, count))

    def _setter(self, kind: _Kind, count: int) -> Callable[[], None]:
        def written() -> None:
            self._sent[kind] = count

        return written


class Traffic:
    """What the workers moved over the network and to disk.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Read only.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._seen = 0
        self._keys: list[tuple[Any, ...]] = []
        self._sent: Any = None

    def changes(self) -> Iterator[Change]:
        """Yield the sums, if they have changed: ``gather-dep.network`` and their like."""
        self._seen, more = traffic_keys(self._scheduler, self._seen)
        self._keys += more
        sums: dict[str, dict[str, float]] = {"seconds": {}, "bytes": {}}
        for key in self._keys[:200]:
            into = sums.get(str(key[-1]))
            if into is not None and len(into) < 100:
                name = clean(".".join(map(str, key[:-1])), 100, "other")
                value = self._scheduler.cumulative_worker_metrics[key]
                into[name] = round(into.get(name, 0.0) + max(0.0, float(value)), 6)
        if (sums["seconds"] or sums["bytes"]) and sums != self._sent:
            record = {"k": "traffic", "seconds": sums["seconds"], "sizes": sums["bytes"]}
            yield Change(record, lambda: setattr(self, "_sent", sums))
