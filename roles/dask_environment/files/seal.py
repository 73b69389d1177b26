"""Finish a release: byte-compile, open it to readers, write TREE, SHA256SUMS and manifest.json.

Run by the release's own Python on the build node, with the folder and, in JSON, what the manifest
shall say.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

# etc/dask is configuration: it changes without a new release, and the manifest is the last to come
NOT_SUMMED = ("etc", "SHA256SUMS", "TREE", "manifest.json")


def compile_modules(release: Path) -> None:
    """Byte-compile on all cores; users can't write here, so an import needn't compare times."""
    # Spack's view has links to bytecode in its store, which compileall leaves alone; where that is
    # older than its source, whoever may write here would get a file in the place of the link.
    for path in (release / "env" / "lib").rglob("__pycache__/*.pyc"):
        if path.is_symlink():
            path.unlink()
    # a process of its own: compileall's workers import the main module, here standard input;
    # all anew: pip was compiled when the environment was made, with the time in it
    compileall = ["-m", "compileall", "-qqf", "-j0", "--invalidation-mode=unchecked-hash"]
    # code 1: some packages carry templates and tests that are no valid Python
    subprocess.run([sys.executable, *compileall, str(release / "env" / "lib")])
    if not list(release.glob("env/lib/python3*/site-packages/dask_site/__pycache__/*.pyc")):
        sys.exit(f"{release}/env: nothing was byte-compiled")


def open_to_readers(release: Path) -> None:
    """Let everybody read and only the owner write, whatever the umask was."""
    for folder, _, names in os.walk(release):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o777
                wanted = 0o755 if path.is_dir() or mode & 0o100 else 0o644
                if mode != wanted:
                    path.chmod(wanted)


def sums(release: Path) -> str:
    """Return lines for ``sha256sum --check`` over every file of the release."""
    found = (path.relative_to(release) for path in sorted(release.rglob("*")) if is_plain(path))
    names = [name for name in found if name.parts[0] not in NOT_SUMMED]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: hashlib.sha256((release / name).read_bytes()), names)
        pairs = zip(digests, names, strict=True)
        return "".join(f"{digest.hexdigest()}  {name}\n" for digest, name in pairs)


def tree(release: Path) -> str:
    """Return what SHA256SUMS does not say: programs, and links with what they lead to."""
    lines = []
    for path in sorted(release.rglob("*")):
        name = path.relative_to(release)
        if name.parts[0] in NOT_SUMMED:
            continue
        if path.is_symlink():
            lines.append(f"link {name} -> {path.readlink()}")
        elif path.is_file() and path.stat().st_mode & 0o100:
            lines.append(f"program {name}")
    return "".join(f"{line}\n" for line in lines)


def is_plain(path: Path) -> bool:
    """Tell a file from folders and links."""
    return path.is_file() and not path.is_symlink()


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


def main() -> None:
    """Seal a release."""
    release = Path(sys.argv[1])
    said = json.loads(sys.argv[2])
    compile_modules(release)
    open_to_readers(release)
    listed, linked = sums(release), tree(release)
    write(release / "SHA256SUMS", listed)
    write(release / "TREE", linked)
    manifest = {
        **said,
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "built_on": platform.node(),
        "python": platform.python_version(),
        "owner": (release / "env").stat().st_uid,
        "sha256sums": hashlib.sha256(listed.encode()).hexdigest(),
        "tree": hashlib.sha256(linked.encode()).hexdigest(),
        "packages": dict(sorted((d.name, d.version) for d in importlib.metadata.distributions())),
    }
    write(release / "manifest.json", json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
