"""Say what is wrong with the variables of an inventory, then with the description of its site.

Runs on the control machine. Standard input is JSON: ``names`` of all variables, ``renamed``, from a
name of former versions to what to do instead, and what ``dask-site check`` reads. A variable that
no role knows is told with what may be meant.
"""

import difflib
import json
import re
import subprocess
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


def main() -> int:
    """Print them on standard error, and return the status: 2 where there are some."""
    given = json.load(sys.stdin)
    found = findings(given.pop("names"), given.pop("renamed"))
    if found:
        told = ["Nothing was changed: these variables would have no effect.", *found]
        told.append("The names that there are, are in docs/reference.md.")
        print("\n".join(told), file=sys.stderr)
        return 2
    check = [sys.executable, "-m", "dask_site.cli", "check", "-"]
    return subprocess.run(check, input=json.dumps(given), text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
