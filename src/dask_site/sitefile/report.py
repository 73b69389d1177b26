"""Pydantic's errors, told in the words of the site file."""

from collections.abc import Iterator, Mapping

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dask_site.sitefile.problems import Finding, Mistake, Path, nearest, show
from dask_site.sitefile.reader import UNREADABLE

Models = Mapping[Path, type[BaseModel]]
"""The model at each path, with ``*`` for a name that the site chooses."""

_CONTAINERS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
}


def findings(error: ValidationError, models: Models) -> Iterator[Finding]:
    """Yield a finding for each error that pydantic reports."""
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"])
        value = None if detail["type"] == "missing" else detail["input"]
        if value is UNREADABLE:
            continue
        unknown = detail["type"] == "extra_forbidden"
        yield Finding(path, value, _mistake(detail, path, models), at_key=unknown)


def _mistake(detail: ErrorDetails, path: Path, models: Models) -> Mistake:
    kind, value = detail["type"], detail["input"]
    if kind == "mistake":
        return Mistake(**detail["ctx"])
    keys = keys_at(path[:-1], models)
    name = str(path[-1]) if path else ""
    if kind == "missing":
        return Mistake("is missing", write=keys.get(name, ""), do="add the key")
    if kind == "extra_forbidden":
        near = nearest(name, keys)
        known = ", ".join(keys)
        if near:
            return Mistake(f"unknown key {show(name)}", do=f"write: {near}:")
        return Mistake(f"unknown key {show(name)}", do=f"remove it; known here: {known}")
    wanted = _CONTAINERS.get(kind)
    if wanted:
        is_pool = len(path) == 2 and path[0] == "pools"
        what = "the description of a pool" if is_pool else wanted
        return Mistake(f"{show(value)} is not {what}", do=f"write {wanted}")
    return Mistake(f"{show(value)} does not fit: {detail['msg']}", do="write another value")


def keys_at(path: Path, models: Models) -> dict[str, str]:
    """Return the keys that may stand at a path, each with an example of its value as YAML."""
    model = next((m for pattern, m in models.items() if _matches(pattern, path)), None)
    if model is None:
        return {}
    return {
        field.alias or name: _as_yaml((field.examples or [""])[0])
        for name, field in model.model_fields.items()
        if not field.exclude
    }


def _as_yaml(example: object) -> str:
    if isinstance(example, dict | list):
        return yaml.safe_dump(example, default_flow_style=True, width=1000, sort_keys=False).strip()
    return str(example)


def _matches(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(
        mine in ("*", theirs) for mine, theirs in zip(pattern, path, strict=True)
    )
