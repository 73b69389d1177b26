"""Calls of a service of the site: by its socket on its own host, else by TLS with munge."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

_SECONDS = 10.0
_MOST_BYTES = 512 * 1024 * 1024
_MOST_WHERE = 1024 * 1024


class SourceError(Exception):
    """A question that has no answer; the message says why, and what to do."""


class ServiceDownError(SourceError):
    """The service can't be reached; the message says where it was looked for, and why not."""


class ServiceError(SourceError):
    """The service answered with an error, which the message holds.

    Attributes
    ----------
    status : int
        Of HTTP.
    host : str
        Which can answer, if the service says that another can.
    """

    def __init__(self, message: str, status: int, service: str, host: str = "") -> None:
        super().__init__(f"{service} says: {message}")
        self.status = status
        self.host = host


@dataclass(frozen=True)
class Where:
    """Where the service is now, as it says in ``where.json`` of a folder."""

    host: str
    port: int
    socket: str
    certificate: str
    state: Path | None = field(default=None, compare=False)

    @classmethod
    def read(cls, state: Path, name: str = "where.json") -> Where:
        """Read what a service wrote of itself into a folder.

        Raises
        ------
        ServiceDownError
            If there is none, or it is not as the service writes it.
        """
        path = state / name
        try:
            with path.open("rb") as file:
                _check_owner(path, os.fstat(file.fileno()).st_uid)
                values = json.loads(file.read(_MOST_WHERE))
            return cls(
                host=str(values["host"]),
                port=int(values.get("port") or 0),
                socket=str(values.get("socket") or ""),
                certificate=str(values.get("certificate") or ""),
                state=state,
            )
        except FileNotFoundError:
            raise ServiceDownError(f"{path} is not there: the service has not run yet") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = error or type(error).__name__
            raise ServiceDownError(f"{path} can't be used: {why}") from None

    @property
    def near(self) -> bool:
        """Whether its socket is on this host."""
        names = {socket.gethostname(), socket.getfqdn()}
        return bool(self.socket) and self.host in names and Path(self.socket).exists()


def _check_owner(path: Path, uid: int) -> None:
    """Refuse to be led elsewhere by another user, to whom credentials would be shown.

    The file is of who runs the service: root, the caller or the owner of the folder, which then
    nobody else may write to.
    """
    folder = path.parent.stat()
    shared = stat.S_IMODE(folder.st_mode) & 0o002
    trusted = {0, os.geteuid()} | (set() if shared else {folder.st_uid})
    if uid not in trusted:
        raise ServiceDownError(
            f"{path} belongs to user {uid}, who is neither root nor the owner of a folder that "
            "only he can write to: it is not followed; tell who runs the service"
        )


class Calls:
    """Calls of one service, also after another node has taken over.

    Parameters
    ----------
    where : Where
    service : str
        Its name, for messages.
    seconds : float
        How long an answer is waited for.
    """

    def __init__(
        self, where: Where, service: str = "the history service", seconds: float = _SECONDS
    ) -> None:
        self._where = where
        self._service = service
        self._seconds = seconds

    def __call__(
        self,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        """Call the API; return what the JSON of the answer says.

        Parameters
        ----------
        method : str
        parts : tuple of str
            Of the path after ``/api/v1``.
        query : mapping, optional
            Without what is None.
        body : JSON value or bytes, optional
            Bytes are sent as they are.

        Raises
        ------
        ServiceDownError
            If it does not answer in time.
        ServiceError
            If it answers with an error.
        """
        path = "/".join(["/api/v1", *(quote(part, safe="") for part in parts)])
        given = {name: value for name, value in (query or {}).items() if value is not None}
        if given:
            path += f"?{urlencode(given)}"
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = b"" if body is None else body
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        try:
            return self._ask(method, path, data, kind)
        except ServiceDownError:
            if not self._has_moved():
                raise
        return self._ask(method, path, data, kind)

    def _has_moved(self) -> bool:
        """Look again where the service is; nothing else than its own file is followed."""
        if self._where.state is None:
            return False
        before, self._where = self._where, Where.read(self._where.state)
        return before != self._where

    def _ask(self, method: str, path: str, data: bytes, kind: str) -> Any:
        connection, place = self._connection()
        try:
            headers = self._headers(method, path, data, kind)
            connection.request(method, path, data or None, headers)
            answer = connection.getresponse()
            content = answer.read(_MOST_BYTES)
        except (OSError, HTTPException) as error:
            raise ServiceDownError(f"{place}: {error or type(error).__name__}") from None
        finally:
            connection.close()
        return self._value(answer.status, content, place)

    def _value(self, status: int, content: bytes, place: str) -> Any:
        try:
            value = json.loads(content) if content else None
        except ValueError:
            value = None
        if status < 400 and value is not None:
            return value
        said = value.get("error") if isinstance(value, dict) else None
        if status == 503 or value is None:
            raise ServiceDownError(
                f"{place}: {said or f'it answers with status {status} and no JSON'}"
            )
        host = str(value.get("host") or "") if isinstance(value, dict) else ""
        raise ServiceError(str(said or f"status {status}"), status, self._service, host)

    def _connection(self) -> tuple[HTTPConnection, str]:
        where = self._where
        if where.near:
            return _SocketConnection(where.socket, self._seconds), where.socket
        place = f"{where.host}:{where.port}"
        if not where.port or not where.certificate:
            raise ServiceDownError(
                f"{where.host} has it on a socket only: log in there, or name a port and a "
                "certificate in the site file"
            )
        return self._by_tls(place), place

    def _by_tls(self, place: str) -> HTTPConnection:
        import ssl
        from http.client import HTTPSConnection

        certificate = self._where.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # This certificate and no other, whoever issued it and whatever names stand in it.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            if "BEGIN CERTIFICATE" in certificate:
                context.load_verify_locations(cadata=certificate)
            else:
                context.load_verify_locations(cafile=certificate)
        except (OSError, ValueError) as error:
            raise ServiceDownError(f"{place}: its certificate can't be read: {error}") from None
        where = self._where
        return HTTPSConnection(where.host, where.port, timeout=self._seconds, context=context)

    def _headers(self, method: str, path: str, data: bytes, kind: str) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if data:
            headers["Content-Type"] = kind
        if not self._where.near:
            from dask_site import identity

            try:
                credential = identity.request_credential(self._where.host, method, path, data)
                headers["Authorization"] = f"MUNGE {credential}"
            except identity.MungeError as error:
                raise ServiceDownError(
                    f"{self._where.host} knows callers from other hosts by munge: {error}"
                ) from None
        return headers


class _SocketConnection(HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
