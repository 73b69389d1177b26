"""The real Spack, as tests use it."""

import json
import subprocess
from pathlib import Path

from programs import load

SPACK = Path(__file__).parents[2] / "spack"
NAMES = ("DASK_SITE_SPACK", "DASK_SITE_SPACK_PACKAGES")

lock = load(SPACK / "lock.py")


class Spack:
    """A Spack with settings, a store and a keyring of its own, below a folder."""

    def __init__(self, folder, cache, spack, packages):
        self.program = spack / "bin" / "spack"
        self.store = folder / "store"
        self.variables = {
            **lock.settings(folder, packages),
            "SPACK_USER_CACHE_PATH": str(cache),
            "SPACK_GNUPGHOME": str(folder / "gpg"),
            "TMPDIR": str(folder),
        }
        (folder / "gpg").mkdir(mode=0o700)
        self.configure("config", {"install_tree": {"root": str(self.store)}})
        self.configure("bootstrap", {"root": str(folder / "boot"), "sources:": [], "trusted:": {}})
        self.builtin = packages / "repos" / "spack_repo" / "builtin"
        self.use(*sorted((SPACK / "spack_repo").iterdir()))

    def configure(self, section, value):
        path = Path(self.variables["SPACK_SYSTEM_CONFIG_PATH"]) / f"{section}.yaml"
        path.write_text(json.dumps({section: value}))

    def use(self, *repositories):
        """Take recipes from these, then from Spack's own."""
        places = {path.name: str(path) for path in (*repositories, self.builtin)}
        self.configure("repos", places)

    def __call__(self, *arguments, fails=False):
        """Run a command; return all that it says."""
        done = subprocess.run(
            [self.program, *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert bool(done.returncode) == fails, done.stdout[-4000:]
        return done.stdout
