"""Say which variables of an inventory no role knows, a line each, with what may be meant.

Runs on the control machine. Standard input is JSON: ``names`` of all variables, and ``renamed``,
from a name of former versions to what to do instead.
"""
# ruff: noqa: T201

import difflib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLACES = [f"roles/*/{part}/*.yml" for part in ("defaults", "meta", "tasks", "vars")]


def known() -> set[str]:
    """Return every name that roles and playbooks use."""
    files = [path for place in PLACES for path in ROOT.glob(place)]
    files += [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("site.yml")]
    return set().union(*(re.findall(r"\bdask_\w+", path.read_text()) for path in files))


def findings(names: list[str], renamed: dict[str, str]) -> list[str]:
    """Return what is wrong with names, a text for each."""
    roles = {path.name for path in ROOT.glob("roles/*")}
    ours, mine, found = known(), tuple(f"{role}_" for role in roles), []
    for name in sorted(names):
        if name in renamed:
            found.append(f"{name}: {renamed[name]}")
        elif name not in ours:
            near = difflib.get_close_matches(name, ours - roles, 1, 0.85)
            if near or name.startswith(mine):
                meant = f"; {near[0]} is meant?" if near else ""
                found.append(f"{name}: no role knows it{meant}")
    return found


def main() -> None:
    """Print them."""
    given = json.load(sys.stdin)
    print("\n".join(findings(given["names"], given["renamed"])))


if __name__ == "__main__":
    main()
