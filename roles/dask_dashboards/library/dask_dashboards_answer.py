"""Ansible module: wait until the broker answers, and nginx hands on what it says."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_dashboards_answer
short_description: Wait until the broker of dashboards answers, and nginx hands on what it says
description:
  - nginx can run without having got its port, and tries for ever. So what it is asked for has to be
    the broker's own answer, its page that says that there is no such page.
  - Where to ask stands in what nginx reads, which may be of another release than this.
options:
  socket: {type: path, required: true, description: The broker's socket.}
  configuration: {type: path, required: true, description: What nginx reads.}
  timeout: {type: int, default: 30, description: Seconds until either counts as silent.}
attributes:
  check_mode: {support: full, description: It changes nothing.}
author: [The dask-site developers]
"""
EXAMPLES = r"""
- name: See that the dashboards answer
  dask_dashboards_answer:
    socket: /run/dask-dashboards/proxy/broker.sock
    configuration: /etc/dask-proxy/nginx.conf
"""
RETURN = r"""
port: {type: int, returned: always, description: Where nginx listens.}
"""
PAUSE = 0.2  # seconds between two questions
PATIENCE = 5  # seconds for one answer


class OnSocket(http.client.HTTPConnection):
    """A connection to a socket of the file system."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(host, timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def asked(connection: http.client.HTTPConnection, path: str, domain: str) -> tuple[int, bytes]:
    """Return status and text of an answer; with a status of 0, why there is none."""
    try:
        connection.request("GET", path, headers={"Host": domain})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error or type(error).__name__).encode()
    finally:
        connection.close()


def listens(configuration: str) -> tuple[int, str]:
    """Return the port and the domain of an nginx.

    Raises
    ------
    ValueError
        If its configuration names none.
    """
    port = re.search(r"(?m)^ *listen ([0-9]+) ssl", configuration)
    domain = re.search(r"(?m)^ *server_name (?!_;)([^ ;]+);", configuration)
    if not (port and domain):
        raise ValueError
    return int(port[1]), domain[1]


def trouble(path: str, port: int, domain: str) -> tuple[str, str]:
    """Return who has not the right answer, and what it was; nothing when both have."""
    status, page = asked(OnSocket(path, domain), "/internal/health", "localhost")
    if status != 200:
        return "broker", f"{status or ''} {page.decode(errors='replace')[:200]}".strip()
    _, page = asked(OnSocket(path, domain), "/none", domain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # with no authorities, as none is asked
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    nginx = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
    status, handed_on = asked(nginx, "/none", domain)
    if status == 404 and handed_on == page:
        return "", ""
    reason = f"status {status}, and not the page of the broker" if status else handed_on.decode()
    return "proxy", reason


def said_by(module: AnsibleModule, *command: str) -> str:
    """Return what a command says, or why it can't."""
    try:
        _, said, error = module.run_command(list(command), handle_exceptions=False)
    except OSError as missing:
        return str(missing)
    return said or error


def who_listens(module: AnsibleModule, port: int) -> str:
    """Return which process has a port, and of what nginx complained last."""
    sockets = said_by(module, "ss", "-Hltnp", f"sport = :{port}")
    log = ("--unit=dask-proxy.service", "--lines=50", "--output=cat", "--no-pager")
    lines = said_by(module, "journalctl", *log).splitlines()
    said = [line for line in lines if re.search(r"\[(emerg|alert|crit|error)\]", line)]
    return f"ss: {' '.join(sockets.split())}; nginx: {' '.join(said[-2:])}"


def main() -> None:
    """Wait, and say who does not answer."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "configuration": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    path, configuration = module.params["socket"], module.params["configuration"]
    host = socket.gethostname()
    try:
        port, domain = listens(Path(configuration).read_text())
    except OSError as error:
        module.fail_json(msg=f"What nginx of {host} reads is not there: {error}")
    except ValueError:
        module.fail_json(msg=f"{configuration} of {host} names no port with TLS and no domain")
    end = time.monotonic() + module.params["timeout"]
    silent, reason = trouble(path, port, domain)
    while silent and time.monotonic() < end:
        time.sleep(PAUSE)
        silent, reason = trouble(path, port, domain)
    if silent == "broker":
        module.fail_json(
            msg=f"The broker of dashboards does not answer on {path} of {host} ({reason}). "
            "Its log says more: journalctl --unit=dask-dashboards"
        )
    if silent:
        module.fail_json(
            msg=f"The proxy of dashboards does not answer on port {port} of {host} ({reason}). "
            f"Who listens there, and what it says itself: {who_listens(module, port)}. Stop what "
            "else has the port, or give dashboards another one (dask_site.dashboards.port), and "
            "run this again."
        )
    module.exit_json(changed=False, port=port)


if __name__ == "__main__":
    main()
