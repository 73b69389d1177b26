"""What the commands of the history share: the source, options, errors, and how values are shown."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dask_site.history.titles import title
from dask_site.people import name_of

if TYPE_CHECKING:
    from dask_site.history.model import ClusterHistory
    from dask_site.history.source import Source

FAILED = 1
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_F = TypeVar("_F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """Return the end of a help text, marked so that click does not fill its lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def command(*lines: str, name: str | None = None) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a command with examples of a function."""
    return click.command(name=name, context_settings=CONTEXT, epilog=examples(*lines))


def _checked_id(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    from dask_site.history.source import LAST, SHORTEST

    if value is not None and value != LAST and len(value) < SHORTEST:
        raise click.BadParameter(
            f"{value!r} is too short: write at least {SHORTEST} characters of the id, or - "
            "for your last cluster",
            ctx,
            parameter,
        )
    return value


def cluster_argument(
    name: str = "cluster", default: str | None = "-", required: bool = False
) -> Callable[[_F], _F]:
    """Return a decorator that adds a cluster as an argument, by default the last one."""
    # With a default, be it None, click would not miss a required one.
    more: dict[str, Any] = {} if default is None else {"default": default}
    return click.argument(name, required=required, callback=_checked_id, **more)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
spool = click.option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder with records, to be read instead of asking the site.",
)


def whose(function: _F) -> _F:
    """Add the options that name others' clusters; `owner` makes user and account of them."""
    for option in (
        click.option("--everyone", is_flag=True, help="Of all whose clusters you may see."),
        click.option("--account", metavar="NAME", help="Of an account, if you may see it."),
        click.option("--user", metavar="NAME", help="Of another user, if you may see it."),
    ):
        function = option(function)
    return function


def owner(user: str | None, account: str | None, everyone: bool) -> tuple[str | None, str | None]:
    """Return the user and the account that are asked about; by default the caller."""
    if everyone and (user or account):
        raise click.UsageError("--everyone goes with neither --user nor --account.")
    if user or account or everyone:
        return user, account

    return name_of(), None


@contextmanager
def asking(spool: Path | None) -> Iterator[Source]:
    """Give the source; what it can't answer ends the command with a sentence and status 1."""
    from dask_site.history.source import SourceError, find

    try:
        yield find(say, spool)
    except SourceError as error:
        from dask_site.history.tables import clean

        say(clean(str(error)))
        sys.exit(FAILED)
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        sys.exit(FAILED)


def say(text: str) -> None:
    """Print a sentence on standard error."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value, indent=2))


def width() -> int | None:
    """Return the columns of the terminal; None where there is none and nothing need be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def moment(seconds: float | None) -> str | None:
    """Return a moment as people read it, in their own time."""
    return None if seconds is None else time.strftime("%F %H:%M", time.localtime(seconds))


def hours(seconds: float) -> str:
    """Return seconds as hours."""
    return f"{seconds / 3600:.3f}"


def percent(share: float | None) -> str:
    """Return a share; ``-`` if there is none."""
    return "-" if share is None else f"{share:.0%}"


def head(history: ClusterHistory) -> str:
    """Return in a line which cluster it is, whether it ended and how, and how long it was there."""
    from dask_site.history.personal import state
    from dask_site.history.tables import clean, duration

    record, end = history.cluster, history.end
    how = {
        "running": "running",
        "silent": "not heard of any more, without an end",
    }.get(state(history), f"ended ({end.how})" if end else "ended")
    lasted = duration(max(0.0, history.seen - record.started))
    what = title(record.name, record.program, record.kind)
    return clean(f"{what} ({record.c[:8]}): {how} after {lasted}")
