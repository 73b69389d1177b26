"""TLS sockets begin every operation with an empty OpenSSL error queue (cluster/tls.py)."""

import _ssl
import ctypes
import ssl

import pytest

from dask_site.cluster import tls


def queue_is_empty():
    library = ctypes.PyDLL(_ssl.__file__)
    library.ERR_peek_error.restype = ctypes.c_ulong
    return library.ERR_peek_error() == 0


def leave_an_error():
    library = ctypes.PyDLL(_ssl.__file__)
    # Asking for a file that isn't there leaves ENOENT in the queue.
    library.BIO_new_file.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    library.BIO_new_file(b"/no/such/file", b"r")


@pytest.mark.skipif(not hasattr(_ssl, "__file__"), reason="this Python hides its OpenSSL")
def test_left_over_errors_are_cleared():
    leave_an_error()
    assert not queue_is_empty()
    tls.clear_errors()()
    assert queue_is_empty()


def test_contexts_of_our_security_make_clean_sockets(tmp_path, monkeypatch):
    from dask_site.cluster.folder import ClusterFolder

    monkeypatch.setattr(tls, "AFFECTED", True)
    tmp_path.chmod(0o700)
    security = ClusterFolder(tmp_path, "abcd1234").security()
    for arguments in (security.get_connection_args("client"), security.get_listen_args("worker")):
        assert arguments["ssl_context"].sslsocket_class is tls.CleanSocket


def test_an_unaffected_openssl_is_left_alone(tmp_path, monkeypatch):
    from dask_site.cluster.folder import ClusterFolder

    monkeypatch.setattr(tls, "AFFECTED", False)
    tmp_path.chmod(0o700)
    security = ClusterFolder(tmp_path, "abcd1234").security()
    assert security.get_connection_args("client")["ssl_context"].sslsocket_class is ssl.SSLSocket


def test_the_operations_that_tornado_uses_are_covered():
    assert {"do_handshake", "recv_into", "send"} <= vars(tls.CleanSocket).keys()
