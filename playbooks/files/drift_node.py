"""Tell what on this node differs from what a rollout made, as JSON; changes nothing.

Reads on standard input, in JSON: ``root`` (dask_site_root), ``modules`` (the folder of the module,
null where another node looks after it), ``deep`` (whether to read every file of the releases),
``units`` (those that have to run here), ``services`` (which of them name their release) and
``paths`` (which files to tell the owner and the time of).
"""

import base64
import contextlib
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

# What the seal of a release does not cover, and what may be in its configuration
BESIDE = {"SHA256SUMS", "TREE", "manifest.json"}
CONFIGURATION = {"etc", "etc/dask", "etc/dask/site.yaml", "etc/dask/jobqueue.yaml"}
Found = tuple[Path, str]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; empty when it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def run(*command: str) -> str:
    """Return what a command prints; empty where there is none."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True).stdout


def name_of(uid: int) -> str:
    """Return the name of a user, or his number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# -- a sealed release ---------------------------------------------------------------------------


def sealed(release: Path) -> Iterator[Found]:
    """Yield what differs in a release from when it was sealed."""
    try:
        manifest = json.loads((release / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        yield release / "manifest.json", f"can't be read: {error}"
        return
    for name, key in (("SHA256SUMS", "sha256sums"), ("TREE", "tree")):
        # Releases from before TREE have none.
        if key in manifest and digest(release / name) != manifest[key]:
            yield release / name, "edited or missing: the manifest has another hash of it"
    there = {str(path.relative_to(release)): path for path in sorted(release.rglob("*"))}
    yield from contents(release, there)
    known = listed(release / "TREE")
    yield from links(there, {line[5:] for line in known if line.startswith("link ")}, release)
    programs = {line[8:] for line in known if line.startswith("program ")}
    owner = manifest.get("owner", (release / "env").lstat().st_uid)
    for name, path in {".": release, **there}.items():
        yield from guarded(path, owner, programs if "tree" in manifest else None, name)


def listed(path: Path) -> list[str]:
    """Return the lines of a list; none when it is gone, which is told elsewhere."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def contents(release: Path, there: dict[str, Path]) -> Iterator[Found]:
    """Yield files that were edited, went, or came."""
    sums = {line[66:]: line[:64] for line in listed(release / "SHA256SUMS")}
    files = [name for name in sums if name in there and stat.S_ISREG(there[name].lstat().st_mode)]
    with ThreadPoolExecutor() as threads:
        digests = dict(zip(files, threads.map(digest, map(there.get, files)), strict=True))
    for name, wanted in sums.items():
        if name not in digests:
            yield release / name, "missing, or no file any more"
        elif digests[name] != wanted:
            yield release / name, "edited: its content has another hash"
    for name, path in there.items():
        plain = stat.S_ISREG(path.lstat().st_mode)
        inside = name.split("/")[0] == "etc"
        if (inside and name not in CONFIGURATION) or (
            plain and not inside and name not in sums and name not in BESIDE
        ):
            yield path, "added: the release was sealed without it"


def links(there: dict[str, Path], known: set[str], release: Path) -> Iterator[Found]:
    """Yield links that lead elsewhere, went, or came."""
    now = {
        f"{name} -> {path.readlink()}"
        for name, path in there.items()
        if path.is_symlink() and not name.startswith("etc/")
    }
    if not known:
        return
    for line in sorted(known - now):
        name = line.split(" -> ")[0]
        yield release / name, f"a link that was sealed as {line.split(' -> ')[1]}"
    for line in sorted(now - known):
        if not any(other.startswith(line.split(" -> ")[0] + " -> ") for other in known):
            yield release / line.split(" -> ")[0], "added: a link that was not sealed"


def guarded(path: Path, owner: int, programs: set[str] | None, name: str) -> Iterator[Found]:
    """Yield what others than its owner may write to, or may not read, or who the owner is."""
    status = path.lstat()
    if status.st_uid != owner:
        yield path, f"owned by {name_of(status.st_uid)} and not by {name_of(owner)}"
    if stat.S_ISLNK(status.st_mode):
        return
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        wanted = {0o755}
    elif programs is None:
        wanted = {0o644, 0o755}
    else:
        wanted = {0o755 if name in programs else 0o644}
    if mode not in wanted:
        yield path, f"mode {mode:04o} and not {max(wanted):04o}"


# -- Spack's store ------------------------------------------------------------------------------


def stores(root: Path) -> set[Path]:
    """Return the folders in which Spack put what complete releases are made of."""
    found = set()
    for manifest in root.glob("releases/*/manifest.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.add(Path(json.loads(manifest.read_text())["spack"]["store"]))
    return found


def stored(store: Path) -> Iterator[Found]:
    """Yield what differs in a store from what Spack wrote down when it installed it.

    As `spack verify manifest` does, which ends at the first package that differs, and takes the
    site's own for one.
    """
    index = store / ".spack-db" / "index.json"
    try:
        installs = json.loads(index.read_text())["database"]["installs"].values()
        places = [Path(one["path"]) for one in installs if one["installed"] and one["path"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield index, f"can't be read: {error}"
        return
    entries: dict[Path, dict[str, Any]] = {}
    for place in places:
        if not place.is_relative_to(store):
            continue  # the site's own
        written = place / ".spack" / "install_manifest.json"
        try:
            entries.update(installed(place, json.loads(written.read_text())))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            yield written, f"can't be read: {error}"
    with ThreadPoolExecutor() as threads:
        told = threads.map(entry, entries.keys(), entries.values())
        for path, what in zip(entries, told, strict=True):
            if what:
                yield path, what


def installed(place: Path, written: dict[str, dict[str, Any]]) -> Iterator[tuple[Path, Any]]:
    """Yield what a manifest says of each path, also where a build cache brought it from elsewhere.

    Then content and links name other folders by now than when it was written.
    """
    built = Path(min(written, key=len))
    for name, wanted in written.items():
        if "mode" not in wanted:
            continue  # it was gone before it was described
        kept = (
            wanted if built == place else {k: wanted[k] for k in ("mode", "owner") if k in wanted}
        )
        yield place / Path(name).relative_to(built), kept


def entry(path: Path, wanted: dict[str, Any]) -> str:
    """Return how a file, folder or link differs from what Spack installed; empty if it doesn't."""
    try:
        status = path.lstat()
        now: dict[str, Any] = {}
        if stat.S_ISLNK(status.st_mode):
            now["dest"] = str(path.readlink())
        elif stat.S_ISREG(status.st_mode) and "hash" in wanted:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, partial(hashlib.sha1, usedforsecurity=False))
            now["hash"] = base64.b32encode(content.digest()).decode()
    except OSError:
        return "missing: Spack installed it"
    mode = wanted["mode"]
    is_now, was = kind(status.st_mode, now), kind(mode, wanted)
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(mode) or now.get("dest") != wanted.get(
        "dest", now.get("dest")
    ):
        return f"{is_now}, and Spack installed {was}"
    if now.get("hash") != wanted.get("hash"):
        return "edited: its content has another hash"
    if status.st_uid != wanted["owner"]:
        return f"owned by {name_of(status.st_uid)}, and was not when Spack installed it"
    if status.st_mode != mode and not stat.S_ISLNK(mode):
        return f"mode {stat.S_IMODE(status.st_mode):04o}, and another when Spack installed it"
    return ""


def kind(mode: int, known: dict[str, Any]) -> str:
    """Return what something is, and where it leads if that is known."""
    if stat.S_ISLNK(mode):
        return f"a link to {known['dest']}" if "dest" in known else "a link"
    return "a folder" if stat.S_ISDIR(mode) else "a file"


# -- links, services ----------------------------------------------------------------------------


def linked(root: Path, link: str) -> str:
    """Return the release that a link leads to; empty when it leads to none."""
    try:
        return str((root / link).readlink()).removeprefix("releases/")
    except OSError:
        return ""


def published(root: Path, modules: Path | None) -> Iterator[Found]:
    """Yield links that don't fit each other."""
    complete = {path.parent.name for path in root.glob("releases/*/manifest.json")}
    current, previous = linked(root, "current"), linked(root, "previous")
    if current not in complete:
        yield root / "current", f"leads to {current or 'nothing'}, which is no complete release"
    if previous == current or previous not in complete | ({""} if len(complete) < 2 else set()):
        said = f"leads to {previous or 'nothing'}"
        yield root / "previous", f"{said}, which is not the release before {current}"
    if modules is None:
        return
    default, file = modules / "default", modules / f"{current}.lua"
    if linked(modules, "default") != f"{current}.lua":
        loads = linked(modules, "default") or "nothing"
        yield default, f"the module loads {loads} and current is {current}"
    wanted = root / "releases" / current / "modulefiles" / "dask-site" / f"{current}.lua"
    if not file.is_symlink() or file.resolve() != wanted.resolve():
        yield file, "does not lead to the module file of the release"


def service(unit: str, names_release: bool, current: str) -> Iterator[Found]:
    """Yield in what a unit is not as a rollout leaves it."""
    shown = run("env", "TZ=UTC", "LC_ALL=C", "systemctl", "show", unit)
    told = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    file = Path("/etc/systemd/system", unit)
    if told.get("LoadState") != "loaded":
        yield file, f"the unit is {told.get('LoadState', 'unknown')}"
        return
    if told.get("UnitFileState") != "enabled":
        yield file, f"the unit is {told.get('UnitFileState')} and not enabled"
    if told.get("ActiveState") != "active":
        yield file, f"{told.get('ActiveState')} ({told.get('SubState')}) and not running"
    if told.get("NeedDaemonReload") == "yes":
        yield file, "changed since systemd read it"
    if told.get("FragmentPath") != str(file):
        yield Path(told.get("FragmentPath", "")), f"another unit in the place of {file}"
    if names_release:
        yield from releases_of(file, told.get("MainPID", "0"), current)
    if unit.endswith(".service"):
        yield from unread(file, told)


def unread(file: Path, told: dict[str, str]) -> Iterator[Found]:
    """Yield what was written after a service last started or reloaded."""
    if told.get("ReloadResult", "success") != "success":
        yield file, f"its last reload ended with {told['ReloadResult']}: it runs with what it had"
    changed = int(told.get("StateChangeTimestampMonotonic") or 0) / 1e6
    if told.get("ActiveState") != "active" or not changed:
        return
    # By both clocks, as the wall's may have been set meanwhile, forth or back.
    read = time.time() - (time.monotonic() - changed)
    with contextlib.suppress(ValueError):
        told_at = datetime.strptime(told["StateChangeTimestamp"], "%a %Y-%m-%d %H:%M:%S UTC")
        read = max(read, told_at.replace(tzinfo=UTC).timestamp())
    # A unit of the rollout says what its service reads when it starts or is told to reload.
    reads = [Path(line[len("# Reads ") :]) for line in listed(file) if line.startswith("# Reads ")]
    for path in (file, *reads):
        try:
            written = path.stat().st_mtime
        except OSError:
            continue
        if written > read + 1:
            yield path, f"written after {file.name} read it: it runs with what stood there before"


def releases_of(file: Path, pid: str, current: str) -> Iterator[Found]:
    """Yield whether a service is of another release than users have."""
    named = re.search(r"# Release ([^, ]+)", "\n".join(listed(file)))
    if named is None or named[1] != current:
        yield file, f"of release {named[1] if named else 'unknown'}, and users have {current}"
    try:
        command = Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return
    if named and f"/releases/{named[1]}/" not in command:
        yield file, f"process {pid} is not what the unit starts"


# -- who and when -------------------------------------------------------------------------------


def about(path: Path) -> dict[str, str]:
    """Return who owns a file, when it changed, and who changed it where the audit log knows."""
    told: dict[str, str] = {}
    where = path
    while not os.path.lexists(where):
        where = where.parent
    status = where.lstat()
    when = datetime.fromtimestamp(status.st_ctime, UTC).isoformat(timespec="seconds")
    if where == path:
        told = {"owner": name_of(status.st_uid), "changed": when}
        told["modified"] = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(
            timespec="seconds"
        )
    else:
        told = {"owner": "", "changed": f"its folder {where} at {when}"}
    audited = run("ausearch", "--format", "text", "--file", str(path)).strip().splitlines()
    if audited:
        told["by"] = audited[-1]
    return told


def package_log(package: str) -> str:
    """Return the last line on a package in the log of the distribution."""
    lines = [line for line in listed(Path("/var/log/dpkg.log")) if f" {package}:" in line]
    return lines[-1] if lines else ""


def notes(unit: str) -> list[str]:
    """Return what an administrator may have set, which is no difference."""
    paths = run("systemctl", "show", "--value", "-p", "DropInPaths", unit).split()
    return [f"{unit} has settings of its own in {path}" for path in paths]


def main() -> None:
    """Print it."""
    asked = json.load(sys.stdin)
    root = Path(asked["root"])
    modules = Path(asked["modules"]) if asked["modules"] else None
    current = linked(root, "current")
    found = list(published(root, modules))
    if asked["deep"]:
        for manifest in sorted(root.glob("releases/*/manifest.json")):
            found += sealed(manifest.parent)
        for store in sorted(stores(root)):
            found += stored(store)
        found += [
            (root / "releases" / name, "not complete: it has no manifest")
            for name in {current, linked(root, "previous")} - {""}
            if not (root / "releases" / name / "manifest.json").exists()
        ]
    for unit in asked["units"]:
        found += service(unit, unit in asked["services"], current)
    said = {
        "current": current,
        "seal": digest(root / "current" / "manifest.json"),
        "found": [{"where": str(path), "what": what, **about(path)} for path, what in found],
        "about": {path: about(Path(path)) for path in asked["paths"]},
        "packages": {name: package_log(name) for name in asked.get("packages", [])},
        "notes": [note for unit in asked["units"] for note in notes(unit)],
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
