"""Another user of the node, and every port that is open there (classes 1 to 3)."""

import textwrap

import pytest
from attacked import LOCAL, node, until

# What bob tries on each port: HTTP as plain text and with TLS, with no certificate, with one that
# he made, with an expired one, with that of a dashboard of his own; and Dask's own protocol.
ATTEMPTS = """
import asyncio, datetime, socket, ssl, tempfile, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
import dask
from distributed.core import connect
from distributed.security import Security
from dask_site.dashboards import asking, keys

dask.config.set({"distributed.comm.require-encryption": False})
folder = Path(tempfile.mkdtemp())

def made(name, days):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
    now = datetime.datetime.now(datetime.UTC)
    built = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days)).sign(key, hashes.SHA256()))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    (folder / name).write_bytes(pem + built.public_bytes(serialization.Encoding.PEM))

made("self-signed", 9)
made("expired", -1)
asked, key = keys.request()
said, _ = asking.ask_elsewhere(asking.places(), {
    "op": "register", "name": "bobs", "port": 40000, "request": asked})
(folder / "of a dashboard").write_bytes(key + said["certificate"].encode())

def http(port, certificate, tls):
    one = socket.create_connection(port, 1)
    try:
        if tls:
            context = ssl._create_unverified_context()
            if certificate:
                context.load_cert_chain(folder / certificate)
            one = context.wrap_socket(one, server_hostname="x")
        one.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        return one.recv(4096).decode("latin-1")
    finally:
        one.close()

async def talks(address, security):
    async def ask():
        comm = await connect(address, timeout=1, **security.get_connection_args("client"))
        await comm.write({"op": "identity", "reply": True})
        return isinstance(await comm.read(), dict)
    try:
        return await asyncio.wait_for(ask(), 3)
    except Exception:
        return False

own, found = Security(), []
for host, number in PORTS:
    port = (host, number)
    for name in ("plain", "", "self-signed", "expired", "of a dashboard"):
        try:
            answer = http(port, name if name != "plain" else "", name != "plain")
        except OSError:
            continue
        if answer.startswith("HTTP/"):
            found.append([number, name, answer.split("\\r\\n")[0]])
    for scheme, security in (("tcp", Security()), ("tls", Security.temporary()), ("tls", own)):
        if asyncio.run(talks(f"{scheme}://{host}:{number}", security)):
            found.append([number, scheme, "it talks"])
tell(found=found, tried=len(PORTS))
"""
OPEN = """
import dask
for key in ("scheduler", "worker", "nanny", "client"):
    dask.config.set({f"distributed.{key}.preload": []})
comm = {"require-encryption": None, "default-scheme": "tcp"}
dask.config.set({f"distributed.comm.{key}": value for key, value in comm.items()})
dask.config.set({"dask_site.dashboards": None})
"""


def ports_of(user, host):
    """Return where processes of a user listen, as (address, port)."""
    shown = node(host).check_output("ss -tlnpH")
    owned = node(host).run(f"pgrep -u {user}").stdout.split()
    found = []
    own = node(host).check_output("hostname -i").split()[0]
    for line in shown.splitlines():
        local = line.split()[3]
        address, _, port = local.rpartition(":")
        if any(f"pid={pid}," in line for pid in owned):
            found.append([own if address in {"0.0.0.0", "*", "[::]"} else address, int(port)])
    return found


def attempts(ports):
    return f"PORTS = {ports!r}\n{ATTEMPTS}"


@pytest.mark.parametrize("where", ["login", "job"])
def test_no_port_of_hers_answers_him(where, alices, python):
    ports = ports_of("alice", alices[where]["node"])
    assert ports, "she has a scheduler there"
    facts, result = python("bob", attempts(ports), host=alices[where]["node"])
    assert facts.get("tried") == len(ports), result.stderr
    assert facts["found"] == []


def test_what_the_same_does_to_plain_dask(in_background, python):
    """The control."""
    in_background("carol", OPEN + LOCAL)
    ports = ports_of("carol", "login1")
    facts, result = python("bob", attempts(ports))
    assert any(said == "HTTP/1.1 200 OK" for _, _, said in facts["found"]), result.stderr
    assert "it talks" in [said for _, _, said in facts["found"]]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("LocalCluster(n_workers=0, protocol='tcp')", "failed to start"),
        ("LocalCluster(n_workers=0, protocol='ws')", ""),
        ("LocalCluster(n_workers=0, scheduler_kwargs={'jupyter': True})", "Start Jupyter"),
        ("LocalCluster(n_workers=0, host='0.0.0.0', dashboard_address='0.0.0.0:8787')", None),
    ],
)
def test_her_own_mistakes_open_nothing(code, said, python):
    facts, result = python(
        "alice",
        f"""
        from distributed import LocalCluster
        import psutil
        if __name__ == "__main__":
            try:
                cluster = {code}
                why = ""
            except Exception as error:
                why = repr(error)
            mine = psutil.Process().net_connections("tcp")
            ports = [one.laddr.port for one in mine if one.status == psutil.CONN_LISTEN]
            own = [int(cluster.scheduler_address.rpartition(":")[2])] if not why else []
            tell(why=why, ports=ports, own=own)
        """,
    )
    assert facts, result.stderr
    assert set(facts["ports"]) <= set(facts["own"])
    if said is not None:
        assert said in facts["why"] and facts["why"]


def test_jupyter_on_the_command_line(as_user):
    command = "module load dask-site && timeout 20 dask scheduler --jupyter --port 0"
    result = as_user("alice", command)
    assert result.rc not in {0, 124}
    assert "Start Jupyter on its own" in result.stderr


def test_scratch_that_another_put_there(as_user, python):
    space = "/tmp/trap/dask-scratch-space"
    node("login1").run("rm -rf /tmp/trap")
    as_user("carol", f"umask 000; mkdir -p {space}; chmod 1777 /tmp/trap; chmod 777 {space}")
    code = """
    from distributed import LocalCluster, Client
    if __name__ == "__main__":
        try:
            with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
                with Client(cluster) as client:
                    tell(ran=client.submit(where).result(timeout=30))
        except Exception as error:
            tell(why=repr(error))
    """
    before = "export DASK_TEMPORARY_DIRECTORY=/tmp/trap;"
    facts, result = python("alice", code, before=before)
    assert "ran" not in facts
    assert "others could put code in place" in result.stderr
    # Also with Python's path led there by the command line, before any of ours is imported.
    trap = f"mkdir -p {space}/numpy && echo 'print(\"TRAPPED\")' > {space}/numpy/__init__.py"
    as_user("carol", trap)
    command = "module load dask-site && timeout 20 dask scheduler --port 0 --no-dashboard"
    result = as_user("alice", f"{before} {command}")
    assert "TRAPPED" not in result.stdout + result.stderr
    assert "others could put code in place" in result.stderr
    node("login1").run(f"rm -rf {space}/numpy")
    facts, result = python("alice", OPEN + textwrap.dedent(code), before=before)
    assert facts.get("ran"), result.stderr  # the control
    node("login1").run("rm -rf /tmp/trap")
    assert until(lambda: not node("login1").file("/tmp/trap").exists, 5)
