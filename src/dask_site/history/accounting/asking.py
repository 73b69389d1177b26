"""Questions to the resource manager's accounting, and who answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dask_site.history.model import AccountedJob
from dask_site.site import Site


class AskError(Exception):
    """There is no answer; the message says why, in the manager's own words where it has any."""


class UnreadError(AskError):
    """There will be no answer: nobody reads the accounting of this manager."""


@dataclass(frozen=True)
class Question:
    """Jobs by number or by name, one of both.

    Attributes
    ----------
    jobs : tuple of str
        Numbers, those of arrays without their elements.
    names : tuple of str
        Names, exactly.
    since : float
        Seconds since 1970: jobs by these names that were there later.
    """

    jobs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    since: float = 0.0


@dataclass(frozen=True)
class Told:
    """One run of one job, whose it is, and its name where names were asked for."""

    job: AccountedJob
    uid: int
    name: str = ""


class Ask(Protocol):
    """Answers a question by one call of the resource manager."""

    def __call__(self, question: Question) -> Sequence[Told]:
        """Return what the accounting says; jobs that it doesn't know are left out.

        Raises
        ------
        AskError
            If there is no whole answer.
        """


def asker(site: Site) -> Ask:
    """Return who answers for the resource manager of a site."""
    if site.resource_manager == "slurm":
        from dask_site.history.accounting.sacct import Sacct

        return Sacct()
    return _unread(site.resource_manager)


def _unread(manager: str) -> Ask:
    def ask(question: Question) -> Sequence[Told]:  # noqa: ARG001  # of the protocol
        raise UnreadError(
            f"the accounting of this site's resource manager ({manager}) is not read: what jobs "
            "were given is known from the clusters' own records"
        )

    return ask
