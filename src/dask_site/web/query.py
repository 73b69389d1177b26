"""The query of a page: all of its state, so that links can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode


@dataclass(frozen=True)
class Query:
    """What stands behind the ``?`` of a page's address.

    Attributes
    ----------
    path : str
        Of the page.
    values : dict of str to str
    """

    path: str = "/"
    values: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """Return a value, at most 200 characters of it."""
        return self.values.get(name, default).strip()[:200]

    def number(self, name: str, default: int, least: int = 1, most: int = 1_000_000) -> int:
        """Return a whole number within bounds; the default for what is none."""
        text = self.text(name)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return default
        return min(max(int(text), least), most)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of some words, the first unless it names another."""
        value = self.text(name)
        return value if value in choices else choices[0]

    def link(self, **changes: object) -> str:
        """Return the address with some values changed; None and empty ones are left out."""
        values = {**self.values, **changes}
        kept = {name: str(v) for name, v in values.items() if v is not None and v != ""}
        for name in ("format", "table"):  # of a file, not of a page
            if name not in changes:
                kept.pop(name, None)
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    def sort(self, table: str) -> str:
        """Return by what a table is to be sorted: of ``sort=workers:-busy_share``."""
        name, _, key = self.text("sort").partition(":")
        return key if name == table else ""

    def page(self, table: str) -> int:
        """Return which part of a table is asked for: of ``page=workers:2``."""
        name, _, number = self.text("page").partition(":")
        whole = number.isascii() and number.isdigit() and len(number) < 7
        return int(number) if name == table and whole else 1
