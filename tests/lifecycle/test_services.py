"""Services that do not come up as they should, and what they have not read."""

import base64
import json
import time

import pytest

from life import LOGIN, UNITS, current, play
from nodes import ROOT, node, until, variables

# Each of these is a rollout or more, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
HOLDING = """
import socket, time
held = socket.create_server(("", {port}))
while True:
    time.sleep(60)
"""
MADE = "/etc/dask-site/made"
SERVICES = ("dask-history", "dask-dashboards", "dask-proxy")


@pytest.fixture
def first(before):
    """Users have the release of this checkout."""
    if current() != before:
        status, said = play("playbooks/rollback.yml", dask_release=before)
        assert status == 0, said


def since(host, what="ExecMainStartTimestampMonotonic"):
    """Return, of each service, when it started, or when it last changed."""
    shown = node(host).check_output(f"systemctl show --value -p {what} {' '.join(SERVICES)}")
    return dict(zip(SERVICES, shown.split(), strict=True))


def test_a_port_that_another_has_is_told(first):
    port, login2 = variables()["site"]["dashboards"]["port"], node("login2")
    held = base64.b64encode(HOLDING.format(port=port).encode()).decode()
    login2.check_output(f"echo {held} | base64 -d > /root/holding.py; systemctl stop dask-proxy")
    pid = login2.check_output("(exec python3 /root/holding.py > /dev/null 2>&1 & echo $!)")
    try:
        status, said = play("site.yml", "--tags", "dask_dashboards", "--limit", "login2")
    finally:
        login2.check_output(f"kill {pid}; rm /root/holding.py")
    assert status != 0 and f"does not answer on port {port} of login2" in said, said
    assert f'"python3",pid={pid}' in said.replace("\\", ""), said
    answers = f"timeout 2 bash -c '</dev/tcp/127.0.0.1/{port}'"
    assert until(lambda: login2.run(answers).rc == 0), "it tries again by itself"


def installed(host):
    return set(node(host).check_output("dpkg-query --show --showformat '${Package} '").split())


def test_what_an_interrupted_run_wrote_is_read_by_the_next(first):
    began, changed = since("login1"), since("login2", "StateChangeTimestampMonotonic")
    time.sleep(2)  # what is written within a second of that counts as read
    written = " ".join(f"{UNITS}/{service}.service" for service in SERVICES)
    node("login1").check_output(f"touch {written}; systemctl daemon-reload")
    node("login2").check_output("touch /etc/dask-proxy/headers.js")
    # Here it was interrupted before the distribution's own service was stopped.
    begun = f"cp -p {MADE} /root/made; echo begun nginx.service >> {MADE}"
    node("login2").check_output(f"{begun}; systemctl enable --now nginx")
    other, packages = since("login2"), installed("login2")
    for tag in ("dask_history", "dask_dashboards"):
        status, said = play("site.yml", "--tags", tag)
        assert status == 0, said
    asked = f"systemctl is-enabled nginx; systemctl is-active nginx; grep nginx {MADE}"
    stopped = node("login2").run(asked).stdout.splitlines()
    node("login2").check_output(f"mv /root/made {MADE}")
    # What the distribution's service has made, which no purge takes.
    node("login2").check_output("rmdir /var/lib/nginx/*")
    # Ansible has brought what it asks apt with.
    brought = " ".join(installed("login2") - packages)
    node("login2").check_output(
        f"apt-get purge -q -y {brought}; apt-get clean; rm -rf /var/lib/apt/lists/*"
    )
    assert stopped[:2] == ["disabled", "inactive"], stopped
    assert set(stopped[2:]) == {"package nginx", "package libnginx-mod-http-js"}, stopped
    assert not set(since("login1").values()) & set(began.values())
    assert since("login2") == other, "nothing started anew there"
    later = since("login2", "StateChangeTimestampMonotonic")
    assert {name for name in SERVICES if later[name] != changed[name]} == {"dask-proxy"}
    began = since("login1"), since("login2")
    status, said = play("site.yml", "--tags", "dask_dashboards")
    assert status == 0 and (since("login1"), since("login2")) == began, "only once"


@pytest.fixture
def with_a_vault(first):
    """A site whose portal has a secret from a vault: what to give a playbook for one of them."""
    site = json.loads(json.dumps(variables()["site"]))
    where = f"{site['dashboards']['state']}/secret/of-the-portal"
    site["dashboards"]["portal"] = {"secret": where}

    def given(secret):
        said = {"dask_site": site, "dask_dashboards_secrets": {"portal": secret}}
        return "-e", json.dumps(said)

    yield given
    status, said = play("site.yml", "--tags", "dask_pools")
    assert status == 0, said
    node("login1").check_output(f"rm {where}")


def test_a_new_secret_is_read_on_all_hosts(with_a_vault):
    status, said = play("site.yml", "--tags", "dask_pools", *with_a_vault("a" * 40))
    assert status == 0, said
    began = {host: since(host) for host in LOGIN}
    status, said = play("site.yml", "--tags", "dask_dashboards", *with_a_vault("b" * 40))
    assert status == 0 and "b" * 40 not in said, said
    for host in LOGIN:
        now = since(host)
        anew = {name for name in SERVICES if now[name] != began[host][name]}
        assert anew == {"dask-dashboards"}, host
    status, said = play("playbooks/drift.yml", *with_a_vault("b" * 40))
    assert status == 0 and "b" * 40 not in said, said
    assert json.loads((ROOT / "out" / "drift.json").read_text())["differences"] == []


def test_accounts_with_other_numbers_are_refused(first):
    node("login2").check_output("useradd --system --uid 960 --user-group keeper")
    try:
        status, said = play("site.yml", "--tags", "dask_history", dask_history_user="keeper")
    finally:
        node("login2").check_output("userdel keeper")
    assert status != 0 and "login1: user keeper 877" in said, said
    assert "login2: user keeper 960" in said and "dask_history_uid" in said
    assert node("login1").run("getent passwd keeper").rc != 0
