"""Preload for any kind of cluster: keys and scratch of its owner's own, sound TLS, no open port."""

from pathlib import Path
from typing import Any

from dask_site import own_keys
from dask_site.cluster.folder import refuse_foreign_scratch
from dask_site.cluster.tls import use_clean_sockets
from dask_site.dashboards import asking, serving

own_keys.check()  # before anything listens; who makes the process hears of it
use_clean_sockets()
serving.refuse_jupyter()
_places = asking.places()
if _places is not None:
    serving.install(_places)


def dask_setup(node: Any) -> None:
    """Refuse scratch that is another's: what is spilled there is run when it is read."""
    used = getattr(node, "local_directory", None)
    if used:
        refuse_foreign_scratch(Path(used))
