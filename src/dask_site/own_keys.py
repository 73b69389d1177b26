"""A user's own key: the Dask clusters that he starts himself take nobody without it.

The module of a release names its files to Dask by the environment, and has `distributed` refuse
what is not encrypted. So `LocalCluster`, `SLURMCluster`, `dask scheduler` and `Client` find each
other, and turn everybody else away, without a line from the user. `dask_site.Cluster` makes a key
of its own for each cluster.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.folder import refuse_unsafe
from dask_site.whole import make_folder, write_whole

CERTIFICATE, KEY = "cert.pem", "key.pem"
#: In the environment, the folder of the key that Dask is told to use.
NAMED = "DASK_SITE_KEYS"
# The key is what is trusted, not a date: what expires breaks clusters, and protects nobody.
_LASTS = timedelta(days=30 * 365)


def make(state: Path, *, renew: bool = False) -> bool:
    """Make a user's key unless there is one; return whether it was made.

    Parameters
    ----------
    state : path
        The user's folder for what clusters keep; the key goes to ``keys`` there, for its owner
        only.
    renew : bool
        Make another in any case. Clusters that run keep the one before: end them first.

    Raises
    ------
    ClusterError
        If others could exchange the files, or they can't be written.
    """
    try:
        make_folder(state, 0o700)
        state = state.resolve()  # there may be links above it
        refuse_unsafe(state)
        folder = state / "keys"
        if folder.exists():
            refuse_unsafe(folder)
            if not renew and (folder / CERTIFICATE).is_file() and (folder / KEY).is_file():
                return False
        _put(folder)
    except OSError as error:
        raise ClusterError(f"Your key can't be kept in {state / 'keys'}: {error}") from None
    return True


def check() -> None:
    """Refuse a key that another may have put there, where Dask is told to use the user's.

    Raises
    ------
    ClusterError
        If others could exchange it, or the folder is another's.
    """
    named = os.environ.get(NAMED)
    used = dask.config.get("distributed.comm.tls.ca-file", None)
    if named and used == str(Path(named) / CERTIFICATE):
        try:
            refuse_unsafe(Path(named).resolve(strict=True))
        except OSError as error:
            mend = "dask-site keys makes one; or unset DASK_DISTRIBUTED__COMM__*"
            raise ClusterError(f"There is no key of yours in {named} ({error}): {mend}") from None


def _put(folder: Path) -> None:
    """Write both files beside, and put them in their place together: two may do it at once."""
    beside = folder.with_name(f".keys.{secrets.token_hex(8)}")
    beside.mkdir(mode=0o700)
    try:
        certificate, key = _made()
        write_whole(beside / KEY, key, 0o600)
        write_whole(beside / CERTIFICATE, certificate, 0o600)
        if folder.exists():
            _replace(folder, beside)
        else:
            with suppress(OSError):
                beside.rename(folder)  # fails where another was faster, whose key counts
        if not (folder / CERTIFICATE).is_file():
            raise OSError(f"{folder / CERTIFICATE} is not there")
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(folder: Path, beside: Path) -> None:
    old = folder.with_name(f".keys.{secrets.token_hex(8)}")
    folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _made() -> tuple[bytes, bytes]:
    """Return a certificate that is its own authority, and its key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dask-site")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of nodes differ
        .not_valid_after(now + _LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    key = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM), key
