"""Logging in by a provider of OpenID Connect: the code flow with PKCE.

Nothing is kept here between the two requests of a login: all that has to come back follows from one
word, which the browser keeps in a cookie and any login node can check.

Source: OpenID Connect Core 1.0, section 3.1; RFC 7636; RFC 9207.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

from dask_site.dashboards.secret_files import read_secret
from dask_site.dashboards.sessions import Attempt
from dask_site.sitefile.parts import Oidc

_SECONDS = 10.0
_KEPT = 3600.0
_LEEWAY = 60
_LONGEST = 256 * 1024  # bytes of what a provider answers
# By a key that the provider alone has: neither "none" nor what the client's secret signs.
_ALGORITHMS: tuple[str, ...] = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS += ("ES256", "ES384", "ES512", "EdDSA")
_NEEDED = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class OidcError(Exception):
    """A login by the provider failed; the message is for the service's log."""


class Provider:
    """The site's provider.

    Parameters
    ----------
    said : Oidc
    back : str
        Address to which the provider sends browsers back.

    Raises
    ------
    OSError
        If the client's secret can't be read.
    ValueError
        If others can read it, or it is empty.
    """

    def __init__(self, said: Oidc, back: str) -> None:
        self._said = said
        self._back = back
        self._secret = read_secret(said.secret, 1)
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: Any = {}
        self._until = 0.0

    async def address(self, attempt: Attempt) -> str:
        """Return where a browser has to go to log in.

        Raises
        ------
        OidcError
            If the provider can't be asked.
        """
        return await asyncio.to_thread(self._address, attempt)

    async def user(self, attempt: Attempt, answer: Mapping[str, str]) -> str:
        """Return the name of the user who came back with an answer.

        Parameters
        ----------
        attempt : Attempt
            Of the browser that came.
        answer : mapping of str to str
            The query with which it came.

        Raises
        ------
        OidcError
            If the provider says no, can't be asked, or what it says does not hold.
        """
        return await asyncio.to_thread(self._user, attempt, answer)

    # -- in a thread -------------------------------------------------------------------------

    def _address(self, attempt: Attempt) -> str:
        endpoint = self._known()["authorization_endpoint"]
        with self._client() as client:
            url, _ = client.create_authorization_url(
                endpoint,
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url)

    def _user(self, attempt: Attempt, answer: Mapping[str, str]) -> str:
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        known = self._known()
        if answer.get("iss", self._said.issuer) != self._said.issuer:
            raise OidcError("the answer is another provider's")
        if "code" not in answer:
            raise OidcError(f"the provider says {answer.get('error', 'nothing')[:100]!r}")
        try:
            with self._client() as client:
                token = client.fetch_token(
                    known["token_endpoint"],
                    grant_type="authorization_code",
                    code=answer["code"],
                    code_verifier=attempt.verifier,
                    timeout=_SECONDS,
                    verify=_believed(),
                )
            claims = self._claims(token, attempt.nonce)
        except (OSError, AuthlibBaseError, JoseError, ValueError, KeyError, TypeError) as error:
            raise OidcError(f"{type(error).__name__}: {error}") from error
        name = claims.get(self._said.claim)
        if not isinstance(name, str) or not name:
            raise OidcError(f"the provider says no {self._said.claim!r}, dashboards.oidc.claim")
        return name

    def _claims(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError
        from joserfc.jwk import KeySet

        said = str(token["id_token"])
        try:
            found = jwt.decode(said, KeySet.import_key_set(self._keys), algorithms=[*_ALGORITHMS])
        except InvalidKeyIdError:  # it has another key by now
            self._ask()
            found = jwt.decode(said, KeySet.import_key_set(self._keys), algorithms=[*_ALGORITHMS])
        claims = CodeIDToken(
            found.claims,
            found.header,
            {
                "iss": {"essential": True, "value": self._said.issuer},
                "aud": {"essential": True, "value": self._said.client},
                "exp": {"essential": True},
                "nonce": {"essential": True, "value": nonce},
            },
            {
                "client_id": self._said.client,
                "nonce": nonce,
                "access_token": token.get("access_token"),
            },
        )
        claims.validate(leeway=_LEEWAY)
        return dict(claims)

    def _client(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        return OAuth2Session(
            self._said.client,
            self._secret.decode(),
            scope="openid profile",
            redirect_uri=self._back,
            code_challenge_method="S256",
        )

    def _known(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._ask()
        return self._metadata

    def _ask(self) -> None:
        issuer = self._said.issuer
        metadata = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:
            named = str(metadata.get("issuer"))[:200]
            raise OidcError(f"the provider names itself {named!r}: write that as issuer")
        for name in _NEEDED:
            if not str(metadata.get(name, "")).startswith("https://"):
                raise OidcError(f"the provider's {name} is no address with https://")
        self._keys = _get(str(metadata["jwks_uri"]))
        self._metadata = metadata
        self._until = time.monotonic() + _KEPT


def _believed() -> str | bool:
    """Return whom the node believes, a site's own authority among them; requests has a list."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def _get(url: str) -> dict[str, Any]:
    import requests

    try:
        with requests.get(
            url, timeout=_SECONDS, allow_redirects=False, stream=True, verify=_believed()
        ) as answer:
            answer.raise_for_status()
            content = answer.raw.read(_LONGEST + 1, decode_content=True)
        if len(content) > _LONGEST:
            raise OidcError(f"{url} answers with more than {_LONGEST} bytes")
        said = json.loads(content)
    except (requests.RequestException, OSError, ValueError) as error:
        raise OidcError(f"{url} can't be asked: {error}") from error
    if not isinstance(said, dict):
        raise OidcError(f"{url} does not answer with a JSON object")
    return said
