"""What a user of a node does to each port of another."""

from nodes import node

# What bob tries on each port: HTTP as plain text and with TLS, with no certificate, with one that
# he made, with those that he was given, with that of a dashboard of his own; and Dask's protocol.
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
given = [path.name for path in Path.home().glob("given-*.pem")]
for name in given:
    (folder / name).write_bytes((Path.home() / name).read_bytes())
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
    for name in ("plain", "", "self-signed", "of a dashboard", *given):
        try:
            answer = http(port, name if name != "plain" else "", name != "plain")
        except OSError:
            continue
        if answer.startswith("HTTP/"):
            found.append([number, name, answer.split("\\r\\n")[0]])
    for scheme, security in (("tcp", Security()), ("tls", Security.temporary()), ("tls", own)):
        if asyncio.run(talks(f"{scheme}://{host}:{number}", security)):
            found.append([number, scheme, "it talks"])
tell(found=found, tried=len(PORTS), ways=len(given) + 7)
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
