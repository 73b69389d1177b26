"""The broker's process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal

from tornado.httpserver import HTTPServer
from tornado.web import Application

from dask_site.dashboards import keys
from dask_site.dashboards.broker import Broker
from dask_site.dashboards.control import Control
from dask_site.dashboards.oidc import Provider
from dask_site.dashboards.past import Past
from dask_site.dashboards.places import Places
from dask_site.dashboards.secret_files import read_secret
from dask_site.dashboards.web import BACK, Calls, Nothing, rules
from dask_site.people import name_of
from dask_site.services import systemd
from dask_site.services.listening import unix_socket
from dask_site.site import Site
from dask_site.whole import make_folder, write_whole

logger = logging.getLogger("dask_site")
_RENEWED = 86400.0
_LEAST_SECRET = 32  # characters


class ServeError(Exception):
    """The broker can't run here; the message says why and the mend."""


async def serve(site: Site, places: Places | None = None) -> None:
    """Run the broker until SIGTERM or SIGINT.

    Raises
    ------
    ServeError
        If it can't listen, or its folders can't be used.
    SiteError
        If the site file says nothing of dashboards.
    """
    places = places or Places.of_site(site)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        broker = _prepared(site, places)
        await broker.exchange.hear()  # before schedulers are told whom to let go on
        server, control = _listening(site, places, broker)
    except OSError as error:
        raise ServeError(
            f"{error}: the folder {places.state} and {places.run} have to be of the account "
            "dask-dashboards, which the role dask_dashboards sees to"
        ) from None
    except ValueError as error:
        raise ServeError(str(error)) from None
    systemd.notify("READY=1")
    logger.info("Dashboards are reached at %s", places.origin())
    tasks = [
        asyncio.create_task(step)
        for step in (broker.run(), control.run(), _watchdog(), _renewing(site, places))
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()  # what broke is told; systemd starts it anew
    finally:
        systemd.notify("STOPPING=1")
        for task in [*tasks, stopped]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.stop()
        await broker.exchange.tell()


def _prepared(site: Site, places: Places) -> Broker:
    os.umask(0o077)
    make_folder(places.state)
    owner = places.state.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise OSError(f"{places.state} belongs to {name_of(owner)}, and this is root")
    _renew(places, web=site.dashboards.certificate is None)
    _bundle(places)
    group = places.proxy.stat().st_gid
    for folder in (places.doors, places.http.parent):
        make_folder(folder, 0o700)
        os.chown(folder, -1, group)
        folder.chmod(0o2750)  # what is made in it is of nginx's group
    past = Past.of_site(site)
    broker = Broker(places, site.dashboards.session.total_seconds(), past=past)
    broker.restore()
    return broker


def _bundle(places: Places) -> None:
    """Put together whom nginx believes: dashboards in jobs, and the proxies of other nodes."""
    both = b"".join((places.public / f"{name}.pem").read_bytes() for name in ("clusters", "site"))
    path = places.proxy / "upstreams.pem"
    if not path.exists() or path.read_bytes() != both:
        write_whole(path, both, 0o640)


def _listening(site: Site, places: Places, broker: Broker) -> tuple[HTTPServer, Control]:
    said = site.dashboards
    provider = Provider(said.oidc, places.origin() + BACK) if said.oidc else None
    portal = b""
    if said.portal:
        portal = read_secret(said.portal.secret or places.secret / "portal", _LEAST_SECRET)
    application = Application(
        rules(provider=provider is not None, portal=bool(portal)),
        broker=broker,
        calls=Calls(broker),
        provider=provider,
        portal=portal,
        site=site.name,
        default_handler_class=Nothing,
        log_function=_log,
    )
    server = HTTPServer(
        application,
        max_body_size=64 * 1024,
        max_header_size=32 * 1024,
        idle_connection_timeout=3600,
    )
    server.add_socket(unix_socket(places.http, 0o660))
    return server, Control(broker, unix_socket(places.control))


def _publish(places: Places) -> None:
    """Write what processes on other nodes need to reach this broker, and to know it."""
    where = places.public / f"{places.host}.json"
    now = (places.proxy / f"node-{places.host}.pem").read_text()
    try:
        before = str(json.loads(where.read_bytes())["certificate"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        before = ""
    said = {
        "host": places.host,
        "port": places.port,
        "socket": "",
        "certificate": keys.published(before.encode(), now),
    }
    data = (json.dumps(said, indent=1) + "\n").encode()
    if not where.exists() or where.read_bytes() != data:
        write_whole(where, data, 0o644)


def _renew(places: Places, *, web: bool) -> None:
    made = keys.ensure(places, web=web)
    _publish(places)
    if made:
        logger.info("Renewed: %s", ", ".join(path.name for path in made))
    for line in keys.ending(places):
        logger.warning("%s", line)


async def _renewing(site: Site, places: Places) -> None:
    while True:
        await asyncio.sleep(_RENEWED)
        try:
            await asyncio.to_thread(_renew, places, web=site.dashboards.certificate is None)
        except (OSError, ValueError) as error:
            logger.warning("Certificates can't be renewed, trying again tomorrow: %s", error)


async def _watchdog() -> None:
    patience = systemd.watchdog()
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(patience / 3 if patience else 3600)


def _log(handler: object) -> None:
    """Log nothing of what goes well: nginx does, without what is secret."""
    status = getattr(handler, "get_status", lambda: 200)()
    if status >= 500:
        logger.error("A request went wrong with status %d", status)
