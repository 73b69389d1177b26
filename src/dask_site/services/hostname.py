"""By which name the other nodes of a site reach this one."""

import socket


def hostname() -> str:
    """Return this node's name, with its domain where the system knows it."""
    full, short = socket.getfqdn(), socket.gethostname()
    return full if full.startswith(short.partition(".")[0]) else short
