"""One Dask cluster with several kinds of nodes."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import secrets
import socket
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dask
import dask.config
from distributed.client import futures_of
from distributed.core import Status, rpc
from distributed.utils import Log, silence_logging_cmgr

from dask_site.cluster import views
from dask_site.cluster.arguments import level_from, port_from, seconds_from, site_from
from dask_site.cluster.errors import ClusterError, show_site_errors_plainly, unknown_pool
from dask_site.cluster.explain import Explainer, Explanation, graph_of
from dask_site.cluster.fleet import Fleet
from dask_site.cluster.folder import ClusterFolder
from dask_site.cluster.jobs import JobFactory, job_class, job_name
from dask_site.cluster.panel import Panel
from dask_site.cluster.plugin import PoolPlugin
from dask_site.cluster.queue import queue_for
from dask_site.cluster.reaper import Reaper
from dask_site.cluster.records import Table, job_table
from dask_site.cluster.scheduler import PoolScheduler
from dask_site.cluster.summary import Summary
from dask_site.faults.judge import Judge
from dask_site.placement.pool import register
from dask_site.scaling.by_demand import Controller
from dask_site.scaling.by_hand import Scaling
from dask_site.scaling.waits import PROCESSES, QUEUE, Waits
from dask_site.site import Site
from dask_site.sitefile.units import parse_walltime
from dask_site.upstream.clusters import HookedCluster

if TYPE_CHECKING:
    from dask_site.history.recorder import Recorder
    from dask_site.site import Pool

logger = logging.getLogger("dask_site")
_instances: weakref.WeakSet[Cluster] = weakref.WeakSet()
show_site_errors_plainly()


class Cluster(HookedCluster):
    """A scheduler in this process, and workers in jobs on the site's pools.

    Starts with no workers. Pools follow the work: what is submitted decides which pools get jobs
    (`adapt` sets bounds; `scale` asks for a number by hand). Encrypted and closed to strangers by
    default. Closing it, leaving its `with` block, or the end of this process by whatever cause,
    leaves no job in the queue and no file behind.

    Parameters
    ----------
    site : Site, path or mapping, optional
        A site description or the file that holds it. By default the one that the site installed
        (``module load dask-site``) with your changes from ``~/.config/dask`` on top.
    pools : str or sequence of str, optional
        Use only these pools. By default all of the site.
    account : str, optional
        Account that the jobs are charged to.
    name : str, optional
        Name of the cluster; a random one by default.
    dashboard : bool, optional
        Have Dask's dashboard. Where the site has a proxy for dashboards, its address is for your
        browser alone, and this is the default. Elsewhere it is on this node's loopback and has no
        login: every local user could read it, so the default is only where no resource manager is.
    port : int, optional
        The scheduler's port; by default the site's, where 0 is any free one.
    silence_logs : str, optional
        Level under which distributed's own log messages are dropped.
    asynchronous : bool, optional
        For use in coroutines: ``async with Cluster(asynchronous=True) as cluster``.

    Raises
    ------
    SiteError
        If there is no site description, or it has errors; the message lists all of them.
    ValueError
        If a pool is named that isn't there.
    ClusterError
        If the scheduler's port is taken, or the private folder can't be written.

    Examples
    --------
    >>> @needs(gpu=1)
    ... def infer(block):
    ...     return model(block)

    >>> with Cluster() as cluster, cluster.get_client():  # doctest: +SKIP
    ...     y = x.map_blocks(infer).mean().compute()
    """

    status: Any  # set by the base class
    _supports_scaling = False  # dask's widget knows one number; pools have one each

    def __init__(
        self,
        site: Site | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        pools: str | Sequence[str] | None = None,
        account: str | None = None,
        name: str | None = None,
        dashboard: bool | None = None,
        port: int | None = None,
        silence_logs: str = "error",
        asynchronous: bool = False,
        loop: Any = None,
    ) -> None:
        level = level_from(silence_logs)
        self.site = site_from(site, [pools] if isinstance(pools, str) else pools, account)
        self._local = self.site.resource_manager == "local"
        private = self.site.dashboards.enabled
        self._dashboard = (self._local or private) if dashboard is None else dashboard
        # Bokeh would be half of the time that a cluster takes to start.
        self._pages_later = self._dashboard and private
        self._port = self.site.scheduler.port if port is None else port_from(port)
        self._summary = Summary()
        self._panel = Panel(list(self.site.pools), self._dashboard)
        self._fleet: Fleet | None = None
        self._folder: ClusterFolder | None = None
        self._reaper: Reaper | None = None
        self._controller: Controller | None = None
        self._waits: Waits | None = None
        self._recorder: Recorder | None = None
        self._closing: asyncio.Future[None] | None = None
        self._stack = ExitStack()
        self._owner = os.getpid()
        self._cluster_id = secrets.token_hex(4)
        super().__init__(
            asynchronous=asynchronous, loop=loop, quiet=True, name=name or self._cluster_id
        )
        self._stack.enter_context(silence_logging_cmgr(level=level))
        _instances.add(self)
        register(self)
        if not self.called_from_running_loop:
            self._run_loop()
            try:
                self.sync(self._begin)
            except BaseException:
                self.close()
                raise

    # -- life ------------------------------------------------------------------------------

    async def _begin(self) -> None:
        if self.status != Status.created:
            return
        self.status = Status.starting
        names = [job_name(self._cluster_id, pool) for pool in self.site.pools.values()]
        manager = self.site.resource_manager
        queue = queue_for(manager, job_class(manager).cancel_command)
        state_dir = self.site.state_path()
        # Before the keys: whatever happens from here on, somebody deletes them.
        self._reaper = Reaper(str(state_dir / self._cluster_id), *queue.cancel_commands(names))
        self._folder = ClusterFolder(state_dir, self._cluster_id)
        self.security = self._folder.security()
        self.scheduler = await self._start_scheduler()
        factory = JobFactory(self.site, self.scheduler.address, self._folder, self.security)
        self._fleet = Fleet(factory, queue, self._folder, self._reaper, names)
        if self.site.history.enabled:
            from dask_site.history.fleet import begin

            self._recorder = begin(
                self.site, self.scheduler, self._fleet.records, factory.scripts, self._cluster_id
            )
        await self.scheduler.register_scheduler_plugin(
            PoolPlugin(self._fleet, self._summary), idempotent=False
        )
        unknown = PROCESSES if self._local else QUEUE
        self._waits = Waits(state_dir / "waits.json", self.site.name, unknown)
        await self._appoint_judge(self._fleet)
        scaling = Scaling(self.name, self.site, self._fleet, self.scheduler)
        self._controller = Controller(self.site, self.scheduler, self._fleet, scaling, self._waits)
        self._explainer = Explainer(
            self.name, self.site, self.scheduler, self._fleet, self._controller
        )
        made = None if self._pages_later else self.scheduler
        self._panel.start(made, self._controller, self._explainer)
        self.scheduler.handlers["dask_site_explain"] = self._explained
        self._folder.write("cluster.json", self._card())
        self.scheduler_comm = rpc(
            self.scheduler.address, connection_args=self.security.get_connection_args("client")
        )
        await super()._begin()

    async def _appoint_judge(self, fleet: Fleet) -> None:
        scheduler = self.scheduler
        judge = Judge(self.site, scheduler, fleet.job_of)
        await scheduler.register_scheduler_plugin(judge, idempotent=False)
        scheduler.judge = judge
        scheduler.placer.hungry = judge.hungry
        fleet.on_ended = judge.job_ended
        fleet.on_orphans = scheduler.remove_orphans

    async def _explained(self) -> dict[str, Any]:
        return (await self._explainer.everything()).to_dict()

    def _card(self) -> str:
        """Return what `dask-site explain` needs to find this cluster."""
        card = {"name": self.name, "site": self.site.name, "host": socket.gethostname()}
        card.update(address=self.scheduler.address, pid=os.getpid())
        return json.dumps(card)

    async def _start_scheduler(self) -> PoolScheduler:
        routes = {} if self._dashboard else {"distributed.scheduler.http.routes": _HEALTH}
        try:
            with dask.config.set(routes):
                scheduler = self._new_scheduler()
                await scheduler
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"The scheduler can't listen on port {self._port} of "
                f"{self.site.scheduler.interface or 'this node'}: {_cause(error)}. "
                "Cluster(port=0) takes any free port; the site file's `scheduler` names the "
                "interface and the port."
            ) from None
        return scheduler

    def _new_scheduler(self) -> PoolScheduler:
        interface = self.site.scheduler.interface
        with nullcontext() if self._pages_later else self._panel.pages():
            return PoolScheduler(
                site=self.site,
                interface=interface,
                host="127.0.0.1" if self._local and not interface else None,
                port=self._port,
                protocol="tls://",
                security=self.security,
                dashboard=self._dashboard and not self._pages_later,
                dashboard_address=f"127.0.0.1:{_dashboard_port() if self._dashboard else 0}",
                about=self._dashboard and self._about(),
                pages=self._panel.open if self._pages_later else None,
            )

    def _about(self) -> dict[str, Any]:
        return {"name": self.name, "kind": "Cluster", "pools": list(self.site.pools)}

    async def _end(self) -> None:
        if self.status == Status.closed:
            return
        # Once, and to its end: whoever is interrupted while waiting for it may wait again.
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_once())
        await asyncio.shield(self._closing)

    async def _close_once(self) -> None:
        started = self.status == Status.running
        self.status = Status.closing
        scheduler = getattr(self, "scheduler", None)
        gone = True
        self._stop_deciding()
        if self._recorder is not None:
            self._recorder.closing()
        if scheduler is not None:
            # Workers are told first, so that jobs end by themselves: COMPLETED, not CANCELLED.
            await _attempt(_dismiss_workers(scheduler), 10)
        if self._fleet is not None:
            gone = bool(await _attempt(self._fleet.stop(), 120))
        if self._recorder is not None:
            self._recorder.stop()
        if scheduler is not None:
            await _attempt(scheduler.close(), 10)
        if self._folder is not None:
            self._folder.remove()
        if self._reaper is not None:
            if gone:
                self._reaper.dismiss()
            else:
                logger.warning(
                    "The resource manager has not let go of all jobs of cluster %s yet; a process "
                    "in the background goes on cancelling them.",
                    self.name,
                )
                self._reaper.take_over()
        self._stack.close()
        if started:
            await _attempt(super()._end(), 10)
        self.status = Status.closed

    def _stop_deciding(self) -> None:
        """Let nobody ask for jobs, or judge those that end, any more."""
        self._panel.stop()
        if self._controller is not None:
            self._controller.stop()
        if self._waits is not None and self._fleet is not None:
            self._waits.observe(self._fleet.records)
            self._waits.save()
        judge = getattr(self, "scheduler", None) and self.scheduler.judge
        if judge is not None:
            judge.stop()

    def close(self, timeout: float | None = None) -> Any:
        """End all jobs, wait for the resource manager to let go of them, delete the keys."""
        if os.getpid() != self._owner:
            return None  # a forked child has a copy, which is not its own to close
        waitable = super().close(timeout)
        if not self.asynchronous and self.status == Status.closed:
            self._end_loop()
        return waitable

    def __await__(self) -> Generator[Any, None, Cluster]:
        async def started() -> Cluster:
            await self._begin()
            return self

        return started().__await__()

    @property
    def is_open(self) -> bool:
        """Whether the cluster runs, and its scheduler."""
        return bool(self.status == Status.running and self.scheduler.status == Status.running)

    # -- workers ---------------------------------------------------------------------------

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools of this cluster by name, cheapest first."""
        return self.site.pools

    def target(self, pool: str) -> int:
        """Return how many workers a pool was asked for."""
        return self._controller.scaling.targets[pool] if self._controller else 0

    def scale(self, n: int | None = None, **pools: int) -> Any:
        """Set how many workers each pool shall have; pools that aren't named stay as they are.

        From then on these pools no longer follow the work, until `adapt` lets them. A job that is
        lost is replaced. Returns at once; `wait_for_workers` waits. Where a job brings several
        workers (`processes` of the pool), whole jobs are asked for. Workers that go hand their
        results to those that stay.

        Parameters
        ----------
        n : int, optional
            Workers of the site's default pool.
        **pools : int
            Workers by pool: ``scale(cpu=4, gpu=1)``; ``scale(**{"big-mem": 1})``.

        Raises
        ------
        ValueError
            For a pool that isn't there, a negative number, or more jobs than the pool's max_jobs.
        """
        if n is not None:
            pools = {self.site.default_pool: n, **pools}
        self._running()
        return self.sync(self._scale, pools)

    async def _scale(self, pools: Mapping[str, int]) -> None:
        controller = self._running()
        await controller.scaling.scale(pools)
        for name in pools:
            controller.by_hand(name)

    def scale_down(self, workers: Iterable[str] | str) -> Any:
        """Take away certain workers, with their results moved to others.

        Parameters
        ----------
        workers : str or iterable of str
            Names (``gpu-0``), addresses or job numbers. A job ends as a whole.

        Raises
        ------
        ValueError
            If one of them is no worker of this cluster.
        """
        named = [workers] if isinstance(workers, str) else list(workers)
        return self.sync(self._running().scaling.scale_down, named)

    def adapt(
        self,
        minimum: int | None = None,
        maximum: int | None = None,
        *,
        target_duration: str | float | None = None,
        idle: str | float | None = None,
        backlog: int | None = None,
        **pools: int | tuple[int, int | None] | None,
    ) -> None:
        """Let pools follow the work, which all do that were not scaled by hand.

        A pool gets the workers that the work needs which only it can run, and a share of what
        several can, cheapest first; idle jobs are given back, with their results moved. Without
        arguments all pools follow the work within the site's bounds.

        Parameters
        ----------
        minimum, maximum : int, optional
            Bounds in workers of the site's default pool.
        target_duration : str or float, optional
            Time in which the work that is ready shall be done: the shorter, the more workers.
            Seconds, or text such as ``"2 min"``; one minute unless set.
        idle : str or float, optional
            How long an idle job is kept. By default as long as getting it again would take, as
            measured, within 5 s and 2 min.
        backlog : int, optional
            Most jobs that wait in the queue at once, for each of the pools that are named, or for
            all.
        **pools : int or (int, int)
            Bounds of other pools: the most workers, or the least and the most (None: the site's).

        Raises
        ------
        ValueError
            For a pool that isn't there, or bounds that are none or beyond the site's.

        Examples
        --------
        >>> cluster.adapt(cpu=(2, 20), gpu=4, target_duration="5 min")  # doctest: +SKIP
        """
        controller = self._running()
        bounds: dict[str, Any] = dict(pools)
        if minimum is not None or maximum is not None:
            bounds[self.site.default_pool] = (minimum or 0, maximum)
        for name in bounds:
            if name not in self.pools:
                raise unknown_pool(name, self.pools, f"Cluster {self.name}")
        settings = {
            "target_duration": seconds_from("target_duration", target_duration),
            "idle": seconds_from("idle", idle),
        }
        self._at_once(controller.adapt, bounds or dict.fromkeys(self.pools), backlog, **settings)

    def place(self, places: Mapping[str, Any]) -> None:
        """Place work by the names of its tasks: for functions that nobody can decorate.

        Holds for what is submitted from now on. Needs that functions carry are stronger.

        Parameters
        ----------
        places : dict
            From a pattern of key prefixes (``"mean_agg*"``; `*`, `?` and `[...]` as in file
            names) to a pool's name, to ``needs(...)``, or to None, which takes the pattern away.

        Raises
        ------
        ValueError
            For a pool that isn't there, or a need that no pool satisfies.
        """
        self._running()
        self._at_once(self.scheduler.placer.set_patterns, places)

    def resume(self, pool: str) -> None:
        """Let a pool try again that was paused because its jobs failed.

        Raises
        ------
        ValueError
            If the pool isn't there.
        """
        controller = self._running()
        if pool not in self.pools:
            raise unknown_pool(pool, self.pools, f"Cluster {self.name}")
        self._at_once(controller.resume, pool)

    def wait_for_workers(
        self, n_workers: int | None = None, timeout: float | None = None, **pools: int
    ) -> Any:
        """Wait until workers are there: those named, or else all that were asked for.

        Says on a terminal what it waits for.

        Parameters
        ----------
        n_workers : int, optional
            Workers in all, whatever their pool.
        timeout : float, optional
            Seconds after which to give up.
        **pools : int
            Workers by pool.

        Raises
        ------
        PoolError
            As soon as a pool's jobs failed so that it can't get there; the message says why.
        TimeoutError
            After `timeout` seconds, with what was missing.
        """
        return self.sync(self._running().scaling.wait, n_workers, pools, timeout)

    def _at_once(self, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call what does not wait, in the event loop; in coroutines it needs no `await`."""

        async def called() -> None:
            function(*args, **kwargs)

        if self.asynchronous:
            function(*args, **kwargs)
        else:
            self.sync(called)

    def _running(self) -> Controller:
        if self._controller is None or not self.is_open:
            state = "has not started" if self.status == Status.created else "is closed"
            raise ClusterError(f"Cluster {self.name} {state}.")
        return self._controller

    # -- looking at it ---------------------------------------------------------------------

    def share(self, user: str, for_: str = "2h") -> datetime:
        """Let another user look at the dashboard, for some time; he can change nothing.

        He finds it with ``dask-site dashboards``. `unshare` ends it before its time.

        Parameters
        ----------
        user : str
            Login name.
        for_ : str
            For how long: ``30m``, ``2h``, at most ``7d``.

        Returns
        -------
        datetime
            When it ends, UTC.

        Raises
        ------
        ClusterError
            If there is no such user, or this site has no proxy for dashboards.
        ValueError
            If the time is none.
        """
        seconds = parse_walltime(for_).total_seconds()
        until = self._ask_broker("share", user=user, seconds=seconds)["until"]
        return datetime.fromtimestamp(until, UTC)

    def unshare(self, user: str) -> None:
        """Let another user look at the dashboard no longer; what he has open ends.

        Raises
        ------
        ClusterError
            If there is no such user, or this site has no proxy for dashboards.
        """
        self._ask_broker("unshare", user=user)

    def _ask_broker(self, op: str, **question: Any) -> dict[str, Any]:
        from dask_site.dashboards import asking
        from dask_site.dashboards.places import Places

        server = self.scheduler.services.get("dashboard")
        if not self.site.dashboards.enabled or server is None:
            raise ClusterError("This cluster has no dashboard behind the site's proxy to share")
        try:
            return asking.ask(Places.of_site(self.site), op=op, cluster=server.port, **question)
        except asking.DashboardError as error:
            raise ClusterError(str(error)) from None

    @property
    def jobs(self) -> Table:
        """The jobs of this cluster, past ones included: job, pool, node, state, since, reason."""
        return job_table(self._fleet.records if self._fleet else [])

    @property
    def summary(self) -> Table:
        """What each pool did so far: jobs, hours allocated, tasks, busy time, cost."""
        return views.summary_table(
            self.pools, self._fleet.records if self._fleet else [], self._summary
        )

    def explain(self, work: Any = None) -> Explanation:
        """Explain what runs where, what waits, and why.

        Parameters
        ----------
        work : collection, future or list of them, optional
            Explain only this: what is submitted of it, and what would be. By default all that the
            cluster has to do.

        Returns
        -------
        Explanation
            Shown as text in a terminal and as HTML in a notebook; `to_json` is for machines.

        Raises
        ------
        NeedError
            If no pool can run a part of work that is not submitted yet.
        """
        self._running()
        if work is None:
            return self.sync(self._explainer.everything)  # type: ignore[no-any-return]  # sync is untyped
        keys = {future.key for future in futures_of(work)}
        graph = graph_of(work)
        around = dask.get_annotations().get("resources")
        return self.sync(self._explainer.work, keys, graph, around)  # type: ignore[no-any-return]  # sync is untyped

    def logs(
        self, pool: str | None = None, *, job: str | None = None, lines: int | None = None
    ) -> views.JobLogs:
        """Return what the jobs printed.

        Parameters
        ----------
        pool : str, optional
            Only the jobs of this pool.
        job : str, optional
            Only this job: its number, or its name such as ``gpu-0``.
        lines : int, optional
            Only the last lines of each.

        Returns
        -------
        dict of str
            Text by job, shown readably in a terminal and in a notebook.

        Raises
        ------
        ValueError
            If the pool isn't there.
        """
        if pool is not None and pool not in self.pools:
            raise unknown_pool(pool, self.pools, f"Cluster {self.name}")
        logs = views.JobLogs()
        for record in self._fleet.records if self._fleet else ():
            if pool not in {None, record.pool} or job not in {None, record.job_id, record.name}:
                continue
            text = self._fleet.output(record) if self._fleet else ""
            if lines is not None:
                text = "\n".join(text.splitlines()[-lines:])
            logs[f"{record.name} (job {record.job_id or '-'})"] = Log(text)
        return logs

    def __repr__(self) -> str:
        return views.cluster_text(self)

    def _repr_html_(self, cluster_status: Any = None) -> str:  # noqa: ARG002  # dask's signature
        return views.cluster_html(self)


_HEALTH = ["distributed.http.health"]


def _dashboard_port(usual: int = 8787) -> int:
    """Return Dask's usual port if it is free, 0 for any other, without upstream's warning."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            return 0
    return usual


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "strerror", None) or str(error)


async def _attempt(step: Awaitable[Any], seconds: float) -> Any:
    """Take one step of closing; what goes wrong there must not keep the next from being taken."""
    try:
        return await asyncio.wait_for(step, seconds)
    except TimeoutError:
        logger.warning("A step of closing the cluster took over %g s and was left.", seconds)
    except Exception:
        logger.warning("A step of closing the cluster failed.", exc_info=True)
    return None


async def _dismiss_workers(scheduler: PoolScheduler) -> None:
    """Tell every worker to close, without moving its results, and wait until they have left."""
    told: set[str] = set()
    while scheduler.workers:
        for address in scheduler.workers.keys() - told:
            told.add(address)
            scheduler.close_worker(address)
        await asyncio.sleep(0.05)


def open_clusters() -> list[Cluster]:
    """Return the clusters of this process that somebody still holds."""
    return list(_instances)


@atexit.register
def _close_all() -> None:
    # Python has shut its thread pools by now, of which distributed would complain.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    for cluster in open_clusters():
        if cluster.status not in {Status.closed, Status.created} and not cluster.asynchronous:
            with contextlib.suppress(Exception):
                cluster.close(timeout=30)
