"""The page that shows the pools on Dask's dashboard. Needs bokeh."""

# What bokeh says of its models' types is not what they take.
# mypy: disable-error-code="attr-defined, arg-type, untyped-decorator"

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DatetimeTickFormatter,
    Div,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    RadioButtonGroup,
    Range1d,
)
from bokeh.plotting import figure
from distributed.dashboard.components import DashboardComponent, add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.utils import log_errors

from dask_site.cluster.panel import MEASURES, Panel
from dask_site.cluster.reasons import duration_text

if TYPE_CHECKING:
    from dask_site.cluster.explain import Explanation, PoolLine

_EVERY_MS = 1000
_TEXT_EVERY = 2
_SHORTEST = 60.0
# Height of a chart by the number of pools that are shown: they fit a screen if they can.
_HEIGHTS = {1: 300, 2: 260, 3: 200, 4: 160}
_LEAST_HEIGHT = 140
_WRAPPED: dict[str, Any] = {"sizing_mode": "stretch_width", "styles": {"flex-wrap": "wrap"}}

# Colours that people with any colour vision tell apart (Okabe and Ito), and dashes besides.
_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "workers": {"color": "#0072B2", "dash": "solid", "width": 2, "label": "workers"},
    "target": {"color": "#333333", "dash": "4 3", "width": 1.5, "label": "workers asked for"},
    "pending": {"color": "#D55E00", "dash": "solid", "width": 2, "label": "jobs pending"},
    "running": {"color": "#009E73", "dash": "solid", "width": 2, "label": "tasks running"},
    "ready": {"color": "#B8860B", "dash": "6 3", "width": 2, "label": "tasks ready"},
}
_FILLED = {"workers", "running"}
_CHARTS = (
    ("workers, jobs", ("workers", "pending", "target")),
    ("tasks", ("running", "ready")),
)
_TICKS = [0, 1, 3, 10, 30, 100, 300]
_DECADES = [0, *(10**n for n in range(10))]
_STYLE = """
:host { font-family: Helvetica, Arial, sans-serif; font-size: 14px; color: #222; }
table { border-collapse: collapse; }
th, td { padding: 3px 12px 3px 0; text-align: right; white-space: nowrap; }
th { font-weight: normal; color: #555; border-bottom: 1px solid #bbb; white-space: normal;
     vertical-align: bottom; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tr.off td { color: #777; }
ul { margin: 4px 0; padding-left: 18px; }
li { margin-bottom: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
h4 { margin: 2px 0 4px; font-size: 14px; }
:host(.legend) span { margin-right: 18px; white-space: nowrap; }
svg { vertical-align: middle; margin-right: 6px; }
"""


@log_errors
def page(panel: Panel, _scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """Fill a document with the page of the navigation bar, as upstream's pages do."""
    _fill(panel, doc)
    doc.title = "Dask: Pools"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)


@log_errors
def plot(panel: Panel, _scheduler: Any, _extra: Mapping[str, Any], doc: Any) -> None:
    """Fill a document with the pools alone, for a pane of JupyterLab."""
    _fill(panel, doc)
    doc.title = "Dask: Pools"


def _fill(panel: Panel, doc: Any) -> None:
    pools = Pools(panel)
    pools.update()
    doc.add_root(pools.root)
    doc.theme = BOKEH_THEME
    add_periodic_callback(doc, pools, _EVERY_MS)


class Pools(DashboardComponent):
    """Pools over time, as they are, and why work waits."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._span = panel.spans[0]
        self._seen = 0
        self._texts_due = 0
        self.source = ColumnDataSource({name: [] for name in ("time", *_columns(len(panel.pools)))})
        self._x_range = Range1d(0, 1)
        self._table = Div(stylesheets=[_STYLE])
        # Beside the table where there is room, else below it.
        self._reasons = Div(
            stylesheets=[_STYLE], sizing_mode="stretch_width", styles={"flex": "1 1 380px"}
        )
        self._spans = RadioButtonGroup(labels=[s.title for s in panel.spans], active=0)
        self._spans.on_change("active", self._choose)
        legend = Div(
            text=_legend(), stylesheets=[_STYLE], css_classes=["legend"],
            sizing_mode="stretch_width", styles={"flex": "1 1 400px"},
        )  # fmt: skip
        self._charts = [
            [self._chart(i, name, *chart) for chart in _CHARTS]
            for i, name in enumerate(panel.pools)
        ]
        self._rows = [row(*charts, **_WRAPPED) for charts in self._charts]
        self._idle = Div(stylesheets=[_STYLE])
        self.root = column(
            row(self._table, self._reasons, spacing=24, **_WRAPPED),
            row(self._spans, legend, spacing=24, **_WRAPPED),
            *self._rows,
            self._idle,
            sizing_mode="stretch_width",
        )

    # -- over time -----------------------------------------------------------------------------

    def _chart(self, index: int, pool: str, unit: str, measures: Iterable[str]) -> Any:
        logarithmic = unit == "tasks"
        fig = figure(
            sizing_mode="stretch_width",
            min_width=330,
            styles={"flex": "1 1 330px"},
            min_border_left=64,
            title=f"{pool}: {unit}",
            x_axis_type="datetime",
            x_range=self._x_range,
            y_range=Range1d(0, 1),
            tools="",
            toolbar_location=None,
        )
        fig.xaxis.formatter = DatetimeTickFormatter(
            seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M", hours="%H:%M",
            days="%b %d",
        )  # fmt: skip
        fig.yaxis.axis_label = f"{unit}{' (log)' if logarithmic else ''}"
        fig.yaxis.minor_tick_line_alpha = 0
        fig.xgrid.visible = False
        if logarithmic:
            fig.yaxis.ticker = FixedTicker(ticks=[])
        else:
            fig.yaxis.ticker = BasicTicker(desired_num_ticks=4, min_interval=1, num_minor_ticks=0)
            fig.yaxis.formatter = NumeralTickFormatter(format="0.[0]a")
        for name in measures:
            self._draw(fig, f"{name}{index}{'log' if logarithmic else ''}", name)
        hit = fig.line("time", f"{next(iter(measures))}{index}", source=self.source, alpha=0)
        tips = [(_LOOKS[name]["label"], f"@{name}{index}{{0,0}}") for name in measures]
        fig.add_tools(
            HoverTool(
                renderers=[hit],
                mode="vline",
                tooltips=[("UTC", "@time{%H:%M:%S}"), *tips],
                formatters={"@time": "datetime"},
            )
        )
        return fig

    def _draw(self, fig: Any, name: str, measure: str) -> None:
        looks = _LOOKS[measure]
        # Not in all versions of bokeh that Dask takes.
        filled = getattr(fig, "varea_step", None) if measure in _FILLED else None
        if filled is not None:
            filled(
                "time", y1=0, y2=name, source=self.source, step_mode="after",
                color=looks["color"], alpha=0.25,
            )  # fmt: skip
        fig.step(
            "time", name, source=self.source, mode="after",
            color=looks["color"], line_dash=looks["dash"], line_width=looks["width"],
        )  # fmt: skip

    def _choose(self, _name: str, _before: int, chosen: int) -> None:
        self._span = self._panel.spans[chosen]
        self._seen = -1
        self.update()

    def update(self) -> None:
        """Show what is new."""
        self._panel.fetch()
        self._update_charts()
        if not self._texts_due:
            self._update_texts()
        self._texts_due = (self._texts_due + 1) % _TEXT_EVERY

    def _update_charts(self) -> None:
        span = self._span
        if span.count == self._seen:
            return
        anew = self._seen < 0
        points = span.since(max(0, self._seen))
        self._seen = span.count
        data = _data(points, len(self._panel.pools))
        if anew:
            self.source.data = data
        elif points:
            self.source.stream(data, rollover=span.points.maxlen)
        if span.points:
            self._update_ranges()

    def _update_ranges(self) -> None:
        points = self._span.points
        end = points[-1][0] + self._span.step
        begin = max(end - self._span.seconds, min(points[0][0], end - _SHORTEST))
        self._x_range.update(start=begin * 1000, end=end * 1000)
        latest = self._panel.latest
        most = list(map(max, zip(latest, *(values for _, values in points), strict=True)))
        hidden = []
        for index, name in enumerate(self._panel.pools):
            of = _of(index, most)
            self._rows[index].visible = any(of.values())
            if not any(of.values()):
                hidden.append(name)
            jobs, tasks = self._charts[index]
            _set(jobs.y_range, "end", 1.08 * max(1, of["target"], of["workers"], of["pending"]))
            _set_log_ticks(tasks, max(1, of["running"], of["ready"]))
        shown = len(self._charts) - len(hidden)
        for charts in self._charts:
            for fig in charts:
                _set(fig, "height", _HEIGHTS.get(shown, _LEAST_HEIGHT))
        none = f"Nothing in this time: pool{'s'[: len(hidden) > 1]} {', '.join(hidden)}."
        _set(self._idle, "text", html.escape(none) if hidden else "")

    # -- as it is ------------------------------------------------------------------------------

    def _update_texts(self) -> None:
        told = self._panel.explanation()
        if told is None or not self._panel.latest:
            _set(self._table, "text", "The cluster is starting.")
            return
        _set(self._table, "text", self._table_html(told))
        _set(self._reasons, "text", _reasons_html(told))

    def _table_html(self, told: Explanation) -> str:
        head = (
            "pool",
            "workers",
            "asked for",
            "jobs pending",
            "tasks running",
            "ready",
            "queue takes",
            "",
        )
        rows = "".join(
            _row_html(line, _of(i, self._panel.latest)) for i, line in enumerate(told.pools)
        )
        return f"<table><tr>{''.join(f'<th>{text}</th>' for text in head)}</tr>{rows}</table>"


def _row_html(line: PoolLine, seen: Mapping[str, int]) -> str:
    numbers = [line.workers, line.target, line.pending, seen["running"], seen["ready"]]
    cells = [line.pool, *(f"{n:,}" for n in numbers), duration_text(line.queue_wait), line.standing]
    inner = "".join(f"<td>{html.escape(text)}</td>" for text in cells)
    return f"<tr>{inner}</tr>" if any(numbers) else f"<tr class=off>{inner}</tr>"


def _of(index: int, values: list[int]) -> dict[str, int]:
    """Return the numbers of one pool by measure."""
    begin = index * len(MEASURES)
    return dict(zip(MEASURES, values[begin : begin + len(MEASURES)], strict=True))


def _reasons_html(told: Explanation) -> str:
    if not told.reasons:
        text = "Nothing waits." if told.tasks else "Nothing to do."
        return f"<h4>{text}</h4>"
    items = "".join(f"<li>{html.escape(reason)}</li>" for reason in told.reasons)
    return f"<h4>Why work waits</h4><ul>{items}</ul>"


def _columns(pools: int) -> list[str]:
    names = (*MEASURES, "runninglog", "readylog")
    return [
        f"{name.removesuffix('log')}{index}{'log' if name.endswith('log') else ''}"
        for index in range(pools)
        for name in names
    ]


def _data(points: list[tuple[float, list[int]]], pools: int) -> dict[str, Any]:
    data: dict[str, Any] = {"time": np.array([time * 1000 for time, _ in points], dtype="float64")}
    width = len(MEASURES)
    values = np.array([v for _, v in points], dtype="float64").reshape(len(points), pools * width)
    for index in range(pools):
        for offset, name in enumerate(MEASURES):
            data[f"{name}{index}"] = values[:, index * width + offset]
        for name in ("running", "ready"):
            data[f"{name}{index}log"] = np.log10(1 + data[f"{name}{index}"])
    return data


def _set(model: Any, name: str, value: Any) -> None:
    """Set a property if that changes it: what is set is sent."""
    if getattr(model, name) != value:
        setattr(model, name, value)


def _set_log_ticks(fig: Any, most: int) -> None:
    """Mark round numbers on an axis that shows log10(1 + tasks), so that none is 0."""
    end = 1.08 * math.log10(1 + most)
    if fig.y_range.end == end:
        return
    fig.y_range.end = end
    marked = [n for n in (_TICKS if most <= 300 else _DECADES) if n <= 1.1 * most]
    fig.yaxis[0].ticker.ticks = [math.log10(1 + n) for n in marked]
    fig.yaxis[0].major_label_overrides = {math.log10(1 + n): _short(n) for n in marked}


def _short(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)


def _legend() -> str:
    return (
        "".join(
            f"<span><svg width=28 height=10><line x1=0 y1=5 x2=28 y2=5 stroke='{looks['color']}' "
            f"stroke-width={looks['width'] + 0.5} stroke-dasharray='"
            f"{'' if looks['dash'] == 'solid' else looks['dash']}'/></svg>{looks['label']}</span>"
            for looks in _LOOKS.values()
        )
        + "<span>(times are UTC)</span>"
    )
