"""What all requests share."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dask_site.history.costs import Tariff
from dask_site.history.service.inbox import Inbox
from dask_site.history.service.sessions import Sessions
from dask_site.history.service.settings import Settings
from dask_site.history.service.shares import Shares
from dask_site.history.store.core import Store
from dask_site.services.access import Directory
from dask_site.services.audit import AuditLog
from dask_site.services.buckets import Buckets
from dask_site.site import Site

_KNOWING = _RECEIVING = 2
# Of each user: requests with records, for long per second and at once.
_RATE, _BURST = 50.0, 1000


class NoStoreError(Exception):
    """Another process is the writer, and has the store; the message says which."""


@dataclass
class Progress:
    """What the loops have done since the start.

    Attributes
    ----------
    collected : float
        When the last walk through the spools ended, in seconds since 1970; 0 before the first.
    caught_up : float
        When the last one ended that left nothing unread.
    counts : Counter of str
        ``records``, ``files``, ``deleted``, ``bad``, ``passes``, ``problems``.
    refused, skipped : Counter of str
        Records, and files of the spools, by the reason.
    problems : dict of str to str
        What is wrong now, by the loop.
    """

    collected: float = 0.0
    caught_up: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass
class Context:
    """What handlers and loops share.

    Attributes
    ----------
    site : Site
    settings : Settings
    directory : Directory
    sessions : Sessions
    audit : AuditLog
    threads : concurrent.futures.ThreadPoolExecutor
        In which requests ask the store.
    asking : Shares
        Of `threads`, by the number of the user who asks.
    knowing : Shares
        Of threads in which munge says who asks, by address: strangers come no further.
    inbox : Inbox
        Of what schedulers send.
    receiving : Shares
        Of threads that write there, by the number of the user: one of his requests at a time.
    rate : Buckets
        How often a user may send, by his number.
    tariff : Tariff
    writer : bool
        Whether this process is the one that writes.
    elsewhere : str
        Where the writer is, in words; for who asks a process that isn't.
    writer_url : str
        Where browsers reach the writer, as ``https://host:port``; empty where nobody knows.
    opened : Store or None
    pool_sums : tuple
        Until when by the monotonic clock, and what threads did: by pool and what it was.
    """

    site: Site
    settings: Settings
    directory: Directory
    sessions: Sessions
    audit: AuditLog
    threads: ThreadPoolExecutor
    tariff: Tariff = field(default_factory=Tariff)
    writer: bool = False
    elsewhere: str = ""
    writer_url: str = ""
    progress: Progress = field(default_factory=Progress)
    begun: float = field(default_factory=time.time)
    opened: Store | None = None
    pool_sums: tuple[float, list[tuple[str, str, float]]] = (0.0, [])
    asking: Shares = field(init=False)
    knowing: Shares = field(init=False)
    inbox: Inbox = field(init=False)
    receiving: Shares = field(init=False)
    rate: Buckets = field(init=False)

    def __post_init__(self) -> None:
        self.asking = Shares(self.threads)
        self._munge = ThreadPoolExecutor(_KNOWING, thread_name_prefix="dask-site-knows")
        self.knowing = Shares(self._munge, each=1)
        self.inbox = Inbox(self.settings.inbox)
        self._disk = ThreadPoolExecutor(_RECEIVING, thread_name_prefix="dask-site-receives")
        self.receiving = Shares(self._disk, each=1)
        self.rate = Buckets(_RATE, _BURST)

    def close(self) -> None:
        """Let what is being asked come to its end; nothing more is."""
        for threads in (self.threads, self._munge, self._disk):
            threads.shutdown(wait=True, cancel_futures=True)
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    @property
    def away(self) -> NoStoreError:
        """What to say to who asks for what the writer alone does."""
        return NoStoreError(self.elsewhere or "The history is being opened: try again soon.")

    @property
    def store(self) -> Store:
        """The store.

        Raises
        ------
        NoStoreError
            While another process has it.
        """
        if self.opened is None:
            raise self.away
        return self.opened
