"""What is around every page: who looks, and where else he may go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A page in the navigation."""

    href: str
    text: str
    here: bool = False


@dataclass(frozen=True)
class Frame:
    """What is around a page.

    Attributes
    ----------
    user : str
        Who looks; empty where nobody is known.
    site : str
        The site's name.
    path : str
        Of the page.
    overseer : bool
        Whether he may see the sums of others.
    dashboards : str
        Where his dashboards are; empty where the site has none.
    shared_login : bool
        Whether he is logged in there, and not here alone.
    """

    user: str = ""
    site: str = ""
    path: str = "/"
    overseer: bool = False
    dashboards: str = ""
    shared_login: bool = False

    @property
    def links(self) -> list[Link]:
        """The pages that he may go to."""
        pages = [("/", "My clusters"), ("/where", "Where it went"), ("/compare", "Compare")]
        if self.overseer:
            pages.append(("/site", "Site"))
        if self.dashboards:
            pages.append((self.dashboards, "Dashboards"))
        return [Link(href, text, href == self.path) for href, text in pages]
