"""Dashboards in the site file, and what becomes of it in Dask's configuration."""

from pathlib import Path

import pytest
import yaml

from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.render import render_site_yaml
from dask_site.site import SiteError

SITE = {
    "schema": 1,
    "name": "Test",
    "resource_manager": "local",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
}


def site(**dashboards):
    return Site.from_mapping({**SITE, "dashboards": dashboards})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"enabled": True}, r"dashboards\.domain: is missing, and dashboards need it"),
        ({"domain": "https://x.test"}, "no name that browsers can look up"),
        ({"domain": "X.test"}, "no name that browsers can look up"),
        ({"domain": "localhost"}, "no name that browsers can look up"),
        ({"domain": "x.test:8443"}, "without https:// and port"),
        ({"domain": "*.x.test"}, "no name"),
        ({"domain": "x.test", "enabled": True, "key": "/x"}, r"certificate: is missing"),
        ({"domain": "x.test", "port": 0}, "less than 1"),
        ({"domian": "x.test"}, "unknown key 'domian'"),
        ({"oidc": {"issuer": "http://x.test", "client": "a", "secret": "/s"}}, "with https://"),
        (
            {"oidc": {"issuer": "https://x.test/a?b", "client": "a", "secret": "/s"}},
            "with https://",
        ),
        ({"oidc": {"issuer": "https://x.test"}}, r"oidc\.client: is missing"),
        ({"portal": {"header": "Cookie"}}, "can't name the header"),
        ({"portal": {"header": "X-Dask-Portal"}}, "can't name the header"),
        ({"portal": {"header": "X User; evil"}}, "can't name the header"),
    ],
)
def test_mistakes(said, why):
    with pytest.raises(SiteError, match=why):
        site(**said)


@pytest.mark.parametrize(("port", "suffix"), [(443, ""), (8443, ":8443")])
def test_links_of_schedulers_and_pages_that_may_ask_them(port, suffix):
    text = render_site_yaml(site(enabled=True, domain="dask.test", port=port))
    distributed = yaml.safe_load(text)["distributed"]
    link = f"https://{{port}}.dask.test{suffix}/status"
    assert distributed["dashboard"] == {"link": link}
    bokeh = distributed["scheduler"]["dashboard"]["bokeh-application"]
    assert bokeh == {"allow_websocket_origin": [f"*.dask.test{suffix}"]}


def test_without_them_nothing_changes():
    distributed = yaml.safe_load(render_site_yaml(site(domain="dask.test")))["distributed"]
    assert "dashboard" not in distributed
    with pytest.raises(SiteError, match="is not true"):
        Places.of_site(site(domain="dask.test"))


def test_names_for_browsers(monkeypatch):
    monkeypatch.setenv("SHARED", "/apps")
    places = Places.of_site(site(enabled=True, domain="dask.test", state="$SHARED/dashboards"))
    assert places.origin() == "https://dask.test"
    assert places.origin("abc") == "https://abc.dask.test"
    assert places.secret == Path("/apps/dashboards/secret")
