"""`dask-site dashboards`: where your clusters' dashboards are, and who else may look."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

import click

_FAILED, _INVALID = 1, 2


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


@click.group(
    invoke_without_command=True,
    epilog=_examples(
        "dask-site dashboards",
        "dask-site dashboards share mine bob --for 2h",
        "dask-site dashboards --json",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-login", is_flag=True, help="Print no link that logs a browser in.")
@click.pass_context
def dashboards(context: click.Context, as_json: bool, no_login: bool) -> None:
    """Show your clusters' dashboards, and a link that logs your browser in.

    The link works once and for a minute. Then the addresses of your dashboards work in that
    browser, also those in `cluster.dashboard_link`. Nobody else gets in, unless you share.
    """
    if context.invoked_subcommand is not None:
        return
    found = _asked(op="list")
    link = None if no_login else _asked(op="link")["url"]
    if as_json:
        click.echo(json.dumps({**found, "login": link}, indent=2))
        return
    rows = found["dashboards"]
    if rows:
        click.echo(_table(rows))
    else:
        click.echo("No cluster of yours is running.")
    if link:
        click.echo(f"\nTo log in, open this within a minute; it works once:\n{link}")
    else:
        click.echo(f"\nAll of them: {found['origin']}")


@dashboards.command(epilog=_examples("dask-site dashboards share mine bob --for 2h"))
@click.argument("cluster")
@click.argument("user")
@click.option("--for", "for_", default="2h", show_default=True, help="For how long: 30m, 2h, 7d.")
def share(cluster: str, user: str, for_: str) -> None:
    """Let USER look at the dashboard of CLUSTER, its name or id, for some time."""
    from dask_site.sitefile.problems import Mistake
    from dask_site.sitefile.units import parse_walltime

    try:
        seconds = parse_walltime(for_).total_seconds()
    except (Mistake, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    said = _asked(op="share", cluster=cluster, user=user, seconds=seconds)
    until = time.strftime("%F %H:%M", time.localtime(said["until"]))
    click.echo(f"{user} can look at {cluster} until {until}, with: dask-site dashboards")


@dashboards.command(epilog=_examples("dask-site dashboards unshare mine bob"))
@click.argument("cluster")
@click.argument("user")
def unshare(cluster: str, user: str) -> None:
    """Let USER look at CLUSTER no longer; what he has open ends."""
    _asked(op="unshare", cluster=cluster, user=user)
    click.echo(f"{user} can't look at {cluster} any more")


@dashboards.command(
    epilog=_examples("dask-site dashboards logout", "dask-site dashboards logout --everyone")
)
@click.option("--everyone", is_flag=True, help="Those of all users; for root.")
def logout(everyone: bool) -> None:
    """Log out all browsers of yours; dashboards that are open there end."""
    ended = _asked(op="logout-everyone" if everyone else "logout")["ended"]
    click.echo(f"{ended} browser{'s'[: ended != 1]} logged out")


@dashboards.command(epilog=_examples("dask-site dashboards lock bob"))
@click.argument("user")
def lock(user: str) -> None:
    """Keep USER out, and end what he has open; for root."""
    ended = _asked(op="lock", user=user)["ended"]
    click.echo(f"{user} is kept out; {ended} logged out. dask-site dashboards unlock lets him in")


@dashboards.command(epilog=_examples("dask-site dashboards unlock bob"))
@click.argument("user")
def unlock(user: str) -> None:
    """Let USER in again; for root."""
    _asked(op="unlock", user=user)
    click.echo(f"{user} can log in again")


@dashboards.command(
    epilog=_examples(
        "dask-site dashboards serve",
        "dask-site dashboards serve /opt/dask-site/current/etc/dask/site.yaml",
    )
)
@click.argument("file", required=False)
@click.option("--verbose", is_flag=True, help="Say more of what is done.")
def serve(file: str | None, verbose: bool) -> None:
    """Run the broker of this login node, as the site file FILE says, until SIGTERM."""
    from dask_site.dashboards.serve import ServeError
    from dask_site.dashboards.serve import serve as run
    from dask_site.site import Site, SiteError

    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("dask_site").setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        site = Site.load(file) if file else Site.find()
        asyncio.run(run(site))
    except SiteError as error:
        click.echo(str(error), err=True)
        sys.exit(_INVALID)
    except (ServeError, OSError, ValueError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_FAILED)


def _asked(**question: Any) -> dict[str, Any]:
    from dask_site.dashboards.asking import DashboardError, ask

    try:
        return ask(**question)
    except DashboardError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_FAILED)


def _table(rows: list[dict[str, Any]]) -> str:
    heads = ("cluster", "id", "on", "since", "shared", "dashboard")
    lines = [
        (
            _clean(row["name"]),
            row["id"],
            _clean(row["node"]),
            time.strftime("%F %H:%M", time.localtime(row["begun"])),
            _shared(row),
            row["url"] + (" (does not answer)" if row["silent"] else ""),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *lines)
    )


def _shared(row: dict[str, Any]) -> str:
    if row["until"] is not None:
        return f"by {row['owner']}"
    return ", ".join(f"with {name}" for name in row["shares"]) or "-"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
