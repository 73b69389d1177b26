"""The ledger as notebooks show it: a bar, what its parts are, and the table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

#: Of the parts of a ledger; told apart by people who see fewer colours too, and named beneath.
_COLOURS = {
    "cpu": "#0072b2",
    "non-cpu": "#56b4e9",
    "serialise": "#009e73",
    "disk": "#006b4f",
    "other": "#7fcfb5",
    "failed": "#d55e00",
    "lost": "#8f3f00",
    "unfinished": "#f0e442",
    "start and stop": "#cc79a7",
    "no thread": "#e8bdd3",
    "unexplained": "#000000",
}
_IDLE = "#b0b0b0"


def ledger_html(seconds: Mapping[str, float]) -> str:
    """Return a bar of core-seconds by part, with what each is beneath, as HTML."""
    shown = {part: n for part, n in seconds.items() if n > 0}
    total = sum(shown.values())
    if not total:
        return "<p>Nothing was allocated.</p>"
    pieces, legend, left = [], [], 0.0
    for part, n in shown.items():
        colour = _COLOURS.get(part, _IDLE)
        width = 100 * n / total
        title = html.escape(f"{part}: {width:.1f} %, {n / 3600:.3f} core-hours")
        pieces.append(
            f'<rect x="{left:.3f}%" y="0" width="{width:.3f}%" height="18" fill="{colour}" '
            f'stroke="#fff" stroke-width="0.5"><title>{title}</title></rect>'
        )
        legend.append(
            f'<span style="white-space:nowrap;margin-right:1em"><span style="display:inline-block;'
            f'width:.8em;height:.8em;background:{colour}"></span> {title}</span>'
        )
        left += width
    return (
        f'<svg width="100%" height="18" role="img" aria-label="Where the core-hours went">'
        f"{''.join(pieces)}</svg><div>{' '.join(legend)}</div>"
    )


class LedgerFrame(pd.DataFrame):
    """A ledger by part that shows as a bar in notebooks; what is made of it is an ordinary frame.

    Its columns are `core_seconds` and `share`, its index is `part`.
    """

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        table = self.to_html(escape=True)
        parts = {str(part): float(n) for part, n in self["core_seconds"].items()}
        return ledger_html(parts) + table
