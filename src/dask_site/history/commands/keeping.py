"""Commands that take the history elsewhere or away: `export`, `forget`, `open`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from dask_site.history.commands.common import (
    as_json,
    asking,
    cluster_argument,
    command,
    print_json,
    say,
    spool,
)
from dask_site.people import name_of

_WHAT = (
    *("spans", "workers", "jobs", "scripts", "samples", "ledger", "errors", "cost", "advice"),
    "clusters",
)


@command(
    "dask-site history export spans.csv",
    "dask-site history export --cluster 3f2a --what samples --format parquet samples.parquet",
    "dask-site history export --what clusters --format json - | jq length",
)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--what", type=click.Choice(_WHAT), default="spans", show_default=True, help="Which table."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "parquet"]),
    help="By default that of the file's name, else csv.",
)
@click.option("--cluster", default="-", show_default=True, help="Which cluster; - is the last.")
@spool
def export(path: Path, what: str, form: str | None, cluster: str, spool: Path | None) -> None:
    """Write a table of a cluster, or the list of all your clusters, into the file PATH.

    A file of that name is replaced. - is standard output.
    """
    from dask_site.history import files, sheets

    wanted = form or path.suffix[1:].lower()
    if wanted not in files.FORMATS:
        wanted = "csv"
    with asking(spool) as source:
        if what == "clusters":
            sheet = sheets.clusters(source.every(name_of()))
        else:
            sheet = sheets.sheet(source.cluster(cluster), what)
        content = files.encoded(sheet, wanted)
        if str(path) == "-":
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
            return
        files.write(path, content)
        say(f"{path}: {len(sheet.rows)} rows of {what}, {wanted}")


@command("dask-site history forget 3f2a", "dask-site history forget --all --yes")
@cluster_argument(default=None)
@click.option("--all", "everything", is_flag=True, help="All of your clusters that have ended.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json
@spool
def forget(
    cluster: str | None, everything: bool, yes: bool, as_json: bool, spool: Path | None
) -> None:
    """Delete what is recorded of a cluster; it can't be brought back.

    One that runs is not deleted: it would be recorded on, under a name that is not taken in again.
    The resource manager keeps its own accounting of the jobs.
    """
    if everything == (cluster is not None):
        raise click.UsageError("Name one cluster, or write --all.")
    with asking(spool) as source:
        name = None
        if cluster is not None:
            found = source.cluster(cluster)
            name = found.id
            what = f"cluster {name[:8]} ({found.history.cluster.name or 'without a name'})"
        else:
            what = "ALL of your clusters"
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError(f"This would delete {what}: confirm with --yes.")
            click.confirm(f"Delete all that is recorded of {what}?", abort=True, err=True)
        gone = source.forget(name)
        if as_json:
            print_json({"forgotten": gone})
        else:
            say(f"{gone} cluster{'s'[: gone != 1]} forgotten.")


@command("dask-site history open", "dask-site history open 3f2a --no-browser", name="open")
@cluster_argument(default=None)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def open_(cluster: str | None, no_browser: bool) -> None:
    """Print the address of your history, or of a cluster's page, and show it in a browser.

    The address works once, for a minute: don't pass it on.
    """
    with asking(None) as source:
        path = "/" if cluster is None else f"/clusters/{source.cluster(cluster).id}"
        address = source.open(path)
    click.echo(address)
    if not no_browser and _has_browser():
        import webbrowser

        webbrowser.open(address)


def _has_browser() -> bool:
    """Say whether there is a screen; what runs in a terminal would take it over."""
    if not sys.stdout.isatty():
        return False
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


COMMANDS = {"export": export, "forget": forget, "open": open_}
