"""The way back, in one command."""

import json
import shlex
import time

import pytest

from life import (
    LOGIN,
    TOP,
    UNITS,
    current,
    outage,
    play,
    seen,
    services_are_of,
    untouched,
    version,
    working,
    writer,
)
from nodes import node, until

# A release is built, and other work may hold the machine.
pytestmark = pytest.mark.timeout(1800)


def test_going_back_to_what_is_not_there_is_refused_with_what_is(before, upgraded):
    now = current()
    status, said = play("playbooks/rollback.yml", dask_release="1.0-none")
    assert status != 0 and "nothing was changed" in said and before in said
    assert current() == now and services_are_of(now)


def test_what_a_host_never_ran_is_refused(before, upgraded):
    kept = f"/etc/dask-site/{before}"
    node("login2").check_output(f"mv {kept} /root/kept")
    try:
        status, said = play("playbooks/rollback.yml")
    finally:
        node("login2").check_output(f"mv /root/kept {kept}")
    assert status != 0 and f"login2 never ran the dashboards of release {before}" in said, said
    assert current() == upgraded and services_are_of(upgraded) and version() == "0004"


def test_a_service_that_does_not_come_up_leaves_users_with_what_they_have(before, upgraded):
    broken = f"{UNITS}/dask-dashboards.service.d"
    only = (
        f"ExecStartPre=/bin/sh -c '! grep -q \"Release {before}\" {UNITS}/dask-dashboards.service'"
    )
    node("login2").check_output(f"mkdir -p {broken}")
    node("login2").check_output(f"printf '[Service]\\n%s\\n' {shlex.quote(only)} > {broken}/x.conf")
    try:
        status, said = play("playbooks/rollback.yml")
    finally:
        node("login2").check_output(f"rm -r {broken} && systemctl daemon-reload")
    assert status != 0 and f"Users keep what they have, release {upgraded}" in said, said
    assert current() == upgraded
    assert until(lambda: services_are_of(upgraded), 60) and until(lambda: version() == "0004", 60)


def test_one_command_goes_back_with_the_history(before, upgraded, alices, twenty_jobs, capsys):
    jobs, began_with, done = working(), twenty_jobs, seen()
    with outage(writer()) as away:
        began = time.monotonic()
        status, said = play("playbooks/rollback.yml")
        took = time.monotonic() - began
    with capsys.disabled():
        print(f"\nrollback: {took:.1f} s, the history away for {away.seconds:.1f} s")  # noqa: T201  # is measured
    assert status == 0, said
    assert current() == before and services_are_of(before) and version() == "0003"
    assert node("login1").check_output(f"readlink {TOP}/previous") == f"releases/{upgraded}"
    told = node("login1").check_output(
        "runuser -l alice -c 'module load dask-site && echo $DASK_SITE_RELEASE; "
        "dask-site history ls --json'"
    )
    assert told.splitlines()[0] == before
    assert json.loads(told.split("\n", 1)[1])
    assert until(lambda: seen() > done + 2, 60)
    untouched(jobs, began_with)


def test_a_release_whose_dashboards_had_fewer_units(before, upgraded, given_back):
    """They go with the way back, and come with the way forth; where one is, nothing changes."""
    names = [f"dask-dashboards-accounts.{kind}" for kind in ("path", "service", "timer")]

    def there():
        return {
            unit for host in LOGIN for unit in names if node(host).file(f"{UNITS}/{unit}").exists
        }

    def waiting():
        asked = f"systemctl is-active {names[0]} {names[2]}"
        return [node(host).run(asked).stdout.split() for host in LOGIN]

    def went(release):
        status, said = play("playbooks/rollback.yml", dask_release=release)
        assert status == 0, said
        assert current() == release and services_are_of(release)

    went(upgraded)
    for host in LOGIN:
        node(host).check_output(f"rm /etc/dask-site/{before}/dask-dashboards-accounts.*")
    try:
        went(before)
        assert there() == set() and waiting() == [["inactive", "inactive"]] * 2
        went(before)
        went(upgraded)
        assert there() == set(names) and waiting() == [["active", "active"]] * 2
    finally:
        for host in LOGIN:
            copied = f"cp -p {UNITS}/dask-dashboards-accounts.* /etc/dask-site/{before}/"
            node(host).run(copied)
