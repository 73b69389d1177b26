"""What is private to Dask, distributed and the standard library is touched in one place only."""

import ast
from pathlib import Path

import pytest

import dask_site

SOURCE = Path(dask_site.__file__).parent
ALL = sorted(SOURCE.rglob("*.py"))
FILES = [path for path in ALL if path.parent.name != "upstream"]
OTHERS = {"dask", "distributed", "dask_jobqueue", "bokeh", "tornado", "multiprocessing"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def named(files):
    """Return the names that files give to something, and those that they call on a base class."""
    found, called = set(), set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                whose = ast.unparse(node.value)
                if isinstance(node.ctx, ast.Store) and whose in {"self", "cls"}:
                    found.add(node.attr)
                elif whose == "super()":
                    called.add(node.attr)
    return found, called


def own_names():
    """Return the private names of this package: not those that it overrides for others."""
    hooks, theirs = named(path for path in ALL if path not in FILES)
    return set(filter(is_private, named(FILES)[0] | (hooks - theirs)))


OWN = own_names()
# Documented.
PUBLIC = {"os._exit"}


def touched(text):
    """Yield line and text of what is private to others in a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            whole = ast.unparse(node)
            ours = node.attr in OWN or node.attr.startswith("_dask_site")
            if not ours and whole not in PUBLIC:
                yield node.lineno, whole
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            names = [*parts, *(alias.name for alias in node.names)]
            if parts[0] in OTHERS and any(map(is_private, names)):
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_private_is_touched_elsewhere(path):
    assert list(touched(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "nanny._on_worker_exit_sync(0)",
        "self._get_prefix_duration(x)",
        "super()._create_taskstate_from_graph()",
        "from dask._task_spec import Task",
        "from distributed.shuffle._core import barrier_key",
        "forkserver._forkserver.x = 1",
    ],
)
def test_what_would_be_seen(text):
    assert list(touched(text))
