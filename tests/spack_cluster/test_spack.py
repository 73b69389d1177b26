"""A release that came out of a build cache, on a cluster that compiled nothing."""

import json
import os
import re

import pytest

from life import TOP, current, play, released
from nodes import ROOT, node

pytestmark = pytest.mark.timeout(1200)
# As molecule/spack/side_effect.yml rolled it out
KEY = f"{os.environ.get('MOLECULE_EPHEMERAL_DIRECTORY', '')}/spack/site.pub"
SITE = ("-e", f"@{ROOT}/molecule/spack/site.yml", "-e", "dask_environment_spack_cache_only=true")
TRUSTED = ("-e", json.dumps({"dask_environment_spack_cache_keys": [KEY]}))


@pytest.fixture
def spack(login1):
    """Ask Spack on the node that builds, with the settings of the release."""
    place = f"{TOP}/releases/{current()}/spack"
    variables = {
        "SPACK_SYSTEM_CONFIG_PATH": f"{place}/settings",
        "SPACK_USER_CONFIG_PATH": "/nonexistent",
        "SPACK_USER_CACHE_PATH": f"{TOP}/spack/cache",
    }
    settings = " ".join(f"{name}={value}" for name, value in variables.items())
    program = f"{settings} {TOP}/spack/spack-*/bin/spack -e {place}/environments/core-x86_64_v3"
    return lambda command: login1.run(f"{program} {command}")


def log_of(release):
    return node("login1").check_output(f"cat {TOP}/spack/logs/{release}.log")


def test_all_of_it_came_from_the_build_cache(login1, spack):
    said = log_of(current())
    lock = f"{TOP}/releases/{current()}/spack/environments/core-x86_64_v3/spack.lock"
    packages = json.loads(login1.check_output(f"cat {lock}"))["concrete_specs"].values()
    wanted = {package["name"] for package in packages if "external" not in package}
    assert "Executing phase" not in said, "nothing was compiled"
    installed = json.loads(spack("find --json").stdout)
    names = {package["name"] for package in installed if not package.get("external")}
    assert {"py-numpy", "py-distributed"} <= names <= wanted, "and nothing that only builds need"
    assert "py-cython" in wanted - names


def test_the_release_says_what_it_is_made_of(login1):
    place = f"{TOP}/current"
    login1.check_output(f"cd {place} && sha256sum --quiet -c SHA256SUMS")
    manifest = json.loads(login1.check_output(f"cat {place}/manifest.json"))
    assert manifest["provider"] == "spack"
    assert manifest["spack"]["environment"] == "core-x86_64_v3"
    made_of = json.loads(login1.check_output(f"cat {place}/sbom.cdx.json"))
    names = {one["name"].lower() for one in made_of["components"]}
    assert {"dask", "distributed", "numpy", "python-venv"} <= names
    login1.check_output(f"{place}/env/bin/python -m pip check")


def test_users_compute_on_two_kinds_of_nodes(python):
    facts, result = python(
        "alice",
        """
        import numpy
        with Cluster(pools=["cpu", "gpu"]) as cluster, cluster.get_client() as client:
            with needs(gpu=1):
                there = client.submit(where, 1)
            with pool("cpu"):
                here = client.submit(lambda: (os.uname().nodename, numpy.__file__))
            tell(gpu=there.result(), cpu=here.result()[0], numpy=here.result()[1])
        """,
    )
    assert facts.get("gpu") == "g1" and facts.get("cpu") in {"c1", "c2"}, result.stderr
    assert facts["numpy"].startswith(TOP)


def test_a_second_rollout_changes_nothing():
    for mode in ((), ("--check", "--diff")):
        status, said = play("site.yml", *mode, *SITE, *TRUSTED)
        assert status == 0 and set(re.findall(r"changed=(\d+)", said)) == {"0"}, said


def test_drift_reads_the_store(login1):
    found = f"$(find {TOP}/spack/store -path '*/distributed/client.py' | head -1)"
    edited = login1.check_output(f"echo {found}")
    status, said = play("playbooks/drift.yml", *SITE, *TRUSTED)
    assert status == 0, said
    login1.check_output(f"cp -p {edited} /root/kept.py; echo '# x' >> {edited}; chmod o+w {edited}")
    try:
        status, said = play("playbooks/drift.yml", *SITE, *TRUSTED)
    finally:
        login1.check_output(f"cp -p /root/kept.py {edited}")
    assert status == 2, said
    told = json.loads((ROOT / "out" / "drift.json").read_text())["differences"]
    (one,) = [one for one in told if one["where"] == edited]
    assert any("edited" in what for what in one["what"]), told


def test_what_cannot_be_had_leaves_users_with_theirs(newer, login1):
    """The next release into another store, with a cache that lacks its packages and no sources."""
    before, complete = current(), released()
    login1.check_output("mkdir -p /srv/empty/blobs")
    status, said = play(
        "site.yml",
        *SITE,
        *TRUSTED,
        dask_environment_wheel=newer,
        dask_environment_spack_store=f"{TOP}/spack/other",
        dask_environment_spack_cache="file:///srv/empty",
    )
    assert status != 0 and "Spack could not install" in said, said
    assert f"All of it: {TOP}/spack/logs/" in said
    assert current() == before and released() == complete
    login1.check_output("runuser -l alice -c 'module load dask-site && dask-site --version'")


def test_the_next_release_takes_the_packages_that_are_there(newer):
    before = current()
    status, said = play("playbooks/upgrade.yml", *SITE, *TRUSTED, dask_environment_wheel=newer)
    assert status == 0, said
    assert current() != before and "Executing phase" not in log_of(current())
    status, said = play("playbooks/rollback.yml", *SITE)
    assert status == 0 and current() == before, said
