"""A site without wildcard DNS: clusters below paths, by a broker and an nginx of their own here."""

import json
from pathlib import Path

import jinja2
import pytest
from attacked import ended_by, kept_out, started
from visiting import NAVIGATION, Visitor

from nodes import encoded, node, until, variables

ROLE = Path(__file__).parents[2] / "roles" / "dask_dashboards"
PORT = 8444
RUN, STATE, CONFIGURATION = "/run/dask-paths", "/var/lib/dask-paths", "/etc/dask-paths"
LOADED = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
PYTHON = "/opt/dask-site/current/env/bin/python"
BROKER = """
import asyncio
from dataclasses import replace
from pathlib import Path
from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.dashboards.serve import serve
site = Site.load("{configuration}/site.yml")
asyncio.run(serve(site, Places.of_site(site, Path("{run}"))))
"""
SCHEDULER = """
from pathlib import Path
import dask
from dask_site.dashboards import serving
from dask_site.dashboards.places import Places
places = Places("{domain}", {port}, Path("{state}"), Path("{run}"), "login1", True)
serving.install(places)
dask.config.set({{
    "distributed.dashboard.link": places.page("{{port}}"),
    "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin": [
        "*.{domain}:{port}"
    ],
    "distributed.scheduler.preload": [],  # which leads to this site's broker
}})
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    tell(link=cluster.dashboard_link)
    time.sleep(600)
"""
LINK = """
from pathlib import Path
from dask_site.dashboards import asking
from dask_site.dashboards.places import Places
places = Places("{domain}", {port}, Path("{state}"), Path("{run}"), "login1", True)
tell(link=asking.ask(places, op="link")["url"])
"""


def told(code, **values):
    domain = variables()["site"]["dashboards"]["domain"]
    return code.format(
        run=RUN, state=STATE, configuration=CONFIGURATION, port=PORT, domain=domain, **values
    )


def put(path, text):
    done = node("login1").run(f"cat > {path} <<'EOF'\n{text}\nEOF")
    assert done.rc == 0, done.stderr


def configuration(dashboards):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, autoescape=False
    )
    return environment.get_template("nginx.conf.j2").render(
        dask_site={**variables()["site"], "dashboards": dashboards},
        dask_dashboards_modules="/usr/lib/nginx/modules",
        dask_dashboards_connections=512,
        dask_dashboards_address_limit=400,
        _dask_dashboards_run=RUN,
        _dask_dashboards_state=STATE,
        _dask_dashboards_domain=dashboards["domain"],
        _dask_dashboards_port=PORT,
        _dask_dashboards_suffix=f":{PORT}",
        _dask_dashboards_configuration=CONFIGURATION,
        _dask_dashboards_certificate=f"{STATE}/proxy/web.pem",
        _dask_dashboards_key=f"{STATE}/proxy/web.key",
        _dask_dashboards_host="login1",
    )


@pytest.fixture(scope="module")
def paths():
    """The broker and the proxy of such a site, beside those of this one."""
    host = node("login1")
    dashboards = {
        **variables()["site"]["dashboards"],
        "paths": True,
        "port": PORT,
        "state": STATE,
    }
    site = {**variables()["site"], "dashboards": dashboards}
    stop = (
        "systemctl stop dask-paths-broker dask-paths-proxy 2>/dev/null; "
        "systemctl reset-failed 2>/dev/null; "
        f"rm -rf {STATE} {CONFIGURATION}"
    )
    host.run(stop)
    host.check_output(
        f"install -d -m 755 {CONFIGURATION} && "
        f"install -d -m 755 -o dask-dashboards -g dask-dashboards {STATE} {STATE}/public && "
        f"install -d -m 700 -o dask-dashboards -g dask-dashboards {STATE}/secret && "
        f"install -d -m 2750 -o dask-dashboards -g dask-proxy {STATE}/proxy && "
        f"cp /etc/dask-proxy/headers.js {CONFIGURATION}/"
    )
    put(f"{CONFIGURATION}/site.yml", json.dumps({"dask_site": site}))
    put(f"{CONFIGURATION}/broker.py", told(BROKER))
    host.check_output(
        "systemd-run --unit dask-paths-broker --uid dask-dashboards --gid dask-dashboards "
        "-p SupplementaryGroups=dask-proxy -p RuntimeDirectory=dask-paths "
        f"-p RuntimeDirectoryMode=0755 {PYTHON} {CONFIGURATION}/broker.py"
    )
    assert until(lambda: host.file(f"{RUN}/control.sock").exists), host.check_output(
        "journalctl --no-pager -u dask-paths-broker"
    )
    put(f"{CONFIGURATION}/nginx.conf", configuration(dashboards))
    host.check_output(
        "systemd-run --unit dask-paths-proxy --uid dask-proxy --gid dask-proxy "
        "-p RuntimeDirectory=dask-paths-proxy /usr/sbin/nginx -p /run/dask-paths-proxy/ "
        f"-c {CONFIGURATION}/nginx.conf -g 'daemon off; pid pid;'"
    )
    assert until(lambda: str(PORT) in host.run("ss -Hltn").stdout), host.check_output(
        "journalctl --no-pager -u dask-paths-proxy"
    )
    yield
    host.run(stop)


@pytest.fixture(scope="module")
def clusters(paths):
    """Where alice's dashboard is, and where bob's."""
    yield {user: started(user, told(SCHEDULER), "paths")["link"] for user in ("alice", "bob")}
    for user in ("alice", "bob"):
        ended_by(user, "paths")


@pytest.fixture(scope="module")
def cluster(clusters):
    return clusters["alice"]


@pytest.fixture(scope="module")
def enter(paths, as_user, address, tmp_path_factory):
    """Make a browser in which a user is logged in."""
    authority = tmp_path_factory.mktemp("paths") / "site.pem"
    authority.write_text(node("login1").check_output(f"cat {STATE}/public/site.pem") + "\n")
    domain = variables()["site"]["dashboards"]["domain"]

    def make(user=None):
        visitor = Visitor(address(), authority, domain, port=PORT)
        if user:
            script = f"echo {encoded(told(LINK))} | base64 -d | python"
            done = as_user(user, f"module load dask-site; {script}")
            link = json.loads(done.stdout.split("FACTS ", 1)[1])["link"]
            assert visitor.log_in(link).status == 303
        return visitor

    return make


def test_its_owner_sees_it_and_nobody_else_does(cluster, enter):
    alice, bob, nobody = enter("alice"), enter("bob"), enter()
    base = cluster.removesuffix("/status")
    name = base.rpartition("/")[2]
    assert base == f"{alice.origin()}/c/{name}"
    for page in (
        "/status",
        "/workers",
        "/info/main/workers.html",
        "/health",
        "/statics/css/base.css",
    ):
        assert alice.go(base + page).status == 200, page
        kept_out(bob.go(base + page).status == 403, page)
        kept_out(bob.curl(base + page)[0] == 403, page, "HTTP/2")
        kept_out(nobody.request(base + page).header("location") == "/login", page)
        kept_out(nobody.curl(base + page)[0] == 302, page, "HTTP/2")
        kept_out(nobody.request(base + page, headers=LOADED).status == 401, page)
    assert alice.go(base).status == alice.go(f"{base}/").status == 200
    assert cluster in alice.request(f"{alice.origin()}/").text
    kept_out(name not in bob.request(f"{bob.origin()}/").text, "his list")
    # A page leads to nothing but what is below the path.
    page = alice.go(f"{base}/info/main/workers.html").text
    assert 'href="/' not in page.replace('href="/_dask-site', "")


def test_websockets(cluster, enter):
    alice, bob = enter("alice"), enter("bob")
    path = cluster.removeprefix(alice.origin()) + "/ws"
    alice.go(cluster)
    status, stream = alice.websocket("", path)
    assert status == 101 and stream.recv(1)
    stream.close()
    kept_out(bob.websocket("", path)[0] == 403, "WebSocket")
    for origin in ("https://evil.test", "null", f"https://x.{alice.domain}:{PORT}"):
        kept_out(alice.websocket("", path, origin=origin)[0] == 403, "WebSocket", origin)


# As in `test_pages`, where they lead to alice's, as the path is looked at as it was sent.
STEPS = [
    "../",
    "%2e%2e/",
    "..%2f",
    "./../",
    "/../",
    ".%2e/",
    "..;/",
    "..%5c",
    "%252e%252e/",
    "x/../../",
]


@pytest.mark.parametrize("step", STEPS)
def test_paths_lead_from_his_to_his_alone(step, clusters, enter):
    alice, bob = enter("alice"), enter("bob")
    hers, his = (clusters[user].removesuffix("/status") for user in ("alice", "bob"))
    assert bob.go(f"{his}/status").status == 200 and alice.go(f"{hers}/status").status == 200
    url = f"{his}/{step}{hers.rpartition('/')[2]}/status"
    for headers in ({}, NAVIGATION, LOADED):
        answer = bob.request(url, headers=headers)
        kept_out(answer.status in {403, 404} and "Bokeh" not in answer.text, step, answer.status)
    status, text = bob.curl(url)
    kept_out(status in {403, 404} and "Bokeh" not in text, step, "HTTP/2", status)
    path = url.removeprefix(bob.origin())
    status, stream = bob.websocket("", f"{path}/ws")
    stream.close()
    kept_out(status in {403, 404}, step, "WebSocket", status)


def test_paths_lead_nowhere_else(cluster, enter):
    alice, bob = enter("alice"), enter("bob")
    base = cluster.removesuffix("/status").removeprefix(alice.origin())
    for path in (
        f"{base}/../../{base}/status",
        f"/c/aaaaaaaaaaaaaaaa/..{base.removeprefix('/c')}/status",
        f"{base}/%2e%2e/%2e%2e{base}/status",
        f"/{base}/status",
        f"/c/..{base}/status",
        f"/%63{base.removeprefix('/c')}/status",
    ):
        for status in (
            bob.curl(bob.origin() + path)[0],
            bob.request(bob.origin() + path, headers=NAVIGATION).status,
        ):
            kept_out(status == 403, path, status)
    for path in (
        f"{base}/../status",
        f"{base}/../../internal/auth",
        f"{base}/..%2f..%2finternal/auth",
    ):
        kept_out(alice.curl(alice.origin() + path)[0] == 404, path)
    assert alice.curl(alice.origin() + f"{base}/x/../status")[0] == 200  # the control


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_dashboard_is_only_looked_at(method, cluster, enter):
    alice = enter("alice")
    kept_out(alice.request(cluster, method).status == 405, method)
    kept_out(alice.curl(cluster, "--request", method)[0] == 405, method, "HTTP/2")
    assert alice.request(cluster, headers=NAVIGATION).status == 200  # the control


def test_names_are_not_there(cluster, enter):
    alice = enter("alice")
    name = cluster.removesuffix("/status").rpartition("/")[2]
    assert alice.request(f"https://{name}.{alice.domain}:{PORT}/status").status == 421


def test_nothing_is_shared(cluster, as_user):
    name = cluster.removesuffix("/status").rpartition("/")[2]
    code = told(LINK).replace(
        'asking.ask(places, op="link")["url"]',
        f'asking.ask(places, op="share", cluster="{name}", user="bob", seconds=60)',
    )
    done = as_user("alice", f"module load dask-site; echo {encoded(code)} | base64 -d | python")
    kept_out(done.rc != 0 and "no names of their own" in done.stderr, "a share")
