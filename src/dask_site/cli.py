"""The `dask-site` command; also `dask site`."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dask_site import __version__
from dask_site.dashboards.command import dashboards
from dask_site.doctor.command import doctor
from dask_site.history.command import history
from dask_site.site import Pool, Site, SiteError, format_memory, format_walltime
from dask_site.sitefile import reader

if TYPE_CHECKING:
    from dask_site.cluster.reach import Answer

_FAILED = 1
_INVALID = 2
_WATCHED_EVERY = 2.0
_HEADS = (
    "pool",
    "queue",
    "cores",
    "memory",
    "GPUs",
    "processes",
    "walltime",
    "max jobs",
    "exclusive",
)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _examples(*lines: str) -> str:
    """Return the end of a help text, marked so that click does not fill its lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


# Also `dask site`: there the command goes by the name of the group.
@click.group(
    name="site",
    context_settings=_CONTEXT,
    epilog=_examples(
        "dask-site check inventories/mycentre/group_vars/all/site.yml",
        "dask-site pools",
        "dask-site explain --watch",
        "dask-site dashboards",
        "dask-site history ls",
        "dask-site doctor security",
    ),
)
@click.version_option(__version__, prog_name="dask-site")
def main() -> None:
    """Dask for HPC centres: what a site offers, what your clusters wait for, and what they did."""


main.add_command(dashboards)
main.add_command(doctor)
main.add_command(history)


@main.command(
    epilog=_examples(
        "dask-site check site.yml", "dask-site check --json inventories/*/group_vars/all/site.yml"
    )
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as a JSON list.")
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Check site files; - reads YAML or JSON from standard input.

    Prints every mistake with its place and its mend, and exits with 2 if there is any.
    """
    errors: list[SiteError] = []
    for file in files:
        try:
            site = _load(file)
        except SiteError as error:
            errors.append(error)
            if not as_json:
                _print_error(error)
            continue
        if not as_json:
            click.echo(f"{_source(file)}: ok: {_summary(site)}")
    if as_json:
        _print_json([{"file": e.source, **p.to_mapping()} for e in errors for p in e.problems])
    if errors:
        sys.exit(_INVALID)


@main.command(epilog=_examples("dask-site schema > site.schema.json"))
def schema() -> None:
    """Print the JSON Schema of a site file, for editors that complete and check YAML."""
    _print_json(Site.json_schema())


@main.command(
    epilog=_examples(
        "dask-site render site site.yml > etc/dask/site.yaml",
        "dask-site render jobqueue site.yml > etc/dask/jobqueue.yaml",
    )
)
@click.argument("what", type=click.Choice(["site", "jobqueue"]))
@click.argument("file")
def render(what: str, file: str) -> None:
    """Print a file of Dask's configuration folder, made from the site file FILE (- for stdin)."""
    from dask_site.render import render_jobqueue_yaml, render_site_yaml

    renderers: dict[str, Callable[[Site], str]] = {
        "site": render_site_yaml,
        "jobqueue": render_jobqueue_yaml,
    }
    with _site_errors():
        click.echo(renderers[what](_load(file)), nl=False)


@main.command(epilog=_examples("dask-site pools", "dask-site pools --json site.yml"))
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the pools as JSON.")
def pools(file: str | None, as_json: bool) -> None:
    """Show the pools of this site, or of the site file FILE (- for stdin)."""
    with _site_errors():
        site = _load(file) if file else Site.find()
    if as_json:
        _print_json(site.to_mapping()["pools"])
    else:
        click.echo(_table(site))


@main.command(
    epilog=_examples(
        "dask-site explain", "dask-site explain mine --watch", "dask-site explain --json"
    )
)
@click.argument("cluster", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the clusters as a JSON list.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
def explain(cluster: str | None, as_json: bool, watch: bool) -> None:
    """Explain what your running clusters do, what waits there and why.

    All of them, or the one whose name is CLUSTER. Exits with 1 if there is none, or one does not
    answer.
    """
    with _site_errors():
        state_dir = Site.find().state_path()
    from dask_site.cluster import reach
    from dask_site.cluster.errors import ClusterError

    try:
        answers = reach.explain(reach.cards(state_dir, cluster))
        _print_answers(answers, as_json, watch)
        while watch and any(answer.explanation for answer in answers):
            time.sleep(_WATCHED_EVERY)
            answers = reach.explain(reach.cards(state_dir, cluster))
            if not as_json:
                click.clear()
            _print_answers(answers, as_json, watch)
    except KeyboardInterrupt:
        return
    except ClusterError as error:
        sys.exit(_say(str(error)))
    running = [answer for answer in answers if not answer.gone]
    if not running:
        sys.exit(_say(f"No cluster of yours is running (looked in {state_dir})."))
    if not all(answer.explanation for answer in running):
        sys.exit(_FAILED)


@main.command(epilog=_examples("dask-site keys", "dask-site keys --renew"))
@click.option("--renew", is_flag=True, help="Make another; end your running clusters first.")
@click.option("--quiet", is_flag=True, help="Print nothing unless something is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys(renew: bool, quiet: bool, as_json: bool) -> None:
    """Make the key with which the Dask clusters that you start turn strangers away.

    Once; the module of dask-site does it, and names the key to Dask. `Cluster` makes one for each
    cluster by itself.
    """
    from dask_site import own_keys
    from dask_site.cluster.errors import ClusterError

    with _site_errors():
        state_dir = Site.find().state_path()
    try:
        made = own_keys.make(state_dir, renew=renew)
    except ClusterError as error:
        sys.exit(_say(str(error)))
    if as_json:
        _print_json({"folder": str(state_dir / "keys"), "made": made})
    elif not quiet:
        click.echo(f"{state_dir / 'keys'}: {'made' if made else 'there already'}")


def _say(trouble: str) -> int:
    click.echo(trouble, err=True)
    return _FAILED


def _print_answers(answers: list["Answer"], as_json: bool, one_line: bool) -> None:
    for answer in answers:
        if answer.trouble:
            click.echo(answer.trouble, err=True)
    if as_json:
        told = [answer.to_dict() for answer in answers if not answer.gone]
        click.echo(json.dumps(told, indent=None if one_line else 2))
        return
    texts = [f"{answer.card}\n\n{answer.explanation}" for answer in answers if answer.explanation]
    if texts:
        click.echo("\n\n\n".join(texts))


def _load(file: str) -> Site:
    if file != "-":
        return Site.load(file)
    content = sys.stdin.buffer.read()
    return Site.from_text(reader.decode(content, _source(file)), _source(file))


def _source(file: str) -> str:
    return "<stdin>" if file == "-" else click.format_filename(file)


@contextmanager
def _site_errors() -> Iterator[None]:
    try:
        yield
    except SiteError as error:
        _print_error(error)
        sys.exit(_INVALID)


def _print_error(error: SiteError) -> None:
    mark = ": error: "
    for line in str(error).splitlines():
        place, found, rest = line.partition(mark)
        bright = click.style(mark, fg="red", bold=True)
        click.echo(place + (bright if found else "") + rest, err=True)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _summary(site: Site) -> str:
    count = len(site.pools)
    names = ", ".join(site.pools)
    return f"{site.name}, {site.resource_manager}, {count} pool{'s'[: count != 1]} ({names})"


def _table(site: Site) -> str:
    rows = [list(_HEADS), *map(_row, site.pools.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join(lines)


def _row(pool: Pool) -> list[str]:
    return [
        pool.name,
        pool.queue or "-",
        str(pool.cores),
        format_memory(pool.memory),
        str(pool.gpus or "-"),
        str(pool.processes),
        format_walltime(pool.walltime) if pool.walltime else "-",
        str(pool.max_jobs or "-"),
        "yes" if pool.exclusive else "-",
    ]


if __name__ == "__main__":
    main(prog_name="dask-site")
