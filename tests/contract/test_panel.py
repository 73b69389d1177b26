"""What cluster/panel.py relies on of Dask's dashboard that is not its public interface."""

import asyncio
import inspect
import json
import subprocess
import sys
import textwrap

import bokeh
import distributed
import pytest
from distributed import Scheduler
from distributed.dashboard import scheduler as upstream
from distributed.dashboard.components import DashboardComponent, add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from dask_site.cluster.panel import Panel

VERSION = f"distributed {distributed.__version__}, bokeh {bokeh.__version__}"


def serve(panel, *paths):
    """Return what a scheduler with the panel answers to each path; a status where it refuses."""

    async def main():
        with panel.pages():
            scheduler = Scheduler(port=0, dashboard=True, dashboard_address="127.0.0.1:0")
        async with scheduler:
            panel.start(scheduler, None, None)
            answers = []
            for path in paths:
                url = f"http://127.0.0.1:{scheduler.http_server.port}{path}"
                try:
                    answers.append((await AsyncHTTPClient().fetch(url)).body.decode())
                except HTTPClientError as error:
                    answers.append(error.code)
            panel.stop()
            return answers

    return asyncio.run(main())


def test_the_table_of_pages_is_copied_when_a_scheduler_is_made():
    assert isinstance(upstream.applications, dict), VERSION
    assert list(inspect.signature(upstream.applications["/workers"]).parameters) == [
        "scheduler",
        "extra",
        "doc",
    ], VERSION
    page, individual, status = serve(Panel(["cpu"], True), "/pools", "/individual-pools", "/status")
    assert "Dask: Pools" in individual, VERSION
    assert "bokeh.min.js" in page, VERSION
    assert '<a href="pools">Pools</a>' in status, VERSION
    assert not any("pools" in path for path in upstream.applications)


def test_pages_can_be_made_when_somebody_asks_for_them():
    async def main():
        panel = Panel(["cpu"], True)
        async with Scheduler(port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
            panel.start(None, None, None)
            url = f"http://127.0.0.1:{scheduler.http_server.port}"
            with pytest.raises(HTTPClientError):
                await AsyncHTTPClient().fetch(f"{url}/status")
            await panel.open(scheduler)
            answers = [
                await AsyncHTTPClient().fetch(f"{url}{p}") for p in ("/pools", "/", "/status")
            ]
            panel.stop()
            return [answer.body.decode() for answer in answers]

    page, first, status = asyncio.run(main())
    assert "bokeh.min.js" in page, VERSION
    for one in (first, status):
        assert '<a href="pools">Pools</a>' in one, VERSION
    assert not any("pools" in path for path in upstream.applications)


def test_jupyterlab_finds_the_plot():
    (plots,) = serve(Panel(["cpu"], True), "/individual-plots.json")
    assert json.loads(plots)["Individual Pools"] == "/individual-pools", VERSION


def test_another_scheduler_of_the_process_has_no_such_page():
    page, status = serve(Panel(["cpu"], False), "/pools", "/status")
    assert page == 404, VERSION
    assert "Pools" not in status


def test_what_the_page_is_made_of():
    """cluster/panel_page.py"""
    assert env.get_template("simple.html"), VERSION
    assert BOKEH_THEME is not None, VERSION
    assert DashboardComponent().root is None, VERSION
    assert list(inspect.signature(add_periodic_callback).parameters) == [
        "doc",
        "component",
        "interval",
    ], VERSION


@pytest.mark.parametrize("dashboard", [True, False])
def test_nothing_breaks_without_bokeh_and_nothing_imports_it_without_a_dashboard(dashboard):
    code = textwrap.dedent(
        f"""
        import sys
        if {dashboard}:
            sys.modules["bokeh"] = None
        from dask_site import Cluster
        site = dict(schema=1, name="T", resource_manager="local", state_dir=sys.argv[1],
                    pools=dict(cpu=dict(cores=1, memory="512MiB")))
        if __name__ == "__main__":
            with Cluster(site, dashboard={dashboard}) as cluster:
                print(cluster.status.name, sys.modules.get("bokeh"))
        """
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
        )
    assert done.stdout == "running None\n", done.stderr
