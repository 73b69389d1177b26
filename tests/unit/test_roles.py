"""The roles say the same in their defaults, their argument specs and their READMEs."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[2] / "roles"
NAMES = sorted(path.parent.parent.name for path in ROLES.glob("*/tasks/main.yml"))


def load(role: str, part: str) -> Any:
    path = ROLES / role / part
    return yaml.safe_load(path.read_text()) if path.exists() else None


def specs(role: str) -> dict[str, Any]:
    return load(role, "meta/argument_specs.yml")["argument_specs"]


def options(role: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in specs(role).values():
        for name, option in entry.get("options", {}).items():
            found.setdefault(name, []).append(option)
    return found


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_specified_with_the_same_value(role: str) -> None:
    defaults = load(role, "defaults/main.yml") or {}
    specified = options(role)
    with_default = {name for name, entries in specified.items() if "default" in entries[0]}
    assert set(defaults) == with_default
    for name, value in defaults.items():
        assert [entry["default"] for entry in specified[name]] == [value] * len(specified[name])


@pytest.mark.parametrize("role", NAMES)
def test_every_entry_point_has_a_spec(role: str) -> None:
    included = {
        path.stem
        for path in (ROLES / role / "tasks").glob("*.yml")
        if re.search(rf"name: {role}\n\s+tasks_from: {path.stem}\b", everything_that_calls_roles())
    }
    assert included | {"main"} == set(specs(role))


def everything_that_calls_roles() -> str:
    root = ROLES.parent
    files = [root / "site.yml", *root.glob("playbooks/*.yml"), *ROLES.glob("*/tasks/*.yml")]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("role", NAMES)
def test_public_variables_are_described(role: str) -> None:
    for name, entries in options(role).items():
        assert name.startswith(role) or name == "dask_site"
        for entry in entries:
            assert entry.get("description"), name
            assert entry.get("type"), name


@pytest.mark.parametrize("role", NAMES)
def test_private_variables_begin_with_an_underscore(role: str) -> None:
    for name in load(role, "vars/main.yml") or {}:
        assert name.startswith(f"_{role}_")


@pytest.mark.parametrize("role", NAMES)
def test_every_role_but_the_first_checks_the_site_description(role: str) -> None:
    dependencies = [entry["role"] for entry in load(role, "meta/main.yml")["dependencies"]]
    assert dependencies == ([] if role == "dask_site" else ["dask_site"])


@pytest.mark.parametrize("role", NAMES)
def test_the_readme_names_only_variables_that_exist(role: str) -> None:
    known = {name for other in NAMES for name in options(other)} | set(NAMES)
    known.add("dask_environment_release")  # set by an entry point
    text = (ROLES / role / "README.md").read_text()
    assert set(re.findall(r"\bdask_(?:site|environment|pools|acceptance)\w*", text)) <= known


@pytest.mark.parametrize("path", sorted(ROLES.glob("*/files/*.py")), ids=lambda path: path.name)
def test_scripts_for_other_machines_need_no_newer_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 11))


@pytest.mark.parametrize("path", sorted(ROLES.glob("*/library/*.py")), ids=lambda path: path.name)
def test_modules_need_no_newer_python_than_ansible_does(path: Path) -> None:
    """EL 9 has 3.9."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    called = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    strict = [n.lineno for n in called if any(k.arg == "strict" for k in n.keywords)]
    assert strict == [], "zip knows that as of 3.10"


@pytest.mark.parametrize("inventory", ["demo", "example", "laptop"])
def test_groups_are_named_after_roles(inventory: str) -> None:
    hosts = yaml.safe_load((ROLES.parent / "inventories" / inventory / "hosts.yml").read_text())
    ours = {name for name in hosts if name.startswith("dask_")}
    assert ours == {name for name in NAMES if name != "dask_site"}
