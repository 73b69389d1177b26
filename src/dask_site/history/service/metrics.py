"""What the service does, for Prometheus."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from dask_site.history.service.context import Context
from dask_site.history.service.requests import Handler, RefusedError

_KEPT = 30.0  # seconds for which what is asked of the store holds
_OTHERS = "(others)"
_Samples = Iterable[tuple[Mapping[str, str], float]]


class Metrics(Handler):
    """Answers Prometheus: over the Unix socket, from the addresses that are named, or an admin."""

    open_to_all = True

    async def prepare(self) -> None:
        """Find out who asks, unless the address says it."""
        if not self._named():
            await super().prepare()
            # By munge come users of all nodes.
            on_socket = self.by_system and self._local is not None
            if not on_socket and not self.viewer.admin:
                why = "The metrics are for administrators, and for metrics_from of the site file."
                raise RefusedError(403 if self.viewer.user else 401, why)

    async def get(self) -> None:
        """Answer."""
        text = await self.aside(exposition, self.context)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(text)

    def _named(self) -> bool:
        try:
            # Of the connection, not of a header.
            address = ip_address(str(self.request.connection.context.remote_ip))
        except (ValueError, AttributeError):
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self.context.settings.metrics_from)


class _Page:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, help_: str, samples: _Samples | float) -> None:
        whole = f"dask_site_history_{name}"
        self._lines += [f"# HELP {whole} {help_}", f"# TYPE {whole} {kind}"]
        rows = [({}, samples)] if isinstance(samples, int | float) else samples
        for labels, value in rows:
            inside = ",".join(f'{key}="{_escaped(said)}"' for key, said in labels.items())
            self._lines.append(f"{whole}{{{inside}}} {value!r}" if inside else f"{whole} {value!r}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def exposition(context: Context) -> str:
    """Return all metrics in the text format of Prometheus."""
    page, progress, now = _Page(), context.progress, time.time()
    page.add("writer", "gauge", "1 if this process writes, 0 of a standby.", int(context.writer))
    page.add("start_time_seconds", "gauge", "When this process began.", context.begun)
    if context.writer:
        lag = now - (progress.caught_up or context.begun)
        help_ = "Seconds since the last walk through the spools that left nothing unread."
        page.add("spool_lag_seconds", "gauge", help_, round(lag, 3))
        help_ = "When the last walk through the spools ended."
        page.add("last_collection_timestamp_seconds", "gauge", help_, progress.collected)
        for name, help_ in _COUNTED.items():
            page.add(f"{name}_total", "counter", help_, progress.counts[name])
        page.add(
            "refused_records_total",
            "counter",
            "Records that were not taken.",
            [({"reason": reason}, n) for reason, n in sorted(progress.refused.items())],
        )
        page.add(
            "skipped_files",
            "gauge",
            "Files and folders of the spools passed over in the last walk.",
            [({"reason": reason}, n) for reason, n in sorted(progress.skipped.items())],
        )
        help_ = "1 for each loop of the service that can't do its work now."
        page.add("problem", "gauge", help_, [({"loop": k}, 1) for k in sorted(progress.problems)])
    page.add("sessions", "gauge", "Browsers that are logged in.", len(context.sessions))
    if context.opened is not None:
        _of_store(page, context)
    return page.text()


_COUNTED = {
    "passes": "Walks through the spools.",
    "records": "Records that said something new.",
    "files": "Files of the spools with something new.",
    "deleted": "Files of the spools that were deleted, as they are not needed any more.",
    "bad": "Lines of the spools that are no records.",
    "pruned": "Clusters that were deleted or thinned with age.",
    "silent": "Clusters that fell silent.",
}


def _of_store(page: _Page, context: Context) -> None:
    store = context.store
    counts = store.counts()
    page.add("live_clusters", "gauge", "Clusters that have not ended.", counts["live"])
    page.add("clusters", "gauge", "Clusters that are kept.", counts["clusters"])
    help_ = "Clusters that have changed since their books were closed."
    page.add("open_books", "gauge", help_, counts["open"])
    sums = _kept_sums(context)
    page.add(
        "core_seconds",
        "gauge",
        "What became of the core-seconds allocated since the history began, by pool and part.",
        [({"pool": pool, "part": part}, seconds) for pool, part, seconds in sums],
    )
    if context.settings.in_file:
        size = sum(_size(path) for path in _files(context.settings.store))
        page.add("store_bytes", "gauge", "Size of the store's files.", size)


def _kept_sums(context: Context) -> list[tuple[str, str, float]]:
    now = time.monotonic()
    until, rows = context.pool_sums
    if now >= until:
        last = datetime.now(UTC).date() + timedelta(days=2)
        known = {"", *context.site.pools}
        sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        for one in context.store.sums(date(1970, 1, 1), last, ("pool",)):
            # A record may name any pool, and each would be series of their own for ever.
            pool = one.pool or ""
            for part, seconds, _ in one.books.rows():
                sums[pool if pool in known else _OTHERS, part] += seconds
        rows = [(*names, seconds) for names, seconds in sorted(sums.items())]
        context.pool_sums = (now + _KEPT, rows)
    return rows


def _files(url: str) -> list[Path]:
    path = url.removeprefix("sqlite:///")
    return [Path(path + end) for end in ("", "-wal", "-shm")]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
