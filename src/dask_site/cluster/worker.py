"""What a worker job runs: `python -m dask_site.cluster.worker`, with the options of `dask worker`.

Dask's own command, started so that little time passes between the job's start and its workers.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

# What distributed's nanny gives its workers ("distributed.nanny.pre-spawn-environ"). Set here as
# well, since NumPy's libraries read it when they are loaded, and our workers are forks of a
# process that has loaded them.
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Not for the user's environment to change: nothing listens without authentication.
_FIXED = {
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "['distributed.http.health']",
}


def main() -> None:
    """Start the fork server, then Dask's worker command in a private scratch folder."""
    import dask.config

    configured = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    for name, value in {**_THREADS, **configured}.items():
        os.environ.setdefault(name, str(value))
    os.environ.update(_FIXED)
    dask.config.refresh()

    from distributed.cli.dask_worker import main as dask_worker

    from dask_site.cluster import forkserver, tls

    tls.use_clean_sockets()
    forkserver.start()
    scratch = _private_scratch()
    try:
        dask_worker(prog_name="dask_site.cluster.worker")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _private_scratch() -> str:
    """Make a folder for spilled data that nobody else can read or have made before us."""
    base = None
    if "--local-directory" in sys.argv[:-1]:
        at = sys.argv.index("--local-directory")
        base = Path(os.path.expandvars(sys.argv[at + 1])).expanduser()
        del sys.argv[at : at + 2]
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="dask-site-", dir=base)
    sys.argv += ["--local-directory", scratch]
    return scratch


if __name__ == "__main__":
    main()
