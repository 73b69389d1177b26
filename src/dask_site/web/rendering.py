"""Turns data into HTML: the templates, with everything in them escaped."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dask_site.web import words
from dask_site.web.looks import PATTERNS

_HERE = Path(__file__).parent
STATIC = _HERE / "static"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in ("hours", "percent", "size", "money", "moment", "iso", "name"):
        found.filters[name] = getattr(words, name)
    found.filters.update(number=words.count, lasting=words.length)  # not Jinja's own of these names
    found.globals.update(
        patterns=PATTERNS, plural=words.plural, pool_name=words.pool, static=address
    )
    return found


def render(template: str, **values: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        Of ``templates/``.
    **values
        What it names; one that it names and that is missing is an error.
    """
    # A name may hold half of a character, which no encoding can say.
    text = _environment().get_template(template).render(**values)
    return text.encode(errors="replace").decode()


@cache
def address(name: str) -> str:
    """Return the address of a static file, another one whenever it is another file."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
