"""Asks the broker: on a login node by its socket, elsewhere by TLS with munge."""

from __future__ import annotations

import json
import os
import random
import re
import socket
from typing import Any

import dask

from dask_site.calls import Calls, ServiceDownError, ServiceError, SourceError, Where
from dask_site.dashboards.onward import is_path
from dask_site.dashboards.places import HISTORY, Places

_SECONDS = 5.0
_LONGEST = 4 * 1024 * 1024
_NAME = "the dashboards' broker"


class DashboardError(Exception):
    """What was asked for can't be had; the message says why, and what to do.

    Attributes
    ----------
    host : str
        Of the login node whose broker can answer, if another's can.
    """

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class BrokerDownError(DashboardError):
    """No broker answers."""


def places() -> Places | None:
    """Return the places of the site that Dask is configured for; None where it has no broker."""
    values = dask.config.get("dask_site.dashboards", None) or {}
    if not values.get("enabled") or not values.get("domain"):
        return None
    return Places.of_config(values)


def ask(where: Places | None = None, **question: Any) -> dict[str, Any]:
    """Ask the broker something.

    Parameters
    ----------
    where : Places, optional
        By default those of Dask's configuration.
    **question
        ``op`` and what it needs.

    Raises
    ------
    DashboardError
        If this site has no broker, or it refuses.
    BrokerDownError
        If none answers.
    """
    where = where or places()
    if where is None:
        raise DashboardError(
            "This site has no proxy for dashboards (dask_site.dashboards in its site file)"
        )
    try:
        return _ask_here(where, question) if is_near(where) else ask_elsewhere(where, question)[0]
    except DashboardError as error:
        if not error.host:
            raise
        return ask_on(where, error.host, question)


def history_link(path: str) -> str | None:
    """Return an address that logs a browser in and leads to a page of the history.

    Returns
    -------
    str or None
        None where the history's own link has to do: this site has no broker or no names below its
        domain, none answers, it leads to no such path, or root asks, who does not come this way.

    Raises
    ------
    DashboardError
        If the broker refuses.
    """
    where = places()
    if where is None or where.paths or os.getuid() == 0 or not is_path(path):
        return None
    try:
        return str(ask(where, op="link", cluster=HISTORY, path=path)["url"])
    except BrokerDownError:
        return None


def is_near(where: Places) -> bool:
    """Return whether this is a login node, with a broker of its own."""
    return where.control.exists()


def connect(where: Places, question: dict[str, Any]) -> socket.socket:
    """Send a question to this node's broker; return the connection on which it answers.

    Raises
    ------
    OSError
        If it does not listen.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_SECONDS)
        connection.connect(str(where.control))
        connection.sendall(json.dumps(question).encode() + b"\n")
    except BaseException:
        connection.close()
        raise
    return connection


def _ask_here(where: Places, question: dict[str, Any]) -> dict[str, Any]:
    try:
        with connect(where, question) as connection:
            data = b""
            while not data.endswith(b"\n") and len(data) < _LONGEST:
                part = connection.recv(65536)
                if not part:
                    break
                data += part
        said = json.loads(data)
    except (OSError, ValueError) as error:
        raise BrokerDownError(
            f"{_NAME} on this node does not answer ({error or type(error).__name__}): "
            "systemctl status dask-dashboards says why"
        ) from None
    found = said if isinstance(said, dict) else {}
    if "error" in found:
        raise DashboardError(str(found["error"]), str(found.get("host") or ""))
    return found


def ask_on(where: Places, host: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask the broker of a login node, by its name; return what it says.

    Raises
    ------
    BrokerDownError
        If it does not answer.
    DashboardError
        If it refuses.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", host):
        raise DashboardError(f"{host!r} is no name of a login node")
    try:
        return _called(Where.read(where.public, f"{host}.json"), question)
    except ServiceDownError as error:
        raise BrokerDownError(f"{_NAME} on {host} does not answer: {error}") from None


def _called(one: Where, question: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(Calls(one, _NAME, _SECONDS)("POST", ("ask",), body=question))
    except ServiceDownError:
        raise
    except SourceError as error:
        host = error.host if isinstance(error, ServiceError) else ""
        raise DashboardError(str(error), host) from None


def brokers(where: Places) -> list[Where]:
    """Return the brokers that wrote where they are, in any order."""
    found = []
    try:
        names = [path.name for path in where.public.glob("*.json")]
    except OSError:
        names = []
    for name in names:
        try:
            found.append(Where.read(where.public, name))
        except ServiceDownError:
            continue
    random.shuffle(found)
    return found


def ask_elsewhere(where: Places, question: dict[str, Any]) -> tuple[dict[str, Any], Where]:
    """Ask a broker of another node; return what it says, and which it was.

    Raises
    ------
    BrokerDownError
        If none answers.
    DashboardError
        If one refuses.
    """
    why = f"nothing says where it is in {where.public}"
    for one in brokers(where):
        try:
            return _called(one, question), one
        except ServiceDownError as error:
            why = str(error)
    raise BrokerDownError(f"{_NAME} does not answer: {why}")
