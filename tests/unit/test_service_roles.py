"""Parts of the roles on this machine: what they ask of services, and whose jobs they start."""

import contextlib
import datetime
import http.server
import json
import os
import socketserver
import ssl
import threading

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playing import ROLES, a_play_of, needs_ansible, run_playbook

pytestmark = needs_ansible
DOMAIN = "dask.example.org"
NGINX = """
  server {{
    listen {port} ssl http2 default_server;
    server_name _;
  }}
  server {{
    listen {port} ssl http2;
    server_name dask.example.org;
  }}
"""


def play(folder, role, tasks, *arguments, **variables):
    """Run tasks of a role with its variables; return status and output in one line."""
    parts = [
        ROLES / name / part / "main.yml"
        for name in ("dask_site", role)
        for part in ("defaults", "vars")
    ]
    play = a_play_of(role, tasks, vars_files=[str(part) for part in parts])
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "vars.json").write_text(json.dumps(variables))
    given = ("-i", "localhost,", "-e", "@vars.json", *arguments, "play.yml")
    # Nobody is there.
    nobody = "http://127.0.0.1:9"
    return run_playbook(folder, *given, http_proxy=nobody, https_proxy=nobody)


class Unix(socketserver.ThreadingUnixStreamServer):
    """A server on a socket of the file system."""

    def get_request(self):
        """Give a request an address, as http.server wants one."""
        return super().get_request()[0], ("unix", 0)


@contextlib.contextmanager
def serving(server):
    """Run a server in a thread."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def saying(text):
    """Return a handler that knows its health, and says of all else that it isn't there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path in {"/healthz", "/internal/health"}
            said = f"{text} {self.headers['Host']}".encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def tls(tmp_path):
    """What a server encrypts with."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    both = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + made.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "both.pem").write_bytes(both)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    return context


def test_the_history_is_asked_on_its_own_socket_and_through_no_proxy(tmp_path):
    with serving(Unix(str(tmp_path / "s"), saying("history"))):
        site = {"history": {"socket": str(tmp_path / "s")}}
        status, said = play(tmp_path, "dask_history", "answering.yml", dask_site=site)
    assert status == 0, said


def answer(folder, **given):
    """Run the module that asks the broker and its proxy; return status and output in one line."""
    asked = {
        "socket": str(folder / "broker.sock"),
        "configuration": str(folder / "nginx.conf"),
        "timeout": 3,
        **given,
    }
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [{"dask_dashboards_answer": asked}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    library = str(ROLES / "dask_dashboards" / "library")
    nobody = "http://127.0.0.1:9"
    environment = {"http_proxy": nobody, "https_proxy": nobody, "ANSIBLE_LIBRARY": library}
    return run_playbook(folder, "-i", "localhost,", "play.yml", **environment)


@pytest.mark.parametrize("behind", ["broker", "another", "nobody"])
def test_the_proxy_has_to_say_what_the_broker_says_and_no_other_proxy_is_asked(
    tmp_path, tls, behind
):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), saying(behind))
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    port = server.server_address[1]
    if behind == "nobody":
        server.server_close()
    (tmp_path / "nginx.conf").write_text(NGINX.format(port=port))
    with (
        contextlib.nullcontext() if behind == "nobody" else serving(server),
        serving(Unix(str(tmp_path / "broker.sock"), saying("broker"))),
    ):
        status, said = answer(tmp_path)
    if behind == "broker":
        assert status == 0, said
    else:
        reason = "refused" if behind == "nobody" else "not the page of the broker"
        assert status != 0 and f"does not answer on port {port} of " in said, said
        assert reason in said and "dask_site.dashboards.port" in said


def test_a_broker_that_is_silent_is_told(tmp_path):
    (tmp_path / "nginx.conf").write_text(NGINX.format(port=1))
    status, said = answer(tmp_path)
    assert status != 0 and "The broker of dashboards does not answer" in said, said
    assert "No such file or directory" in said and "journalctl --unit=dask-dashboards" in said


@pytest.mark.parametrize("text", ["", "  listen 80;\n", None])
def test_an_nginx_that_is_not_configured_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "nginx.conf").write_text(text)
    status, said = answer(tmp_path)
    told = "is not there" if text is None else "names no port with TLS and no domain"
    assert status != 0 and told in said and str(tmp_path / "nginx.conf") in said


@pytest.mark.parametrize("arguments", [(), ("--check",)])
@pytest.mark.skipif(os.getuid() != 0, reason="the user that Ansible connects as is root")
def test_no_jobs_of_root_accept_a_release(tmp_path, arguments):
    status, said = play(
        tmp_path, "dask_acceptance", "main.yml", *arguments, dask_site={"name": "x", "pools": {}}
    )
    assert status != 0 and "dask_acceptance_user: NAME" in said, said
