"""Who is calling: what the kernel says of a Unix socket's other end, and what munge vouches for."""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = [
    "MungeError",
    "Munged",
    "Peer",
    "has_munge",
    "munge_decode",
    "munge_encode",
    "peer_of",
    "request_credential",
    "requesting_user",
]

_UCRED = struct.Struct("3i")
#: libmunge's libraries, newest first; only the soname is there without its development files.
_LIBRARIES = ("libmunge.so.2", "libmunge.so")
_TTL = 60  # seconds
_OPTION_TTL = 4  # MUNGE_OPT_TTL
#: The longest credential that is decoded, in characters.
_LONGEST = 64 * 1024


class MungeError(Exception):
    """A credential can't be made or isn't valid; the message says why and the mend."""


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket, as it was when it connected."""

    uid: int
    gid: int
    pid: int


@dataclass(frozen=True)
class Munged:
    """What a credential holds, and the user who made it."""

    uid: int
    gid: int
    payload: bytes


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a Unix socket.

    Raises
    ------
    OSError
        If it is not connected, or no Unix socket.
    """
    if connection.family != socket.AF_UNIX:
        raise OSError(f"{connection.family.name} tells nothing of the user at its other end")
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(packed)
    if uid < 0 or gid < 0 or pid <= 0:
        # So the kernel answers for a socket without another end, or one beyond our namespaces.
        raise OSError("the kernel does not tell who is at the other end")
    return Peer(uid, gid, pid)


def has_munge() -> bool:
    """Return whether munge can be used on this machine, now."""
    try:
        munge_encode(b"")
    except MungeError:
        return False
    return True


def munge_encode(payload: bytes) -> str:
    """Return a credential for the calling user, valid once and for 60 s.

    Raises
    ------
    MungeError
        If munge isn't installed, or its daemon doesn't answer.
    """
    munge = _library()
    context = munge.munge_ctx_create()
    credential = ctypes.c_void_p()
    try:
        munge.munge_ctx_set(context, _OPTION_TTL, ctypes.c_int(_TTL))
        failed = munge.munge_encode(ctypes.byref(credential), context, payload, len(payload))
        if failed or not credential.value:
            raise _error(failed, context)
        return ctypes.string_at(credential.value).decode("ascii")
    finally:
        munge.munge_ctx_destroy(context)
        _free(credential)


def munge_decode(credential: str) -> Munged:
    """Return what a credential holds, and whose it is.

    Raises
    ------
    MungeError
        If it is none, has expired, was used before, or munge can't be used.
    """
    munge = _library()
    encoded = credential.encode("ascii", "replace")
    if not encoded.startswith(b"MUNGE:") or len(encoded) > _LONGEST:
        raise MungeError("this is no credential of munge: it begins with MUNGE: and ends with :")
    context = munge.munge_ctx_create()
    payload, size = ctypes.c_void_p(), ctypes.c_int(0)
    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    try:
        failed = munge.munge_decode(
            encoded,
            context,
            ctypes.byref(payload),
            ctypes.byref(size),
            ctypes.byref(uid),
            ctypes.byref(gid),
        )
        if failed:
            raise _error(failed, context)
        held = ctypes.string_at(payload.value, size.value) if payload.value else b""
        return Munged(uid.value, gid.value, held)
    finally:
        munge.munge_ctx_destroy(context)
        _free(payload)


def request_credential(host: str, method: str, uri: str, body: bytes) -> str:
    """Return a credential for one request to one host, and for nothing else.

    Parameters
    ----------
    host : str
        As the service there says in ``where.json``: it could pass on what it was shown.

    Raises
    ------
    MungeError
        If munge can't be used.
    """
    return munge_encode(_meant(host, method, uri, body))


def requesting_user(credential: str, host: str, method: str, uri: str, body: bytes) -> int:
    """Return the number of the user whose credential for a request it is.

    Raises
    ------
    MungeError
        If it is for another request, or not valid.
    """
    munged = munge_decode(credential)
    if munged.payload != _meant(host, method, uri, body):
        raise MungeError("The credential of munge is for another request.")
    return munged.uid


def _meant(host: str, method: str, uri: str, body: bytes) -> bytes:
    return f"{host} {method} {uri} {hashlib.sha256(body).hexdigest()}".encode()


def _error(failed: int, context: Any) -> MungeError:
    munge = _library()
    said = munge.munge_ctx_strerror(context) or munge.munge_strerror(failed) or b"it does not say"
    words = said.decode("utf-8", "replace")
    return MungeError(f"munge refuses: {words} (`munge -n | unmunge` shows whether it works)")


def _free(pointer: ctypes.c_void_p) -> None:
    if pointer.value:
        _libc().free(pointer)


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free.restype = None
    return libc


@cache
def _library() -> Any:
    for name in _LIBRARIES:
        try:
            munge = ctypes.CDLL(name)
        except OSError:
            continue
        munge.munge_ctx_create.restype = ctypes.c_void_p
        munge.munge_ctx_create.argtypes = []
        munge.munge_ctx_destroy.restype = None
        munge.munge_ctx_destroy.argtypes = [ctypes.c_void_p]
        munge.munge_ctx_set.argtypes = [ctypes.c_void_p, ctypes.c_int]  # the rest is variadic
        munge.munge_ctx_strerror.restype = ctypes.c_char_p
        munge.munge_ctx_strerror.argtypes = [ctypes.c_void_p]
        munge.munge_strerror.restype = ctypes.c_char_p
        munge.munge_strerror.argtypes = [ctypes.c_int]
        pointer = ctypes.c_void_p
        munge.munge_encode.argtypes = [pointer, pointer, ctypes.c_char_p, ctypes.c_int]
        munge.munge_decode.argtypes = [ctypes.c_char_p, *[pointer] * 5]
        return munge
    raise MungeError(f"munge is not installed: none of {', '.join(_LIBRARIES)} can be loaded")
