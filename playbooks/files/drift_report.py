"""Put together what differs on a site from what its rollout made. Runs on the control machine.

``changes`` reads what ansible.posix.json printed of a rollout in check mode, and prints, for each
host, what it would change. ``report`` reads that, what drift_node.py found on each host, and
prints a table, after writing all of it in JSON into a file.
"""

import json
import sys
from pathlib import Path
from typing import Any

# Asked of systemd itself, which knows more than that a service would be started
ELSEWHERE = {"systemd_service", "systemd", "ansible.builtin.systemd_service"}


def changes(told: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each host, what a rollout would change, or where it could not go on."""
    found: dict[str, list[dict[str, Any]]] = {}
    for play in told["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                for one in result.get("results", [result]):
                    entry = change(task["task"]["name"], one, result.get("action", ""))
                    if entry:
                        found.setdefault(host, []).append(entry)
    return found


def change(task: str, result: dict[str, Any], action: str) -> dict[str, Any] | None:
    """Return what one result would change; None when it would not."""
    failed = result.get("failed") or result.get("unreachable")
    if not (result.get("changed") or failed) or result.get("skipped"):
        return None
    if action.rsplit(".", 1)[-1] in ELSEWHERE and not failed:
        return None
    asked = result.get("invocation", {}).get("module_args", {})
    names = asked.get("name") or ""
    named = ", ".join(names) if isinstance(names, list) else names
    where = next((str(v) for k in ("dest", "path") if (v := result.get(k) or asked.get(k))), named)
    what = f"a rollout would {'stop at' if failed else 'change it'} ({task})"
    if failed:
        what += f": {result.get('msg', '')}"
    entry = {"where": where or task, "what": what, "diff": difference(result.get("diff"))}
    if action.endswith(("package", "apt", "dnf")):
        entry["packages"] = names if isinstance(names, list) else [names]
    return entry


def difference(diff: Any) -> list[str]:
    """Return the lines that differ, "-" as they are here and "+" as a rollout makes them."""
    lines: list[str] = []
    for part in diff if isinstance(diff, list) else [diff or {}]:
        before, after = (lines_of(part.get(key, "")) for key in ("before", "after"))
        lines += [f"- {line}" for line in before if line not in after]
        lines += [f"+ {line}" for line in after if line not in before]
    return lines[:40]


def lines_of(text: Any) -> list[str]:
    """Return the lines of one side of a difference."""
    if isinstance(text, dict):
        return [f"{key}: {value}" for key, value in text.items() if key != "path"]
    return str(text).splitlines()


def combined(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all differences, each file of a host once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for host, node in asked["nodes"].items():
        entries = node["found"] + asked["changes"].get(host, [])
        for entry in entries:
            where = entry["where"]
            kept = found.setdefault((host, where), {"host": host, "where": where, "what": []})
            kept["what"].append(entry["what"])
            kept.update(node["about"].get(where, {}))
            kept.update({k: v for k, v in entry.items() if k not in {"what", "where"} and v})
            for package in entry.get("packages", ()):
                if logged := node["packages"].get(package):
                    kept["by"] = logged
    seals = {host: (node["current"], node["seal"]) for host, node in asked["nodes"].items()}
    right = seals.get(asked["build_host"], next(iter(seals.values())))
    for host, seal in seals.items():
        if seal != right:
            what = f"this node sees {seal[0] or 'no release'} with another seal than the others"
            where = f"{asked['root']}/current"
            found.setdefault((host, where), {"host": host, "where": where, "what": []})
            found[host, where]["what"].append(what)
    return list(found.values())


def shown(differences: list[dict[str, Any]]) -> str:
    """Return the differences for a reader."""
    lines = []
    for one in differences:
        lines.append(f"{one['host']}: {one['where']}")
        lines += [f"    {what}" for what in one["what"]]
        if one.get("changed"):
            owner = f", owner {one['owner']}" if one.get("owner") else ""
            lines.append(f"    changed {one['changed']}{owner}")
        if one.get("by"):
            lines.append(f"    {one['by']}")
        lines += [f"        {line}" for line in one.get("diff", [])[:8]]
    return "\n".join(lines)


def main() -> None:
    """Read one, print the other."""
    asked = json.load(sys.stdin)
    if sys.argv[1] == "changes":
        print(json.dumps(changes(asked)))
        return
    differences = combined(asked)
    notes = asked["notes"] + [n for node in asked["nodes"].values() for n in node["notes"]]
    said = {"site": asked["site"], "differences": differences, "notes": notes}
    report = Path(sys.argv[2])
    report.parent.mkdir(parents=True, exist_ok=True)
    fresh = report.with_name(f".{report.name}.new")
    fresh.write_text(json.dumps(said, indent=1) + "\n")
    fresh.replace(report)
    print(shown(differences) or "no differences")
    print("\n".join(notes))


if __name__ == "__main__":
    main()
