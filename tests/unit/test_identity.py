"""Who calls: the kernel's word, and munge's."""

import os
import socket
import subprocess
import sys

import pytest

from dask_site.identity import MungeError, Peer, has_munge, munge_decode, munge_encode, peer_of

needs_munge = pytest.mark.skipif(not has_munge(), reason="no munge daemon answers here")


def test_the_kernel_says_who_is_at_the_other_end():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_of(one) == Peer(os.getuid(), os.getgid(), os.getpid())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_another():
    name = f"\0dask-site-test-{os.getpid()}"
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); s.recv(1)"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        command = ["/usr/bin/python3", "-I", "-c", code]
        with subprocess.Popen(command, user=4321, group=4322, extra_groups=[], cwd="/") as caller:
            connection, _ = listener.accept()
            with connection:
                assert peer_of(connection) == Peer(4321, 4322, caller.pid)


def test_a_network_socket_tells_nothing():
    with socket.socket() as one, pytest.raises(OSError, match="AF_INET tells nothing"):
        peer_of(one)


def test_a_socket_without_another_end_tells_nothing():
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError):
        peer_of(one)


@pytest.mark.skipif(has_munge(), reason="munge is here")
def test_without_munge_the_error_says_so():
    with pytest.raises(MungeError, match="munge"):
        munge_encode(b"")
    with pytest.raises(MungeError, match="munge"):
        munge_decode("MUNGE:x:")


@needs_munge
def test_a_credential_holds_once():
    payload = b"GET / \x00\xff"
    credential = munge_encode(payload)
    found = munge_decode(credential)
    assert (found.uid, found.gid, found.payload) == (os.getuid(), os.getgid(), payload)
    with pytest.raises(MungeError, match="refuses"):
        munge_decode(credential)


@needs_munge
@pytest.mark.parametrize("wrong", ["", "x", "MUNGE:", "MUNGE:AAAA:", "MUNGE:" + "A" * 100_000])
def test_what_is_no_credential_is_refused(wrong):
    with pytest.raises(MungeError):
        munge_decode(wrong)


def test_it_imports_fast():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dask_site.identity; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"sqlalchemy", "pydantic", "tornado", "distributed"} & set(loaded)
