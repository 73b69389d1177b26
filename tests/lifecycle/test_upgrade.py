"""A release after the first: tried before users have it, with the history, under running jobs."""

import re
import shlex
import subprocess

import pytest

from life import (
    STATE,
    TOP,
    UNITS,
    clusters,
    current,
    outage,
    play,
    seen,
    services_are_of,
    serving,
    untouched,
    version,
    working,
    writer,
)
from nodes import node, until, variables

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)
HISTORY = f"{UNITS}/dask-history.service"


def test_what_fails_its_acceptance_reaches_nobody(before, newer):
    status, said = play("site.yml", dask_environment_wheel=newer, dask_acceptance_timeout=0)
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
    status, said = play("site.yml", "--tags", "dask_pools", dask_environment_wheel=newer)
    assert status == 0 and "Users keep what they have" in said
    three = "dask_environment,dask_pools,dask_acceptance"
    status, said = play("site.yml", "--tags", three, dask_environment_wheel=newer)
    assert status == 0 and "leave where they are: run site.yml without" in said
    status, said = play("site.yml", "--skip-tags", "dask_dashboards", dask_environment_wheel=newer)
    assert status != 0 and "a run that leaves out a part of it" in said
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


def test_a_node_that_goes_away_on_the_way_moves_no_link(before, newer):
    """Of login2 nothing is heard any more once its history has stopped."""
    dropped = f"{UNITS}/dask-history.service.d"
    drop = "ExecStopPost=+/bin/sh -c 'systemctl mask --runtime --now ssh; pkill -x sshd'"
    node("login2").check_output(f"mkdir {dropped}")
    text = f"printf '[Service]\\n%s\\n' {shlex.quote(drop)}"
    node("login2").check_output(f"{text} > {dropped}/x.conf")
    node("login2").check_output("systemctl daemon-reload")
    try:
        status, said = play("site.yml", dask_environment_wheel=newer)
    finally:
        back = f"rm -r {dropped}; systemctl unmask --runtime ssh; systemctl daemon-reload"
        inside = ["podman", "exec", f"{variables()['cluster']}-login2", "sh", "-c"]
        subprocess.run([*inside, f"{back}; systemctl start ssh"], check=True)
    assert status != 0
    assert "login2 can't be reached any more" in said, said
    assert f"Users keep what they have, release {before}, and the services are on it again" in said
    assert current() == before and serving("login1") == before
    assert serving("login1", "dask-dashboards") == before
    node("login2").check_output("systemctl start dask-history")
    assert until(lambda: services_are_of(before), 60)
    assert until(lambda: version() == "0003", 60)


def test_an_upgrade_keeps_the_history_and_leaves_running_jobs_alone(
    before, newer, alices, twenty_jobs, capsys
):
    jobs, known = working(), clusters()
    with outage(writer()) as away:
        status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
    assert status == 0, said
    with capsys.disabled():
        print(f"\nupgrade: the history was away for {away.seconds:.1f} s")  # noqa: T201  # is measured
    assert f"users have {before}" in said
    assert current().startswith("99.0-") and services_are_of(current())
    assert version() == "0004"
    copies = node("login1").check_output(f"ls {STATE}/backups").split()
    assert any(f"-0003-before-{current()}.db" in copy for copy in copies)
    done = seen()
    assert until(lambda: seen() > done + 2, 60)
    assert set(node("login1").check_output("cat /home/alice/seen").split()) == {before}
    assert until(lambda: all(clusters().get(one, -1) >= n for one, n in known.items()), 60)
    assert until(lambda: max(clusters().values()) >= done, 60), "what was done meanwhile is there"
    untouched(jobs, before)


def test_a_second_upgrade_changes_nothing(newer, upgraded):
    status, said = play("playbooks/upgrade.yml", dask_environment_wheel=newer)
    assert status == 0 and set(re.findall(r"changed=(\d+)", said)) == {"0"}, said
