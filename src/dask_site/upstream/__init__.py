"""All of Dask, distributed and the standard library that is used here and is not public.

Nothing else in `dask_site` touches a private name that is not its own: a test looks. What each must
be like stands in ``tests/contract``, where it fails by name, with the version, once a release
changes it. Each module imports only what it is about, as some of them are imported for commands
that must start quickly.
"""
