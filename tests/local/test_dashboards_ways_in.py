"""Logging in by a provider of OpenID Connect and by JupyterHub: both are real, and processes."""

import asyncio
import base64
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey, RSAKey
from test_dashboards_live import ask, cookie_of, process

from dask_site.dashboards.oidc import Provider
from dask_site.dashboards.sessions import COOKIE
from dask_site.sitefile.parts import Oidc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="the users that log in are the system's"),
]
PROXY = shutil.which("configurable-http-proxy")
ORIGIN = "https://dask.test:8443"
BACK = f"{ORIGIN}/login/oidc/back"
ATTEMPT = "__Host-dask-site-oidc"
WORD = "of a test"
#: A user of the system's who has a shell, of some kind.
USER = "sync"
BROKER = """
import asyncio, sys
from pathlib import Path
from dask_site import Site
from dask_site.dashboards.places import Places
from dask_site.dashboards.serve import serve
state, run, port, secret = sys.argv[1:]
site = Site.from_mapping({
    "schema": 1, "name": "Test", "resource_manager": "local",
    "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
    "dashboards": {
        "enabled": True, "domain": "dask.test", "port": 8443, "state": state, "portal": {},
        "oidc": {"issuer": f"https://localhost:{port}/o", "client": "dask", "secret": secret},
    },
})
asyncio.run(serve(site, Places.of_site(site, Path(run))))
"""
HUB = """
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "of a test"
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.hub_port = {inner}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.JupyterHub.services = [{{"name": "another", "api_token": "of a test, and long enough"}}]
load_subconfig("{ours}")
"""
OURS = Path(__file__).parents[2] / "integrations" / "jupyterhub" / "dask_site_config.py"


def ours(service, door, secret, certificate):
    """Return the file of this project, for addresses of a test."""
    text = OURS.read_text()
    source = Path(__file__).parents[2] / "src"
    more = {"SSL_CERT_FILE": certificate, "PYTHONPATH": source}
    more["DASK_SITE_PORTAL_HEADER"] = "X-Dask-Portal-User"
    added = "".join(f'"{name}": "{value}", ' for name, value in more.items())
    for old, new in {
        "https://dask.example.org": f"https://localhost:{door}",
        "/etc/jupyterhub/dask-portal": str(secret),
        "127.0.0.1:10181": f"127.0.0.1:{service}",
        '"environment": {': '"environment": {' + added,
    }.items():
        assert old in text
        text = text.replace(old, new)
    return text


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def until(condition, running, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a certificate for localhost, and the client's secret."""
    folder = tmp_path_factory.mktemp("o")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "oidc.secret").write_text("between them\n")
    (folder / "oidc.secret").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def provider(files):
    (port,) = free_ports(1)
    script = Path(__file__).with_name("oidc_provider.py")
    folder = files / "provider"
    folder.mkdir()
    arguments = [str(folder), str(files / "tls.pem"), str(files / "tls.key"), str(port), BACK]
    running = subprocess.Popen([sys.executable, str(script), *arguments])
    try:
        until((folder / "up").exists, running)
        yield port
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def broker(files, provider, tmp_path_factory):
    """The broker's socket for the proxy, and the folder of its state."""
    folder = tmp_path_factory.mktemp("b")
    arguments = (folder / "state", folder / "run", provider, files / "oidc.secret")
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(files / "tls.pem")
    try:
        with process(BROKER, *map(str, arguments)) as running:
            door = folder / "run" / "proxy" / "broker.sock"
            until(door.is_socket, running)
            yield str(door), folder / "state"
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


def begin(broker):
    """Return where a browser is sent, and the cookie that it has to bring back."""
    status, headers, _ = ask(broker[0], "/login/oidc")
    assert status == 303
    cookie = headers["Set-Cookie"]
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    return headers["Location"], cookie_of(headers)


def at_provider(files, address, user=USER):
    """Log in there; return with what address the browser comes back."""
    browser = requests.Session()
    browser.verify = str(files / "tls.pem")
    browser.trust_env = False
    page = browser.get(address, timeout=20)
    assert page.status_code == 200 and "password" in page.text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    form = {"username": user, "password": WORD, "csrfmiddlewaretoken": token}
    sent = {"Referer": page.url}
    answer = browser.post(page.url, data=form, headers=sent, allow_redirects=False, timeout=20)
    while not answer.headers["Location"].startswith(ORIGIN):
        base = "{0.scheme}://{0.netloc}".format(urlsplit(answer.url))
        answer = browser.get(base + answer.headers["Location"], allow_redirects=False)
    return answer.headers["Location"].removeprefix(ORIGIN)


def back(broker, path, cookie):
    headers = {"Cookie": f"{ATTEMPT}={cookie}"} if cookie else {}
    return ask(broker[0], path, headers)


def who(broker, cookie):
    return ask(broker[0], "/", {"Cookie": f"{COOKIE}={cookie}"})[2].decode()


def session_of(headers):
    return next(
        value.split(";")[0].split("=", 1)[1]
        for name, value in headers
        if name == "Set-Cookie" and value.startswith(f"{COOKIE}=") and "=;" not in value
    )


def test_a_user_whom_the_provider_knows_is_let_in_once(broker, files):
    page = ask(broker[0], "/login")[2].decode()
    assert 'href="/login/oidc"' in page
    address, cookie = begin(broker)
    asked = parse_qs(urlsplit(address).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["response_type"] == ["code"]
    assert asked["redirect_uri"] == [BACK] and "openid" in asked["scope"][0]
    path = at_provider(files, address)
    status, headers, _ = back(broker, path, cookie)
    assert status == 303 and headers["Location"] == "/"
    assert USER in who(broker, cookie_of(headers))
    # What the browser sent is used up.
    assert back(broker, path, cookie)[0] == 403


def test_nobody_is_logged_in_as_another(broker, files):
    mallorys, hers = begin(broker), begin(broker)
    path = at_provider(files, mallorys[0])
    assert back(broker, path, hers[1])[0] == 403
    assert back(broker, path, "")[0] == 403
    assert back(broker, path, "x" * 90)[0] == 403
    # The control: who began it is let in, and none of that has used it up.
    assert back(broker, path, mallorys[1])[0] == 303


@pytest.mark.parametrize("user", ["root", "nobody-here", str(pwd.getpwnam(USER).pw_uid)])
def test_who_is_no_user_here_is_not_let_in(user, broker, files):
    address, cookie = begin(broker)
    status, headers, _ = back(broker, at_provider(files, address, user), cookie)
    assert status == 403 and COOKIE + "=" not in headers.get("Set-Cookie", "")


def test_what_a_provider_refuses_or_another_says_lets_nobody_in(broker, files):
    address, cookie = begin(broker)
    state = parse_qs(urlsplit(address).query)["state"][0]
    assert back(broker, f"/login/oidc/back?error=access_denied&state={state}", cookie)[0] == 403
    address, cookie = begin(broker)
    state = parse_qs(urlsplit(address).query)["state"][0]
    assert back(broker, f"/login/oidc/back?code=guessed&state={state}", cookie)[0] == 403
    address, cookie = begin(broker)
    path = at_provider(files, address) + "&iss=https://evil.test/o"
    assert back(broker, path, cookie)[0] == 403


class TestTokens:
    """What a provider's token has to be."""

    key = RSAKey.generate_key(2048, {"kid": "1"})

    def claims(self, files, *, header=None, key=None, **changes):
        said = Oidc(issuer="https://localhost/o", client="dask", secret=str(files / "oidc.secret"))
        provider = Provider(said, BACK)
        provider._keys = {"keys": [self.key.as_dict(private=False)]}
        now = int(time.time())
        claims = {"iss": said.issuer, "aud": "dask", "sub": "1", "nonce": "n"}
        claims |= {"iat": now, "exp": now + 300, **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        header = header or {"alg": "RS256", "kid": "1"}
        known = ["RS256", "HS256"]
        token = jwt.encode(header, claims, key or self.key, algorithms=known)
        return provider._claims({"id_token": token}, "n")

    def test_one_that_holds(self, files):
        assert self.claims(files)["sub"] == "1"

    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": "https://evil.test/o"},
            {"aud": "another"},
            {"nonce": "another"},
            {"nonce": None},
            {"iss": None},
            {"aud": None},
            {"exp": 1},
            {"exp": None},
            {"aud": ["dask", "another"], "azp": "another"},
        ],
    )
    def test_what_it_says(self, changes, files):
        with pytest.raises(Exception, match="claim|expired|Claim"):
            self.claims(files, **changes)

    def test_who_signed_it(self, files):
        shared = OctKey.import_key("between them, and it is long enough for HS256")
        for header, key in (
            ({"alg": "HS256", "kid": "1"}, shared),
            ({"alg": "RS256", "kid": "1"}, RSAKey.generate_key(2048)),
        ):
            with pytest.raises((JoseError, ValueError)):
                self.claims(files, header=header, key=key)

    def test_nobody_signed_it(self, files):
        said = Oidc(issuer="https://localhost/o", client="dask", secret=str(files / "oidc.secret"))
        provider = Provider(said, BACK)
        provider._keys = {"keys": [self.key.as_dict(private=False)]}
        claims = {"iss": said.issuer, "aud": "dask", "sub": "1", "nonce": "n", "exp": 2**33}
        parts = [json.dumps(part).encode() for part in ({"alg": "none", "kid": "1"}, claims)]
        token = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts) + b"."
        with pytest.raises((JoseError, ValueError)):
            provider._claims({"id_token": token.decode()}, "n")


def test_the_portal_proves_itself(broker):
    door, state = broker
    secret = (state / "secret" / "portal").read_text().strip()
    assert len(secret) == 64
    wrong = [
        {"X-Dask-Portal-User": USER},
        {"X-Dask-Portal-User": USER, "X-Dask-Portal": ""},
        {"X-Dask-Portal-User": USER, "X-Dask-Portal": secret[:-1]},
        {"X-Dask-Portal-User": USER, "X-Dask-Portal": secret + "x"},
        {"X-Remote-User": USER, "X-Dask-Portal": secret},
        {"X-Dask-Portal-User": "root", "X-Dask-Portal": secret},
        {"X-Dask-Portal-User": "nobody-here", "X-Dask-Portal": secret},
        {"X-Dask-Portal-User": "daemon", "X-Dask-Portal": secret},
        {"X-Dask-Portal-User": str(pwd.getpwnam(USER).pw_uid), "X-Dask-Portal": secret},
    ]
    for headers in wrong:
        status, answered, _ = ask(door, "/login/portal", headers)
        assert status == 403 and "Location" not in answered, headers
    right = {"X-Dask-Portal-User": USER, "X-Dask-Portal": secret}
    status, answered, _ = ask(door, "/login/portal", right)
    assert status == 303 and answered["Location"].startswith(f"{ORIGIN}/login#")
    assert "Set-Cookie" not in answered


@contextmanager
def front(files, door, port):
    """TLS before the broker, as nginx has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "tls.pem", files / "tls.key")
    loop = asyncio.new_event_loop()

    async def pump(reader, writer):
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def through(reader, writer):
        there = await asyncio.open_unix_connection(door)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = loop.run_until_complete(asyncio.start_server(through, "127.0.0.1", port, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.skipif(PROXY is None, reason="JupyterHub needs configurable-http-proxy")
def test_jupyterhub_leads_its_users_there(broker, files, tmp_path):
    hub, inner, api, service, door = free_ports(5)
    state = broker[1]
    (tmp_path / "ours.py").write_text(
        ours(service, door, state / "secret" / "portal", files / "tls.pem")
    )
    configuration = HUB.format(
        ours=tmp_path / "ours.py", hub=hub, inner=inner, api=api, proxy=PROXY
    )
    (tmp_path / "config.py").write_text(configuration)
    log = (tmp_path / "log").open("wb")
    with front(files, broker[0], door):
        running = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "NODE_PATH": "/usr/share/nodejs",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            start_new_session=True,
        )
        try:
            browser = requests.Session()
            url = f"http://127.0.0.1:{hub}"

            def up():
                try:
                    return browser.get(f"{url}/services/dask/", timeout=5).status_code == 200
                except requests.RequestException:
                    return False

            until(up, running)
            # Nobody is logged in: the hub asks who it is.
            page = browser.get(f"{url}/services/dask/")
            assert "/hub/login" in page.url
            form = {"username": USER, "password": WORD, "_xsrf": browser.cookies.get("_xsrf")}
            answer = browser.post(page.url, data=form, allow_redirects=False)
            for _ in range(8):
                to = answer.headers.get("Location", "")
                if not to or "#" in to:
                    break
                to = to if to.startswith("http") else url + to
                answer = browser.get(to, allow_redirects=False)
            link = answer.headers.get("Location", "")
            assert "/login#" in link, (
                answer.status_code,
                answer.url,
                (tmp_path / "log").read_text(),
            )
            form = {"word": link.partition("#")[2]}
            sent = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
            status, headers, _ = ask(broker[0], "/login", sent, "POST", f"word={form['word']}")
            assert status == 303 and USER in who(broker, cookie_of(headers))
        finally:
            os.killpg(running.pid, 15)
            running.wait()
            log.close()
