"""Download the wheels of a lock for another machine's Python, once; nothing is built or resolved.

``pip download --python-version`` reads environment markers as the Python that runs it, so the lock
is reduced to the lines of the target first.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker

PIN = re.compile(r"^(?P<pin>[A-Za-z0-9][\w.-]*==[^ ;\\]+)(?: *; *(?P<marker>[^\\]+?))? *\\?$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def entries(lock: str) -> list[tuple[str, str | None, list[str]]]:
    """Return (pin, marker, hashes) of every package of a lock."""
    found: list[tuple[str, str | None, list[str]]] = []
    for line in lock.splitlines():
        if match := PIN.match(line):
            found.append((match["pin"], match["marker"], []))
        elif found:
            found[-1][2].extend(HASH.findall(line))
    return found


def for_target(lock: str, python: str, machine: str) -> str:
    """Reduce a universal lock to what CPython ``python`` on Linux ``machine`` needs."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    return "".join(
        f"{pin} {' '.join(f'--hash=sha256:{digest}' for digest in hashes)}\n"
        for pin, marker, hashes in entries(lock)
        if marker is None or Marker(marker).evaluate(environment)
    )


def platforms(machine: str, glibc: int) -> list[str]:
    """Return the platform tags of glibc 2.``glibc``, newest first."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)]
    aliases = [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1")]
    return [*tags, *aliases, f"linux_{machine}"]


def prune(folder: Path, lock: str) -> int:
    """Remove wheels that no line of the lock admits; return how many."""
    admitted = set(HASH.findall(lock))
    removed = 0
    for wheel in folder.glob("*.whl"):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in admitted:
            wheel.unlink()
            removed += 1
    return removed


def download(folder: Path, requirements: str, python: str, tags: list[str]) -> None:
    """Fetch the wheels into ``folder``; pip checks every hash, also of wheels that are there."""
    abi = f"cp{python.replace('.', '')}"
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text(requirements)
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        command += [f"--abi={name}" for name in (abi, "abi3", "none")]
        command += [f"--platform={tag}" for tag in tags]
        command += [f"--find-links={folder}", f"--dest={folder}", f"--requirement={listed}"]
        # a constraint of this machine says nothing about the target
        subprocess.run(command, check=True, env={**os.environ, "PIP_CONSTRAINT": os.devnull})


def main() -> int:
    """Fill a wheelhouse, or say that it is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=Path, default=Path(__file__).with_name("requirements.txt"))
    parser.add_argument("--python", required=True, help="the target's Python, such as 3.11")
    parser.add_argument("--glibc", type=int, default=28, help="the target's glibc: 36 for 2.36")
    parser.add_argument("--machine", default="x86_64")
    arguments = parser.parse_args()

    folder: Path = arguments.folder
    lock = arguments.lock.read_text()
    requirements = for_target(lock, arguments.python, arguments.machine)
    wanted = hashlib.sha256(requirements.encode()).hexdigest()
    stamp = folder / f".complete-cp{arguments.python}-{arguments.machine}"
    what = f"{requirements.count('==')} wheels for Python {arguments.python} in {folder}"
    if stamp.exists() and stamp.read_text() == wanted:
        print(f"==> wheelhouse: {what}, complete")
        return 0
    print(f"==> wheelhouse: downloading {what} (once)", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    try:
        tags = platforms(arguments.machine, arguments.glibc)
        download(folder, requirements, arguments.python, tags)
    except subprocess.CalledProcessError as error:
        print(f"wheelhouse: pip download failed with code {error.returncode}", file=sys.stderr)
        return 1
    stale = prune(folder, lock)
    stamp.write_text(wanted)
    print(f"==> wheelhouse: complete{f', {stale} outdated removed' if stale else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
