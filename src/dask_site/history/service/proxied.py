"""The proxy of dashboards, which has the login and says whose a browser's request is."""

from __future__ import annotations

import pwd
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: The header in which the proxy says the number of the user.
USER = "X-Dask-User"
#: The account of the proxy, where nothing else is said.
ACCOUNT = "dask-proxy"
_AGAIN = 60.0
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass
class Proxy:
    """The proxy of one site.

    Attributes
    ----------
    account : str
        Under which it runs, and nothing else does; empty where it leads to no history.
    origin : str
        Of the history's pages behind it.
    dashboards : str
        Origin of the pages on which users log in and out.
    """

    account: str
    origin: str
    dashboards: str
    clock: Callable[[], float] = time.monotonic
    _uid: int | None = field(default=None, init=False)
    _asked: float = field(default=float("-inf"), init=False)

    def runs_as(self, uid: object) -> bool:
        """Say whether a user number is that of its account; nobody's, before it is made.

        Root's never is: a mistake in the name must not let everything that root runs be anybody.
        """
        if self.account and self._uid is None and self.clock() - self._asked > _AGAIN:
            self._asked = self.clock()
            try:
                self._uid = pwd.getpwnam(self.account).pw_uid
            except (KeyError, ValueError):
                return False
        return self._uid is not None and uid == self._uid != 0

    @property
    def host(self) -> str:
        """What browsers write into the Host header."""
        return urlsplit(self.origin).netloc


def number(said: list[str]) -> int | None:
    """Return the user number that a request's headers say, None if they say none, or several."""
    return int(said[0]) if len(said) == 1 and _NUMBER.fullmatch(said[0]) else None
