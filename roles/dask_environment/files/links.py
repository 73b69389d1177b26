"""Make a release what users load: each link replaced in one step, `current` last.

links.py ROOT MODULES RELEASE [--check]: ROOT is dask_site_root, MODULES the folder of the module
files of dask-site. The links are relative, so that the tree may be seen under another path. Prints
what it changed.
"""

import os
import stat
import sys
from pathlib import Path

MODE = 0o755


def leads_to(link: Path) -> str:
    """Return where a link leads; empty when there is none.

    Raises
    ------
    OSError
        If something else stands there, which is never replaced.
    """
    if not os.path.lexists(link):
        return ""
    if not link.is_symlink():
        raise OSError(f"{link} is no link: move it away")
    return str(link.readlink())


def lead(link: Path, to: str) -> None:
    """Make a link, in the place of one that is there."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(to)
    fresh.replace(link)


def main(root: Path, modules: Path, release: str, check: bool) -> None:
    """Make them."""
    file = f"{release}.lua"
    described = root / "releases" / release / "modulefiles" / "dask-site" / file
    current = leads_to(root / "current")
    wanted = {modules / file: os.path.relpath(described, modules)}
    if current not in {"", f"releases/{release}"}:
        wanted[root / "previous"] = current
    wanted |= {modules / "default": file, root / "current": f"releases/{release}"}
    changes = {link: to for link, to in wanted.items() if leads_to(link) != to}
    os.umask(0o022)  # a stricter one would shut out users
    if not check:
        modules.mkdir(parents=True, exist_ok=True)
    if modules.exists() and stat.S_IMODE(modules.stat().st_mode) != MODE:
        if not check:
            modules.chmod(MODE)
        print(f"{modules}: mode {MODE:04o}")
    for link, to in changes.items():
        if not check:
            lead(link, to)
        print(f"{link} -> {to}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "--check" in sys.argv[4:])
    except OSError as problem:
        sys.exit(str(problem))
