"""What is wrong with a site file, and what to write instead."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Path = tuple[str | int, ...]
"""Keys and list indices from the `dask_site` mapping inwards."""

_LONGEST_SHOWN = 60


class Mistake(ValueError):  # noqa: N818  (a finding about one value, not an error of the program)
    """A value that can't stand, as a parser sees it: without knowing where it was written.

    Parameters
    ----------
    why : str
        What is wrong, naming the value.
    write : str, optional
        The value to write instead, as YAML.
    do : str, optional
        What to do instead, where no value can be proposed.
    unquoted : bool, optional
        Whether quotes would have kept YAML from making something else of the text.
    """

    def __init__(self, why: str, *, write: str = "", do: str = "", unquoted: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.write = write
        self.do = do
        self.unquoted = unquoted


@dataclass(frozen=True)
class Finding:
    """A mistake and the path at which it was found.

    `at_key` puts the finding on the key rather than on its value; `blocks` says that nothing else
    found at or below this path is worth telling; `place` is a line and column of its own.
    """

    path: Path
    value: Any
    mistake: Mistake
    at_key: bool = False
    blocks: bool = False
    place: tuple[int, int] | None = None

    def mend(self) -> str:
        """Return the line that tells the reader what to do."""
        if not self.mistake.write:
            return self.mistake.do
        last = self.path[-1] if self.path else "dask_site"
        key = f"{last}: " if isinstance(last, str) else "- "
        return f"write: {key}{self.mistake.write}"


@dataclass(frozen=True)
class Origin:
    """Where a value and its key stand in the file (lines and columns from 1).

    `text` is what stands there, for an unquoted scalar.
    """

    line: int
    column: int
    key_line: int
    key_column: int
    text: str | None = None


@dataclass
class Document:
    """What was read: plain data, where each part stood, and what was wrong already."""

    data: Any
    origins: dict[Path, Origin] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a site file.

    Attributes
    ----------
    path : str
        The key, as in ``dask_site.pools.gpu.memory``.
    value : Any
        What stands there; None if the key is missing.
    why : str
        What is wrong.
    mend : str
        What to write or do instead.
    line, column : int or None
        Position from 1; None where the description did not come from a text.
    """

    path: str
    value: Any
    why: str
    mend: str
    line: int | None = None
    column: int | None = None

    def as_text(self, source: str) -> str:
        """Return the problem as compilers print theirs: position, error, and how to mend it."""
        place = source if self.line is None else f"{source}:{self.line}:{self.column}"
        about = f"{self.path}: " if self.path else ""
        text = f"{place}: error: {about}{self.why}"
        return f"{text}\n    {self.mend}" if self.mend else text

    def to_mapping(self) -> dict[str, Any]:
        """Return the problem as JSON-ready values."""
        plain = self.value is None or isinstance(self.value, bool | int | str)
        return {
            "path": self.path,
            "value": self.value if plain else show(self.value),
            "why": self.why,
            "mend": self.mend,
            "line": self.line,
            "column": self.column,
        }


class SiteError(ValueError):
    """A site file is not usable; its text lists every problem with its position and its mend.

    Attributes
    ----------
    problems : tuple of Problem
        All of them, in the order of the file.
    source : str
        The file, or another name for where the description came from.
    """

    def __init__(self, problems: Sequence[Problem], source: str) -> None:
        super().__init__(tuple(problems), source)
        self.problems = tuple(problems)
        self.source = source

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the message without a traceback (its own protocol)."""
        return str(self).splitlines()

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [problem.as_text(self.source) for problem in self.problems]
        lines.append(f"{self.source}: {count} error{'' if count == 1 else 's'}")
        return "\n".join(lines)


def single(source: str, path: str, why: str, mend: str, **more: Any) -> SiteError:
    """Return an error with one problem; `more` are further attributes of `Problem`."""
    values: dict[str, Any] = {"value": None, **more}
    return SiteError([Problem(path=path, why=why, mend=mend, **values)], source)


def located(document: Document) -> list[Problem]:
    """Return the findings of a document as problems, with positions, in the order of the file."""
    blocked = [found.path for found in document.findings if found.blocks]
    kept = [
        found
        for found in document.findings
        if found.blocks or not any(found.path[: len(path)] == path for path in blocked)
    ]
    problems = [_placed(found, document.origins) for found in kept]
    unique = list({(p.path, p.why, p.line, p.column): p for p in problems}.values())
    return sorted(unique, key=lambda p: (p.line or 0, p.column or 0))


def _placed(found: Finding, origins: Mapping[Path, Origin]) -> Problem:
    path, at_key = found.path, found.at_key
    while path and path not in origins:  # a missing key: the nearest key around it
        path, at_key = path[:-1], True
    origin = origins.get(path)
    line = column = None
    if found.place is not None:
        line, column = found.place
    elif origin is not None:
        line = origin.key_line if at_key else origin.line
        column = origin.key_column if at_key else origin.column
    if origin is not None and origin.text and found.mistake.unquoted:
        found = replace(found, mistake=_as_written(found, origin.text))
    return Problem(
        dotted(found.path), found.value, found.mistake.why, found.mend(), line=line, column=column
    )


def _as_written(found: Finding, text: str) -> Mistake:
    """Say what YAML made of an unquoted text, where it is the file's text that is known."""
    clock = ":" in text
    if found.mistake.write and found.path[-1:] == ("walltime",) and not clock:
        return found.mistake  # seconds were written, not a clock
    kind = "boolean" if isinstance(found.value, bool) else "number"
    why = f"{text} without quotes is the {kind} {show(found.value)} in YAML: quote it"
    if found.path[-1:] == ("walltime",) and text.count(":") == 1:
        text += ":00"
    return Mistake(why, write=f'"{text}"')


def dotted(path: Path) -> str:
    """Return a path as it is shown: ``dask_site.pools.gpu.directives[0]``."""
    text = "dask_site"
    for part in path:
        plain = isinstance(part, str) and re.fullmatch(r"[A-Za-z0-9_-]+", part)
        text += f".{part}" if plain else f"[{show(part)}]"
    return text


def show(value: Any) -> str:
    """Return a value as it is quoted in a message: short, on one line, printable."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        text = repr(value)
    except Exception:  # foreign objects, and integers with thousands of digits, refuse
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= _LONGEST_SHOWN:
        return text
    return text[: _LONGEST_SHOWN - 4] + "..." + (text[-1] if text[-1] in "'\"" else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was most likely meant to be, if any is near."""
    by_form = {name.lower().replace("-", "_"): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), by_form, n=1, cutoff=0.6)
    return by_form[matches[0]] if matches else None
