"""Commands that show clusters: `ls`, `show`, `cost`, `jobs`, `advise`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_site.history.commands.common import (
    as_json,
    asking,
    cluster_argument,
    command,
    head,
    hours,
    moment,
    owner,
    percent,
    print_json,
    say,
    spool,
    whose,
    width,
)
from dask_site.history.titles import title

if TYPE_CHECKING:
    from dask_site.history.books import Ledger
    from dask_site.history.rules import Advice
    from dask_site.history.source import Found
    from dask_site.history.store.listing import ClusterSummary

_DAY = 86400.0
_MOST_ROWS = 30


@command("dask-site history ls", "dask-site history ls --days 7 --json")
@click.option(
    "-n",
    "most",
    default=20,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="At most so many.",
)
@click.option("--days", type=click.FloatRange(0, 3660), help="Only those of so many last days.")
@whose
@as_json
@spool
def ls(most: int, days: float | None, as_json: bool, spool: Path | None, **asked: Any) -> None:
    """List your clusters, the latest first."""
    from dask_site.history import sheets
    from dask_site.history.tables import duration, listing

    since = None if days is None else time.time() - days * _DAY
    user, account = owner(**asked)
    with asking(spool) as source:
        found = source.clusters(user=user, account=account, since=since, most=most)
        if as_json:
            print_json(sheets.clusters(found).plain())
            return
        if not found:
            say("No cluster is recorded" + (f" of the last {days:g} days." if days else " yet."))
            return
        columns: dict[str, Callable[[ClusterSummary], Any]] = {
            "id": lambda c: c.id[:8],
            "started": lambda c: moment(c.started),
            "name": lambda c: title(c.name, c.program, c.kind),
            "state": lambda c: c.how if c.state == "ended" and c.how else c.state,
            "lasted ": lambda c: duration(max(0.0, c.seen - c.started)),
            "tasks ": lambda c: c.tasks,
            "failed ": lambda c: c.errors,
            "core-h ": lambda c: "" if c.allocated is None else hours(c.allocated),
            "cpu ": lambda c: percent((c.cpu or 0.0) / c.allocated if c.allocated else None),
        }
        if any(asked.values()):
            columns = {"user": lambda c: c.owner_name, **columns}
        click.echo(listing(found, columns, width()))


@command("dask-site history show", "dask-site history show 3f2a --json")
@cluster_argument()
@as_json
@spool
def show(cluster: str, as_json: bool, spool: Path | None) -> None:
    """Show where the core-hours of a cluster went, what failed, and what to do better."""
    from dask_site.history.advice import advise as advice_on
    from dask_site.history.ledger import close_books

    with asking(spool) as source:
        found = source.cluster(cluster)
        ledger = close_books(found.history)
        advice = advice_on(found.history, ledger)
        if as_json:
            from dask_site.history import personal, sheets

            (told,) = sheets.clusters([personal.summary(found.history, found.tariff)]).plain()
            del told["owner_name"], told["account"]
            told |= {"owner": found.history.owner, "ledger": ledger.to_dict()}
            print_json({**told, "advice": [vars(each) for each in advice]})
            return
        click.echo("\n\n".join(_told(found, ledger, advice)))


def _told(found: Found, ledger: Ledger, advice: list[Advice]) -> list[str]:
    from dask_site.history import tables

    whole = ledger.whole
    unicode = tables.is_unicode(sys.stdout)
    bar = tables.bar(whole, min(width() or 80, 80), unicode=unicode, colour=sys.stdout.isatty())
    parts = [f"{head(found.history)}; {hours(whole.allocated)} core-hours were allocated"]
    if not whole.allocated:
        parts.append("No worker was there: nothing was allocated.")
    else:
        parts += [bar, tables.ledger_table(whole, unicode=unicode)]
    if whole.again:
        parts.append(
            f"About {hours(whole.again)} of these core-hours were done again, as results left with "
            "their workers."
        )
    parts += [_spans(ledger), _errors(found)]
    if found.history.jobs or found.history.accounting:
        beside = ledger.beside
        parts.append(
            f"{beside.jobs} jobs waited {tables.duration(beside.waited)} in the queue in all, "
            f"{beside.never_started} of them did not start: dask-site history jobs {found.id[:8]}"
        )
    return [part for part in [*parts, *map(_advice, advice)] if part]


def _spans(ledger: Ledger) -> str:
    from dask_site.history.tables import listing

    spans = sorted((s for s in ledger.spans if s.total), key=lambda s: -s.total)
    text = listing(
        spans[:_MOST_ROWS],
        {
            "span": lambda s: " / ".join(s.name),
            "core-h ": lambda s: hours(s.total),
            "cpu ": lambda s: percent(s.parts.get("cpu", 0.0) / s.total),
        },
        width(),
    )
    return text + _rest(len(spans)) if spans else ""


def _errors(found: Found) -> str:
    from dask_site.history.tables import listing

    errors = found.history.errors
    text = listing(
        errors[:_MOST_ROWS],
        {
            "failed ": lambda e: e.count,
            "task": lambda e: e.prefix,
            "error": lambda e: e.message or e.exception,
        },
        width() or 200,
    )
    return text + _rest(len(errors)) if errors else ""


def _rest(count: int) -> str:
    return f"\n... and {count - _MOST_ROWS} more" if count > _MOST_ROWS else ""


def _advice(advice: Advice) -> str:
    from dask_site.history.tables import clean

    lines = [f"* {clean(advice.title)}", *(f"  {clean(text)}" for text in advice.evidence)]
    if advice.saving:
        lines.append(f"  This would have saved up to {advice.saving}:")
    return "\n".join([*lines, *(f"    {clean(line)}" for line in advice.paste.splitlines())])


@command("dask-site history cost", "dask-site history cost 3f2a 91c0 --json")
@click.argument("clusters", nargs=-1, metavar="[CLUSTER]...")
@as_json
@spool
def cost(clusters: tuple[str, ...], as_json: bool, spool: Path | None) -> None:
    """Show what clusters cost: core-hours, GPU-hours, memory, billing units, money, energy."""
    from dask_site.history.costs import Bill, bill

    with asking(spool) as source:
        found = {f.id: f for f in map(source.cluster, clusters or ("-",))}
        whole = sum((bill(f.history, f.tariff) for f in found.values()), Bill())
        rows = {**{pool or "(none)": c for pool, c in whole.pools.items()}, "all": whole.whole}
        if as_json:
            told = {name: vars(costs) for name, costs in rows.items()}
            print_json({"clusters": list(found), "whole": told.pop("all"), "pools": told})
            return
        from dask_site.history.tables import listing

        def some(value: float | None, digits: int) -> str | None:
            return None if value is None else f"{value:.{digits}f}"

        columns: dict[str, Callable[[Any], Any]] = {
            "pool": lambda row: row[0],
            "core-h ": lambda row: some(row[1].core_hours, 3),
            "GPU-h ": lambda row: some(row[1].gpu_hours, 3),
            "GiB-h ": lambda row: some(row[1].gib_hours, 3),
            "billing-h ": lambda row: some(row[1].billing, 2),
            "money ": lambda row: some(row[1].money, 2),
            "energy (J) ": lambda row: some(row[1].energy, 0),
        }
        click.echo(listing(rows.items(), columns, width()))
        if whole.whole.unpriced:
            say(f"The site names no price for {whole.whole.unpriced:.3f} of these core-hours.")


@command(
    "dask-site history jobs",
    "dask-site history jobs 3f2a --json",
    "dask-site history jobs 3f2a --script cpu-0",
)
@cluster_argument()
@click.option("--script", metavar="JOB", help="Print what this job, by id or name, ran instead.")
@as_json
@spool
def jobs(cluster: str, script: str | None, as_json: bool, spool: Path | None) -> None:
    """Show the jobs of a cluster: how long they waited and ran, how they ended and why.

    What a job waited before it could have been started, for another job or for its time, is
    `held`, not `waited`. In scripts, what is given to something named like a password is ***.
    """
    from dask_site.history import sheets
    from dask_site.history.tables import duration, listing

    with asking(spool) as source:
        found = source.cluster(cluster)
        if script is not None:
            text = _script(found, script)
            if as_json:
                print_json({"job": script, "script": text})
            else:
                click.echo(text.rstrip("\n"))
            return
        sheet = sheets.sheet(found, "jobs")
        if as_json:
            print_json(sheet.plain())
            return
        if not sheet.rows:
            kind = found.history.cluster.kind
            say(
                f"No jobs are known of this cluster, a {kind}: clusters of dask-site and of "
                "dask-jobqueue record theirs."
            )
            return

        def length(name: str) -> Callable[[dict[str, Any]], str | None]:
            return lambda row: None if row[name] is None else duration(row[name])

        columns: dict[str, Callable[[dict[str, Any]], Any]] = {
            "job": lambda row: row["job"],
            "pool": lambda row: row["pool"],
            "submitted": lambda row: moment(row["submitted"]),
            "held ": lambda row: duration(row["held"]) if row["held"] else None,
            "waited ": length("waited"),
            "ran ": length("ran"),
            "of ": length("walltime"),
            "state": lambda row: row["state"],
            "node": lambda row: row["node"] or None,
            "reason": lambda row: row["reason"] if row["reason"] != row["state"] else None,
        }
        click.echo(listing(sheet.rows, columns, width()))


def _script(found: Found, job: str) -> str:
    """Return what a job was submitted with.

    Raises
    ------
    SourceError
        If there is no such job, or its script was not recorded.
    """
    from dask_site.calls import SourceError
    from dask_site.history.scripts import whole
    from dask_site.history.tables import multiline

    texts = {script.id: script.text for script in found.history.scripts}
    record = next((r for r in found.history.jobs if job in (r.id, r.name)), None)
    if record is None:
        some = ", ".join(r.name for r in found.history.jobs[:5]) or "none"
        raise SourceError(
            f"cluster {found.id[:8]} has no job {job!r}; its jobs: {some}; "
            f"see: dask-site history jobs {found.id[:8]}"
        )
    if record.script not in texts:
        raise SourceError(
            f"the script of job {job} was not recorded: an older release has submitted it, or the "
            "cluster has too many different ones"
        )
    return multiline(whole(texts[record.script or ""], record.arguments))


@command("dask-site history advise", "dask-site history advise 3f2a --json")
@cluster_argument()
@as_json
@spool
def advise(cluster: str, as_json: bool, spool: Path | None) -> None:
    """Say what was wasted in a cluster, with the evidence and the setting that mends it."""
    from dask_site.history.advice import advise as advice_on

    with asking(spool) as source:
        found = source.cluster(cluster)
        advice = advice_on(found.history)
        if as_json:
            print_json([vars(each) for each in advice])
            return
        told = list(map(_advice, advice)) or ["No waste that is worth a word was found."]
        click.echo("\n\n".join([head(found.history), *told]))


COMMANDS = {"ls": ls, "show": show, "cost": cost, "jobs": jobs, "advise": advise}
