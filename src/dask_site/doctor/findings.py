"""What is found, how bad it is, and the mend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from dask_site.doctor.listeners import Listener
from dask_site.doctor.probing import Answer, Speech
from dask_site.people import name_of

#: How a cluster is started that turns strangers away.
CLOSED = "from dask_site import Cluster, or LocalCluster(security=True)"
_NO_PAGE = "close it where you don't need it: dashboard_address=None"


class Level(IntEnum):
    """How bad a finding is."""

    FINE = 0
    NOTE = 1
    READABLE = 2
    OPEN = 3

    @property
    def word(self) -> str:
        """In a word."""
        return ("fine", "note", "readable", "open")[self]


@dataclass(frozen=True)
class Finding:
    """Something that the doctor saw.

    Attributes
    ----------
    what : str
        In a sentence.
    where : str
        A port, a file, a key of the configuration, a process.
    owner : str
        Whose it is.
    mend : str
        What to do; empty where nothing is wrong.
    """

    level: Level
    what: str
    where: str
    owner: str
    mend: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "level": self.level.word}


def of_listener(listener: Listener, answer: Answer | None) -> Finding:
    """Return what is to be said of a port.

    Parameters
    ----------
    answer : Answer or None
        None for one that was not asked, as it is none of Python's.
    """
    who = "every user of this machine"
    if not listener.local:
        who = "every user of this machine and who reaches it by the network"
    level, what, mend = _judged(answer, who)
    where = f"{listener.place}, {listener.program}"
    return Finding(level, what, where, name_of(listener.uid), mend)


def _judged(answer: Answer | None, who: str) -> tuple[Level, str, str]:
    if answer is None:
        return Level.NOTE, f"A program that is none of Python's listens to {who}.", ""
    if answer.wants_certificate:
        return Level.FINE, "It turns away who has no certificate.", ""
    if answer.speech is Speech.NOTHING:
        return Level.FINE, "It takes no connection.", ""
    if answer.speech is Speech.DASK:
        return (
            Level.OPEN,
            f"Dask's protocol without TLS: {who} can run code as its owner.",
            f"close it, and start it with TLS: {CLOSED}",
        )
    if answer.files:
        return (
            Level.OPEN,
            f"A Jupyter server without a token: {who} can run code as its owner.",
            "end it, and start it without --no-token, --IdentityProvider.token='' and the like",
        )
    if answer.dashboard:
        return (
            Level.READABLE,
            f"A Dask dashboard without a login: {who} can read what is computed, code and logs.",
            _NO_PAGE,
        )
    if answer.jupyter:
        return Level.FINE, f"A Jupyter server ({answer.jupyter}) that asks for a token.", ""
    if answer.speech is Speech.HTTP:
        return Level.NOTE, f"A web server of Python; {who} can ask it.", ""
    return Level.NOTE, f"A program of Python that listens to {who}.", ""


def is_python(listener: Listener) -> bool:
    """Whether a program of Python listens, as far as its arguments tell."""
    first = listener.command[0].rpartition("/")[2] if listener.command else ""
    names = ("python", "dask", "jupyter", "ipython", "pt_main_thread")
    return first.startswith(names) or any("dask" in word for word in listener.command[:3])
