"""Tell which releases are in use, as JSON: by processes of this node, or by jobs in Slurm's queue.

    python3 in_use.py processes /opt/dask-site
    python3 in_use.py jobs /opt/dask-site

Nothing has to be installed for it.
"""

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# What of a process can refer to a release: links to files, and texts.
LINKS = ("exe", "cwd", "root")
TEXTS = ("cmdline", "environ", "maps")
LEAD = ("current", "previous")


def mentioned(text: str, root: str) -> set[str]:
    """Return the names of the releases that are there and that a text refers to."""
    # by path, or as the version of the module
    places = f"(?:{re.escape(root.rstrip('/'))}/releases|\\bdask-site)/"
    named = set(re.findall(places + r"([A-Za-z0-9][A-Za-z0-9_.+-]*)", text))
    # Whoever came by a link came to one of these: which, only its opened files say.
    if re.search(re.escape(root.rstrip("/")) + "/(current|previous)/", text):
        named |= {Path(root, link).resolve().name for link in LEAD}
    return {name for name in named if Path(root, "releases", name).is_dir()}


def name_of(uid: int) -> str:
    """Return the name of a user, or his number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def texts_of(process: Path) -> Iterator[str]:
    """Yield all that a process says of what it uses; what can't be read is left out."""
    for link in (*(process / name for name in LINKS), *entries(process / "fd")):
        try:
            yield str(link.readlink())
        except OSError:
            continue
    for name in TEXTS:
        try:
            yield (process / name).read_bytes().decode(errors="replace")
        except OSError:
            continue


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing when it can't be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def processes(root: str, proc: str = "/proc") -> dict[str, Any]:
    """Return, for each release, who uses it on this node."""
    found: dict[str, list[str]] = {}
    for process in Path(proc).iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        names = set().union(*(mentioned(text, root) for text in texts_of(process)))
        if not names:
            continue
        try:
            user = name_of(process.stat().st_uid)
            command = (
                (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:  # it has ended
            continue
        for name in names:
            said = (
                f"process {process.name} of {user} on {os.uname().nodename}: {command[:60].strip()}"
            )
            found.setdefault(name, []).append(said)
    return {"releases": found}


def run(*command: str) -> str | None:
    """Return what a command of Slurm prints; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode(errors="replace")


def environment_of(job: str, config: str) -> str | None:
    """Return the environment that a job was submitted with; None where it is not to be had."""
    saved = re.search(r"^StateSaveLocation\s*=\s*(\S+)", config, re.MULTILINE)
    try:
        folder = Path(saved[1] if saved else "", f"hash.{int(job) % 10}", f"job.{job}")
        return (folder / "environment").read_bytes().decode(errors="replace")
    except OSError:  # the controller is another node
        pass
    if re.search(r"^AccountingStoreFlags\s*=.*\bjob_env\b", config, re.MULTILINE):
        said = run("sacct", "--noheader", "--env-vars", f"--jobs={job}") or ""
        return said if "PATH=" in said else None
    return None


def jobs(root: str) -> dict[str, Any]:
    """Return, for each release, which jobs use it; and those whose environment can't be seen."""
    listed = run("squeue", "--noheader", "--all", "--states=all", "--format=%F|%u|%T|%V")
    if listed is None:
        sys.exit("squeue does not answer on this node, so nobody knows what the jobs in it use")
    ended = (
        "CANCELLED",
        "COMPLETED",
        "FAILED",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "BOOT_FAIL",
    )
    rows = {line for line in listed.splitlines() if line.count("|") == 3}
    rows = sorted(row for row in rows if row.split("|")[2] not in (*ended, "DEADLINE", "PREEMPTED"))
    config = run("scontrol", "show", "config") or ""

    def look(row: str) -> tuple[str, str, str, str, set[str], str | None]:
        job, user, state, submitted = row.split("|")
        script = run("scontrol", "write", "batch_script", job, "-") or ""
        environment = environment_of(job, config)
        return (
            job,
            user,
            state,
            submitted,
            mentioned(script + (environment or ""), root),
            environment,
        )

    found: dict[str, list[str]] = {}
    unseen = []
    with ThreadPoolExecutor(8) as threads:
        for job, user, state, submitted, names, environment in threads.map(look, rows):
            for name in names:
                found.setdefault(name, []).append(f"job {job} of {user}, {state.lower()}")
            if environment is None:
                unseen.append({"job": job, "user": user, "state": state, "submitted": submitted})
    return {"releases": found, "unseen": unseen}


def main() -> None:
    """Print who uses what."""
    if len(sys.argv) != 3 or sys.argv[1] not in {"processes", "jobs"}:
        sys.exit(__doc__)
    print(json.dumps({"processes": processes, "jobs": jobs}[sys.argv[1]](sys.argv[2])))


if __name__ == "__main__":
    main()
