"""Write one file with all that a rollout needs, for a centre whose machines reach nothing outside.

Runs where there is a way out. The file holds this checkout, the wheels that its locks name for the
machine that rolls out and for the nodes, and what Spack needs where that is asked for. Whoever
unpacks it runs `install`, which holds every file against its checksum first.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
sys.path.insert(0, str(CHECKOUT / "roles" / "dask_environment" / "files"))

import wheelhouse  # noqa: E402  # beside the lock that it reads

CONTROL = CHECKOUT / "requirements" / "control.txt"
NODES = CHECKOUT / "roles" / "dask_environment" / "files" / "requirements.txt"
# Of what Spack needs on the node that builds: its place, and whether that is a folder.
SPACK = {
    "spack": ("spack.tar.gz", False),
    "spack_packages": ("packages.tar.gz", False),
    "spack_bootstrap": ("bootstrap", True),
    "spack_cache": ("cache", True),
}
SPACK_HELP = {
    "spack": "a tarball by `git archive` of Spack at the commit of spack/pins.yaml",
    "spack_packages": "the same of its packages",
    "spack_bootstrap": "what `spack bootstrap mirror --binary-packages` made",
    "spack_cache": "a build cache",
}


class BundleError(Exception):
    """Why there is no bundle; the text says what to do."""


@dataclass(frozen=True)
class Target:
    """A kind of machine that wheels are for."""

    python: str
    glibc: int
    machine: str = "x86_64"

    @classmethod
    def of(cls, text: str) -> "Target":
        """Read PYTHON:GLIBC, as in 3.11:36.

        Raises
        ------
        argparse.ArgumentTypeError
            If it is something else.
        """
        python, _, glibc = text.partition(":")
        if not (glibc.isdigit() and python.count(".") == 1 and python.replace(".", "").isdigit()):
            told = f"{text!r} is no target: write PYTHON:GLIBC, 3.11:36 for Python 3.11, glibc 2.36"
            raise argparse.ArgumentTypeError(told)
        return cls(python, int(glibc))

    def tags(self) -> frozenset[Tag]:
        """Return what names of wheels say that run there."""
        version = tuple(map(int, self.python.split(".")))
        platforms = wheelhouse.platforms(self.machine, self.glibc)
        abi = f"cp{self.python.replace('.', '')}"
        mine = cpython_tags(version, abis=[abi], platforms=platforms)
        return frozenset([*mine, *compatible_tags(version, abi, platforms)])


def wheels(folder: Path, lock: Path, target: Target) -> list[Path]:
    """Return the wheels of a folder that a lock names and a target can install.

    Raises
    ------
    BundleError
        If one is missing.
    """
    wanted = wheelhouse.for_target(lock.read_text(), target.python, target.machine)
    tags, found = target.tags(), {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version, _, its = parse_wheel_filename(wheel.name)
        if its & tags and _sha256(wheel) in wanted:
            found[f"{name}=={version}"] = wheel
    pins = dict.fromkeys(_canonical(line.split()[0]) for line in wanted.splitlines())
    missing = [pin for pin in pins if pin not in found]
    if missing:
        raise BundleError(
            f"{folder} has no wheel for Python {target.python} of {', '.join(missing)}"
        )
    return list(found.values())


def _canonical(pin: str) -> str:
    name, version = pin.split("==")
    return f"{canonicalize_name(name)}=={Version(version)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def git(*arguments: str) -> str:
    """Ask git of this checkout.

    Raises
    ------
    BundleError
        If it is none.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or error
        raise BundleError(f"{CHECKOUT} is no checkout by git, or git is missing: {told}") from error
    return done.stdout


def tracked() -> list[Path]:
    """Return the files that git knows, as they are now."""
    names = git("ls-files", "-z").split("\0")
    return [CHECKOUT / name for name in names if name and os.path.lexists(CHECKOUT / name)]


def spack_parts(given: argparse.Namespace) -> dict[str, Path]:
    """Return what was given of Spack, by its place in the bundle.

    Raises
    ------
    BundleError
        If something is not there, or is no folder or no file where it has to be one.
    """
    found = {}
    for option, (place, is_folder) in SPACK.items():
        path = getattr(given, option)
        if path is None:
            continue
        if not (path.is_dir() if is_folder else path.is_file()):
            what = "folder" if is_folder else "file"
            raise BundleError(f"--{option.replace('_', '-')}: {path} is no {what}")
        found[place] = path
    for key in given.spack_key:
        if not key.is_file():
            raise BundleError(f"--spack-key: {key} is no file")
    if found and not {"spack.tar.gz", "packages.tar.gz"} <= found.keys():
        raise BundleError("Spack takes both, --spack and --spack-packages, as `git archive` writes")
    return found


class Tar:
    """A tar that is the same for the same files, and the checksums of what is in it."""

    def __init__(self, path: Path, top: str = "") -> None:
        self.path = path
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # until `end`
        self._top = top
        self.sums: dict[str, str] = {}

    def add(self, place: str, path: Path) -> None:
        """Put a file, a link, or all of a folder in a place."""
        if path.is_dir() and not path.is_symlink():
            for one in sorted(path.iterdir()):
                self.add(f"{place}/{one.name}", one)
            return
        entry = self._tar.gettarinfo(path, self._top + place)
        if entry.islnk():  # the same file as one before
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
        self._make_plain(entry)
        if entry.isreg():
            self.sums[place] = _sha256(path)
            with path.open("rb") as content:
                self._tar.addfile(entry, content)
        else:
            self._tar.addfile(entry)

    def text(self, place: str, text: str) -> None:
        """Put a text in a place."""
        content = text.encode()
        entry = tarfile.TarInfo(self._top + place)
        entry.size = len(content)
        self._make_plain(entry)
        self.sums[place] = hashlib.sha256(content).hexdigest()
        self._tar.addfile(entry, io.BytesIO(content))

    def end(self) -> Path:
        """Close it, and return its path."""
        self._tar.close()
        return self.path

    @staticmethod
    def _make_plain(entry: tarfile.TarInfo) -> None:
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 1580601600


def packed(path: Path, parts: dict[str, Path]) -> Path:
    """Write files and folders into a tar, which travels to a node in one go; return its path."""
    tar = Tar(path)
    for place, part in parts.items():
        tar.add(place, part)
    tar.text(".complete", "")
    return tar.end()


def downloaded(cache: Path, lock: Path, target: Target) -> Path:
    """Fill a folder with the wheels of a lock for a target, and return it.

    Raises
    ------
    BundleError
        If they could not be downloaded; pip has said why.
    """
    folder = cache / ("wheelhouse" if lock == NODES else "control")
    command = [sys.executable, wheelhouse.__file__, folder, "--lock", lock]
    command += ["--python", target.python, "--glibc", str(target.glibc)]
    if subprocess.run([*map(str, command), "--machine", target.machine]).returncode:
        raise BundleError(f"the wheels of {lock} could not be downloaded; pip has said why")
    return folder


def unique(found: Iterator[list[Path]]) -> list[Path]:
    """Return each file once, in the order of their names."""
    return sorted({path for paths in found for path in paths}, key=lambda path: path.name)


def make(given: argparse.Namespace) -> Path:
    """Write the bundle, and return its path.

    Raises
    ------
    BundleError
        If something that belongs into it is not there.
    """
    spack, files = spack_parts(given), tracked()
    commit = git("rev-parse", "--short=8", "HEAD").strip()
    if git("status", "--porcelain", "--untracked-files=no").strip():
        commit += "-changed"
    version = importlib.metadata.version("dask-site")
    name = f"dask-site-{version}-{commit}"
    control, nodes = (
        unique(
            wheels(downloaded(given.cache, lock, target), lock, target) for target in given.target
        )
        for lock in (CONTROL, NODES)
    )
    about: dict[str, Any] = {
        "dask_site": version,
        "commit": commit,
        "targets": [vars(target) for target in given.target],
        "spack": sorted(spack),
    }
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        fresh = Path(scratch, "bundle")
        print(f"==> bundle: packing {name}", flush=True)
        tar = Tar(fresh, f"{name}/")
        tar.add("install", HERE / "install")
        for path in files:
            tar.add(f"checkout/{path.relative_to(CHECKOUT)}", path)
        for wheel in control:
            tar.add(f"control/{wheel.name}", wheel)
        wheelhouse_tar = {wheel.name: wheel for wheel in nodes}
        tar.add("wheelhouse.tar", packed(Path(scratch, "wheelhouse"), wheelhouse_tar))
        if spack:
            tar.add("spack.tar", packed(Path(scratch, "spack"), spack))
            about["spack_sha256"] = tar.sums["spack.tar"]
        for key in given.spack_key:
            tar.add(f"spack-keys/{key.name}", key)
        tar.text("bundle.json", json.dumps(about, indent=1) + "\n")
        lines = (f"{digest}  {place}\n" for place, digest in sorted(tar.sums.items()))
        tar.text("SHA256SUMS", "".join(lines))
        tar.end()
        with fresh.open("rb") as content:
            os.fsync(content.fileno())
        return fresh.replace(given.folder / f"{name}.tar")


def main() -> int:
    """Write the bundle and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: make.py dist --target 3.11:36 --target 3.13:41",
    )
    parser.add_argument("folder", type=Path, help="where the bundle goes")
    parser.add_argument(
        "--target",
        type=Target.of,
        action="append",
        required=True,
        metavar="PYTHON:GLIBC",
        help="of the machine that rolls out and of the nodes: 3.11:36; may be given again",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "dask-site"),
        help="where wheels are kept that were downloaded (default: %(default)s)",
    )
    spack = parser.add_argument_group("for the provider spack")
    for option, (_, is_folder) in SPACK.items():
        spack.add_argument(
            f"--{option.replace('_', '-')}",
            type=Path,
            metavar="FOLDER" if is_folder else "FILE",
            help=SPACK_HELP[option],
        )
    spack.add_argument(
        "--spack-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a public key that packages of the build cache may be signed by; may be given again",
    )
    given = parser.parse_args()
    try:
        path = make(given)
    except (BundleError, OSError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    size = path.stat().st_size / 1e6
    print(f"==> bundle: {path}, {size:.0f} MB, sha256 {_sha256(path)}")
    print(f"    there: tar xf {path.name} && {path.stem}/install")
    return 0


if __name__ == "__main__":
    sys.exit(main())
