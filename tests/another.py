"""Programs as another user, for tests that run as root."""

import atexit
import pwd
import shutil
import tempfile
from functools import cache
from pathlib import Path

import dask_site


def as_another(user):
    """Return what to put before a command for it to run as that user, a name or a number.

    It may read everything: the interpreter may be where only root can. The package is a copy, as
    libraries ask `access`, which knows no such right.
    """
    uid, gid = (user, user) if isinstance(user, int) else pwd.getpwnam(user)[2:4]
    may = [
        f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")
    ]
    who = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *may]
    return [*who, "env", f"PYTHONPATH={package_for_all()}"]


@cache
def package_for_all():
    folder = Path(tempfile.mkdtemp(prefix="dask-site-package-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(Path(dask_site.__file__).parent, folder / "dask_site")
    folder.chmod(0o755)
    return folder
