"""Say what keeps a lock from being installed on this node: system, target, externals.

Run on a node with Spack's modules in PYTHONPATH; ``--target-only`` is for nodes that only run what
was built. Prints a line for each finding; none is good.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Node = dict[str, Any]


def problems(
    nodes: Iterable[Node],
    system: str,
    runs: Callable[[str], bool],
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
) -> list[str]:
    """Return what is wrong, in sentences.

    ``nodes`` are the packages of the lock, ``system`` is this node's as Spack names it, ``runs``
    tells whether code for a target runs here.
    """
    nodes = list(nodes)
    found = target_problems(nodes, runs)
    systems = sorted({node["arch"]["platform_os"] for node in nodes})
    if systems != [system]:
        named = ", ".join(systems)
        found.append(
            f"the lock is for {named}, and this node is {system}: make one here, with "
            "playbooks/spack_lock.yml"
        )
        return found
    for node in sorted(nodes, key=lambda node: node["name"]):
        if "external" in node:
            found.extend(external_problems(node, exists))
    return found


def target_problems(nodes: Iterable[Node], runs: Callable[[str], bool]) -> list[str]:
    """Return the targets of the lock that this node does not run."""
    return [
        f"the lock is for {target}, whose code this node does not run: build on a node of that "
        "kind, or choose another dask_environment_spack_environment"
        for target in sorted({node["arch"]["target"] for node in nodes})
        if not runs(target)
    ]


def external_problems(node: Node, exists: Callable[[str], bool]) -> list[str]:
    """Return which paths of an external package are not there."""
    external = node["external"]
    attributes = external.get("extra_attributes") or {}
    paths = [external["path"], *attributes.get("compilers", {}).values()]
    return [
        f"{node['name']}@{node['version']} of the lock is the site's own, at {path}, which is not "
        "there: install it, or correct the prefix in systems/ and make the lock again"
        for path in paths
        if path and not exists(path)
    ]


def main() -> None:
    """Print what is wrong."""
    from spack.vendor.archspec import cpu

    nodes = list(json.loads(Path(sys.argv[-1]).read_text("utf-8"))["concrete_specs"].values())
    host = cpu.host()

    def runs(target: str) -> bool:
        return target in cpu.TARGETS and cpu.TARGETS[target] <= host

    if "--target-only" in sys.argv:
        found = target_problems(nodes, runs)
    else:
        import spack.platforms

        found = problems(nodes, str(spack.platforms.host().default_operating_system()), runs)
    for line in found:
        print(line)


if __name__ == "__main__":
    main()
