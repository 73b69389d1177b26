"""Worker preload: no web server of the worker's, which would have no login."""

from dask_site.dashboards.serving import close_workers

close_workers()
