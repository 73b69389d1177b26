"""The commands of `dask-site history`; each module is imported when one of its own is called."""
