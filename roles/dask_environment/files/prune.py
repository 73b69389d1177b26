"""Say which releases of a site may go, and why the others stay, as JSON; changes nothing.

Usage: prune.py ROOT KEEP, with what in_use.py has found, as a list of JSON, on standard input.
"""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def releases(root: str) -> dict[str, Any]:
    """Return the manifests of the releases that are there, the newest first; None if unfinished."""
    found: dict[str, Any] = {}
    for folder in Path(root, "releases").iterdir():
        try:
            found[folder.name] = json.loads((folder / "manifest.json").read_text())
        except (OSError, ValueError):
            found[folder.name] = None
    return dict(
        sorted(found.items(), key=lambda item: (item[1] or {}).get("built", ""), reverse=True)
    )


def linked(root: str, link: str) -> str | None:
    """Return the name of the release that a link leads to."""
    try:
        return Path(root, link).readlink().name
    except OSError:
        return None


def seen_by(job: dict[str, str], there: dict[str, Any]) -> str | None:
    """Return the release that was the newest when a job was submitted."""
    # squeue prints the local time of the node
    submitted = datetime.fromisoformat(job["submitted"]).astimezone()
    for name, manifest in there.items():
        if manifest and datetime.fromisoformat(manifest["built"]) <= submitted:
            return name
    return None


def reasons(root: str, keep: int, used: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return, for each release, why it stays; those without a reason may go."""
    there = releases(root)
    why: dict[Any, list[str]] = {name: [] for name in there}
    complete = [name for name, manifest in there.items() if manifest]
    for link in ("current", "previous"):
        why.setdefault(linked(root, link), []).append(link)
    for name in complete[:keep]:
        why[name].append(f"one of the newest {keep}")
    for name in set(there) - set(complete):
        why[name].append("not complete: a build may be going on; remove the folder if none is")
    for found in used:
        for name, users in found["releases"].items():
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            why.setdefault(name, []).append("; ".join(users[:3]) + more)
        for job in found.get("unseen", ()):
            name = seen_by(job, there)
            if name:
                said = (
                    f"job {job['job']} of {job['user']}, {job['state'].lower()}, may have loaded it"
                )
                why[name].append(f"{said}: its environment can't be seen from here")
    return {name: why[name] for name in there}


def main() -> None:
    """Print it."""
    root, keep = sys.argv[1], int(sys.argv[2])
    why = reasons(root, keep, json.load(sys.stdin))
    kept = {name: texts for name, texts in why.items() if texts}
    print(json.dumps({"kept": kept, "gone": [name for name, texts in why.items() if not texts]}))


if __name__ == "__main__":
    main()
