"""What other systems of a site take from `integrations`, run by those systems."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import requests
import websocket
import yaml
from machine import SITE, until
from serving import Node, free_port

from ondemand import App, needs_ruby

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "integrations" / "reframe" / "dask_site_checks.py"


@pytest.fixture
def reframe(tmp_path):
    """Run the checks with ReFrame, on this machine as the site."""
    config = tmp_path / "site.yaml"
    config.write_text(yaml.safe_dump({"dask_site": SITE}))

    def run(*options, prepare="true"):
        command = ["-c", CHECK, "-r", "--nocolor", "--prefix", tmp_path / "out", *options]
        command += ["-S", f"prepare={prepare}", "--report-file", tmp_path / "report.json"]
        done = subprocess.run(
            [Path(sys.executable).with_name("reframe"), *command],
            cwd=tmp_path,
            env={**os.environ, "DASK_CONFIG": str(config), "PATH": _path()},
            capture_output=True,
            text=True,
        )
        (case,) = json.loads((tmp_path / "report.json").read_text())["runs"][0]["testcases"]
        return done, case

    return run


def _path():
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.slow
def test_reframe_tries_all_pools_of_the_site(reframe):
    done, case = reframe("-S", "wait=120")
    assert done.returncode == 0, done.stdout
    assert case["result"] == "pass"
    (figure,) = case["perfvalues"].values()
    assert 0 < figure[0] < 120 and figure[-2] == "s"


@pytest.mark.slow
def test_reframe_says_which_pool_does_not_work(reframe):
    done, case = reframe("-S", "pools=cpu,tape", "-S", "wait=60")
    assert done.returncode == 1
    assert case["result"] == "fail" and case["fail_phase"] == "sanity"
    assert "pools do not work" in done.stdout and "tape" in done.stdout


@pytest.mark.slow
def test_reframe_fails_where_dask_can_not_be_loaded(reframe):
    done, case = reframe(prepare="module load nothing-of-this-name; exit 1")
    assert done.returncode == 1 and case["result"] == "fail"


PROMETHEUS = ROOT / "integrations" / "prometheus" / "dask-site.yml"


def test_prometheus_is_told_where_the_history_is():
    from dask_site.sitefile.parts import History

    (job,) = yaml.safe_load(PROMETHEUS.read_text())
    port = History.model_fields["port"].default
    assert all(one.endswith(f":{port}") for one in job["static_configs"][0]["targets"])


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus here")
@pytest.mark.slow
def test_prometheus_reads_the_history(tmp_path):
    serving = Node(tmp_path).start()
    watching = None
    try:
        serving.writes()
        (job,) = yaml.safe_load(PROMETHEUS.read_text())
        (certificate,) = (tmp_path / "state").glob("*.pem")
        job["tls_config"]["ca_file"] = str(certificate)
        job["static_configs"][0]["targets"] = [f"localhost:{serving.port}"]
        job["scrape_interval"] = "1s"
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
        port = free_port()
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with (tmp_path / "prometheus.log").open("wb") as log:
            watching = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)

        def asked(query):
            try:
                answer = requests.get(
                    f"http://127.0.0.1:{port}/api/v1/query", {"query": query}, timeout=5
                )
            except requests.RequestException:
                return {}
            found = answer.json().get("data", {}).get("result", [])
            return {one["metric"].get("job"): float(one["value"][1]) for one in found}

        assert until(lambda: asked("up").get("dask-site") == 1, 60), asked("up")
        board = (ROOT / "roles/dask_history/files/grafana-dashboard.json").read_text()
        panels = json.loads(board)["panels"]
        queries = [target["expr"] for one in panels for target in one.get("targets", ())]
        assert len(queries) > 5
        for query in queries:
            asking = {"query": re.sub(r"\$__\w+", "5m", query)}
            checked = requests.get(f"http://127.0.0.1:{port}/api/v1/query", asking, timeout=5)
            assert checked.json()["status"] == "success", (query, checked.text)
    finally:
        for process in (watching, serving.process):
            if process:
                process.terminate()
                process.wait(30)


# -- Open OnDemand ------------------------------------------------------------------------------

# What the batch script of Open OnDemand has ready for an app, and in which order it calls it.
JOB = """
cd "$1"
find_port() {
  "$PYTHON" -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])'
}
create_passwd() { tr -cd '[:alnum:]' < /dev/urandom | head -c "${1:-32}"; }
host=$(hostname)
source before.sh
./script.sh > output.log 2>&1 &
umask 077
printf '%s: %s\\n' host "$host" port "$port" password "$password" > connection.yml
wait
"""


@pytest.fixture
def ondemand(tmp_path):
    """The app, for this machine as the site."""
    return App(tmp_path, SITE)


@needs_ruby
def test_the_form_offers_the_pools_of_the_site(ondemand):
    done = ondemand.render(pool="gpu", bc_num_hours=1)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    attributes = told["form"]["attributes"]
    assert set(told["form"]["form"]) == set(attributes)
    assert [value for _, value in attributes["pool"]["options"]] == list(SITE["pools"])
    assert attributes["pool"]["options"][2][0] == "gpu: 1 of 2 cores, 1/2 of 1GiB, 1 GPU"
    native = told["submit"]["script"]["native"]
    assert {"--cpus-per-task=1", "--mem=512M", "--gres=gpu:1"} < set(native)


@needs_ruby
@pytest.mark.parametrize(
    ("memory", "asked"),
    [("1536MiB", 1536), ("256GB", 244140), ("2TiB", 2097152), ("1000000001B", 953)],
)
def test_memory_is_asked_for_in_whatever_unit_the_site_has_it(tmp_path, memory, asked):
    pool = {"cores": 1, "memory": memory}
    app = App(tmp_path, {**SITE, "escalate": [], "pools": {"cpu": pool}})
    done = app.render(pool="cpu", bc_num_hours=1)
    assert done.returncode == 0, done.stderr
    assert f"--mem={asked}M" in json.loads(done.stdout)["submit"]["script"]["native"]


@needs_ruby
@pytest.mark.parametrize("pool", ["tape", "cpu'; touch x; '", "cpu\n  - --uid=0"])
def test_a_pool_that_is_none_is_refused(ondemand, pool):
    done = ondemand.render(pool=pool, bc_num_hours=1)
    assert done.returncode != 0 and f"There is no pool {pool.splitlines()[0]}" in done.stderr
    assert list(ondemand.staged.iterdir()) == []


@needs_ruby
def test_the_form_says_why_it_has_no_pools(ondemand):
    (ondemand.modules / "dask-site").unlink()
    done = ondemand.render(pool="cpu", bc_num_hours=1)
    assert done.returncode != 0
    assert "The pools of this site can't be asked for" in done.stderr


@pytest.fixture
def session(ondemand):
    """A session of the app that runs as its job would: the connection, the button, the folder."""
    done = ondemand.render(pool="cpu", bc_num_hours=1)
    assert done.returncode == 0, done.stderr
    staged = ondemand.staged
    job = subprocess.Popen(
        ["bash", "-c", JOB, "job", staged],
        env=ondemand.environment,
        start_new_session=True,
    )
    try:
        assert until((staged / "connection.yml").exists, 30)
        known = yaml.safe_load((staged / "connection.yml").read_text())
        port = int(known["port"])

        def listens():
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", port)) == 0

        assert until(listens, 60), (staged / "output.log").read_text()
        page = json.loads(done.stdout)["view"]
        for name in ("host", "port", "password"):
            page = page.replace(f"@{name.upper()}", str(known[name]))
        yield known, page, staged
    finally:
        os.killpg(job.pid, signal.SIGTERM)
        job.wait()


@needs_ruby
@pytest.mark.slow
def test_one_click_opens_a_notebook_with_a_kernel_of_the_site(session):
    known, page, staged = session
    top = f"http://127.0.0.1:{known['port']}"
    base = f"{top}/node/{known['host']}/{known['port']}"
    assert requests.get(f"{base}/api/kernels").status_code == 403, "nobody gets in without"
    wrong = requests.post(f"{base}/login", data={"token": "x" * 48, "password": "x" * 48})
    assert wrong.status_code in {401, 403}
    (target,) = re.findall(r'action="([^"]+)"', page)
    form = dict(re.findall(r'name="([^"]+)" value="([^"]+)"', page))
    browser = requests.Session()
    seen = browser.post(top + target, data=form, allow_redirects=False)
    assert seen.status_code == 302, seen.text
    assert seen.headers["Location"].startswith(f"/node/{known['host']}/")
    assert browser.get(f"{base}/api/kernelspecs").json()["default"] == "dask-site"
    for name in ("connection.yml", "config.py"):
        assert (staged / name).stat().st_mode & 0o077 == 0, name
    browser.get(f"{base}/login?next={base}/none")  # a page, which brings the cookie
    xsrf = {"X-XSRFToken": browser.cookies["_xsrf"]}
    kernel = browser.post(f"{base}/api/kernels", json={"name": "dask-site"}, headers=xsrf).json()
    code = "from dask_site.site import Site; print(*Site.find().pools)"
    assert _said(browser, base, kernel["id"], code) == " ".join(SITE["pools"])


def _said(browser, base, kernel, code):
    """Have a kernel run code, as a notebook does; return what it printed."""
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    channel = websocket.create_connection(
        f"ws{base.removeprefix('http')}/api/kernels/{kernel}/channels", cookie=cookies, timeout=60
    )
    header = {"msg_id": "1", "msg_type": "execute_request", "session": "s", "username": "u"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    asked = {"header": {**header, "version": "5.3"}, "parent_header": {}, "metadata": {}}
    channel.send(json.dumps({**asked, "content": content, "channel": "shell", "buffers": []}))
    said = ""
    try:
        while True:
            message = json.loads(channel.recv())
            if message["parent_header"].get("msg_id") != "1":
                continue
            if message["msg_type"] == "error":
                return textwrap.dedent("\n".join(message["content"]["traceback"]))
            if message["msg_type"] == "stream":
                said += message["content"]["text"]
            if message["content"].get("execution_state") == "idle":
                return said.strip()
    finally:
        channel.close()
