"""Preload for the processes of any kind of cluster: keys that are their owner's, and sound TLS."""

from dask_site import own_keys
from dask_site.cluster.tls import use_clean_sockets

own_keys.check()  # before anything listens; who makes the process hears of it
use_clean_sockets()
