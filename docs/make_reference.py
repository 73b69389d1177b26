"""Write docs/reference.md: keys of the site file, variables of the roles, parts of the ledger.

Usage: python docs/make_reference.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dask_site.history.books import PARTS as LEDGER_PARTS
from dask_site.history.books import UNEXPLAINED
from dask_site.site import Site

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "reference.md"
PARTS = {
    "Site": "`dask_site`",
    "Pool": "`dask_site.pools.<name>`",
    "Cost": "`dask_site.pools.<name>.cost`",
    "SchedulerOptions": "`dask_site.scheduler`",
    "History": "`dask_site.history`",
    "Retention": "`dask_site.history.retention`",
    "Dashboards": "`dask_site.dashboards`",
    "Oidc": "`dask_site.dashboards.oidc`",
    "Portal": "`dask_site.dashboards.portal`",
    "Environment": "`dask_site.environment`",
}


def main() -> None:
    text = "\n".join(["# Reference", "", *site_file(), *roles(), *ledger()])
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text("utf-8") != text:
            raise SystemExit(f"{TARGET} is out of date: make docs")
    else:
        TARGET.write_text(text, "utf-8")


def site_file() -> list[str]:
    parts = Site.json_schema()["$defs"]
    lines = ["## The site file", ""]
    for name, title in PARTS.items():
        part = parts[name]
        rows = [
            (f"`{key}`", kind_of(field), default_of(key, field, part), field.get("description", ""))
            for key, field in part["properties"].items()
        ]
        lines += [f"### {title}", "", part.get("description", ""), ""]
        lines += table(("key", "value", "default", ""), rows)
    return lines


def kind_of(field: dict[str, Any]) -> str:
    example = field.get("examples")
    if example:
        return f"`{yaml.safe_dump(example[0], default_flow_style=True).splitlines()[0]}`"
    choices = field.get("enum") or [field.get("const", "")]
    return ", ".join(f"`{choice}`" for choice in choices if choice != "")


def default_of(key: str, field: dict[str, Any], part: dict[str, Any]) -> str:
    if key in part.get("required", ()):
        return "required"
    default = field.get("default")
    if default in (None, "", [], {}) and default is not False:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def roles() -> list[str]:
    lines = ["## Variables of the roles", "", "Besides `dask_site`, which every role reads.", ""]
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        rows: dict[str, tuple[str, ...]] = {}
        for entry in yaml.safe_load(path.read_text("utf-8"))["argument_specs"].values():
            for name, option in entry.get("options", {}).items():
                words = option.get("description", "")
                default = option.get("default", "")
                shown = (
                    "required"
                    if option.get("required")
                    else f"`{default}`"
                    if default != ""
                    else ""
                )
                rows[name] = (
                    f"`{name}`",
                    shown,
                    plain(" ".join(words) if isinstance(words, list) else words),
                )
        if rows:
            lines += [f"### {path.parent.parent.name}", ""]
            lines += table(("variable", "default", ""), list(rows.values()))
    return lines


def ledger() -> list[str]:
    rows = [*LEDGER_PARTS.items(), (UNEXPLAINED, "what the parts leave over, or count twice")]
    return [
        "## The parts of the ledger",
        "",
        "Into which every core-second of an allocation goes; see [the history](history.md).",
        "",
        *table(("part", "what happened"), rows),
    ]


def plain(text: str) -> str:
    """Turn Ansible's markup, such as V(x) and C(x), into Markdown."""
    return re.sub(r"\b(?:V|C|O|P|RV|E)\(([^)]*)\)", r"`\1`", text)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines),
        "",
    ]


if __name__ == "__main__":
    main()
