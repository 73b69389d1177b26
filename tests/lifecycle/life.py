"""What an administrator does to a site, and what is seen of it then."""

import re

from nodes import ansible, node

TOP = "/opt/dask-site"


def play(name, *arguments, **variables):
    """Run a playbook as an administrator would; return status and output."""
    extra = [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
    done = ansible("ansible-playbook", name, *arguments, *extra)
    flat = " ".join((done.stdout + done.stderr).split())
    return done.returncode, flat


def current():
    """Return the name of the release that users have."""
    return node("login1").check_output(f"readlink {TOP}/current").removeprefix("releases/")


def serving(host, unit="dask-history"):
    """Return the release that a service's process is of."""
    pid = node(host).check_output(f"systemctl show --value -p MainPID {unit}")
    command = node(host).check_output(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
    return re.search(rf"{TOP}/releases/([^/]+)/", command)[1]
