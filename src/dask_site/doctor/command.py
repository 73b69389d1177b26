"""`dask-site doctor`: what could harm you, and what to do about it."""

from __future__ import annotations

import json
import os
import sys

import click

from dask_site.doctor.findings import Finding, Level

_COLOURS = {Level.OPEN: "red", Level.READABLE: "yellow", Level.NOTE: "cyan", Level.FINE: "green"}


@click.group()
def doctor() -> None:
    """Look at what could harm you on a machine that many share."""


@doctor.command(
    epilog="\b\nExamples:\n  dask-site doctor security\n  dask-site doctor security --json\n"
    "  sudo dask-site doctor security --everyone"
)
@click.option("--everyone", is_flag=True, help="Look at all users; as an administrator.")
@click.option("--all", "every", is_flag=True, help="Show also what is fine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def security(everyone: bool, every: bool, as_json: bool) -> None:
    """Say what listens, who can reach it, and which of your files others can change.

    Only looks: it asks each of your Python ports as a stranger would, and changes nothing; what
    listens there may note in its log that somebody without a certificate called. Exits with 1 if
    somebody else can run code as you.

    Of other users it looks at ports and processes, not at their files.
    """
    if everyone and os.geteuid() != 0:
        raise click.UsageError("--everyone needs an administrator: sudo dask-site doctor security")
    from dask_site.doctor.examination import examination

    progress = _progress if sys.stderr.isatty() else None
    found = examination(None if everyone else os.getuid(), progress)
    found.sort(key=lambda one: (-one.level, one.owner, one.where))
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        _print([one for one in found if every or one.level > Level.FINE])
        _print_summary(found, everyone)
    sys.exit(any(one.level is Level.OPEN for one in found))


def _progress(done: int, of: int) -> None:
    text = "\r\033[K" if done == of else f"\r{done} of {of} ports asked"
    click.echo(text, nl=False, err=True)


def _print(found: list[Finding]) -> None:
    from dask_site.history.tables import clean

    for one in found:
        word = click.style(f"{one.level.word:<9}", fg=_COLOURS[one.level], bold=True)
        click.echo(f"{word}{clean(one.what)}")
        click.echo(f"         {clean(one.where)} ({clean(one.owner)})")
        if one.mend:
            click.echo(f"         -> {clean(one.mend)}")


def _print_summary(found: list[Finding], everyone: bool) -> None:
    count = {level: sum(one.level is level for one in found) for level in Level}
    whose = "of all users" if everyone else "of yours"
    if count[Level.OPEN]:
        text = f"{count[Level.OPEN]} {whose} let others run code."
    elif count[Level.READABLE]:
        text = f"Nobody else can run code; {count[Level.READABLE]} {whose} can be read by others."
    else:
        text = "Nothing was found by which others could read or run anything."
    click.echo(text, err=True)
