"""A service of JupyterHub that leads its users to their dashboards, logged in as themselves.

``integrations/jupyterhub`` has the lines for its configuration. The hub says who somebody is; the
site's broker makes a link of that, once and for a minute. Names of users have to be the same for
the hub and on the login nodes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.web import Application, HTTPError, RequestHandler, authenticated

from dask_site.dashboards.secret_files import read_secret

logger = logging.getLogger("dask_site")
_SECONDS = 10.0


class Door(HubOAuthenticated, RequestHandler):
    """Sends a user on to the dashboards."""

    @authenticated  # type: ignore[untyped-decorator]  # of JupyterHub
    async def get(self) -> None:
        """Answer."""
        said = self.settings
        headers = {"X-Dask-Portal": said["secret"], said["header"]: self.current_user["name"]}
        request = HTTPRequest(
            f"{said['dashboards']}/login/portal",
            headers=headers,
            follow_redirects=False,
            request_timeout=_SECONDS,
            ssl_options=ssl.create_default_context(),
        )
        try:
            answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        except (OSError, HTTPClientError) as error:
            logger.error("%s can't be reached: %s", said["dashboards"], error)
            raise HTTPError(502) from None
        link = answer.headers.get("Location", "")
        if answer.code != 303 or not link.startswith("https://"):
            logger.error("%s refuses %s: %d", said["dashboards"], self.current_user, answer.code)
            raise HTTPError(403 if answer.code == 403 else 502)
        self.redirect(link, status=303)


def application() -> Application:
    """Return the service, by what its environment says.

    Raises
    ------
    KeyError
        If a variable is missing.
    OSError, ValueError
        If the secret can't be used.
    """
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    return Application(
        [(f"{prefix}oauth_callback", HubOAuthCallbackHandler), (f"{prefix}?", Door)],
        cookie_secret=os.urandom(32),
        dashboards=os.environ["DASK_SITE_DASHBOARDS"].rstrip("/"),
        secret=read_secret(os.environ["DASK_SITE_PORTAL_SECRET"], 32).decode(),
        header=os.environ.get("DASK_SITE_PORTAL_HEADER", "X-Remote-User"),
    )


async def _serve() -> None:
    where = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    application().listen(where.port or 10181, where.hostname or "127.0.0.1")
    await asyncio.Event().wait()


def main() -> int:
    """Serve until killed; return the exit status."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    try:
        asyncio.run(_serve())
    except KeyboardInterrupt:
        return 0
    except KeyError as error:
        logger.error("%s is not set: see python -m pydoc dask_site.dashboards.hub", error)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
