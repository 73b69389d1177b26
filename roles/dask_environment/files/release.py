"""Name the release that belongs to this checkout; print it as JSON. Runs on the control machine.

The wheel of dask-site is built without a network and byte for byte the same from the same files, so
that the same checkout always gives the same name.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]


def build(destination: Path) -> Path:
    """Build the wheel of this checkout into a folder named by its content."""
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination) as scratch:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch]
        fixed = {**os.environ, "SOURCE_DATE_EPOCH": "1580601600"}
        done = subprocess.run(command, cwd=CHECKOUT, env=fixed, capture_output=True, text=True)
        if done.returncode:
            said = done.stdout + done.stderr
            sys.exit(f"the wheel of dask-site could not be built in {CHECKOUT}:\n{said}")
        (fresh,) = Path(scratch).glob("*.whl")
        kept = destination / digest(fresh)[:16] / fresh.name
        kept.parent.mkdir(exist_ok=True)
        return fresh.replace(kept)


def digest(*paths: Path, text: str = "") -> str:
    """Hash the content of files, one after the other, and a text."""
    together = hashlib.sha256()
    for path in paths:
        together.update(path.read_bytes())
    together.update(text.encode())
    return together.hexdigest()


def main() -> None:
    """Print the release."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="a wheel that is there already")
    parser.add_argument(
        "--lock", type=Path, default=HERE / "requirements.txt", help="what is installed"
    )
    parser.add_argument("--site", default="", help="what its module files say of the site")
    arguments = parser.parse_args()
    requirements = arguments.lock.resolve()
    if not requirements.is_file():
        sys.exit(
            f"there is no lock {requirements}: correct dask_environment_spack_environment, or make "
            "the lock with playbooks/spack_lock.yml"
        )
    wheel = arguments.wheel or build(CHECKOUT / "out" / "wheels")
    if not wheel.is_file():
        sys.exit(f"dask_environment_wheel: {wheel} is not a file")
    version = wheel.name.split("-")[1]
    release = {
        "name": f"{version}-{digest(requirements, wheel, text=arguments.site)[:8]}",
        "version": version,
        "wheel": str(wheel.resolve()),
        "wheel_sha256": digest(wheel),
        "requirements": str(requirements),
        "requirements_sha256": digest(requirements),
    }
    print(json.dumps(release))


if __name__ == "__main__":
    main()
