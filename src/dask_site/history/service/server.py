"""The service's process: it listens, waits until it is the writer, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from dask_site.calls import ServiceDownError, Where
from dask_site.history.service import api, certificate, receiving
from dask_site.history.service.context import Context
from dask_site.history.service.lease import DatabaseLease, FileLease, Lease
from dask_site.history.service.loops import Loops
from dask_site.history.service.metrics import Metrics
from dask_site.history.service.rates import rates
from dask_site.history.service.requests import Nothing
from dask_site.history.service.sessions import Sessions
from dask_site.history.service.settings import Settings
from dask_site.history.store.failures import StoreError
from dask_site.people import name_of
from dask_site.services import listening, systemd
from dask_site.services.access import Directory
from dask_site.services.audit import AuditLog
from dask_site.site import Site
from dask_site.web import routes
from dask_site.whole import make_folder, write_whole

logger = logging.getLogger("dask_site")
_TRY, _CHECK, _RATES = 2.0, 5.0, 300.0
_GRACE = 10.0
_THREADS = 8


class ServeError(Exception):
    """The service can't run here; the message says why and the mend."""


class Service:
    """One process of the service.

    Parameters
    ----------
    site : Site
    settings : Settings, optional
        Those of the site by default.
    collect_every : float
        Seconds from one walk through the spools to the next.
    """

    def __init__(
        self, site: Site, settings: Settings | None = None, collect_every: float = 5.0
    ) -> None:
        self.settings = settings or Settings.of_site(site)
        self.context = Context(
            site=site,
            settings=self.settings,
            directory=Directory(self.settings.admins, self.settings.coordinators),
            sessions=Sessions(file=self.settings.state / "sessions.json"),
            audit=AuditLog(self.settings.state / "audit"),
            threads=ThreadPoolExecutor(_THREADS, thread_name_prefix="dask-site-asks"),
        )
        self._collect_every = collect_every
        self._loops: Loops | None = None
        self._servers: list[HTTPServer] = []
        self._own_socket: tuple[int, int] | None = None
        self._stop = asyncio.Event()
        self._failed = ""
        self._rated = True

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit status.

        Raises
        ------
        ServeError
            If it can't listen, or its folder can't be used.
        """
        lease = self._prepared()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._listen()
        systemd.notify("READY=1", "STATUS=waiting for the lease")
        steps = (self._lead(lease), self.context.sessions.keep(), _watchdog())
        tasks = [asyncio.create_task(step) for step in steps]
        try:
            await self._stop.wait()
        finally:
            systemd.notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end(lease)
        if self._failed:
            logger.error("%s", self._failed)
        return 1 if self._failed else 0

    # -- beginning and end -------------------------------------------------------------------

    def _prepared(self) -> Lease:
        settings = self.settings
        try:
            os.umask(0o077)  # the store is for nobody else
            make_folder(settings.state)
            _check_account(settings.state)
            if settings.made:
                names = sorted(settings.names, key=lambda name: name != settings.host.lower())
                certificate.ensure(settings.certificate, settings.key, names)
        except OSError as error:
            raise ServeError(
                f"{settings.state} can't be used: {error.strerror}: it has to be a folder of the "
                "service's account (history.state in the site file)"
            ) from None
        if settings.in_file:
            return FileLease(settings.state / "writer.lock")
        return DatabaseLease(settings.store)

    def _listen(self) -> None:
        settings = self.settings
        application = Application(
            [*api.rules(), *receiving.rules(), (r"/metrics", Metrics), *routes()],
            context=self.context,
            default_handler_class=Nothing,
            log_function=_log,
        )
        try:
            tls = certificate.server_context(settings.certificate, settings.key)
        except OSError as error:
            raise ServeError(
                f"{settings.certificate} and {settings.key} can't be used as certificate and key: "
                f"{error.strerror or error}"
            ) from None
        given = systemd.handed_over()
        local = [one for one in given if one.family == socket.AF_UNIX]
        remote = [one for one in given if one.family != socket.AF_UNIX]
        if not local:
            try:
                local = [listening.unix_socket(settings.socket)]
            except OSError as error:
                raise ServeError(
                    f"{settings.socket} can't be listened on: {error.strerror or error} "
                    "(history.socket in the site file)"
                ) from None
            status = settings.socket.stat()
            self._own_socket = (status.st_dev, status.st_ino)
        if not remote:
            try:
                remote = bind_sockets(settings.port)
            except OSError as error:
                raise ServeError(
                    f"port {settings.port} can't be listened on: {error.strerror}: choose another "
                    "(history.port in the site file)"
                ) from None
        self._serve(application, local, None)
        self._serve(application, remote, tls)
        _use_clean_sockets(tls)
        logger.info("Listening on %s and port %s", settings.socket, settings.port)

    def _serve(
        self, application: Application, sockets: list[socket.socket], tls: ssl.SSLContext | None
    ) -> None:
        proxy = self.settings.proxy
        server = listening.Server(
            application,
            ssl_options=tls,
            for_others=None if proxy is None else proxy.runs_as,
            **listening.LIMITS,
        )
        server.add_sockets(sockets)
        self._servers.append(server)

    async def _end(self, lease: Lease) -> None:
        """Answer what was asked, finish what is being written, and let another write."""
        for server in self._servers:
            server.stop()
        if self._own_socket is not None:
            with contextlib.suppress(OSError):
                status = self.settings.socket.stat()
                if (status.st_dev, status.st_ino) == self._own_socket:
                    self.settings.socket.unlink()
        if self._loops is not None:
            await self._loops.stop()  # first: another may write already
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(*(server.close_all_connections() for server in self._servers)),
                _GRACE,
            )
        if self.context.writer:
            try:
                await asyncio.to_thread(self.context.sessions.save)
            except OSError as error:
                logger.warning("Browsers have to log in anew: %s", error)
        self.context.close()
        lease.release()

    # -- leading -----------------------------------------------------------------------------

    async def _lead(self, lease: Lease) -> None:
        """Wait for the lease, write as long as it is held, and stop the process if it is lost."""
        try:
            await self._wait_for(lease)
            await self._begin()
            retry = time.monotonic() + _RATES
            while await asyncio.to_thread(self._leads, lease):
                await asyncio.sleep(_CHECK)
                if not self._rated and time.monotonic() > retry:
                    retry = time.monotonic() + _RATES
                    await self._take_rates()
            self._failed = "Another may write now: the lease was lost. Stopping."
        except StoreError as error:
            self._failed = f"The history can't be opened: {error}"
        except OperationalError as error:
            self._failed = f"The history can't be written: {error.orig}"
        except OSError as error:
            self._failed = f"{self.settings.state} can't be used: {error}"
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("A mistake of the service")
            self._failed = "Stopping after a mistake of the service."
        # Stopping at once is what keeps two from writing.
        if self._loops is not None and self._failed:
            self.context.writer = False
        self._stop.set()

    def _leads(self, lease: Lease) -> bool:
        if not lease.held():
            return False
        try:
            return self.context.store.leads()
        except SQLAlchemyError as error:
            # The lease says so; and nothing is written without that number.
            logger.warning("The history can't be asked now: %s", error)
            return True

    async def _wait_for(self, lease: Lease) -> None:
        told = ""
        while not await asyncio.to_thread(self._taken, lease):
            holder = await asyncio.to_thread(lease.holder)
            await asyncio.to_thread(self._look_for_writer, holder)
            if holder != told or not told:
                logger.info("Standing by: %s writes", holder or "another node")
                systemd.notify(f"STATUS=standing by, {holder or 'another node'} writes")
                told = holder or "another node"
            if not self.settings.in_file:
                await asyncio.to_thread(self._open_to_read)
            await asyncio.sleep(_TRY)

    def _taken(self, lease: Lease) -> bool:
        try:
            return lease.take()
        except Exception as error:
            if self.settings.in_file:
                raise
            # The database may come back.
            logger.warning("The database can't be reached: %s", error)
            return False

    def _open_to_read(self) -> None:
        """Let a standby read PostgreSQL, once the writer has brought it to this release's form."""
        context = self.context
        with contextlib.suppress(StoreError, SQLAlchemyError):
            if context.opened is None:
                context.opened = self.settings.opened(migrate=False)
            context.tariff = context.opened.tariff()  # the writer may have got new ones

    def _look_for_writer(self, holder: str) -> None:
        """Say where the writer is, by what it wrote itself; not that it is here, as it isn't."""
        settings, host, url = self.settings, "", ""
        with contextlib.suppress(ServiceDownError):
            where = Where.read(settings.state)
            if (where.host, where.port) != (settings.host, settings.port):
                host = where.host
                url = f"https://{where.host}:{where.port}" if where.port else ""
        self.context.writer_url = url
        self.context.elsewhere = (
            f"The history is kept by {host or holder or 'another node'}; this node stands by."
        )

    async def _begin(self) -> None:
        context, settings = self.context, self.settings
        if context.opened is not None:
            context.opened.close()
        if settings.in_file:
            logger.info("Journal of the store: %s", settings.journal_used)
        context.opened = await asyncio.to_thread(settings.opened)
        await asyncio.to_thread(context.opened.lead)
        await self._take_rates()
        await asyncio.to_thread(context.sessions.load)
        context.writer = True
        self._loops = Loops(context, self._collect_every)
        self._loops.start()
        await asyncio.to_thread(self._announce)
        systemd.notify("STATUS=writing")
        logger.info("Writing to %s", settings.store)

    async def _take_rates(self) -> None:
        context, file = self.context, self.settings.state / "tariff.json"
        context.tariff, self._rated = await asyncio.to_thread(
            rates, context.store, file, context.site
        )

    def _announce(self) -> None:
        """Say where the service is."""
        settings = self.settings
        said = {
            "host": settings.host,
            "port": settings.port,
            "socket": str(settings.socket),
            "certificate": settings.certificate.read_text(),
        }
        write_whole(settings.where, (json.dumps(said, indent=1) + "\n").encode(), 0o644)


def _check_account(state: Path) -> None:
    """Keep root from making files in the folder of an account that could not write to them."""
    owner = state.stat().st_uid
    if os.geteuid() != 0:
        return
    if owner != 0:
        raise ServeError(
            f"{state} belongs to {name_of(owner)}, and this is root: start the service as its "
            "account, with systemctl start dask-history"
        )
    logger.warning("The service runs as root, which it need not: give it an account")


async def _watchdog() -> None:
    patience = systemd.watchdog()
    while patience:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(patience / 3)


def _use_clean_sockets(context: ssl.SSLContext) -> None:
    # See `dask_site.cluster.tls`: one connection's end must not break the others.
    from dask_site.cluster.tls import AFFECTED, CleanSocket

    if AFFECTED:
        context.sslsocket_class = CleanSocket


def _log(handler: Any) -> None:
    """Log what went wrong here; what users ask is their business."""
    if handler.get_status() >= 500 and handler.get_status() != 503:
        logger.error(
            "%s %s: %s", handler.request.method, handler.request.path, handler.get_status()
        )
