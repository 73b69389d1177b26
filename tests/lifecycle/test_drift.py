"""What differs from the rollout, by whatever was done to a site by hand."""

import json

import pytest

from life import STATE, TOP, UNITS, current, play
from nodes import ROOT, node

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
HISTORY = f"{UNITS}/dask-history.service"
NGINX, HEADERS = "/etc/dask-proxy/nginx.conf", "/etc/dask-proxy/headers.js"

# What is done, where it is seen, and how it is undone.
TAMPERED = {
    "a module edited": (
        "login1",
        "echo '# x' >> {site}/dask_site/cli.py",
        "{site}/dask_site/cli.py",
        "sed -i '$d' {site}/dask_site/cli.py",
    ),
    "a module gone": (
        "login1",
        "mv {site}/dask_site/calls.py /root/",
        "{site}/dask_site/calls.py",
        "mv /root/calls.py {site}/dask_site/",
    ),
    "a module added": (
        "login1",
        "touch {site}/sitecustomize.py",
        "{site}/sitecustomize.py",
        "rm {site}/sitecustomize.py",
    ),
    "open to writers": (
        "login1",
        "chmod g+w {site}/dask_site/render.py",
        "{site}/dask_site/render.py",
        "chmod g-w {site}/dask_site/render.py",
    ),
    "another owner": (
        "login1",
        "chown alice {site}/dask_site/whole.py",
        "{site}/dask_site/whole.py",
        "chown root {site}/dask_site/whole.py",
    ),
    "a link elsewhere": (
        "login1",
        "ln -sfn /tmp/mine {release}/env/lib64",
        "{release}/env/lib64",
        "ln -sfn lib {release}/env/lib64",
    ),
    "configuration": (
        "login1",
        "echo '# x' >> {release}/etc/dask/site.yaml",
        "{release}/etc/dask/site.yaml",
        "sed -i '$d' {release}/etc/dask/site.yaml",
    ),
    "the module's default": (
        "login1",
        "ln -sfn other.lua {top}/modulefiles/dask-site/default",
        "{top}/modulefiles/dask-site/default",
        "ln -sfn {name}.lua {top}/modulefiles/dask-site/default",
    ),
    "previous": (
        "login1",
        "mv {top}/previous /root/previous",
        "{top}/previous",
        "mv /root/previous {top}/previous",
    ),
    "profile.d": (
        "c1",
        "cp -p /etc/profile.d/zz-dask-site.sh /root/; echo >> /etc/profile.d/zz-dask-site.sh",
        "/etc/profile.d/zz-dask-site.sh",
        "cp -p /root/zz-dask-site.sh /etc/profile.d/",
    ),
    "a unit edited": (
        "login2",
        f"sed -i.kept s/NoNewPrivileges=true/NoNewPrivileges=false/ {HISTORY}",
        HISTORY,
        f"mv {HISTORY}.kept {HISTORY}; systemctl daemon-reload",
    ),
    "a unit disabled": (
        "login1",
        "systemctl disable dask-dashboards",
        f"{UNITS}/dask-dashboards.service",
        "systemctl enable dask-dashboards",
    ),
    "a unit stopped": (
        "login2",
        "systemctl stop dask-proxy",
        f"{UNITS}/dask-proxy.service",
        "systemctl start dask-proxy",
    ),
    "a unit masked": (
        "login2",
        f"mv {UNITS}/dask-proxy-reload.timer /root/; "
        f"ln -s /dev/null {UNITS}/dask-proxy-reload.timer; systemctl daemon-reload",
        f"{UNITS}/dask-proxy-reload.timer",
        f"mv -f /root/dask-proxy-reload.timer {UNITS}/; systemctl daemon-reload; "
        "systemctl restart dask-proxy-reload.timer",
    ),
    "nginx": (
        "login1",
        f"sed -i.kept 's/ssl_session_tickets off/ssl_session_tickets on/' {NGINX}",
        NGINX,
        f"mv {NGINX}.kept {NGINX}",
    ),
    "written and not read": (
        "login1",
        f"touch {HEADERS}",
        HEADERS,
        "systemctl reload dask-proxy",
    ),
    "a package gone": (
        "login2",
        "tar -cPf /root/kept.tar /var/lib/dpkg /etc/nginx "
        "$(dpkg -L libnginx-mod-http-js | xargs -I{{}} find {{}} -maxdepth 0 -not -type d); "
        "DEBIAN_FRONTEND=noninteractive dpkg --force-depends --remove libnginx-mod-http-js",
        "nginx, libnginx-mod-http-js",
        "tar -xPf /root/kept.tar; rm /root/kept.tar /etc/nginx/modules-enabled/*.removed",
    ),
    "an account": (
        "login2",
        "usermod -s /bin/bash dask-history",
        "dask-history",
        "usermod -s /usr/sbin/nologin dask-history",
    ),
    "a folder": (
        "login1",
        f"chmod 0777 {STATE}",
        STATE,
        f"chmod 0755 {STATE}",
    ),
}


def places():
    release = f"{TOP}/releases/{current()}"
    version = node("login1").check_output(f"ls {release}/env/lib")
    return {
        "top": TOP,
        "name": current(),
        "release": release,
        "site": f"{release}/env/lib/{version}/site-packages",
    }


def drift():
    status, said = play("playbooks/drift.yml")
    return status, said, json.loads((ROOT / "out" / "drift.json").read_text())


def test_a_site_as_it_was_rolled_out_has_not_drifted(upgraded):
    status, said, report = drift()
    assert (status, report["differences"]) == (0, []), said


def test_all_that_was_done_to_a_site_is_told(upgraded):
    where = places()
    try:
        for host, command, _, _ in TAMPERED.values():
            node(host).check_output(command.format(**where))
        status, said, report = drift()
    finally:
        for host, _, _, command in TAMPERED.values():
            node(host).run(command.format(**where))
    assert status == 2, said
    found = {(one["host"], one["where"]): one for one in report["differences"]}
    for how, (host, _, place, _) in TAMPERED.items():
        assert (host, place.format(**where)) in found, how
    owned = found["login1", f"{where['site']}/dask_site/whole.py"]
    assert owned["owner"] == "alice" and owned["changed"].startswith("20")
    assert drift()[0] == 0, "and all of it is undone"
