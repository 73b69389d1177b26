"""Run a command of Spack, keep all that it says in a log, and tell a failure in a few lines.

Usage: spack_build.py LOG COMMAND ...

A failure names the package, the end of its build log and what to try. Exits with Spack's code.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LINES = 20
ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "the file system is full: free some of it, or build elsewhere (TMPDIR, "
        "dask_environment_spack_store)",
    ),
    (
        r"Killed signal terminated|internal compiler error: Killed|Cannot allocate memory",
        "the node ran out of memory: build with fewer processes (dask_environment_spack_jobs)",
    ),
    (
        r"All fetchers failed|FetchError|URLError|urlopen error",
        "a source could not be had: add a mirror that has it (dask_environment_spack_mirrors); "
        "`spack mirror create` fills one where there is a network",
    ),
    (
        r"(?i)checksum.*(?:failed|mismatch)|sha256 checksum",
        "a source is not the one that the recipe names: look at what the mirror has, and don't "
        "switch checksums off",
    ),
    (
        r"Can't check signature: No public key",
        "the build cache is signed by a key that is not trusted: give the public key in "
        "dask_environment_spack_cache_keys",
    ),
    (
        r"No binary found when cache-only was specified",
        "the build cache has nothing for this lock: build once with "
        "dask_environment_spack_cache_only: false, and dask_environment_spack_cache_sign, on a "
        "node of the target",
    ),
    (
        r"Illegal instruction",
        "this node does not run code for the target of the lock: build on a node of that kind",
    ),
)


def run(log: Path, command: list[str]) -> tuple[int, str]:
    """Run a command; write what it says to the log as it comes, and return its code and that."""
    said = []
    os.umask(0o022)  # a stricter one would shut out users
    with log.open("w", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        # who stops the rollout stops Spack, which then gives back its locks
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            said.append(line)
    return process.wait(), "".join(said)


def summary(said: str, log: Path, read: Callable[[str], str]) -> str:
    """Return what went wrong, in a few lines.

    ``said`` is Spack's output, ``read`` returns the text of a file, and nothing where none is.
    """
    names = failed_packages(said)
    parts = [f"Spack could not install {', '.join(names) or 'the environment'}."]
    shown = said
    if logs := re.findall(r"See build log for details:\s+(\S+)", said):
        end = read(logs[0]).rstrip().splitlines()[-LINES:]
        parts += [f"The end of {logs[0]}:", *(f"    {line}" for line in end)]
        shown += "\n".join(end)
    else:
        lines = said.rstrip().splitlines()
        errors = [line for line in lines if line.startswith("==> Error")]
        parts += [f"    {line}" for line in errors[:5] or lines[-LINES:]]
    fitting = (advice for pattern, advice in ADVICE if re.search(pattern, shown))
    parts.append(f"Try: {next(fitting, 'read the log to where it first went wrong')}")
    parts.append(f"What was built so far is kept, users' release is as it was. All of it: {log}")
    return "\n".join(parts)


def failed_packages(said: str) -> list[str]:
    """Return the packages that Spack says it could not install, in its order."""
    named = re.findall(r"Failed to install (\S+) due to", said)
    # what could not be fetched, or failed in its build, is named by its folder alone
    named += re.findall(r"fetchers failed for spack-stage-(\S+)-[\w.]+-[a-z0-9]{32}\b", said)
    named += re.findall(r"/spack-stage-(\S+)-[\w.]+-[a-z0-9]{32}/\S*build-out", said)
    return list(dict.fromkeys(named))


def read_text(path: str) -> str:
    """Return the text of a file, or nothing."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Run, and tell."""
    log, command = Path(sys.argv[1]), sys.argv[2:]
    log.parent.mkdir(parents=True, exist_ok=True)
    code, said = run(log, command)
    if code:
        print(summary(said, log, read_text), file=sys.stderr)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
