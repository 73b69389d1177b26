"""The pages as a service serves them, for tests: real requests, a real store, on 127.0.0.1."""

import asyncio
import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from history_storing import close_all
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from dask_site.history.costs import Rates, Tariff
from dask_site.history.service.api import rules as api_rules
from dask_site.history.service.context import Context
from dask_site.history.service.metrics import Metrics
from dask_site.history.service.receiving import rules as receiving_rules
from dask_site.history.service.requests import Nothing
from dask_site.history.service.sessions import COOKIE, Sessions
from dask_site.history.service.settings import Settings
from dask_site.history.store import Bounds, Store
from dask_site.services.access import Directory
from dask_site.services.audit import AuditLog
from dask_site.site import Site
from dask_site.web import routes

#: Users that every Linux system has.
ROOT, DAEMON, NOBODY = 0, 1, 65534
SITE = {
    "schema": 1,
    "name": "Example Centre",
    "resource_manager": "local",
    "default_pool": "cpu",
    "pools": {
        "cpu": {"cores": 4, "memory": "8GiB", "cost": {"core_hour": 0.01}},
        "gpu": {"cores": 8, "memory": "8GiB", "gpus": 2, "cost": {"gpu_hour": 0.8}},
    },
}


class Serving:
    """Pages, and how to ask for them as some user."""

    def __init__(self, port, context, store):
        self.port, self.context, self.store = port, context, store

    def cookie(self, uid):
        """Return the cookie of a user who has opened his link."""
        word, _, _ = self.context.sessions.open(self.context.sessions.token(uid, "/"))
        return f"{COOKIE}={word}"

    def get(self, path, uid=None, **headers):
        """Return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if uid is not None:
            headers["Cookie"] = self.cookie(uid)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, response.headers, body

    def page(self, path, uid=DAEMON):
        """Return a page as text; it must be there."""
        status, _, body = self.get(path, uid)
        assert status == 200, body.decode()
        return body.decode()

    def add(self, uid, history, now=None):
        """Take the records of a history in, as of a user."""
        h = history
        records = [h.cluster, *h.workers, *h.spans, *h.jobs, *h.usage, *h.samples, *h.errors]
        records += [one for one in (h.traffic, h.end) if one is not None]
        name = h.cluster.c
        self.store.ingest(uid, [r.model_copy(update={"c": name}) for r in records], now=now)
        if h.accounting:
            self.store.put_accounting(name, h.accounting)
        close_all(self.store, self.context.tariff)


@contextmanager
def serving(folder, admins=("root",), coordinators=None, url=None, local=(), **settings):
    """Serve the pages of a store; `local` are further sockets on which they are."""
    history = {"state": str(folder), "spool": f"{folder}/spool/$USER", "socket": f"{folder}/s"}
    site = Site.from_mapping({**SITE, "history": history})
    loop = asyncio.new_event_loop()
    rates = {"cpu": Rates(0.01), "gpu": Rates(0.0, 0.8)}
    with (
        Store(url or f"sqlite:///{folder}/history.db", Bounds(clusters=10**9)) as store,
        ThreadPoolExecutor(4) as threads,
    ):
        context = Context(
            site=site,
            settings=replace(Settings.of_site(site), **settings),
            directory=Directory(admins, coordinators),
            sessions=Sessions(),
            audit=AuditLog(folder / "audit"),
            threads=threads,
            tariff=Tariff(((0.0, rates),)),
            writer=True,
            opened=store,
        )
        application = Application(
            [*api_rules(), *receiving_rules(), (r"/metrics", Metrics), *routes()],
            context=context,
            default_handler_class=Nothing,
        )
        sockets = bind_sockets(0, "127.0.0.1")

        async def serve():
            HTTPServer(application).add_sockets([*sockets, *local])

        def run():
            asyncio.set_event_loop(loop)
            loop.run_until_complete(serve())
            loop.run_forever()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Serving(sockets[0].getsockname()[1], context, store)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            for one in sockets:
                one.close()
            loop.close()
