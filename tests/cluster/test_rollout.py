"""What the rollout left on the nodes, and what a user has of it."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from nodes import ROOT, ansible, node

TOP = "/opt/dask-site"
PYTHON = "import sys; print('%d.%d' % sys.version_info[:2])"
NODES = ["login1", "login2", "c1", "m1", "g1"]


@pytest.fixture(scope="module")
def release(login1):
    """The folder of the current release."""
    return f"{TOP}/{login1.file(f'{TOP}/current').linked_to.removeprefix(f'{TOP}/')}"


def test_a_release_is_complete_and_described(login1, release):
    manifest = json.loads(login1.file(f"{release}/manifest.json").content_string)
    assert release == f"{TOP}/releases/{manifest['release']}"
    assert manifest["release"].startswith(manifest["dask_site"] + "-")
    assert {"dask", "distributed", "dask-jobqueue", "dask-site"} <= set(manifest["packages"])
    assert manifest["python"].startswith(login1.check_output("python3 -c %s", PYTHON))


def test_nothing_changed_since_the_build(login1, release):
    assert login1.run(f"cd {release} && sha256sum --quiet --check SHA256SUMS").rc == 0


def test_every_file_is_readable_and_only_root_writes(login1, release):
    wrong = r"! -type l \( ! -user root -o -perm /022 -o ! -perm -444 \)"
    assert login1.check_output(f"find {release} {wrong}") == ""


@pytest.mark.parametrize(
    "place", ["", "/releases", "/current/", "/current/etc/dask", "/modulefiles"]
)
def test_another_user_cannot_write(as_user, place):
    assert "Permission denied" in as_user("bob", f"touch {TOP}{place}/x").stderr


def test_links_are_relative(login1):
    assert re.fullmatch(r"releases/[\w.+-]+", login1.check_output(f"readlink {TOP}/current"))
    default = login1.check_output(f"readlink {TOP}/modulefiles/dask-site/default")
    assert re.fullmatch(r"[\w.+-]+\.lua", default)


@pytest.mark.parametrize("host", NODES)
def test_the_module_loads_in_a_fresh_shell_on_every_node(as_user, release, host):
    show = "echo $DASK_ROOT_CONFIG $DASK_SITE_RELEASE $PYTHONNOUSERSITE .$PYTHONPATH"
    loaded = as_user("alice", f"module load dask-site && {show}; command -v python", host)
    name = release.rsplit("/", 1)[1]
    assert loaded.stdout.split("\n") == [
        f"{release}/etc/dask {name} 1 .",
        f"{release}/env/bin/python",
        "",
    ]


@pytest.mark.parametrize("host", NODES)
def test_the_folder_of_the_module_is_registered(host):
    registered = node(host).file("/etc/profile.d/zz-dask-site.sh")
    assert registered.contains(f"{TOP}/modulefiles")
    assert (registered.user, registered.mode) == ("root", 0o644)


def test_the_module_explains_itself_and_unloads(as_user):
    told = as_user("alice", "module help dask-site; module whatis dask-site")
    assert "from dask_site import Cluster" in told.stdout + told.stderr
    left = as_user("alice", "module load dask-site; module unload dask-site; env | grep DASK")
    assert left.stdout == ""


def test_configuration_is_where_dask_looks_for_it(as_user, site):
    code = "import dask, json; print(json.dumps(dask.config.get('dask_site.pools')))"
    shown = as_user("alice", f'module load dask-site && python -c "{code}"')
    assert set(json.loads(shown.stdout)) == set(site["pools"])


def test_plain_dask_jobqueue_knows_the_pools(as_user):
    code = (
        "from dask_jobqueue import SLURMCluster; "
        "c = SLURMCluster(config_name='gpu', n_workers=0); print(c.job_script())"
    )
    script = as_user("alice", f'module load dask-site && python -c "{code}"')
    assert script.rc == 0, script.stderr
    assert "#SBATCH -p gpu\n" in script.stdout
    assert "#SBATCH --mem=2G\n" in script.stdout
    assert "/env/bin/python -m distributed.cli.dask_worker" in script.stdout


def test_site_file_on_the_node_is_the_one_of_the_inventory(login1, release, site):
    installed = yaml.safe_load(login1.file(f"{release}/etc/dask/site.yaml").content_string)
    assert installed["dask_site"]["name"] == site["name"]
    assert list(installed["dask_site"]["pools"]) == list(site["pools"])


def test_acceptance_was_reported(site):
    suite = ET.parse(ROOT / "out" / "acceptance" / "login1.xml").getroot()[0]
    assert {case.get("name") for case in suite} == set(site["pools"])
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")


@pytest.mark.suite("trixie")
def test_check_mode_finds_nothing_to_change():
    told = ansible("ansible-playbook", "site.yml", "--check", "--diff")
    assert told.returncode == 0, told.stdout
    assert set(re.findall(r"changed=(\d+)", told.stdout)) == {"0"}


@pytest.mark.parametrize("tag", ["dask_environment", "dask_pools", "dask_dashboards"])
@pytest.mark.suite("trixie")
def test_a_tag_alone_finds_nothing_to_change(tag):
    told = ansible("ansible-playbook", "site.yml", "--tags", tag)
    assert told.returncode == 0, told.stdout
    assert set(re.findall(r"changed=(\d+)", told.stdout)) == {"0"}


@pytest.mark.suite("trixie")
def test_a_second_login_node_alone():
    told = ansible("ansible-playbook", "site.yml", "--limit", "login2")
    assert told.returncode == 0, told.stdout
    assert re.findall(r"(\S+) +: .*changed=0 .*failed=0", told.stdout) == ["login2"]


def test_a_wrong_site_description_stops_before_anything_changes():
    wrong = json.dumps({"dask_site": {"schema": 1, "name": "x", "pools": {"cpu": {"cores": 0}}}})
    told = ansible("ansible-playbook", "site.yml", "--check", "--extra-vars", wrong)
    assert told.returncode != 0
    assert "dask_site.pools.cpu.cores" in told.stdout + told.stderr
    assert "Build the release" not in told.stdout
