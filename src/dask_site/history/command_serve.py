"""Commands for who runs the history service: serve, backup, restore, migrate, version."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dask_site.site import Site, SiteError
from dask_site.sitefile import reader

if TYPE_CHECKING:
    from dask_site.history.service.settings import Settings

_FAILED = 1
_INVALID = 2
_SITE = click.option(
    "--site", "file", metavar="FILE", help="Site file; otherwise that of this release."
)


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


@click.command(
    epilog=_examples(
        "dask-site history serve",
        "dask-site history serve /opt/dask-site/current/etc/dask/site.yaml",
    )
)
@click.argument("file", required=False)
@click.option("--verbose", is_flag=True, help="Say more of what is done.")
@click.option(
    "--proxy-user",
    metavar="USER",
    envvar="DASK_SITE_PROXY_USER",
    default="dask-proxy",
    show_default=True,
    help="Account of the dashboards' proxy, which says whose a request is.",
)
def serve(file: str | None, verbose: bool, proxy_user: str) -> None:
    """Run the history service, as the site file FILE says (- for stdin), until SIGTERM.

    It takes in what schedulers recorded and answers for it: on a Unix socket, and with TLS on a
    port. Of several that share their folder one writes, the others stand by.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("dask_site").setLevel(logging.DEBUG if verbose else logging.INFO)
    with _told():
        site = _load(file)
        from dask_site.history.service.server import ServeError, Service
        from dask_site.history.service.settings import Settings

        settings = Settings.of_site(site, proxy_user)

        async def run() -> int:
            return await Service(site, settings).run()

        try:
            status = asyncio.run(run())
        except ServeError as error:
            raise click.ClickException(str(error)) from None
    sys.exit(status)


@click.command(epilog=_examples("dask-site history backup /backups/history-$(date +%F).db"))
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@_SITE
def backup(path: Path, file: str | None) -> None:
    """Write a copy of the history to PATH, while the service goes on.

    A file that is there is replaced once the copy is whole. With PostgreSQL use pg_dump.
    """
    with _told():
        settings = _settings(file)

        with _found(settings, alone=False), settings.opened(migrate=False) as store:
            store.backup(path)
    click.echo(f"{path}: {path.stat().st_size} bytes")


@click.command(epilog=_examples("dask-site history restore /backups/history-2026-01-31.db"))
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_SITE
def restore(path: Path, file: str | None) -> None:
    """Put the copy PATH in the place of the history. Stop the service on all nodes first."""
    with _told():
        settings = _settings(file)

        with _found(settings, alone=True):
            if settings.in_file:
                _restore_file(path, settings)
            else:
                with settings.opened(migrate=False) as store:
                    store.restore(path)
    click.echo(f"{settings.store} is what {path} was")


@click.command(epilog=_examples("dask-site history migrate", "dask-site history migrate --to 0001"))
@click.option("--to", "version", metavar="VERSION", help="An older form, for an older release.")
@_SITE
def migrate(version: str | None, file: str | None) -> None:
    """Bring the history to the form of this release. Stop the service on all nodes first."""
    with _told():
        settings = _settings(file)
        from dask_site.history import migrations

        with _found(settings, alone=True), settings.opened() as store:
            if version is not None and version != migrations.HEAD:
                store.downgrade(version)
    click.echo(f"{settings.store} is of version {version or migrations.HEAD}")


@click.command(epilog=_examples("dask-site history version", "dask-site history version --json"))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_SITE
def version(as_json: bool, file: str | None) -> None:
    """Say of which version the history is, which this release reads, and to which it can go back.

    It changes nothing, and runs where the service writes, or while none does.
    """
    with _told():
        settings = _settings(file)
        from dask_site.history import migrations
        from dask_site.history.store import versions

        with _found(settings, alone=False):
            now = versions.found(settings.store, settings.journal_used)
        reads, known = migrations.HEAD, versions.known()
        said = {"store": settings.store, "version": now, "reads": reads, "known": known}
    if as_json:
        click.echo(json.dumps(said))
    else:
        older = ", ".join(name for name in known if now is not None and name < now)
        click.echo(f"{settings.store} is of version {now or 'none'}, this release reads {reads}")
        click.echo(f"It can go back to: {older or 'none'}")


#: For the group `history`.
ADMIN_COMMANDS: list[click.Command] = [serve, backup, restore, migrate, version]


def _restore_file(path: Path, settings: Settings) -> None:
    from dask_site.history.store import copies

    # Not by opening the store first: it may be broken, which is why the copy is wanted.
    target = Path(settings.store.removeprefix("sqlite:///"))
    copies.restore(path, target)
    settings.opened().close()


def _load(file: str | None) -> Site:
    if file is None:
        return Site.find()
    if file != "-":
        return Site.load(file)
    return Site.from_text(reader.decode(sys.stdin.buffer.read(), "<stdin>"), "<stdin>")


def _settings(file: str | None) -> Settings:
    from dask_site.history.service.settings import Settings

    return Settings.of_site(_load(file))


@contextmanager
def _found(settings: Settings, alone: bool) -> Iterator[None]:
    """Make sure that the store is used on one node only, or by nobody else at all."""
    from dask_site.history.service.lease import DatabaseLease, FileLease, Lease

    if settings.in_file and not settings.state.is_dir():
        raise click.ClickException(f"{settings.state} is not there: no service has run here yet")
    lease: Lease = (
        FileLease(settings.state / "writer.lock")
        if settings.in_file
        else DatabaseLease(settings.store)
    )
    try:
        if not lease.take():
            holder = lease.holder() or "a node"
            if alone:
                raise click.ClickException(
                    f"The service runs ({holder}): stop it on all nodes first, with "
                    "systemctl stop dask-history"
                )
            if settings.in_file and not _here(settings):
                raise click.ClickException(
                    f"The service runs elsewhere ({holder}): run this there, as two nodes can't "
                    "use the file at once"
                )
        yield
    finally:
        lease.release()
        if settings.in_file and os.geteuid() == 0:
            _give_back(settings)


def _give_back(settings: Settings) -> None:
    """Let what root has made in the service's folder be the service's."""
    owner = settings.state.stat()
    for path in (settings.state / "writer.lock", *settings.state.glob("history.db*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _here(settings: Settings) -> bool:
    try:
        host = json.loads(settings.where.read_bytes())["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return host in {settings.host, socket.gethostname(), socket.getfqdn()}


@contextmanager
def _told() -> Iterator[None]:
    """Say in words what is wrong with the site file, the store or a file."""
    from dask_site.history.store.failures import StoreError

    try:
        yield
    except SiteError as error:
        click.echo(str(error), err=True)
        sys.exit(_INVALID)
    except (StoreError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_FAILED)
