"""Which login a link to a page of the history has."""

import pytest

from dask_site.dashboards import asking
from dask_site.dashboards.asking import BrokerDownError, DashboardError
from dask_site.dashboards.places import Places
from dask_site.history.remote import FallingBack, ServiceSource
from dask_site.history.source import SourceError

OWN, SHARED = "https://login1:8791/open/word", "https://dask.test/login#word/ticket"


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Open a page, as a user, with a broker that answers or raises."""
    monkeypatch.setattr(ServiceSource, "open", lambda _, path: f"{OWN}{path}")
    asked = []

    def open_(answer, path="/clusters/ab", uid=1000, there=True, paths=False):
        def ask(_, **question):
            asked.append(question)
            if isinstance(answer, Exception):
                raise answer
            return {"url": answer}

        where = Places("dask.test", 443, tmp_path, tmp_path, paths=paths) if there else None
        monkeypatch.setattr(asking, "ask", ask)
        monkeypatch.setattr(asking, "places", lambda: where)
        monkeypatch.setattr(asking.os, "getuid", lambda: uid)
        asked.clear()
        return FallingBack(ServiceSource(tmp_path), print).open(path), list(asked)

    return open_


def test_one_login_is_for_both(opened):
    question = {"op": "link", "cluster": "history", "path": "/clusters/ab"}
    assert opened(SHARED) == (SHARED, [question])


def test_without_a_broker_the_history_lets_in_itself(opened):
    own = f"{OWN}/clusters/ab"
    assert opened(BrokerDownError("it is down"))[0] == own
    assert opened(SHARED, there=False) == (own, [])
    assert opened(SHARED, paths=True) == (own, [])
    assert opened(SHARED, uid=0) == (own, [])  # root does not come through the proxy
    assert opened(SHARED, "/clusters/a:b") == (f"{OWN}/clusters/a:b", [])


def test_who_is_kept_out_is_told(opened):
    with pytest.raises(SourceError, match="locked"):
        opened(DashboardError("Your account is locked"))
