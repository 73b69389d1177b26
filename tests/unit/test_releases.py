"""A release: sealed the same from the same parts, described, looked after, and pruned."""

import importlib.metadata
import json
import os
import py_compile
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from programs import load

ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles" / "dask_environment" / "files"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


in_use, prune, sbom, seal = (load(FILES / f"{n}.py") for n in ("in_use", "prune", "sbom", "seal"))
drift_node, drift_report = (
    load(ROOT / "playbooks" / "files" / f"drift_{name}.py") for name in ("node", "report")
)


# -- what is the same, and what is said of it ---------------------------------------------------


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel():
    return json.loads(run(sys.executable, FILES / "release.py"))


def test_a_release_is_for_what_its_module_files_say_of_the_site(wheel):
    def named(site):
        said = run(sys.executable, FILES / "release.py", "--wheel", wheel["wheel"], "--site", site)
        return json.loads(said)["name"]

    assert named("") == wheel["name"] and named("a") == named("a")
    assert len({named(""), named("a"), named("b")}) == 3


def build(folder, named):
    """Make a release of dask-site alone, as the role does with all of the lock."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "etc" / "dask").mkdir(parents=True)
    run(sys.executable, "-m", "venv", folder / "env")
    pip = ["-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
    report = folder / ".installed.json"
    shutil.copy(named["wheel"], folder)
    source = folder / Path(named["wheel"]).name
    python = folder / "env" / "bin" / "python"
    run(python, *pip, "--no-index", "--no-deps", f"--report={report}", source)
    said = {"release": named["name"], "wheel_sha256": named["wheel_sha256"]}
    for name in ("sbom.py", "seal.py"):
        last = [report] if name == "sbom.py" else []
        with (FILES / name).open() as text:
            run(python, "-", folder, json.dumps(said), *last, stdin=text)
    return {name: (folder / name).read_text() for name in ("SHA256SUMS", "TREE", "sbom.cdx.json")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_builds_from_the_same_parts_are_the_same(tmp_path, wheel):
    first = build(tmp_path / "release", wheel)
    # pip compiles itself with the time in it, in seconds
    time.sleep(1.1)
    second = build(tmp_path / "release", wheel)
    different = set(first["SHA256SUMS"].splitlines()) ^ set(second["SHA256SUMS"].splitlines())
    assert not different
    assert first == second
    assert "pip/__pycache__/__init__" in first["SHA256SUMS"]
    assert "link env/bin/python3 -> " in first["TREE"] and "program env/bin/pip" in first["TREE"]
    assert not list(drift_node.sealed(tmp_path / "release"))
    (ours,) = (
        one
        for one in json.loads(first["sbom.cdx.json"])["components"]
        if one["purl"].startswith("pkg:pypi/dask-site@")
    )
    assert ours["hashes"] == [{"alg": "SHA-256", "content": wheel["wheel_sha256"]}]
    assert ours["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert not (tmp_path / "release" / ".installed.json").exists()


def test_what_a_release_is_made_of_is_valid_cyclonedx():
    hashes = {"click": "0" * 64}
    said = sbom.document({"release": "1.0-abcdef12"}, hashes, [])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(said)) is None
    named = {one["name"] for one in said["components"]}
    assert named == {each.name for each in importlib.metadata.distributions()}
    (click,) = (one for one in said["components"] if one["name"] == "click")
    version = importlib.metadata.version("click")
    assert click["purl"] == click["bom-ref"] == f"pkg:pypi/click@{version}"
    assert click["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    said["components"][0]["type"] = "loaf"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(said)) is not None


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("License: Apache 2.0", {"license": {"id": "Apache-2.0"}}),
        ("License: BSD 3-Clause License\n        \n        Copyright", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: ISC License (ISCL)", "ISC"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: Our own", {"license": {"name": "Our own"}}),
        (
            "Classifier: License :: OSI Approved :: BSD License",
            {"license": {"name": "BSD License"}},
        ),
        ("Summary: none", None),
    ],
)
def test_licences_are_told_by_their_spdx_names(tmp_path, metadata, licence):
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: thing\n{metadata}\n\n")
    wanted = {"license": {"id": licence}} if isinstance(licence, str) else licence
    found = sbom.licences(importlib.metadata.PathDistribution(folder))
    assert found == ([wanted] if wanted else [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "Redistribution and use in source and binary forms ... endorse or promote",
            "BSD-3-Clause",
        ),
        ("Redistribution and use in source and\nbinary forms", "BSD-2-Clause"),
    ],
)
def test_which_bsd_licence_is_told_by_its_text(tmp_path, text, name):
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nLicense: BSD\n\n")
    (folder / "LICENSE.txt").write_text(text)
    (folder / "RECORD").write_text("thing-1.dist-info/LICENSE.txt,,\n")
    found = sbom.licences(importlib.metadata.PathDistribution(folder))
    assert found == [{"license": {"id": name}}]


def test_hashes_are_those_of_the_files_that_pip_took():
    infos = {"One.Two": {"hashes": {"sha256": "1" * 64}}, "old": {"hash": "sha256=" + "2" * 64}}
    installs = [
        {"metadata": {"name": name}, "download_info": {"archive_info": info}}
        for name, info in infos.items()
    ]
    assert sbom.installed({"install": installs}) == {"one-two": "1" * 64, "old": "2" * 64}


@pytest.mark.parametrize("lock", sorted((ROOT / "spack").rglob("spack.lock")), ids=str)
def test_of_what_spack_installed_that_is_told_which_is_used(lock):
    said = json.loads(lock.read_text())
    others = sbom.built(said)
    document = sbom.document({"release": "1.0-abcdef12"}, {}, others)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    names = {one["name"] for one in others}
    assert "python-venv" in names
    assert names.isdisjoint({"cmake", "gmake", "glibc", "openssl", "py-numpy"}), "nothing to build"
    for one in others:
        spec = said["concrete_specs"][one["properties"][0]["value"]]
        assert (one["name"], one["version"]) == (spec["name"], spec["version"])


# -- what was changed afterwards ----------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path):
    """A small release, sealed by the real script."""
    release = tmp_path / "releases" / "1-a"
    package = release / "env" / "lib" / PYTHON / "site-packages" / "dask_site"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    (package / "other.py").write_text("x = 2\n")
    # as a view of Spack's has it
    stored = tmp_path / "store" / "other.pyc"
    stored.parent.mkdir()
    py_compile.compile(str(package / "other.py"), str(stored))
    os.utime(package / "other.py", (1, 1))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / f"other.{sys.implementation.cache_tag}.pyc").symlink_to(stored)
    (release / "env" / "bin").mkdir()
    (release / "env" / "bin" / "python").symlink_to(sys.executable)
    (release / "env" / "bin" / "tool").write_text("#!/bin/sh\n")
    (release / "env" / "bin" / "tool").chmod(0o755)
    (release / "etc" / "dask").mkdir(parents=True)
    (release / "etc" / "dask" / "site.yaml").write_text("dask_site: {}\n")
    with (FILES / "seal.py").open() as text:
        run(sys.executable, "-", release, json.dumps({"release": "1-a"}), stdin=text)
    assert list(drift_node.sealed(release)) == []
    return release


def test_who_may_write_changes_nothing_by_running_it(sealed):
    package = sealed / "env" / "lib" / PYTHON / "site-packages"
    run(sys.executable, "-c", "import dask_site.other", env={"PYTHONPATH": str(package)})
    assert list(drift_node.sealed(sealed)) == []


def found_in(release):
    return {str(path.relative_to(release)): what for path, what in drift_node.sealed(release)}


SITE = f"env/lib/{PYTHON}/site-packages/dask_site"
TAMPERED = {
    "edited": (
        lambda r: (r / SITE / "other.py").write_text("x = 3\n"),
        f"{SITE}/other.py",
        "edited",
    ),
    "missing": (lambda r: (r / SITE / "other.py").unlink(), f"{SITE}/other.py", "missing"),
    "added": (lambda r: (r / SITE / "new.py").write_text(""), f"{SITE}/new.py", "added"),
    "open": (lambda r: (r / SITE / "other.py").chmod(0o666), f"{SITE}/other.py", "mode 0666"),
    "program": (lambda r: (r / SITE / "other.py").chmod(0o755), f"{SITE}/other.py", "mode 0755"),
    "no program": (lambda r: (r / "env/bin/tool").chmod(0o644), "env/bin/tool", "mode 0644"),
    "open folder": (lambda r: (r / "env/bin").chmod(0o777), "env/bin", "mode 0777"),
    "itself open": (lambda r: r.chmod(0o775), ".", "mode 0775"),
    "configuration": (lambda r: (r / "etc/dask/x.yaml").write_text(""), "etc/dask/x.yaml", "added"),
    "new link": (lambda r: (r / "env/new").symlink_to("/"), "env/new", "added: a link"),
    "list": (lambda r: (r / "TREE").write_text(""), "TREE", "edited or missing"),
    "no manifest": (lambda r: (r / "manifest.json").unlink(), "manifest.json", "can't be read"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_done_to_a_release_is_found(sealed, how):
    tamper, where, what = TAMPERED[how]
    tamper(sealed)
    assert found_in(sealed)[where].startswith(what)


def test_a_link_that_leads_elsewhere_is_found(sealed):
    python = sealed / "env" / "bin" / "python"
    python.unlink()
    python.symlink_to("/tmp/mine")
    assert found_in(sealed) == {"env/bin/python": f"a link that was sealed as {sys.executable}"}


def test_lists_that_were_made_to_fit_are_found(sealed):
    (sealed / SITE / "other.py").write_text("x = 4\n")
    (sealed / "SHA256SUMS").write_text(seal.sums(sealed))
    assert set(found_in(sealed)) == {"SHA256SUMS"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to others")
def test_another_owner_is_found(sealed):
    os.chown(sealed / SITE / "other.py", 1, -1)
    assert found_in(sealed)[f"{SITE}/other.py"].startswith("owned by daemon")


def test_who_owns_it_and_when_it_changed_is_told(sealed):
    path = sealed / SITE / "other.py"
    assert drift_node.about(path)["owner"] == drift_node.name_of(os.getuid())
    path.unlink()
    gone = drift_node.about(path)
    assert gone["changed"].startswith(f"its folder {path.parent} at 20")


@pytest.fixture
def site(tmp_path):
    """Three releases of a site, with their links."""
    for number, name in enumerate(("1-a", "2-b", "3-c")):
        release = tmp_path / "releases" / name
        (release / "modulefiles" / "dask-site").mkdir(parents=True)
        (release / "modulefiles" / "dask-site" / f"{name}.lua").write_text("")
        built = f"2026-01-0{number + 1}T00:00:00+00:00"
        (release / "manifest.json").write_text(json.dumps({"release": name, "built": built}))
        modules = tmp_path / "modulefiles" / "dask-site"
        modules.mkdir(parents=True, exist_ok=True)
        leads_to = f"../../releases/{name}/modulefiles/dask-site/{name}.lua"
        (modules / f"{name}.lua").symlink_to(leads_to)
    (tmp_path / "current").symlink_to("releases/3-c")
    (tmp_path / "previous").symlink_to("releases/2-b")
    (modules / "default").symlink_to("3-c.lua")
    return tmp_path


def relink(path, target):
    path.unlink()
    if target:
        path.symlink_to(target)


@pytest.mark.parametrize(
    ("link", "target", "found"),
    [
        ("current", "releases/9-z", {"current", "modulefiles/dask-site/default"}),
        ("current", "releases/1-a", {"modulefiles/dask-site/default"}),
        ("previous", "releases/9-z", {"previous"}),
        ("previous", "", {"previous"}),
        ("previous", "releases/3-c", {"previous"}),
        ("modulefiles/dask-site/default", "1-a.lua", {"modulefiles/dask-site/default"}),
        ("modulefiles/dask-site/3-c.lua", "1-a.lua", {"modulefiles/dask-site/3-c.lua"}),
    ],
)
def test_links_that_do_not_fit_are_found(site, link, target, found):
    modules = site / "modulefiles" / "dask-site"
    assert list(drift_node.published(site, modules)) == []
    relink(site / link, target)
    told = {str(path.relative_to(site)) for path, _ in drift_node.published(site, modules)}
    assert told >= found


# -- the report ---------------------------------------------------------------------------------


def checked(action="ansible.builtin.template", **result):
    task = {"task": {"name": "Configure"}, "hosts": {"n1": {"action": action, **result}}}
    return drift_report.changes({"plays": [{"tasks": [task]}]})


def test_what_a_rollout_would_change_is_read_from_its_check():
    diff = [{"before": "a\nb\n", "after": "a\nc\n"}]
    (entry,) = checked(changed=True, dest="/etc/x", diff=diff)["n1"]
    assert (entry["where"], entry["diff"]) == ("/etc/x", ["- b", "+ c"])
    assert checked(changed=False, dest="/etc/x") == {}
    # what systemd knows is asked of systemd
    assert checked("ansible.builtin.systemd_service", changed=True, name="x.service") == {}
    loop = [{"changed": False, "path": "/a"}, {"changed": True, "path": "/b"}]
    assert [one["where"] for one in checked(changed=True, results=loop)["n1"]] == ["/b"]
    (stopped,) = checked(failed=True, msg="no such thing")["n1"]
    assert stopped["what"].endswith("no such thing")


def test_each_file_of_a_host_is_reported_once_with_all_that_is_known():
    found = [{"where": "/etc/x", "what": "the unit is disabled", "owner": "root", "changed": "now"}]
    node = {"found": found, "about": {}, "packages": {}, "current": "1-a", "seal": "f"}
    other = {**node, "found": [], "seal": "0"}
    asked = {
        "nodes": {"n1": node, "n2": other},
        "changes": {"n1": [{"where": "/etc/x", "what": "edited", "diff": ["- a"]}]},
        "build_host": "n1",
        "root": "/opt/x",
    }
    one, two = drift_report.combined(asked)
    assert one["what"] == ["the unit is disabled", "edited"]
    assert (one["owner"], one["diff"]) == ("root", ["- a"])
    assert (two["host"], two["where"]) == ("n2", "/opt/x/current")
    assert "changed now, owner root" in drift_report.shown([one, two])


# -- what goes ----------------------------------------------------------------------------------


def test_the_newest_the_linked_and_the_used_stay(site):
    relink(site / "previous", "releases/1-a")
    assert prune.reasons(site, 1, []) == {
        "3-c": ["current", "one of the newest 1"],
        "2-b": [],
        "1-a": ["previous"],
    }
    used = [{"releases": {"2-b": ["process 7 of alice on c1: python", "b", "c", "d"]}}]
    assert prune.reasons(site, 1, used)["2-b"] == [
        "process 7 of alice on c1: python; b; c and 1 more"
    ]


def test_a_job_whose_environment_nobody_sees_keeps_what_was_new_when_it_came(site):
    relink(site / "previous", "releases/1-a")
    job = {"job": "5", "user": "alice", "state": "PENDING", "submitted": "2026-01-02T12:00:00"}
    (why,) = prune.reasons(site, 1, [{"releases": {}, "unseen": [job]}])["2-b"]
    assert why.startswith("job 5 of alice, pending, may have loaded it")
    assert prune.reasons(site, 1, [{"releases": {}, "unseen": []}])["2-b"] == []


def test_a_release_that_is_not_complete_is_left_alone(site):
    (site / "releases" / "2-b" / "manifest.json").unlink()
    relink(site / "previous", "releases/1-a")
    assert "not complete" in prune.reasons(site, 1, [])["2-b"][0]


@pytest.mark.parametrize(
    ("how", "place"), [("argument", "cmdline"), ("environment", "environ"), ("folder", "cwd")]
)
def test_a_process_that_uses_a_release_is_found(site, how, place):
    release = f"{site}/releases/2-b"
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    options = {"argument": {}, "environment": {"env": {"X": release}}, "folder": {"cwd": release}}
    command += [f"{release}/script"] if how == "argument" else []
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options[how]
    )
    try:
        process.stdout.readline()
        told = json.loads(run(sys.executable, FILES / "in_use.py", "processes", site))["releases"]
        assert set(told) == {"2-b"}
        assert any(said.startswith(f"process {process.pid} of ") for said in told["2-b"])
    finally:
        process.communicate(b"\n")
    assert in_use.processes(str(site)) == {"releases": {}}


def test_who_came_by_a_link_uses_what_it_leads_to(site):
    told = in_use.mentioned(f"{site}/current/env/bin/python\0-c\0x", str(site))
    assert told == {"3-c", "2-b"}


def test_releases_are_known_by_path_and_by_module(site):
    text = (
        f"PATH={site}/releases/1-a/env/bin:/bin\0LOADEDMODULES=dask-site/2-b\0x/dask-site/history"
    )
    assert in_use.mentioned(text, f"{site}/") == {"1-a", "2-b"}
    assert in_use.mentioned("/opt/other/releases/1-a", str(site)) == set()
