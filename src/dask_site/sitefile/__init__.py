"""How a site file is read and judged; the public names are in `dask_site.site`."""
