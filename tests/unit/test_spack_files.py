"""The folder `spack`, without Spack: its files, its recipes, and its locks against both."""

import ast
import json
import re
import shutil
import tomllib
from pathlib import Path

import archspec.cpu
import jsonschema
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml.constructor import DuplicateKeyError
from spack_files import ENVIRONMENT_FILE, PART_FILE, is_spec

from programs import load

ROOT = Path(__file__).parents[2]
SPACK = ROOT / "spack"
ENVIRONMENTS = sorted(path.parent.name for path in SPACK.glob("environments/*/spack.yaml"))
PARTS = sorted(
    path
    for folder in ("configs", "roots", "systems", "targets")
    for path in (SPACK / folder).rglob("*.yaml")
)
RECIPES = sorted(SPACK.glob("spack_repo/*/packages/*/package.py"))

lock = load(SPACK / "lock.py")

formats = jsonschema.FormatChecker(formats=())
formats.checks("spec")(is_spec)
formats.checks("spec or list")(lambda value: is_spec(str(value).removeprefix("$")))


def nodes(environment):
    """All packages of a lock, by their hashes."""
    return json.loads((SPACK / "environments" / environment / "spack.lock").read_text())[
        "concrete_specs"
    ]


def running(environment):
    """The packages of a lock that are there at run time, by name."""
    found = nodes(environment)
    whole = json.loads((SPACK / "environments" / environment / "spack.lock").read_text())
    waiting = [root["hash"] for root in whole["roots"]]
    closure = {}
    while waiting:
        node = found[waiting.pop()]
        if node["name"] not in closure:
            closure[node["name"]] = node
            waiting += [
                edge["hash"]
                for edge in node.get("dependencies", ())
                if {"link", "run"}.intersection(edge["parameters"]["deptypes"])
            ]
    return closure


def validate(data, schema):
    jsonschema.validate(data, schema, format_checker=formats)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(SPACK)))
def test_parts_are_what_spack_takes(path):
    validate(lock.read(path), PART_FILE)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments_are_what_spack_takes(environment):
    path = SPACK / "environments" / environment
    data = lock.read(path / "spack.yaml")
    validate(data, ENVIRONMENT_FILE)
    defined = {
        name
        for part in lock.included(path)
        for entry in lock.read(part).get("definitions", ())
        for name in entry
    }
    named = {spec[1:] for spec in data["spack"]["specs"] if spec.startswith("$")}
    assert named == defined


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("packages: {zlib: {buildable: no}}", PART_FILE),  # YAML 1.2: a string
        ("packages: {zlib: {externals: [{spec: zlib, prefix: /usr}]}}", PART_FILE),  # no version
        ("packages: {zlib: {externals: [{spec: zlib@1, prefix: usr}]}}", PART_FILE),
        ("packages: {py_dask: {require: '@2'}}", PART_FILE),
        ("packages: {hdf5: {require: +mpi +}}", PART_FILE),
        ("packages: {hdf5: {requires: +mpi}}", PART_FILE),
        ("definitions: [{a: [py-dask@2026: +array]}]", PART_FILE),  # a mapping: quotes are missing
        ("concretizer: {unify: true, reuse: true, timeout: 900, targets: {}}", PART_FILE),
        ("mirrors: {a: {url: 'https://a', signed: false}}", PART_FILE),
        ("spack: {include: [/etc/packages.yaml], specs: [], view: false}", ENVIRONMENT_FILE),
        ("spack: {include: [], specs: [py-dask ++], view: false}", ENVIRONMENT_FILE),
        ("spack: {include: [], specs: [], view: true}", ENVIRONMENT_FILE),
    ],
)
def test_the_schema_refuses(text, schema, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(jsonschema.ValidationError):
        validate(lock.read(path), schema)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("packages: {zlib: {require: '@1'}, zlib: {require: '@2'}}")
    with pytest.raises(DuplicateKeyError):
        lock.read(path)


@pytest.mark.parametrize(
    "text",
    [
        "py-dask",
        "py-dask +array ~dataframe",
        "py-dask@2026.3:",
        "gcc@12.2.0 languages:='c,c++,fortran'",
        "cuda_arch=80,90",
        "@3.11:3.12",
        "@3.0.12,3.1.7",
        "target=x86_64_v3",
        "zlib@=1.2 %gcc@12",
    ],
)
def test_specs(text):
    assert is_spec(text)


@pytest.mark.parametrize(
    "text", ["", "py_dask", "py-dask@", "py-dask +", "py-dask@2026:+", "Py-dask", "a b", "a=", "%"]
)
def test_no_specs(text):
    assert not is_spec(text)


def test_every_part_is_used():
    used = {path for name in ENVIRONMENTS for path in lock.included(SPACK / "environments" / name)}
    assert used == set(PARTS)


# --- targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_for_the_target_of_its_name(environment):
    target = environment.split("-", 1)[1]
    assert target in archspec.cpu.TARGETS
    (part,) = (
        p for p in lock.included(SPACK / "environments" / environment) if "targets" in p.parts
    )
    assert part.parent.name == target
    assert lock.read(part)["packages"]["all"]["require"] == f"target={target}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_lock_has_one_target_one_system_and_one_compiler(environment):
    found = nodes(environment).values()
    assert {node["arch"]["target"] for node in found} == {environment.split("-", 1)[1]}
    assert {node["arch"]["platform_os"] for node in found} == {"debian12"}
    assert len([node for node in found if node["name"] == "gcc"]) == 1


# --- locks -------------------------------------------------------------------------------------


def record():
    return json.loads((SPACK / "locks.json").read_text())


def test_every_environment_has_a_lock_that_is_recorded():
    assert sorted(record()) == ENVIRONMENTS


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_locks_are_those_of_the_files(environment):
    path = SPACK / "environments" / environment
    said = record()[environment]
    mend = f"python spack/lock.py --spack ... --packages ... {environment}"
    assert lock.inputs(path) == said["inputs"], f"changed since it was locked: {mend}"
    assert lock.digest(path / "spack.lock") == said["lock"], f"not what Spack wrote: {mend}"
    assert len(nodes(environment)) == said["nodes"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_locks_are_made_with_the_pinned_commits(environment):
    pins = lock.read(SPACK / "pins.yaml")
    said = record()[environment]
    assert (said["spack"], said["packages"]) == (
        pins["spack"]["commit"],
        pins["packages"]["commit"],
    )
    made = json.loads((SPACK / "environments" / environment / "spack.lock").read_text())["spack"]
    assert (made["commit"], made["version"]) == (pins["spack"]["commit"], pins["spack"]["version"])


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("roots/core.yaml", set(ENVIRONMENTS)),
        ("roots/gpu.yaml", {name for name in ENVIRONMENTS if name.startswith("gpu")}),
        ("targets/x86_64_v4/packages.yaml", {n for n in ENVIRONMENTS if n.endswith("v4")}),
        ("spack_repo/dask_site_wheels/packages/py_pydantic_core/package.py", set(ENVIRONMENTS)),
        ("spack_repo/dask_site/packages/py_dask_site/package.py", set()),
        ("pins.yaml", set(ENVIRONMENTS)),
        ("environments/core-x86_64_v3/spack.yaml", {"core-x86_64_v3"}),
    ],
)
def test_a_lock_is_stale_once_what_it_rests_on_changes(changed, stale, tmp_path):
    copy = tmp_path / "spack"
    shutil.copytree(SPACK, copy, ignore=shutil.ignore_patterns("__pycache__", ".spack-env"))
    with (copy / changed).open("a") as file:
        file.write("# another line\n")
    said = record()
    assert stale == {
        name
        for name in ENVIRONMENTS
        if lock.inputs(copy / "environments" / name) != said[name]["inputs"]
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_roots_are_those_of_the_files(environment):
    path = SPACK / "environments" / environment
    lists = {
        name: specs
        for part in lock.included(path)
        for entry in lock.read(part).get("definitions", ())
        for name, specs in entry.items()
    }
    wanted = {
        spec.split()[0]
        for entry in lock.read(path / "spack.yaml")["spack"]["specs"]
        for spec in (lists[entry[1:]] if entry.startswith("$") else [entry])
    }
    whole = json.loads((path / "spack.lock").read_text())
    assert {nodes(environment)[root["hash"]]["name"] for root in whole["roots"]} == wanted


@pytest.mark.parametrize("target", ["x86_64_v3", "x86_64_v4"])
def test_nodes_with_and_without_gpus_have_the_same_packages(target):
    cpu, gpu = running(f"cpu-{target}"), running(f"gpu-{target}")
    # not only the version: the very same build, so that a store has it once
    assert {n: node["hash"] for n, node in cpu.items()} == {n: gpu[n]["hash"] for n in cpu}
    assert {"py-torch", "py-cupy", "cuda"} <= set(gpu) - set(cpu)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_targets_have_the_same_versions(name):
    one, other = running(f"{name}-x86_64_v3"), running(f"{name}-x86_64_v4")
    assert {n: node["version"] for n, node in one.items()} == {
        n: node["version"] for n, node in other.items()
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_only_what_the_system_names_is_external(environment):
    named = {
        (entry["spec"].split("@")[0], entry["prefix"])
        for part in lock.included(SPACK / "environments" / environment)
        for package in lock.read(part).get("packages", {}).values()
        for entry in package.get("externals", ())
    }
    found = {
        (node["name"], node["external"]["path"])
        for node in nodes(environment).values()
        if "external" in node
    }
    assert found - named == {("glibc", "/usr")}  # found by Spack itself
    assert {"gcc"} <= {name for name, _ in found}


@pytest.mark.parametrize("environment", ["cpu-x86_64_v3", "gpu-x86_64_v3"])
def test_mpi_is_the_sites(environment):
    assert "external" in running(environment)["openmpi"]
    assert "py-mpi4py" in running(environment)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_environment_asks_the_internet_while_it_builds(environment):
    """Rust and Go fetch what they need themselves, past every mirror."""
    assert not {"rust", "go", "py-maturin"} & {node["name"] for node in nodes(environment).values()}


# --- what dask-site needs ----------------------------------------------------------------------


def needed(extra=None):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_locks_have_what_dask_site_needs(environment):
    found = running(environment)
    for name, requirement in needed().items():
        assert found[f"py-{name}"]["version"].split("-")[0] in requirement.specifier, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = Requirement(f"python{project['requires-python']}")
    assert found["python"]["version"] in python.specifier
    assert "py-pip" in found  # which installs the wheel of dask-site


def test_the_scientific_environment_has_what_the_one_of_wheels_has():
    lines = (ROOT / "roles/dask_environment/files/requirements.in").read_text().splitlines()
    wanted = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert {f"py-{name}" for name in wanted} <= set(running("cpu-x86_64_v3"))


# --- recipes -----------------------------------------------------------------------------------


def calls(path, name):
    """The calls of a directive in a recipe: [(arguments, keywords), ...]."""
    return [
        (
            [ast.literal_eval(argument) for argument in call.args],
            {keyword.arg: keyword.value for keyword in call.keywords},
        )
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == name
    ]


def recipe_class(path):
    (found,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef))
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_recipes_are_what_spack_takes(path):
    found = recipe_class(path)
    assert found.name == "".join(part.title() for part in path.parent.name.split("_"))
    assert ast.get_docstring(found)
    assert [base.id for base in found.bases] == ["PythonPackage"]
    assert calls(path, "license")
    assert calls(path, "version")
    for (_,), keywords in calls(path, "version"):
        if "branch" not in keywords:
            assert re.fullmatch(r"[0-9a-f]{64}", ast.literal_eval(keywords["sha256"]))


@pytest.mark.parametrize("name", ["dask_site", "dask_site_wheels"])
def test_repositories_are_what_spack_takes(name):
    repository = SPACK / "spack_repo" / name
    assert lock.read(repository / "repo.yaml") == {"repo": {"namespace": name, "api": "v2.2"}}
    assert all(re.fullmatch(r"[a-z0-9_]+", path.name) for path in repository.glob("packages/*"))


def test_the_recipe_of_dask_site_says_what_the_package_says():
    (path,) = (path for path in RECIPES if path.parent.name == "py_dask_site")
    said = {spec.split("@")[0]: spec for (spec,), _ in calls(path, "depends_on")}
    build = {"py-hatchling"}
    wanted = {
        f"py-{name}": requirement
        for name, requirement in (needed() | needed("oidc") | needed("postgresql")).items()
    }
    assert set(said) - build - {"python"} == set(wanted)
    for name, requirement in wanted.items():
        (lowest,) = (part.version for part in requirement.specifier if part.operator == ">=")
        released = re.sub(r"\.0$", "", lowest)
        assert re.fullmatch(rf"{name}@{re.escape(released)}:?", said[name]), (said[name], lowest)


def test_a_wheel_is_the_version_that_the_recipe_says():
    for path in RECIPES:
        if path.parents[2].name == "dask_site_wheels":
            text = path.read_text()
            for (version,), _ in calls(path, "version"):
                number, _, tag = version.partition("-")
                assert re.search(rf"-{re.escape(number)}-{tag or '(cp|py)'}", text), version
