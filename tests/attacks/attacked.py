"""The cluster that is attacked: what its tests have is here by another name than ``conftest``."""

import importlib.util
from pathlib import Path

_FOUND = Path(__file__).parents[1] / "cluster" / "conftest.py"
_spec = importlib.util.spec_from_file_location("cluster_conftest", _FOUND)
shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)
node, encoded, until, variables = shared.node, shared.encoded, shared.until, shared.variables

LOCAL = """
from distributed import LocalCluster, Client
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    tell(link=cluster.dashboard_link, address=cluster.scheduler_address, node=where())
    time.sleep(3600)
"""
IN_A_JOB = "#!/bin/bash -l\nmodule load dask-site\nexec python attacked.py > attacked.out 2>&1\n"


def link_to_id(link):
    return link.removeprefix("https://").split(".")[0]
