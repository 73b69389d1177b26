"""The `dask-site` command; also `dask site`."""

import click


@click.group()
def main() -> None:
    """Dask for HPC centres."""
