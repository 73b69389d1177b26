"""The site's own authorities, and what they vouch for.

Three, so that none can stand in for another: ``site`` vouches for the proxies to browsers and
nodes, ``clusters`` for dashboards in jobs to the proxies, ``proxies`` for the proxies to those.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dask_site.dashboards.places import Places
from dask_site.whole import make_folder, write_whole

#: What is left when an authority's end is told of.
_TOLD = timedelta(days=365)
AUTHORITIES = ("site", "clusters", "proxies")
_AUTHORITY_LASTS = timedelta(days=3650)
# The longest that browsers take, and what is left when another is made.
_LASTS, _RENEWED = timedelta(days=397), timedelta(days=90)
_EARLY = timedelta(hours=1)  # clocks of nodes differ
_LONGEST_REQUEST = 4096
_PUBLISHED = 3
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def ensure(places: Places, *, web: bool) -> list[Path]:
    """Make what is missing or ends soon: authorities, the proxies' keys, the broker's secrets.

    Parameters
    ----------
    web : bool
        Whether the site has no certificate of its own for browsers.

    Returns
    -------
    list of Path
        The certificates that were made.

    Raises
    ------
    OSError
        If they can't be written.
    ValueError
        If one that is there can't be read.
    """
    # `proxy` belongs to nginx's group, which what is made in it inherits.
    for folder, mode in ((places.secret, 0o700), (places.proxy, 0o2750), (places.public, 0o755)):
        make_folder(folder, mode)
    with _alone(places.secret / "lock"):
        if not (places.secret / "hmac").exists():
            write_whole(places.secret / "hmac", secrets.token_bytes(32), 0o600)
        if not (places.secret / "portal").exists():
            write_whole(places.secret / "portal", secrets.token_hex(32).encode() + b"\n", 0o600)
        made = [_authority(places, name) for name in AUTHORITIES]
        node, names = f"node-{places.host}", [places.host, places.host.partition(".")[0]]
        made.append(_leaf(places, "site", node, names, _SERVER))
        made.append(_leaf(places, "proxies", "client", ["proxy"], _CLIENT))
        if web:
            domain = places.domain
            made.append(_leaf(places, "site", "web", [domain, f"*.{domain}"], _SERVER))
    return [path for path in made if path is not None]


def ending(places: Places) -> list[str]:
    """Return what is to be done about authorities that end within a year, as lines for a log.

    Raises
    ------
    OSError, ValueError
        If one can't be read.
    """
    found = []
    for name in AUTHORITIES:
        path = places.public / f"{name}.pem"
        until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        if until - datetime.now(UTC) < _TOLD:
            browsers = ", and tell browsers of the new one" if name == "site" else ""
            found.append(
                f"The authority {path} ends on {until:%F}, and what it vouches for with it: remove "
                f"it and {places.secret / name}.key, then on one login node after the other: "
                f"systemctl restart dask-dashboards && systemctl reload dask-proxy{browsers}"
            )
    return found


def published(before: bytes, now: str) -> str:
    """Return certificates for who pins this node's: the one that it has, and those before it.

    nginx goes on with the one before until it reads the new one.

    Parameters
    ----------
    before : bytes
        What was said so far, in PEM.
    now : str
        The certificate that nginx reads next, in PEM.
    """
    try:
        known = x509.load_pem_x509_certificates(before)
    except ValueError:
        known = []
    kept = [now.strip() + "\n"]
    for one in known:
        text = one.public_bytes(serialization.Encoding.PEM).decode()
        if text not in kept and one.not_valid_after_utc > datetime.now(UTC):
            kept.append(text)
    return "".join(kept[:_PUBLISHED])


def hmac_key(places: Places) -> bytes:
    """Return the secret that all brokers of the site share.

    Raises
    ------
    OSError, ValueError
        If it can't be read, or is none.
    """
    key = (places.secret / "hmac").read_bytes()
    if len(key) != 32:
        raise ValueError(f"{places.secret / 'hmac'} is no secret: remove it, and all log in anew")
    return key


def certify(places: Places, request: str, name: str) -> str:
    """Return a certificate for the key of a request, in PEM: valid for `name` and nothing else.

    What the request says of itself is not looked at.

    Raises
    ------
    ValueError
        If it is no request, or not signed with its key.
    """
    if len(request) > _LONGEST_REQUEST:
        raise ValueError("the request for a certificate is too long")
    try:
        asked = x509.load_pem_x509_csr(request.encode("ascii"))
        key = asked.public_key()
        valid = asked.is_signature_valid
    except Exception as error:  # cryptography raises many kinds for what strangers send
        raise ValueError("that is no request for a certificate") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the request for a certificate wants an elliptic key, and its signature")
    authority = _load(places, "clusters")
    made = _certificate([name], key, authority, _SERVER, _LASTS)
    return made.public_bytes(serialization.Encoding.PEM).decode()


def request() -> tuple[str, bytes]:
    """Return a request for a certificate, and the new key that it is for, both in PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = made.sign(private, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode(), _pem(private)


def _authority(places: Places, name: str) -> Path | None:
    certificate, key = places.public / f"{name}.pem", places.secret / f"{name}.key"
    if certificate.exists() and key.exists():
        return None
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dask-site {name}")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _builder(subject, subject, private.public_key(), _AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        .sign(private, hashes.SHA256())
    )
    write_whole(key, _pem(private), 0o600)
    write_whole(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def _leaf(
    places: Places, authority: str, stem: str, names: list[str], use: x509.ObjectIdentifier
) -> Path | None:
    certificate, key = places.proxy / f"{stem}.pem", places.proxy / f"{stem}.key"
    issuer = _load(places, authority)
    if key.exists() and _lasts(certificate, names, issuer[0]):
        return None
    private = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(names, private.public_key(), issuer, use, _LASTS)
    # Key first: nginx refuses a pair that does not match, and goes on with the one it has.
    write_whole(key, _pem(private), 0o640)
    write_whole(certificate, made.public_bytes(serialization.Encoding.PEM), 0o640)
    return certificate


def _lasts(path: Path, names: list[str], issuer: x509.Certificate) -> bool:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found.verify_directly_issued_by(issuer)
    except Exception:  # whatever is wrong with it, another is made
        return False
    same = set(held.get_values_for_type(x509.DNSName)) == set(names)
    return same and found.not_valid_after_utc - datetime.now(UTC) > _RENEWED


def _certificate(
    names: list[str],
    key: ec.EllipticCurvePublicKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    use: x509.ObjectIdentifier,
    lasts: timedelta,
) -> x509.Certificate:
    by, private = issuer
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    dns = x509.SubjectAlternativeName([x509.DNSName(name) for name in dict.fromkeys(names)])
    return (
        _builder(subject, by.subject, key, lasts)
        .add_extension(dns, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), False
        )
        .sign(private, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + lasts)
    )


def _load(places: Places, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((places.public / f"{name}.pem").read_bytes())
    key = serialization.load_pem_private_key((places.secret / f"{name}.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{places.secret / name}.key is not the key that was made")
    return certificate, key


def _pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep the brokers of other nodes from making the same."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
