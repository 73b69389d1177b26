"""From the second release to the last day. In this order: each test begins where the last ended."""

import json
import re
import shlex
import time

import pytest
from life import TOP, current, play, serving

from nodes import ROOT, node, until

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
STATE = "/home/dask-site/history"
UNITS = "/etc/systemd/system"
HISTORY, NGINX = f"{UNITS}/dask-history.service", "/etc/dask-proxy/nginx.conf"
LOGIN, NODES = ("login1", "login2"), ("login1", "login2", "c1", "c2", "m1", "g1")
STARTED = """
cluster = Cluster(pools=["cpu"])
client = cluster.get_client()
cluster.scale(cpu=1)
cluster.wait_for_workers(cpu=1, timeout=120)
tell(release=os.environ["DASK_SITE_RELEASE"], job=[job.job_id for job in cluster.jobs][0])
while True:
    with pool("cpu"):
        seen = client.submit(lambda: os.environ["DASK_SITE_RELEASE"], pure=False).result()
    open("seen", "a").write(seen + "\\n")
    time.sleep(1)
"""


def version():
    """Return the version of the history, as its database says."""
    code = (
        f"import sqlite3; c = sqlite3.connect('file:{STATE}/history.db?mode=ro', uri=True); "
        "print(c.execute('select version_num from alembic_version').fetchone()[0])"
    )
    writer = json.loads(node("login1").check_output(f"cat {STATE}/where.json"))["host"]
    return node(writer).check_output(f"python3 -c {shlex.quote(code)}")


def seen():
    """Return how often alice's running cluster has computed something."""
    return len(node("login1").check_output("cat /home/alice/seen").split())


def services_are_of(release):
    """Say whether all services are of a release."""
    units = ("dask-history", "dask-dashboards")
    return {serving(host, unit) for host in LOGIN for unit in units} == {release}


@pytest.fixture(scope="module")
def before():
    """The release of the first rollout."""
    return current()


@pytest.fixture(scope="module")
def jobs():
    """The jobs of alice that run through all of this, by release."""
    return {}


def test_what_fails_its_acceptance_reaches_nobody(before, newer):
    status, said = play("site.yml", dask_environment_wheel=newer, dask_acceptance_timeout=1)
    assert status != 0
    assert "pools that do not work" in said
    assert current() == before and services_are_of(before) and version() == "0003"
    staged = node("login1").check_output(f"ls {TOP}/releases").split()
    assert len(staged) == 2, "it is built, beside what users have"


def test_tags_alone_do_not_let_a_release_out_that_was_not_accepted(before, newer):
    status, said = play("site.yml", "--tags", "dask_history", dask_environment_wheel=newer)
    assert status != 0 and "was not accepted in this run" in said
    status, said = play("site.yml", "--tags", "dask_environment", dask_environment_wheel=newer)
    assert status == 0 and "Users keep what they have" in said
    assert current() == before and services_are_of(before)


def test_a_service_that_does_not_come_up_is_put_back(before, newer):
    broken = f"{UNITS}/dask-history.service.d"
    only = f"ExecStartPre=/bin/sh -c '! grep -q \"Release 99\" {HISTORY}'"
    node("login2").check_output(f"mkdir {broken}")
    node("login2").check_output(f"printf '[Service]\\n%s\\n' {shlex.quote(only)} > {broken}/x.conf")
    try:
        status, said = play("site.yml", dask_environment_wheel=newer)
    finally:
        node("login2").check_output(f"rm -r {broken} && systemctl daemon-reload")
    assert status != 0
    assert "login2: Start the service" in said
    assert f"Users keep what they have, release {before}" in said
    assert current() == before
    assert until(lambda: services_are_of(before), 60), "both hosts"
    assert until(lambda: version() == "0003", 60), "and the store is in its form again"
    copies = node("login1").check_output(f"ls {STATE}/backups")
    assert "-0003-before-99.0-" in copies and "-0004-before-0" in copies


def test_an_upgrade_copies_the_history_and_leaves_running_jobs_alone(
    before, newer, jobs, in_background_for_good
):
    jobs["old"] = in_background_for_good("alice", STARTED)
    status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
    assert status == 0, said
    assert f"users have {before}" in said
    assert current().startswith("99.0-") and services_are_of(current())
    assert version() == "0004"
    copies = node("login1").check_output(f"ls {STATE}/backups").split()
    assert any(f"-0003-before-{current()}.db" in copy for copy in copies)
    done = seen()
    assert until(lambda: seen() > done + 2, 60)
    assert set(node("login1").check_output("cat /home/alice/seen").split()) == {before}


def test_a_second_upgrade_changes_nothing(newer):
    status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
    assert status == 0 and set(re.findall(r"changed=(\d+)", said)) == {"0"}, said


def test_going_back_to_what_is_not_there_is_refused_with_what_is(before):
    now = current()
    status, said = play("playbooks/rollback.yml", dask_release="1.0-none")
    assert status != 0 and "nothing was changed" in said and before in said
    assert current() == now and services_are_of(now)


def test_one_command_goes_back_with_the_history(before, capsys):
    newest, done = current(), seen()
    began = time.monotonic()
    status, said = play("playbooks/rollback.yml")
    with capsys.disabled():
        print(f"\nrollback: {time.monotonic() - began:.1f} s")  # noqa: T201
    assert status == 0, said
    assert current() == before and services_are_of(before) and version() == "0003"
    assert node("login1").check_output(f"readlink {TOP}/previous") == f"releases/{newest}"
    told = node("login1").check_output(
        "runuser -l alice -c 'module load dask-site && echo $DASK_SITE_RELEASE; "
        "dask-site history ls --json'"
    )
    assert told.splitlines()[0] == before
    assert json.loads(told.split("\n", 1)[1])
    assert until(lambda: seen() > done + 2, 60)


# -- drift --------------------------------------------------------------------------------------

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


def places(before):
    release = f"{TOP}/releases/{before}"
    version = node("login1").check_output(f"ls {release}/env/lib")
    return {
        "top": TOP,
        "name": before,
        "release": release,
        "site": f"{release}/env/lib/{version}/site-packages",
    }


def drift():
    status, said = play("playbooks/drift.yml")
    return status, said, json.loads((ROOT / "out" / "drift.json").read_text())


def test_a_site_as_it_was_rolled_out_has_not_drifted():
    status, said, report = drift()
    assert (status, report["differences"]) == (0, []), said


def test_all_that_was_done_to_a_site_is_told(before):
    where = places(before)
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


# -- prune --------------------------------------------------------------------------------------


def test_releases_go_that_nobody_uses(before):
    login = node("login1")
    newest = login.check_output(f"readlink {TOP}/previous").removeprefix("releases/")
    for name in ("0.0.1-gone", "0.0.2-runs", "0.0.3-waits", "0.0.4-loaded"):
        folder = f"{TOP}/releases/{name}"
        manifest = json.dumps({"release": name, "built": "2020-01-01T00:00:00+00:00"})
        login.check_output(f"mkdir {folder} && echo '{manifest}' > {folder}/manifest.json")
        login.check_output(f"ln -s ../../releases/{name} {TOP}/modulefiles/dask-site/{name}.lua")
    waits = f"#!/bin/sh\n{TOP}/releases/0.0.3-waits/env/bin/python x\n"
    login.check_output("cat > /tmp/waits.sh <<'E'\n" + waits + "E")
    login.check_output("runuser -l alice -c 'sbatch --hold /tmp/waits.sh'")
    wrap = "--wrap='module load dask-site/0.0.4-loaded; python x'"
    login.check_output(f'runuser -l alice -c "sbatch --hold {wrap}"')
    inside = f"cd {TOP}/releases/0.0.2-runs && (setsid sleep 900 > /dev/null 2>&1 & echo $!)"
    process = node("c1").check_output(inside)
    try:
        status, said = play("playbooks/prune.yml", "--check", dask_environment_keep=2)
        assert status == 0, said
        assert login.file(f"{TOP}/releases/0.0.1-gone").exists
        status, said = play("playbooks/prune.yml", dask_environment_keep=2)
        assert status == 0, said
        kept = set(login.check_output(f"ls {TOP}/releases").split())
        assert kept == {before, newest, "0.0.2-runs", "0.0.3-waits", "0.0.4-loaded"}
        assert not login.file(f"{TOP}/modulefiles/dask-site/0.0.1-gone.lua").is_symlink
        for why in (r"process \d+ of root on c1", r"job \d+ of alice, pending"):
            assert re.search(why, said), said
    finally:
        login.run("scancel --user alice --state PENDING")
        node("c1").run(f"kill {process}")
    assert until(lambda: not login.check_output("squeue -h -u alice -t PENDING"))
    status, said = play("playbooks/prune.yml", dask_environment_keep=2)
    assert set(login.check_output(f"ls {TOP}/releases").split()) == {before, newest}, said


# -- the last day -------------------------------------------------------------------------------


def left(host):
    """Return what is on a node that was not there before the rollout, and the other way round."""
    script = (ROOT / "molecule" / "lifecycle" / "list.sh").read_text()
    return node(host).check_output(f"({script}) | diff /root/before - | grep '^[<>]' || true")


def test_nothing_is_removed_by_mistake(before, jobs, in_background_for_good):
    if "old" not in jobs:
        jobs["old"] = in_background_for_good("alice", STARTED)
    status, said = play("playbooks/uninstall.yml")
    assert status != 0 and "dask_uninstall_confirm='Demo Cluster'" in said
    confirmed = {"dask_uninstall_confirm": "'Demo Cluster'"}
    status, said = play("playbooks/uninstall.yml", **confirmed)
    assert status != 0 and re.search(r"job \d+ of alice, running", said), said
    confirmed["dask_uninstall_running"] = "true"
    status, said = play("playbooks/uninstall.yml", "--check", **confirmed)
    assert status == 0, said
    assert current() == before and services_are_of(before)


def test_an_uninstall_leaves_nothing_but_data_and_then_nothing(jobs):
    host, pid = jobs["old"]
    node(host).run(f"kill -INT -- -{pid}; kill -INT {pid}")
    assert until(lambda: not node("login1").check_output("squeue -h -u alice"), 120)
    confirmed = {"dask_uninstall_confirm": "'Demo Cluster'"}
    status, said = play("playbooks/uninstall.yml", **confirmed)
    assert status == 0, said
    for host in NODES:
        data = re.compile(r"[<>] (/home/dask-site|/etc/dask-site|dask-(history|dashboards|proxy):)")
        account = re.compile(r"[<>] /etc/(passwd|group|g?shadow|sub[ug]id)-? |[<>] /etc f? ?")
        other = [line for line in left(host).splitlines() if not data.match(line)]
        assert [line for line in other if not account.match(line)] == [], host
    assert node("login1").file(f"{STATE}/history.db").exists
    status, said = play("playbooks/uninstall.yml", **confirmed, dask_uninstall_data="true")
    assert status == 0, said
    for host in NODES:
        account = re.compile(r"[<>] /etc/(passwd|group|g?shadow|sub[ug]id)-? ")
        other = [line for line in left(host).splitlines() if not account.match(line)]
        assert other == [], host
