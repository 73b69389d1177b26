"""The pools on Dask's own dashboard: what is kept for that, and how the page gets there.

bokeh, which takes a second to import, is imported only where somebody may look. Upstream's tables
of pages are touched here and nowhere else; `tests/contract/test_panel.py` holds them against the
installed version.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_site.cluster.explain import Explanation
    from dask_site.scaling.by_demand import PoolSample, Sample

logger = logging.getLogger("dask_site")

#: What is shown of each pool over time: fields of PoolSample.
MEASURES = ("target", "workers", "pending", "running", "ready")
_PAGE, _PLOT = "/pools", "/individual-pools"
# Well before the controller forgets; a viewer fetches for itself what is new.
_FETCHED_EVERY = 60.0
_tables = threading.Lock()


class Span:
    """What happened within some time until now, a point for each of equal steps.

    A point holds the most that was seen within its step, so that no peak is lost.

    Parameters
    ----------
    title : str
        How long it is, for people.
    step : int
        Seconds between points.
    points : int
        How many there are at most.

    Attributes
    ----------
    points : deque of (float, list of int)
        When each step began, and for all pools in turn the numbers of `MEASURES`.
    count : int
        Points so far, forgotten ones included.
    """

    def __init__(self, title: str, step: int, points: int) -> None:
        self.title = title
        self.step = step
        self.points: deque[tuple[float, list[int]]] = deque(maxlen=points)
        self.count = 0
        self._begun: float | None = None
        self._most: list[int] = []

    @property
    def seconds(self) -> int:
        """How long it is."""
        return self.step * (self.points.maxlen or 0)

    def add(self, time: float, values: list[int]) -> None:
        """Add what was seen at some time."""
        begun = time // self.step * self.step
        if begun == self._begun:
            self._most = list(map(max, self._most, values))
            return
        if self._begun is not None:
            self.points.append((self._begun, self._most))
            self.count += 1
        self._begun, self._most = begun, values

    def since(self, count: int) -> list[tuple[float, list[int]]]:
        """Return the points that came after the first `count` ones, as far as they are kept."""
        new = min(self.count - count, len(self.points))
        return list(islice(self.points, len(self.points) - new, None))


class Panel:
    """What the page shows of one cluster; without a dashboard it does nothing.

    Parameters
    ----------
    pools : sequence of str
        Names of the pools, in the order in which they are shown.
    wanted : bool
        Whether there is a dashboard.

    Attributes
    ----------
    spans : list of Span
        From the shortest to the longest.
    latest : list of int
        The numbers of `MEASURES` that were seen last, pool after pool; empty until then.
    """

    def __init__(self, pools: Sequence[str], wanted: bool) -> None:
        self.pools = list(pools)
        self.spans = [
            Span("10 minutes", 1, 600),
            Span("3 hours", 15, 720),
            Span("2 days", 240, 720),
        ]
        self.latest: list[int] = []
        self._wanted = wanted
        self._controller: Any = None
        self._explainer: Any = None
        self._last: Sample | None = None
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def pages(self) -> Iterator[None]:
        """Let a scheduler that is made within this block have the pages.

        Upstream has one table of pages for all schedulers of a process, and each takes a copy when
        it is made: others don't get these pages.
        """
        upstream = self._upstream() if self._wanted else None
        if upstream is None:
            yield
            return
        from dask_site.cluster import panel_page

        with _tables:
            upstream.applications[_PAGE] = partial(panel_page.page, self)
            upstream.applications[_PLOT] = partial(panel_page.plot, self)
            try:
                yield
            finally:
                del upstream.applications[_PAGE], upstream.applications[_PLOT]

    async def open(self, scheduler: Any) -> None:
        """Give a scheduler that was made without a dashboard all its pages; once, in its loop."""
        upstream = await asyncio.to_thread(self._upstream)
        application, server = scheduler.http_application, scheduler.http_server
        if upstream is None:
            from distributed.http.utils import get_handlers

            says_so = get_handlers(scheduler, ["distributed.http.scheduler.missing_bokeh"])
            application.add_handlers(r".*", says_so)
            return
        with self.pages():
            upstream.connect(application, server, scheduler)
        self._list_it(upstream, scheduler)

    def _upstream(self) -> Any:
        try:
            import distributed.dashboard.scheduler as upstream

            from dask_site.cluster import panel_page  # noqa: F401  # whether it can be
        except ImportError:
            return None  # no bokeh: upstream's dashboard says so in its place
        known = hasattr(upstream, "applications") and hasattr(upstream, "template_variables")
        return upstream if known else None

    def start(self, scheduler: Any, controller: Any, explainer: Any) -> None:
        """Keep what the controller sees; in the scheduler's event loop.

        Parameters
        ----------
        scheduler : distributed.Scheduler or None
            One that has its pages already: they link to this one.
        """
        self._controller, self._explainer = controller, explainer
        if not self._wanted:
            return
        self._task = asyncio.create_task(self._run())
        if scheduler is not None and (upstream := self._upstream()) is not None:
            self._list_it(upstream, scheduler)

    def _list_it(self, upstream: Any, scheduler: Any) -> None:
        # Made once for each scheduler: all its pages have the same list.
        pages = upstream.template_variables(scheduler)["pages"]
        pages.insert(1, _PAGE.strip("/"))

    def stop(self) -> None:
        """Keep no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_FETCHED_EVERY)
            self.fetch()

    def fetch(self) -> None:
        """Take over what the controller has seen since the last time."""
        new: list[Sample] = []
        for sample in reversed(self._controller.history if self._controller else ()):
            if sample is self._last:
                break
            new.append(sample)
        for sample in reversed(new):
            pools = [sample.pools[name] for name in self.pools]
            values = list(chain.from_iterable(map(_values, pools)))
            for span in self.spans:
                span.add(sample.time, values)
            self._last, self.latest = sample, values

    def explanation(self) -> Explanation | None:
        """Explain what the cluster waits for; None before it has started."""
        return self._explainer.now() if self._explainer is not None else None


def _values(seen: PoolSample) -> tuple[int, ...]:
    return seen.target, seen.workers, seen.pending, seen.running, seen.ready
