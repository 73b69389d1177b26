"""What dashboards behind the proxy rely on of distributed: see `dask_site.dashboards.serving`."""

import inspect

import pytest
from distributed import LocalCluster, Scheduler, Worker
from distributed.comm.registry import backends
from distributed.node import ServerNode
from distributed.utils import format_dashboard_link


@pytest.mark.parametrize("kind", [Scheduler, Worker])
def test_the_http_server_is_started_by_a_method_that_can_be_replaced(kind):
    assert kind.start_http_server is ServerNode.start_http_server
    assert list(inspect.signature(kind.start_http_server).parameters)[:3] == [
        "self",
        "routes",
        "dashboard_address",
    ]
    assert "self.start_http_server(" in inspect.getsource(kind)


def test_preloads_come_before_the_http_server():
    source = inspect.getsource(Scheduler.__init__)
    assert source.index("process_preloads") < source.index("self.start_http_server(")


def test_the_scheduler_says_the_port_of_its_dashboard_as_its_server_does():
    assert "services" in inspect.getsource(Scheduler.identity)
    assert ".port for" in inspect.getsource(Scheduler.identity)


def test_a_link_is_made_with_whatever_stands_for_the_port(monkeypatch):
    import dask

    with dask.config.set({"distributed.dashboard.link": "https://{port}.dask.test/status"}):
        assert format_dashboard_link("x", "abc") == "https://abc.dask.test/status"


def test_jupyter_is_asked_for_by_an_attribute():
    assert "self.jupyter = jupyter" in inspect.getsource(Scheduler.__init__)


def test_websockets_are_a_backend_of_their_own():
    assert {"tcp", "tls", "ws", "wss"} <= set(backends)


def test_scratch_is_found_by_its_name(tmp_path):
    with LocalCluster(
        n_workers=1,
        processes=False,
        dashboard_address=":0",
        local_directory=str(tmp_path),
    ) as cluster:
        assert "dask-scratch-space" in cluster.workers[0].local_directory
