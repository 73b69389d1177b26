"""Concretize the environments, and record what the locks were made from.

Usage: python spack/lock.py --spack CHECKOUT --packages CHECKOUT [ENVIRONMENT ...]

The checkouts are at the commits of pins.yaml. Spack asks a Python with clingo: SPACK_PYTHON, or the
one that runs this, if it has it. Locks and locks.json change only when all went well.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
# Would switch off the settings made here, too.
SWITCH = "SPACK_DISABLE_LOCAL_CONFIG"
COMMAND = ["concretize", "--force", "--fresh"]


def read(path: Path) -> Any:
    """Read a file as Spack does: as YAML 1.2, in which ``no`` is a string."""
    return YAML(typ="safe", pure=True).load(path)


def included(environment: Path) -> list[Path]:
    """Return the files that an environment includes."""
    listed = read(environment / "spack.yaml")["spack"]["include"]
    return [(environment / name).resolve() for name in listed]


def repositories(environment: Path) -> Iterator[Path]:
    """Yield the recipe repositories of this project that an environment uses."""
    for path in included(environment):
        for place in read(path).get("repos", {}).values():
            yield (path.parent / place).resolve()


def inputs(environment: Path) -> dict[str, str]:
    """Return path and SHA-256 of everything in this folder that a lock rests on."""
    root = environment.parents[1]
    nodes = json.loads((environment / "spack.lock").read_text())["concrete_specs"].values()
    used = {(node["namespace"], node["name"].replace("-", "_")) for node in nodes}
    paths = [environment / "spack.yaml", root / "pins.yaml", *included(environment)]
    for repository in repositories(environment):
        paths.append(repository / "repo.yaml")
        for recipe in repository.glob("packages/*"):
            if (repository.name, recipe.name) in used:
                paths += (path for path in recipe.rglob("*") if path.suffix != ".pyc")
    files = {path.resolve() for path in paths if path.is_file()}
    return {str(path.relative_to(root.resolve())): digest(path) for path in sorted(files)}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_pins(root: Path, checkouts: dict[str, Path]) -> None:
    """Refuse checkouts at other commits than those of pins.yaml."""
    for name, pin in read(root / "pins.yaml").items():
        found = git_commit(checkouts[name])
        if found != pin["commit"]:
            sys.exit(
                f"{checkouts[name]} is at {found or 'no commit'}, and pins.yaml wants "
                f"{pin['commit']} for {name}: check that out, or change the pin"
            )


def git_commit(checkout: Path) -> str:
    """Return the commit of a checkout; empty where there is none."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def settings(scratch: Path, packages: Path) -> dict[str, str]:
    """Return an environment in which Spack sees no configuration but the project's."""
    for folder in ("user", "system", "cache"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    builtin = packages / "repos" / "spack_repo" / "builtin"
    repos = json.dumps({"repos": {"builtin": str(builtin)}})  # which is YAML, too
    (scratch / "system" / "repos.yaml").write_text(repos)
    python = {"SPACK_PYTHON": sys.executable} if importlib.util.find_spec("clingo") else {}
    return {
        **python,
        **{name: value for name, value in os.environ.items() if name != SWITCH},
        "SPACK_USER_CONFIG_PATH": str(scratch / "user"),
        "SPACK_SYSTEM_CONFIG_PATH": str(scratch / "system"),
        "SPACK_USER_CACHE_PATH": str(scratch / "cache"),
    }


def concretize(name: str, spack: Path, root: Path, variables: dict[str, str]) -> Path:
    """Concretize an environment of the folder ``root``; return its lock."""
    environment = root / "environments" / name
    command = [str(spack / "bin" / "spack"), "-e", str(environment), *COMMAND]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} has no solution:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return environment / "spack.lock"


def replace(source: Path, target: Path) -> None:
    """Put a file in the place of another in one step."""
    beside = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, beside)
    beside.replace(target)


def main() -> None:
    """Make the locks anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spack", type=Path, required=True, help="a checkout of Spack")
    parser.add_argument("--packages", type=Path, required=True, help="one of spack-packages")
    parser.add_argument("environments", nargs="*", help="all, if none is named")
    given = parser.parse_args()
    here = sorted(path.parent.name for path in HERE.glob("environments/*/spack.yaml"))
    if unknown := sorted({*given.environments} - {*here}):
        sys.exit(f"no environment {', '.join(unknown)}; there are {', '.join(here)}")
    check_pins(HERE, {"spack": given.spack, "packages": given.packages})
    record_file = HERE / "locks.json"
    record = json.loads(record_file.read_text()) if record_file.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        copy = scratch / "spack"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns(".spack-env", "__pycache__"))
        variables = settings(scratch, given.packages.resolve())
        for name in given.environments or here:
            began = datetime.now(UTC)
            fresh = concretize(name, given.spack.resolve(), copy, variables)
            nodes = json.loads(fresh.read_text())["concrete_specs"]
            record[name] = {
                "command": f"spack -e environments/{name} {' '.join(COMMAND)}",
                "date": began.isoformat(timespec="seconds"),
                "spack": git_commit(given.spack),
                "packages": git_commit(given.packages),
                "nodes": len(nodes),
                "lock": digest(fresh),
                "inputs": inputs(fresh.parent),
            }
            replace(fresh, HERE / "environments" / name / "spack.lock")
            (scratch / "locks.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
            replace(scratch / "locks.json", record_file)
            print(f"{name}: {len(nodes)} packages", flush=True)


if __name__ == "__main__":
    main()
