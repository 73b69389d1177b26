"""What a worker job runs: `python -m dask_site.cluster.worker`, with the options of `dask worker`.

Dask's own command, started so that the time from the job's start to the joined worker is short.
A nanny imports distributed, then spawns its worker, which imports it again. Here a fork server
does the second import while the nanny does the first; the worker is a fork of it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from multiprocessing import forkserver

_ENVIRONMENT = {
    # Read by the C library when a process starts; distributed sets it in the nanny, whose
    # environment the fork server does not see.
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
    # Nothing listens without authentication.
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "['distributed.http.health']",
}


def main() -> None:
    """Start the fork server, then Dask's worker command in a private scratch folder."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    forkserver.set_forkserver_preload(["dask_site.cluster.forkserver"])
    forkserver.ensure_running()
    scratch = _private_scratch()
    try:
        from dask_site.cluster.forkserver import skip_upstream_preload
        from distributed.cli.dask_worker import main as dask_worker

        skip_upstream_preload()
        dask_worker(prog_name="dask_site.cluster.worker")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _private_scratch() -> str:
    """Make a folder for spilled data that nobody else can read or have made before us."""
    base = None
    if "--local-directory" in sys.argv[:-1]:
        at = sys.argv.index("--local-directory")
        base = os.path.expanduser(os.path.expandvars(sys.argv[at + 1]))
        del sys.argv[at : at + 2]
        os.makedirs(base, mode=0o700, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="dask-site-", dir=base)
    sys.argv += ["--local-directory", scratch]
    return scratch


if __name__ == "__main__":
    main()
