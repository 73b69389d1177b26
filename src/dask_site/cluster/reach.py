"""Reaching the user's running clusters from another program, by the folders that they keep."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.comm import parse_host_port
from distributed.comm.core import FatalCommClosedError
from distributed.core import rpc

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.explain import Explanation
from dask_site.cluster.tls import CleanSecurity
from dask_site.sitefile.problems import nearest

#: Seconds within which a scheduler must answer.
TIMEOUT = 5.0
_CARD = "cluster.json"


@dataclass(frozen=True)
class Card:
    """What a running cluster tells of itself in its folder.

    Attributes
    ----------
    name : str
        Name of the cluster.
    site : str
        Name of the site.
    host : str
        Where its program runs, and so its scheduler.
    address : str
        Of the scheduler.
    pid : int
        Number of its program there.
    folder : Path
        Its private folder.
    """

    name: str
    site: str
    host: str
    address: str
    pid: int
    folder: Path

    def __str__(self) -> str:
        return f"Cluster {self.name} ({self.site}; process {self.pid} on {self.host})"


@dataclass(frozen=True)
class Answer:
    """What came back from one cluster.

    Attributes
    ----------
    card : Card
        Which one was asked.
    explanation : Explanation or None
        What it said; None if it said nothing.
    trouble : str
        Why it said nothing.
    gone : bool
        Whether its program has ended and only its folder is left.
    """

    card: Card
    explanation: Explanation | None = None
    trouble: str = ""
    gone: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        card = self.card
        known = {"name": card.name, "site": card.site, "host": card.host, "pid": card.pid}
        told = None if self.explanation is None else self.explanation.to_dict()
        return {**known, "address": card.address, "error": self.trouble, "explanation": told}


def cards(state_dir: Path, name: str | None = None) -> list[Card]:
    """Return the clusters that have a folder, in the order of their names.

    A folder that is not the user's own is passed over: what lies in it would be believed.

    Parameters
    ----------
    state_dir : Path
        Where the folders are.
    name : str, optional
        Only the clusters of that name; the name of the folder counts too.

    Raises
    ------
    ClusterError
        If none has that name, but others are there; the message has the nearest.
    """
    try:
        folders = [folder for folder in state_dir.iterdir() if _is_mine(folder)]
    except OSError:
        return []
    there = [card for folder in folders if (card := _card(folder)) is not None]
    there.sort(key=lambda card: (card.name, card.folder))
    found = [card for card in there if name in {None, card.name, card.folder.name}]
    if there and not found:
        names = list(dict.fromkeys(card.name for card in there))
        near = nearest(str(name), names)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ClusterError(f"You have no cluster {name!r}; there is {', '.join(names)}.{hint}")
    return found


def explain(asked: Iterable[Card], timeout: float | None = None) -> list[Answer]:
    """Ask clusters, all at once, what they do and what they wait for."""

    async def ask_all() -> list[Answer]:
        return list(await asyncio.gather(*(_ask(card, timeout or TIMEOUT) for card in asked)))

    return asyncio.run(ask_all())


async def _ask(card: Card, timeout: float) -> Answer:
    if card.host == socket.gethostname():
        if not _is_alive(card.pid):
            return _gone(card)
    elif _is_loopback(card.address):
        return Answer(card, trouble=f"{card} can be asked on {card.host} only.")
    try:
        told = await asyncio.wait_for(_call(card, 2 * timeout), timeout)
        return Answer(card, Explanation.from_dict(told))
    except (ConnectionRefusedError, FileNotFoundError, FatalCommClosedError):
        return _gone(card)  # if somebody answers there, then without the key
    except TimeoutError:
        trouble = (
            f"does not answer within {timeout:g} s: its program is busy or stopped, or a firewall "
            "is between."
        )
    except Exception as error:
        trouble = f"does not tell: {_first_line(error)}."
    return Answer(card, trouble=f"{card} {trouble}")


def _gone(card: Card) -> Answer:
    return Answer(card, trouble=f"{card} has ended. Left of it: {card.folder}", gone=True)


async def _call(card: Card, timeout: float) -> dict[str, Any]:
    # A refusal is told at once; distributed would go on trying.
    _, writer = await asyncio.open_connection(*parse_host_port(card.address.split("://")[-1]))
    writer.close()
    arguments = _security(card.folder / "tls").get_connection_args("client")
    async with rpc(card.address, timeout=timeout, connection_args=arguments) as scheduler:
        told: dict[str, Any] = await scheduler.dask_site_explain()
    return told


def _security(keys: Path) -> CleanSecurity:
    certificate = str(keys / "cert.pem")
    return CleanSecurity(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=str(keys / "key.pem"),
    )


def _card(folder: Path) -> Card | None:
    try:
        values = json.loads((folder / _CARD).read_text("utf-8"))
        text = {key: str(values[key]) for key in ("name", "site", "host", "address")}
        return Card(**text, pid=int(values["pid"]), folder=folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it starts just now, or ends


def _is_mine(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    private = not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and private


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's by now, perhaps: the connection will tell
    return True


def _is_loopback(address: str) -> bool:
    host, _ = parse_host_port(address.split("://")[-1])
    return host in {"localhost", "::1"} or host.startswith("127.")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
