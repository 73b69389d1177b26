"""What to call a cluster."""

from __future__ import annotations

import re

#: What distributed and `Cluster` make up where the user names nothing.
MADE_UP = re.compile(r"[0-9a-f]{8}")


def title(name: str | None, program: str, kind: str) -> str:
    """Return the name that its user gave to a cluster, else its program, else what it has."""
    given = name if name and not MADE_UP.fullmatch(name) else ""
    return given or program or name or kind
