"""The provider `spack` without Spack, with another one or half of it; what it says of failures."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import archspec.cpu
import pytest
import yaml
from playing import ROOT, needs_ansible, run_playbook

from programs import load

FILES = ROOT / "roles" / "dask_environment" / "files"
SAID = Path(__file__).with_name("spack_said")


spack_check = load(FILES / "spack_check.py")
spack_build = load(FILES / "spack_build.py")


# --- the role ----------------------------------------------------------------------------------


class Centre:
    """A centre on this machine, below a folder, whose provider is Spack."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "shared"
        self.spack = folder / "spack"
        shutil.copytree(
            ROOT / "spack", self.spack, ignore=shutil.ignore_patterns(".spack-env", "__pycache__")
        )
        wheel = folder / "dask_site-1.0-py3-none-any.whl"
        wheel.write_bytes(b"any")
        description = yaml.safe_load((ROOT / "tests/golden/centre.yml").read_text())["dask_site"]
        self.variables = {
            "dask_site": {**description, "environment": {"provider": "spack"}},
            "dask_site_root": str(self.root),
            "dask_environment_wheel": str(wheel),
            "dask_environment_disk_mib": 1,
            "dask_environment_spack_folder": str(self.spack),
            "dask_environment_spack_environment": "core-x86_64_v3",
        }

    def pin(self, name, commit):
        pins = yaml.safe_load((self.spack / "pins.yaml").read_text())
        pins[name]["commit"] = commit
        (self.spack / "pins.yaml").write_text(yaml.safe_dump(pins))

    def build(self, **variables):
        """Run the role; return status and output in one line."""
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {"dask_environment": {"hosts": {"localhost": host}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
        play = {"hosts": "dask_environment", "gather_facts": False, "roles": ["dask_environment"]}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]))
        (self.folder / "vars.json").write_text(json.dumps({**self.variables, **variables}))
        return run_playbook(self.folder, "-i", "hosts.yml", "-e", "@vars.json", "play.yml")


@pytest.fixture
def centre(tmp_path):
    return Centre(tmp_path)


@pytest.fixture
def repository(tmp_path):
    """A checkout that is no Spack, and its commit."""
    path = tmp_path / "repository"
    (path / "bin").mkdir(parents=True)
    (path / "README").write_text("not Spack\n")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one"]
    for arguments in (["init", "-q"], ["add", "."], commit):
        subprocess.run(["git", "-C", path, *arguments], check=True)
    done = subprocess.run(
        ["git", "-C", path, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    return path, done.stdout.strip()


@pytest.mark.slow
@needs_ansible
def test_a_lock_that_is_not_there_is_told(centre):
    status, said = centre.build(dask_environment_spack_environment="cpu-x86_64_v9")
    assert status != 0
    assert "environments/cpu-x86_64_v9/spack.lock: correct dask_environment_spack_environ" in said
    assert not centre.root.exists()


@pytest.mark.slow
@needs_ansible
def test_spack_that_is_missing_or_another_one_is_told(centre, repository):
    path, commit = repository
    pinned = yaml.safe_load((centre.spack / "pins.yaml").read_text())["spack"]["commit"]
    status, said = centre.build(dask_environment_spack="/nowhere")
    assert status != 0
    wanted = f"is no checkout of git, and pins.yaml wants {pinned}: check that out, or give a"
    assert f"dask_environment_spack: /nowhere on localhost {wanted}" in said
    status, said = centre.build(dask_environment_spack=str(path))
    assert status != 0
    assert f"{path} on localhost is at {commit}, and pins.yaml wants {pinned}" in said


@pytest.mark.slow
@needs_ansible
def test_spack_that_is_half_there_is_told_and_the_release_that_runs_stays(centre, repository):
    path, commit = repository
    running = centre.root / "releases" / "1.0-running"
    running.mkdir(parents=True)
    (running / "manifest.json").write_text("{}")
    (centre.root / "current").symlink_to("releases/1.0-running")
    centre.pin("spack", commit)
    centre.pin("packages", commit)
    tarball = centre.folder / "spack.tar.gz"
    archive = ["git", "-C", path, "archive", "--prefix=x/", f"--output={tarball}", "HEAD"]
    subprocess.run(archive, check=True)
    # what an unpacking left that was interrupted
    unpacked = centre.root / "spack" / f"spack-{commit[:12]}"
    unpacked.mkdir(parents=True)
    status, said = centre.build(
        dask_environment_spack=str(tarball), dask_environment_spack_packages=str(path)
    )
    assert status != 0
    assert (unpacked / "README").read_text() == "not Spack\n"
    assert (unpacked / ".complete").read_text() == f"{commit}\n"
    assert f"{unpacked}/bin/spack --version failed on localhost" in said
    assert f"if half of it is missing, remove {unpacked} and run this again" in said
    assert (centre.root / "current").readlink() == Path("releases/1.0-running")
    assert not list(centre.root.glob("releases/1.0-*/manifest.json"))[1:]


@pytest.mark.slow
@needs_ansible
def test_a_tarball_of_another_commit_is_told(centre, repository):
    path, commit = repository
    tarball = centre.folder / "spack.tar.gz"
    archive = ["git", "-C", path, "archive", "--prefix=x/", f"--output={tarball}", "HEAD"]
    subprocess.run(archive, check=True)
    status, said = centre.build(dask_environment_spack=str(tarball))
    assert status != 0
    assert f"dask_environment_spack: {tarball} is of {commit}, and pins.yaml wants" in said
    assert not list(centre.root.glob("spack/*/README")), "nothing of it was unpacked"


@pytest.mark.slow
@needs_ansible
def test_without_a_way_out_every_address_outside_is_told(centre):
    local = {
        "dask_site_offline": True,
        "dask_environment_spack": "/nowhere",
        "dask_environment_spack_packages": "https://git/packages.git",
    }
    status, said = centre.build(**local, dask_environment_spack_cache="https://cache.example.org")
    assert status != 0 and "Nothing was changed" in said
    assert "dask_environment_spack_cache: https://cache.example.org" in said
    assert "nobody asks those).spack-public.url: https://mirror.spack.io" in said
    assert "dask_environment_spack: " not in said and "https://git/" not in said
    assert not centre.root.exists()
    cache = {"dask_environment_spack_cache": "file:///c", "dask_environment_spack_cache_only": True}
    status, said = centre.build(**local, **cache)
    assert status != 0 and "lead outside" not in said and "/nowhere on localhost is no" in said
    assert "names no build cache" in centre.build(dask_environment_spack_cache_only="true")[1]
    assert "names no build cache" not in centre.build(dask_environment_spack_cache_only="false")[1]


def test_a_release_is_named_by_its_lock_and_its_wheel(tmp_path):
    wheel = tmp_path / "dask_site-1.0-py3-none-any.whl"
    names = set()
    for wheel_content, lock_content in (("a", "a"), ("a", "b"), ("b", "a")):
        wheel.write_text(wheel_content)
        lock = tmp_path / "spack.lock"
        lock.write_text(lock_content)
        command = [sys.executable, FILES / "release.py", f"--wheel={wheel}", f"--lock={lock}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        release = json.loads(done.stdout)
        assert release["name"].startswith("1.0-") and release["requirements"] == str(lock)
        names.add(release["name"])
    assert len(names) == 3


# --- this node ---------------------------------------------------------------------------------


def nodes():
    path = ROOT / "spack/environments/core-x86_64_v3/spack.lock"
    return list(json.loads(path.read_text())["concrete_specs"].values())


def runs_on(host):
    def runs(target):
        return archspec.cpu.TARGETS[target] <= archspec.cpu.TARGETS[host]

    return runs


def test_a_node_that_is_right_has_no_problems():
    said = spack_check.problems(nodes(), "debian12", runs_on("zen3"), exists=lambda path: True)
    assert said == []


def test_a_node_that_does_not_run_the_target_is_told():
    (said,) = spack_check.target_problems(nodes(), runs_on("sandybridge"))
    assert said.startswith("the lock is for x86_64_v3, whose code this node does not run")


def test_another_system_is_told():
    (said,) = spack_check.problems(nodes(), "rocky9", runs_on("zen3"), exists=lambda path: True)
    assert said.startswith("the lock is for debian12, and this node is rocky9: make one here")


def test_what_is_missing_of_the_sites_own_is_told():
    missing = {"/usr/bin/gfortran"}
    (said,) = spack_check.problems(
        nodes(), "debian12", runs_on("zen3"), exists=lambda path: path not in missing
    )
    assert said.startswith("gcc@12.2.0 of the lock is the site's own, at /usr/bin/gfortran, which")


# --- failures ----------------------------------------------------------------------------------


# What Spack said when it failed is recorded from it; see tests/spack for it at work.
LOG = "/tmp/root/spack-stage/spack-stage-trifle-1.0-w5khvt65fsj7hilh6pv3hq2l3aidhdnb/"


def test_a_build_that_fails_is_told_with_the_end_of_its_log():
    logs = {f"{LOG}spack-build-out.txt": "".join(f"line {n}\n" for n in range(100)) + "no\n"}
    said = spack_build.summary(
        (SAID / "build_fails").read_text(), Path("/logs/x.log"), lambda path: logs[path]
    ).splitlines()
    assert said[0] == "Spack could not install trifle."
    assert said[1] == f"The end of {LOG}spack-build-out.txt:"
    assert said[2:22] == [f"    line {n}" for n in range(81, 100)] + ["    no"]
    assert said[22].startswith("Try: ")
    assert said[23] == (
        "What was built so far is kept, users' release is as it was. All of it: /logs/x.log"
    )


def test_a_build_cache_that_lacks_something_is_told():
    text = (SAID / "cache_lacks").read_text()
    said = spack_build.summary(text, Path("/logs/x.log"), lambda path: "")
    assert said.startswith("Spack could not install python-venv.\n    ==> Error: Failed to install")
    assert "Try: the build cache has nothing for this lock: build once with" in said


def test_a_build_cache_whose_key_is_not_trusted_is_told():
    text = (SAID / "key_unknown").read_text()
    said = spack_build.summary(text, Path("/logs/x.log"), lambda path: "")
    assert "Try: the build cache is signed by a key that is not trusted: give the public" in said


def test_a_source_that_is_nowhere_is_told():
    text = (SAID / "source_missing").read_text()
    said = spack_build.summary(text, Path("/logs/x.log"), lambda path: "")
    assert said.startswith("Spack could not install py-cython.\n")
    assert "Try: a source could not be had: add a mirror that has it" in said


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "the file system is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
        ("==> Error: FetchError: All fetchers failed for trifle-1.0", "a source could not be had"),
        ("sha256 checksum failed for /x/trifle.tar.gz", "not the one that the recipe names"),
        ("Illegal instruction (core dumped)", "does not run code for the target"),
    ],
)
def test_advice_fits_the_failure(line, advice):
    text = (SAID / "build_fails").read_text()
    said = spack_build.summary(text, Path("/logs/x.log"), lambda path: f"{line}\n")
    (tried,) = re.findall(r"^Try: (.*)$", said, flags=re.MULTILINE)
    assert advice in tried


def test_all_that_spack_says_is_kept_and_its_code_is_the_code(tmp_path):
    log = tmp_path / "logs" / "x.log"
    command = ["sh", "-c", f"cat {SAID / 'build_fails'}; echo more >&2; exit 3"]
    done = subprocess.run(
        [sys.executable, FILES / "spack_build.py", log, *command], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert log.read_text() == (SAID / "build_fails").read_text() + "more\n"
    assert "Spack could not install trifle." in done.stderr
    done = subprocess.run(
        [sys.executable, FILES / "spack_build.py", log, "true"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr, log.read_text()) == (0, "", "", "")
