"""Say which addresses lead out of the site, a line for each, on the control machine.

Standard input is JSON: ``values``, a name and what it is set to, of which all texts are looked at,
and ``local``, hosts and domains (``.example.org``) that are the site's own.
"""

import ipaddress
import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# git's short form, user@host:path
SHORT = re.compile(r"[\w.-]+@(?P<host>[\w.-]+):(?!//)")
# Of others the first part is the name of a bucket, or leads to a registry.
NAMES_A_HOST = re.compile(r"(https?|ssh|git|ftps?|ldaps?|postgres(ql)?)(\+\w+)?", re.IGNORECASE)


def texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a value, with where it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts(f"{name}[{number}]", inner)
    elif isinstance(value, str):
        yield name, value


def leads_out(text: str, local: list[str]) -> bool:
    """Tell whether a text is an address of something outside."""
    if match := SHORT.match(text):
        return not is_local(match["host"], local)
    if not URL.match(text):
        return False
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:  # nobody knows where that leads
        return True
    if parts.scheme == "file":
        return False
    if not host and NAMES_A_HOST.fullmatch(parts.scheme):
        return False  # a socket of this machine
    if is_named(host, local):
        return False
    return not (NAMES_A_HOST.fullmatch(parts.scheme) and is_local(host, local))


def is_named(host: str, local: list[str]) -> bool:
    """Tell whether the site says that a host is its own."""
    host = host.lower().rstrip(".")
    return any(
        host == one.lower() or (one.startswith(".") and host.endswith(one.lower())) for one in local
    )


def is_local(host: str, local: list[str]) -> bool:
    """Tell whether a host is the site's: named so, without a domain, or of a private network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host.rstrip(".") or is_named(host, local)
    return address.is_private or address.is_loopback or address.is_link_local


def main() -> None:
    """Print what leads out."""
    given = json.load(sys.stdin)
    for name, value in given["values"].items():
        for place, text in texts(name, value):
            if leads_out(text, given["local"]):
                print(f"{place}: {text}")


if __name__ == "__main__":
    main()
