"""Another user of the node, and every port that is open there (class 1)."""

import base64

import pytest
from attacked import LOCAL, OPEN, gets_through, kept_out
from ports import attempts, ports_of

from nodes import node, variables

# As root: what the site's own authority for its proxies vouches for, one of them yesterday.
ISSUED = """
import datetime, sys
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
state, to, end = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
issuer = x509.load_pem_x509_certificate((state / "public/proxies.pem").read_bytes())
signs = serialization.load_pem_private_key((state / "secret/proxies.key").read_bytes(), None)
key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
made = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject)
    .public_key(key.public_key()).serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=9))
    .not_valid_after(now + datetime.timedelta(days=end))
    .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
    .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key()), False)
    .sign(signs, hashes.SHA256()))
pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption())
to.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
"""


@pytest.fixture
def issue():
    """Have bob find a certificate of the proxies' authority: ``issue("expired", -1)``."""
    host, state = node("login1"), variables()["site"]["dashboards"]["state"]
    python = "/opt/dask-site/current/env/bin/python"

    def make(name, days):
        code = base64.b64encode(ISSUED.encode()).decode()
        run = f"import base64; exec(base64.b64decode('{code}'))"
        path = f"/home/bob/given-{name}.pem"
        host.check_output(f'{python} -c "{run}" {state} {path} {days} && chown bob {path}')

    yield make
    host.run("rm -f /home/bob/given-*.pem")


@pytest.mark.parametrize("where", ["login", "job"])
def test_no_port_of_hers_answers_him(where, alices, python, issue):
    ports = ports_of("alice", alices[where]["node"])
    assert ports, "she has a scheduler there"
    issue("expired", -1)
    facts, result = python("bob", attempts(ports), host=alices[where]["node"])
    assert facts.get("tried") == len(ports) and facts["ways"] == 8, result.stderr
    for _ in range(facts["tried"] * facts["ways"] - len(facts["found"])):
        kept_out(True)
    for way in facts["found"]:
        kept_out(False, way)


def test_what_opens_her_dashboard_in_a_job(alices, python, issue):
    """The control of the certificate that has expired: one that has not."""
    issue("valid", 1)
    host = alices["job"]["node"]
    facts, result = python("bob", attempts(ports_of("alice", host)), host=host)
    found = [said for _, name, said in facts["found"] if name == "given-valid.pem"]
    gets_through(found == ["HTTP/1.1 200 OK"], result.stderr, facts)
    assert len(facts["found"]) == 1


def test_what_the_same_does_to_plain_dask(in_background, python):
    """The control."""
    in_background("carol", OPEN + LOCAL)
    ports = ports_of("carol", "login1")
    facts, result = python("bob", attempts(ports))
    ways = {(name, said) for _, name, said in facts["found"]}
    gets_through(("plain", "HTTP/1.1 200 OK") in ways, "the dashboard", result.stderr)
    gets_through(("tcp", "it talks") in ways, "the scheduler", result.stderr)
