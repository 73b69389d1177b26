"""How the parts of a ledger look: a colour and a pattern each, and what they are called.

The colours are those of Okabe and Ito, which people with any colour vision tell apart; patterns
do the same in print and for greys. The colours themselves are in ``static/site.css``.
"""

from __future__ import annotations

from dataclasses import dataclass

from dask_site.history.books import PARTS, UNEXPLAINED


@dataclass(frozen=True)
class Look:
    """How a part is drawn.

    Attributes
    ----------
    key : str
        Of its pattern and its colours in the style sheet.
    name : str
        In words.
    meaning : str
        In a sentence.
    lines : str
        The path of its pattern within 8 by 8 pixels; empty for a plain colour.
    """

    key: str
    name: str
    meaning: str
    lines: str = ""


_FALLING = "M-2 -2L10 10M-2 6L4 12M4 -4L12 4"
_RISING = "M-2 10L10 -2M-2 2L2 -2M6 10L10 6"
_FLAT = "M0 2H8M0 6H8"
_UPRIGHT = "M2 0V8M6 0V8"
_CROSSED = "M0 0L8 8M8 0L0 8"
_DOTS = "M1 2h2M5 6h2"
_PLUS = "M4 1V7M1 4H7"

_KEYS: dict[str, tuple[str, str, str]] = {
    "cpu": ("cpu", "computing", ""),
    "non-cpu": ("noncpu", "waiting in tasks", ""),
    "serialise": ("serialise", "packing data", ""),
    "disk": ("disk", "disk, in tasks", ""),
    "other": ("other", "other, in tasks", ""),
    "failed": ("failed", "failed tasks", _CROSSED),
    "unfinished": ("unfinished", "unfinished tasks", _DOTS),
    "idle: no work": ("idle-nowork", "idle: nothing submitted", ""),
    "idle: starved": ("idle-starved", "idle: too few tasks", _RISING),
    "idle: transfer": ("idle-transfer", "idle: waiting for data", _DOTS),
    "idle: paused": ("idle-paused", "idle: out of memory", _UPRIGHT),
    "idle: dispatch": ("idle-dispatch", "idle: tasks about to start", _FLAT),
    "idle: unknown": ("idle-unknown", "idle: cause unknown", _PLUS),
    "start and stop": ("startstop", "start and stop of jobs", ""),
    "lost": ("lost", "lost with workers", _FALLING),
    "no thread": ("nothread", "cores without a thread", _FALLING),
    UNEXPLAINED: ("unexplained", "unexplained", _PLUS),
}
#: By the words of `books.PARTS`, in the order in which they are shown.
LOOKS: dict[str, Look] = {
    part: Look(key, name, PARTS.get(part, "what the parts leave over"), lines)
    for part, (key, name, lines) in _KEYS.items()
}
#: All that a page may use, for its patterns.
PATTERNS = (*LOOKS.values(), Look("pending", "in the queue", "", _RISING))
