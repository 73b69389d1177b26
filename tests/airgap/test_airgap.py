"""What a site without a way out has, and what it is told that would need one."""

import json
import re
import shlex

import pytest

from nodes import node

pytestmark = pytest.mark.timeout(1200)
NODES = ("login1", "login2", "c1", "c2", "m1", "g1")


def play(*arguments, **variables):
    """Roll out from the login node, as converge did; return status and what it said."""
    extra = f"-e {shlex.quote(json.dumps(variables))}" if variables else ""
    command = f".venv/bin/ansible-playbook -i /root/site site.yml {' '.join(arguments)} {extra}"
    done = node("login1").run(f"cd /root/bundle/checkout && ANSIBLE_NOCOLOR=1 {command}")
    return done.rc, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("name", NODES)
def test_nothing_leads_out(name):
    assert node(name).run("ip route get 192.0.2.1").rc != 0
    connected = "timeout 5 bash -c '</dev/tcp/192.0.2.1/443'"
    assert node(name).run(connected).rc != 0


def test_users_have_dask(python):
    facts, result = python(
        "alice",
        """
        with Cluster(pools=["cpu", "gpu"]) as cluster, cluster.get_client() as client:
            cluster.scale(cpu=1, gpu=2)
            with pool("gpu"):
                on_gpu = client.submit(where, 1)
            with pool("cpu"):
                tell(cpu=client.submit(where, 2).result(), gpu=on_gpu.result())
        """,
    )
    assert facts.get("gpu") == "g1" and facts.get("cpu") in {"c1", "c2"}, result.stderr


def test_the_release_is_that_of_the_bundle(login1):
    manifest = json.loads(login1.check_output("cat /opt/dask-site/current/manifest.json"))
    about = json.loads(login1.check_output("cat /root/bundle/bundle.json"))
    assert manifest["dask_site"] == about["dask_site"]
    assert not login1.file("/opt/dask-site/current/.wheels").exists
    login1.check_output("cd /opt/dask-site/current && sha256sum --quiet -c SHA256SUMS")


def test_a_second_rollout_changes_nothing():
    status, said = play()
    assert status == 0 and set(re.findall(r"changed=(\d+)", said)) == {"0"}, said


def test_check_mode_is_true(login1):
    status, said = play("--check", "--diff")
    assert status == 0 and set(re.findall(r"changed=(\d+)", said)) == {"0"}, said


def test_what_leads_out_is_refused_by_name(site):
    login = {"issuer": "https://accounts.example.com", "client": "x", "secret": "/x"}
    dashboards = {**site["dashboards"], "oidc": login}
    status, said = play(dask_site={**site, "dashboards": dashboards})
    assert status != 0 and "failed=1" in said
    assert "Nothing was changed" in said
    assert "dask_site.dashboards.oidc.issuer: https://accounts.example.com" in said
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}, said


def test_spack_is_refused_where_the_bundle_has_none(site, login1):
    if "spack.tar.gz" in login1.check_output("cat /root/bundle/bundle.json"):
        pytest.skip("this one has it")
    before = login1.check_output("ls /opt/dask-site /opt/dask-site/releases")
    status, said = play(dask_site={**site, "environment": {"provider": "spack"}})
    assert status != 0
    assert "dask_environment_spack: https://github.com/spack/spack.git" in said
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}, said
    assert login1.check_output("ls /opt/dask-site /opt/dask-site/releases") == before


def test_spack_comes_from_the_bundle(site, login1):
    about = json.loads(login1.check_output("cat /root/bundle/bundle.json"))
    if "spack.tar.gz" not in about["spack"]:
        pytest.skip("the bundle has no Spack: see molecule/airgap/molecule.yml")
    status, said = play(
        dask_site={**site, "environment": {"provider": "spack"}},
        dask_environment_spack_environment="core-x86_64_v3",
        dask_environment_spack_cache_only=True,
    )
    assert status == 0, said
    assert all(f"{pool} " in said for pool in site["pools"]), "a job in every pool"
    manifest = json.loads(login1.check_output("cat /opt/dask-site/current/manifest.json"))
    assert manifest["provider"] == "spack"
    login1.check_output("cd /opt/dask-site/current && sha256sum --quiet -c SHA256SUMS")
    made_of = json.loads(login1.check_output("cat /opt/dask-site/current/sbom.cdx.json"))
    names = {one["name"].lower() for one in made_of["components"]}
    assert {"dask", "distributed", "numpy", "python-venv"} <= names


def test_a_bundle_that_was_changed_is_not_installed(login1):
    login1.check_output("cp /root/bundle/control/click-*.whl /root/kept.whl")
    try:
        login1.check_output("printf x >> $(ls /root/bundle/control/click-*.whl)")
        done = login1.run("/root/bundle/install")
        assert done.rc == 1 and "click" in done.stderr and "is damaged" in done.stderr
    finally:
        login1.check_output("cat /root/kept.whl > $(ls /root/bundle/control/click-*.whl)")
    assert login1.run("/root/bundle/install").rc == 0
