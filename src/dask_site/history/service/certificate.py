"""The service's own certificate, where the site names none."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask_site.whole import write_whole

# The longest that browsers take, and what is left when another is made.
_LASTS = timedelta(days=825)
_RENEWED = timedelta(days=90)


def ensure(certificate: Path, key: Path, names: list[str]) -> bool:
    """Make a self-signed certificate unless there is one that lasts; say whether it was made.

    Parameters
    ----------
    names : list of str
        The first is the subject.

    Raises
    ------
    OSError
        If it can't be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)
    if _lasts(certificate, key, now, names):
        return False
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_whole(key, secret, 0o600)
    write_whole(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return True


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS settings of the server.

    Raises
    ------
    OSError, ssl.SSLError
        If the files can't be read, or don't belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _lasts(certificate: Path, key: Path, now: datetime, names: list[str]) -> bool:
    from cryptography import x509

    try:
        server_context(certificate, key)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):  # SSLError is an OSError
        return False
    same = all(_name(name) in held for name in names)
    return same and found.not_valid_after_utc - now > _RENEWED


def _name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
