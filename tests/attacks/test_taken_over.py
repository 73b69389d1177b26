"""Ports that nginx is led to, and that somebody else holds (class 9)."""

import re

import pytest
from attacked import LOCAL, gets_through, kept_out, started_in_a_job
from naive import ANYWHERE
from registering import ASKED, known
from visiting import NAVIGATION

from nodes import node, until

SHOWN = "/status"
LOOPBACK = {"127.0.0.1": 6820, "::1": 6821}
KEPT = "only for this node"
# As bob on the way to a broker by the loopback: the broker sees that address as his.
BY_LOOPBACK = f"""
{ASKED}
import socket, ssl
from dask_site.identity import request_credential
one = next(each for each in asking.brokers(where) if each.host.partition(".")[0] == where_now)
told = {{}}
for address, port in LOOPBACK.items():
    request, _ = keys.request()
    body = json.dumps({{"op": "register", "name": "x", "port": port, "request": request}}).encode()
    word = request_credential(one.host, "POST", "/api/v1/ask", body)
    context = ssl._create_unverified_context()
    plain = socket.create_connection((address, one.port), 10)
    stream = context.wrap_socket(plain, server_hostname=one.host)
    head = (f"POST /api/v1/ask HTTP/1.1\\r\\nHost: {{one.host}}\\r\\nAuthorization: MUNGE {{word}}"
            f"\\r\\nContent-Type: application/json\\r\\nContent-Length: {{len(body)}}"
            "\\r\\nConnection: close\\r\\n\\r\\n")
    stream.sendall(head.encode() + body)
    came = b""
    while part := stream.recv(65536):
        came += part
    told[address] = json.loads(came.partition(b"\\r\\n\\r\\n")[2] or b"{{}}")
tell(told=told)
"""
# Listens for TLS where alice's dashboard was, and says what it gets.
THIEF = f"""
import socket, ssl, tempfile
from pathlib import Path
{ASKED}
request, key = keys.request()
said = ask(op="register", name="thief", port=PORT, request=request)
held = Path(tempfile.mkdtemp()) / "pem"
held.write_bytes(key + said["certificate"].encode())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(held)
listener = socket.create_server((ADDRESS, PORT))
tell(id=said["id"])
while True:
    plain, _ = listener.accept()
    print("CALLED", flush=True)
    try:
        plain.settimeout(10)
        stream = context.wrap_socket(plain, server_side=True)
        print("GOT", stream.recv(65536), flush=True)
        stream.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nthief")
        stream.close()
    except OSError as error:
        print("NOTHING", error, flush=True)
        plain.close()
"""


def ports_of(user, host):
    """Return the ports on which processes of a user listen for other nodes."""
    shown = node(host).check_output("ss -tlnpH")
    owned = node(host).run(f"pgrep -u {user}").stdout.split()
    lines = [line for line in shown.splitlines() if any(f"pid={pid}," in line for pid in owned)]
    found = [line.split()[3].rpartition(":") for line in lines]
    return [int(port) for address, _, port in found if not address.startswith("127.")]


def test_a_port_of_hers_gives_him_nothing(python, browser, alices):
    """Bob's cluster says a port of alice's: its certificate has another name."""
    host = alices["job"]["node"]
    ports = ports_of("alice", host)
    assert ports  # at least that of her dashboard
    facts, result = python(
        "bob",
        f"""
        {ASKED.replace(chr(10), chr(10) + "        ")}
        ids = []
        for port in {ports!r}:
            request, _ = keys.request()
            ids.append(ask(op="register", name="over", port=port, request=request).get("id"))
        tell(ids=ids)
        """,
        host=host,
    )
    assert len(facts["ids"]) == len(ports) and all(facts["ids"]), result.stderr
    bob = browser("bob")
    assert bob.go(f"{bob.origin(facts['ids'][0])}{SHOWN}").status == 502  # it is there, as he said
    for cluster in facts["ids"]:
        # One of these ports may hang until the others are forgotten, which nobody keeps up.
        answer = bob.go(f"{bob.origin(cluster)}{SHOWN}")
        kept_out(answer.status in {403, 502} and "Bokeh" not in answer.text, answer.status)
        kept_out(bob.curl(f"{bob.origin(cluster)}{SHOWN}")[0] in {403, 502}, "HTTP/2")
        status, stream = bob.websocket(cluster)
        stream.close()
        kept_out(status in {403, 502}, "WebSocket", status)


def test_a_port_of_hers_that_he_holds_when_her_job_has_ended(
    alice, in_background, address, unprotected, stranger
):
    """Her job ends, bob is on that node next, and alice comes back to her page."""
    facts, job = started_in_a_job("alice", LOCAL, "ends")
    cluster, where = facts["link"].removeprefix("https://").partition(".")[0], facts["node"]
    url = f"{alice.origin(cluster)}{SHOWN}"
    assert until(lambda: alice.go(url).status == 200, 20)  # the control: she has a cookie there
    port = int(known(cluster)["address"].rpartition(":")[2])
    # Killed, so that it takes no leave of the broker.
    node("login1").check_output(f"scancel -s KILL --full {job}; scancel {job}")
    gone = f"ss -Hltn 'sport = :{port}'"
    assert until(lambda: not node(where).check_output(gone), 60)
    code = f"PORT, ADDRESS = {port}, {address(where)!r}\n{THIEF}"
    _, _, taken = in_background("bob", code, host=where)
    for _ in range(3):
        answer = alice.request(url, headers=NAVIGATION)
        kept_out(answer.status in {403, 502} and answer.body != b"thief", answer.status)
        status, text = alice.curl(url)
        kept_out(status in {403, 502} and "thief" not in text, "HTTP/2", status)
        status, stream = alice.websocket(cluster)
        stream.close()
        kept_out(status in {403, 502}, "WebSocket", status)
    said = node(where).check_output(f"cat {taken}")
    # nginx looks at the certificate when TLS stands, and leaves without a word.
    assert "CALLED" in said
    kept_out(set(re.findall(r"GOT (.*)", said)) <= {"b''"}, said[-300:])
    # The control: a proxy that looks at no certificate gives him her word, and her his page.
    victim = stranger(port=ANYWHERE)
    victim.cookies[f"{cluster}.{victim.domain}"] = "a-word-of-hers"
    led = f"{victim.origin(cluster)}/?by=tls&to={address(where)}:{port}"
    gets_through(victim.request(led).body == b"thief", "his page")
    gets_through("a-word-of-hers" in node(where).check_output(f"cat {taken}"), "her word")


@pytest.fixture
def inside():
    """A service of the node's own, such as slurmrestd: on the loopback, for whoever is there."""
    host = node("login1")
    for number, (address, port) in enumerate(LOOPBACK.items()):
        serve = f"/usr/bin/python3 -m http.server --bind {address} --directory /run/inside {port}"
        host.check_output(
            f"mkdir -p /run/inside && echo '{KEPT}' > /run/inside/index.html && "
            f"systemd-run --unit inside-{number} {serve}"
        )
        listens = f"ss -Hltn 'sport = :{port}'"
        assert until(lambda listens=listens: host.check_output(listens)), listens
    yield
    host.run("systemctl stop inside-0 inside-1; systemctl reset-failed; rm -rf /run/inside")


def test_nginx_is_not_led_to_the_loopback(inside, python, browser, unprotected, stranger):
    """Bob registers from the node itself, by either loopback, what listens for it alone."""
    code = BY_LOOPBACK.replace("LOOPBACK", repr(LOOPBACK)).replace("where_now", "'login1'")
    facts, result = python("bob", code)
    assert len(facts.get("told", ())) == len(LOOPBACK), result.stderr
    bob = browser("bob")
    for address, said in facts["told"].items():
        if "id" not in said:
            kept_out(said.get("error"), address, said)
            continue
        answer = bob.go(f"{bob.origin(said['id'])}/")
        kept_out(answer.status == 502 and KEPT not in answer.text, address, answer.status)
        status, text = bob.curl(f"{bob.origin(said['id'])}/")
        kept_out(status == 502 and KEPT not in text, address, "HTTP/2", status)
    now = "$(systemctl show -P InvocationID inside-{})"
    log = " ; ".join(f"journalctl -o cat _SYSTEMD_INVOCATION_ID={now}".format(n) for n in (0, 1))
    asked = node("login1").check_output(log)
    kept_out('"GET /' not in asked, "a request came there")
    nobody = stranger(port=ANYWHERE)
    for address, port in LOOPBACK.items():
        there = f"[{address}]" if ":" in address else address
        answer = nobody.request(f"{nobody.origin('a' * 16)}/?to={there}:{port}/")
        gets_through(KEPT in answer.text, address)
    assert until(lambda: '"GET /' in node("login1").check_output(log), 20)  # it is noted there
