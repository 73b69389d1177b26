"""The role's nginx before a broker, both as processes: renewals, bounds, what stands in logs."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import jinja2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from test_dashboards_live import cookie_of, process, until
from test_dashboards_ways_in import free_ports

from dask_site.calls import Calls, ServiceDownError, Where
from dask_site.dashboards import asking, keys, serve
from dask_site.dashboards.places import Places
from dask_site.dashboards.sessions import COOKIE
from dask_site.services.hostname import hostname

ROLE = Path(__file__).parents[2] / "roles" / "dask_dashboards"
MODULES = Path("/usr/lib/nginx/modules")
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NGINX is None or not (MODULES / "ngx_http_js_module.so").exists() or os.getuid() != 0,
        reason="nginx with its JavaScript module, and root, who needs no group to reach the broker",
    ),
]
BROKER = """
import asyncio, sys
from pathlib import Path
from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.dashboards.serve import serve
site = Site.from_mapping({
    "schema": 1, "name": "Test", "resource_manager": "local",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
    "dashboards": {"enabled": True, "domain": "dask.test", "port": int(sys.argv[3]),
                   "state": sys.argv[1]},
    "history": {"enabled": True, "state": sys.argv[1] + "/history", "socket": sys.argv[2] + "/h"},
})
asyncio.run(serve(site, Places.of_site(site, Path(sys.argv[2]))))
"""


class Front:
    """A broker and an nginx of a site, in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        (self.port,) = free_ports(1)
        self.places = Places(
            "dask.test", self.port, folder / "state", folder / "run", hostname(), False
        )
        self.log = folder / "log"

    def configure(self, certificate="", key="", **changes):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(ROLE / "templates"),
            trim_blocks=True,
            autoescape=False,
            undefined=jinja2.StrictUndefined,
        )
        state = self.places.state
        text = environment.get_template("nginx.conf.j2").render(
            dask_site={"dashboards": {"domain": "dask.test", "oidc": {}, "portal": {}}},
            dask_dashboards_modules=MODULES,
            dask_dashboards_connections=512,
            dask_dashboards_address_limit=changes.pop("address_limit", 400),
            _dask_dashboards_run=self.places.run,
            _dask_dashboards_state=state,
            _dask_dashboards_domain="dask.test",
            _dask_dashboards_port=self.port,
            _dask_dashboards_suffix=f":{self.port}",
            _dask_dashboards_configuration=self.folder,
            _dask_dashboards_certificate=certificate or state / "proxy" / "web.pem",
            _dask_dashboards_key=key or state / "proxy" / "web.key",
            _dask_dashboards_host=self.places.host,
            _dask_dashboards_history=True,
            _dask_dashboards_history_socket=self.places.run / "h",
        )
        for before, after in changes.items():
            assert f"{before}=" in text
            text = text.replace(f"{before}=6000", f"{before}={after}")
        (self.folder / "nginx.conf").write_text(text)
        shutil.copy(ROLE / "files" / "headers.js", self.folder)

    def nginx(self, *more):
        about = "daemon off; pid pid; user root;"
        configuration = self.folder / "nginx.conf"
        return [NGINX, "-p", f"{self.folder}/ng/", "-c", str(configuration), "-g", about, *more]

    @contextmanager
    def proxy(self):
        (self.folder / "ng").mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            running = subprocess.Popen(self.nginx(), stderr=log)
            try:
                yield running
            finally:
                running.terminate()
                running.wait()

    @contextmanager
    def broker(self):
        places = self.places
        with process(BROKER, str(places.state), str(places.run), str(self.port)) as running:
            assert until(lambda: places.http.is_socket() and places.control.is_socket(), 60)
            yield running

    @contextmanager
    def up(self, **changes):
        with self.broker() as broker:
            self.configure(**changes)
            with self.proxy() as proxy:
                assert until(lambda: self.served("dask.test"), 60), self.log.read_text()
                yield broker, proxy

    def stream(self, name, client=False):
        """A connection by TLS to a name of this proxy."""
        context = ssl._create_unverified_context()
        if client:
            proxy = self.places.proxy
            context.load_cert_chain(proxy / "client.pem", proxy / "client.key")
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname=name)

    def served(self, name):
        """The certificate with which it answers to a name."""
        with self.stream(name) as stream:
            return stream.getpeercert(binary_form=True)

    def ask(self, url, method="GET", body=None, **headers):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, self.port, timeout=20)
        connection.sock = self.stream(parts.hostname)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, {"Host": parts.netloc, **named})
        answer = connection.getresponse()
        answer.text = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer

    def log_in(self):
        """The cookie of a browser in which root is logged in."""
        link = asking.ask(self.places, op="link")["url"]
        body = urlencode({"word": link.partition("#")[2]})
        form = {"Origin": self.places.origin(), "Content_Type": "application/x-www-form-urlencoded"}
        answer = self.ask(f"{self.places.origin()}/login", "POST", body, **form)
        assert answer.status == 303
        return f"{COOKIE}={cookie_of(dict(answer.getheaders()))}"


@pytest.fixture
def front(tmp_path_factory):
    return Front(tmp_path_factory.mktemp("f"))  # addresses of Unix sockets are short


def reload(front, proxy, name):
    """Have nginx read its certificates, and wait until it serves another."""
    before = front.served(name)
    subprocess.run(front.nginx("-t", "-q"), check=True, capture_output=True)
    proxy.send_signal(1)
    assert until(lambda: front.served(name) != before, 60)


def reached(where):
    """Say whether who pins what is published gets through to this node's proxy."""
    here = Where("127.0.0.1", where.port, "", where.certificate)
    connection = Calls(here)._by_tls("x")
    context = connection._context
    plain = socket.create_connection(("127.0.0.1", where.port), timeout=20)
    connection.sock = context.wrap_socket(plain, server_hostname=where.host)
    try:
        connection.request("POST", "/api/v1/ask", b"{}", {"Host": where.host})
        return connection.getresponse().status == 401  # munge is asked for: it is the broker
    finally:
        connection.close()


def test_a_renewal_breaks_nothing(front, monkeypatch):
    places, host = front.places, hostname()
    with front.up() as (_, proxy):

        def published():
            return Where.read(places.public, f"{host}.json")

        first = published()
        assert reached(first)
        stop, failed, count = threading.Event(), [], [0]

        def calls():
            while not stop.is_set():
                try:
                    assert reached(published())
                    count[0] += 1
                except (OSError, AssertionError, ServiceDownError) as error:
                    failed.append(repr(error))
                time.sleep(0.01)

        caller = threading.Thread(target=calls)
        caller.start()
        try:
            monkeypatch.setattr(keys, "_RENEWED", keys._LASTS)
            before = front.served(host)
            serve._renew(places, web=True)
            assert published().certificate != first.certificate
            assert front.served(host) == before, "nginx has not read it yet"
            seen = count[0]
            assert until(lambda: count[0] > seen + 5, 60)
            reload(front, proxy, host)
            seen = count[0]
            assert until(lambda: count[0] > seen + 5, 60)
        finally:
            stop.set()
            caller.join()
        assert failed == []
        # The control: who knows the old one alone can tell that it is another.
        with pytest.raises(OSError, match="certificate"):
            reached(first)


def test_a_certificate_of_the_site_is_replaced_under_open_pages(front, tmp_path):
    other = Places("dask.test", front.port, tmp_path / "a", tmp_path, "x")
    certificate, key = tmp_path / "site.pem", tmp_path / "site.key"

    def made():
        shutil.rmtree(other.state, ignore_errors=True)
        keys.ensure(other, web=True)
        shutil.copy(other.proxy / "web.key", key)
        shutil.copy(other.proxy / "web.pem", certificate)
        text = certificate.read_bytes()
        return x509.load_pem_x509_certificate(text).public_bytes(serialization.Encoding.DER)

    old = made()
    with front.up(certificate=certificate, key=key) as (_, proxy):
        cookie = front.log_in()
        assert front.served("dask.test") == old
        new = made()
        reload(front, proxy, "dask.test")
        assert front.served("dask.test") == new
        # Nobody is logged out by it.
        assert front.ask(f"{front.places.origin()}/", Cookie=cookie).status == 200


def test_a_ticket_lets_in_the_browser_alone_that_was_sent_for_it(front):
    with front.up():
        main = front.log_in()
        page = f"{front.places.origin('history')}/clusters/ab"
        first = front.ask(page)
        assert first.status == 302
        state = first.getheader("Set-Cookie").split(";")[0]
        assert state.startswith(f"{COOKIE}=") and "HttpOnly" in first.getheader("Set-Cookie")
        sent = front.ask(first.getheader("Location"), Cookie=main)
        assert sent.status == 303
        # Another's browser, to which the address is given: it is asked to log in itself.
        for planted in ("", f"{COOKIE}={'0' * 32}"):
            again = front.ask(front.ask(page).getheader("Location"), Cookie=main)
            answer = front.ask(
                again.getheader("Location"), **({"Cookie": planted} if planted else {})
            )
            assert answer.status == 303 and answer.getheader("Location") == "/clusters/ab"
            assert answer.getheader("Set-Cookie") is None
            used = front.ask(again.getheader("Location"), Cookie=state)
            assert used.status == 403
        for mode, dest in (("cors", "empty"), ("navigate", "iframe"), ("no-cors", "image")):
            headers = {"Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": dest, "Cookie": state}
            assert front.ask(sent.getheader("Location"), **headers).status == 403
        # The control: the browser that was sent.
        right = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document", "Cookie": state}
        answer = front.ask(sent.getheader("Location"), **right)
        assert answer.status == 303 and answer.getheader("Location") == "/clusters/ab"
        own = answer.getheader("Set-Cookie").split(";")[0]
        # Two pages beside each other get the same word; what is no page gets none.
        assert front.ask(page, Cookie=state).getheader("Set-Cookie").split(";")[0] == state
        assert front.ask(page, Sec_Fetch_Dest="image").getheader("Set-Cookie") is None
        assert front.ask(page, Cookie=own).status == 502  # let in; no history is there


def test_what_lets_in_stands_in_no_log(front):
    cluster = "a" * 16
    with front.up() as (broker, _):
        secret = "of-this-test-alone"
        places = front.places
        broker.kill()
        broker.wait()
        for name in (cluster, "history"):
            assert front.ask(f"{places.origin(name)}/_dask-site/in?word={secret}").status == 502
        answer = front.ask(f"{places.origin()}/login/oidc/back?code={secret}&state={secret}")
        assert answer.status == 503
        assert front.ask(f"{places.origin()}/login?shown=1").status == 503
    log = front.log.read_text()
    assert "shown=1" in log, "the control: an error is logged with its request"
    assert secret not in log


def test_proxies_of_other_nodes_are_not_counted_and_strangers_are(front):
    cluster = "b" * 16
    with front.up(address_limit=3):
        places = front.places
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(places.doors / f"{cluster}.sock"))
            silent.listen(50)

            def answers(client, head):
                streams = [front.stream(places.host, client=client) for _ in range(10)]
                try:
                    for stream in streams:
                        stream.sendall(head.encode())
                        stream.settimeout(1)
                    found = []
                    for stream in streams:
                        try:
                            found.append(stream.recv(4096).split(b" ")[1])
                        except TimeoutError:
                            found.append(b"")
                    return found
                finally:
                    for stream in streams:
                        stream.close()

            asked = f"GET / HTTP/1.1\r\nHost: {places.host}\r\nX-Dask-Cluster: {cluster}\r\n\r\n"
            assert answers(True, asked) == [b""] * 10
            head = f"POST /api/v1/ask HTTP/1.1\r\nHost: {places.host}\r\nContent-Length: 9\r\n\r\n"
            assert answers(False, head).count(b"429") == 7


def test_a_flood_of_one_session_is_its_own_trouble(front):
    with front.up(burst=20):
        origin = front.places.origin("c" * 16)

        def flood(session):
            cookie = f"{COOKIE}={session * 32}.{'c' * 16}.{'x' * 43}"
            return [
                front.ask(f"{origin}/x", Cookie=cookie, Sec_Fetch_Dest="image").status
                for _ in range(10)
            ]

        asked = [threading.Thread(target=lambda: seen.extend(flood("1"))) for _ in range(30)]
        seen = []
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        assert 429 in seen and 401 in seen
        assert set(flood("2")) == {401}


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux")
def test_a_key_that_the_proxys_account_can_not_read_is_refused_by_the_role(front):
    import shlex

    import yaml

    tasks = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())
    task = next(one for one in tasks if one["name"] == "Configure nginx")
    validate = task["ansible.builtin.template"]["validate"]
    binds = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["_dask_dashboards_binds"]
    command = jinja2.Template(validate).render(
        dask_dashboards_proxy_user="www-data",
        _dask_dashboards_binds=jinja2.Template(binds).render(_dask_dashboards_port=443),
    )

    def valid():
        done = subprocess.run(
            shlex.split(command % (front.folder / "nginx.conf")), capture_output=True, text=True
        )
        return done.returncode == 0, done.stderr

    with front.broker():
        pass
    made = Path(tempfile.gettempdir())
    for path in (front.folder, *front.folder.parents):  # as far as pytest has made it
        if path.is_relative_to(made) and path != made:
            path.chmod(0o755)
    shutil.chown(front.places.proxy, group="www-data")
    for path in front.places.proxy.iterdir():
        shutil.chown(path, group="www-data")
    certificate, key = front.folder / "site.pem", front.folder / "site.key"
    shutil.copy(front.places.proxy / "web.pem", certificate)
    shutil.copy(front.places.proxy / "web.key", key)
    key.chmod(0o600)
    certificate.chmod(0o644)
    front.configure(certificate=certificate, key=key)
    (front.folder / "headers.js").chmod(0o644)
    good, why = valid()
    assert not good and "site.key" in why and "Permission denied" in why
    shutil.chown(key, group="www-data")
    key.chmod(0o640)
    good, why = valid()
    assert good, why
