"""From text to plain data: every value keeps its place, and nothing is dropped in silence."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import yaml

from dask_site.sitefile.problems import (
    Document,
    Finding,
    Mistake,
    Origin,
    Path,
    SiteError,
    nearest,
    show,
    single,
)

ROOT = "dask_site"
UNREADABLE = object()
"""Stands for a value that was found wrong while reading, so that no type accepts it."""

_LARGEST = 2**20
_MOST_NODES = 20_000
_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {"int", "float", "bool", "null"}
_TEXTS = {"str", "timestamp", "value", "merge"}
_ONLY_ANSIBLE = "is only resolved by Ansible"
_ASK_ROLES = "write the value itself, or check the resolved inventory with the roles of dask-site"


def read_file(path: str | os.PathLike[str]) -> str:
    """Return the text of a file.

    Raises
    ------
    SiteError
        If the file can't be read, is larger than 1 MiB or is not UTF-8.
    """
    source = os.fsdecode(path)
    try:
        with FilePath(source).open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise single(source, "", f"can't be read: {reason}", "") from None
    return decode(content, source)


def decode(content: bytes, source: str) -> str:
    """Return UTF-8 bytes as text; see `read_file` for the errors."""
    if len(content) > _LARGEST:
        raise single(source, "", "is larger than 1 MiB, so it is not a site file", "")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        raise single(
            source,
            "",
            f"is not UTF-8 text (byte 0x{content[error.start]:02x})",
            "save the file as UTF-8",
            line=before.count(b"\n") + 1,
            column=len(before) - before.rfind(b"\n"),
        ) from None


def read(text: str, source: str) -> Document:
    """Return what stands under `dask_site` in a YAML or JSON text.

    Other keys of the text are not looked at, so that they may hold anything that Ansible allows.

    Raises
    ------
    SiteError
        If the text is not YAML, or has no key `dask_site`.
    """
    made = _machine_made(text)
    if made is not None:
        return made
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise _syntax(error, text, source) from None
    except RecursionError:
        raise single(source, "", "is nested too deeply", "", line=1, column=1) from None
    except Exception as error:  # PyYAML lets a few ValueErrors of its own escape
        raise single(source, "", f"is not YAML: {show(str(error))}", "") from None
    found = _root(root, source)
    builder = _Builder(loader, text)
    try:
        data = builder.build(found[1], (), found[0])
    except RecursionError:
        raise single(source, ROOT, "is nested too deeply", "") from None
    finally:
        loader.dispose()
    return Document(data, builder.origins, builder.findings)


def _machine_made(text: str) -> Document | None:
    """Return the content of JSON on one line, as the roles send what Ansible has resolved.

    Its positions would tell nobody anything, and braces in it are meant.
    """
    if not text.startswith("{") or "\n" in text.strip():
        return None
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if ROOT not in root:
        return None
    data, found = plain(root[ROOT])
    return Document(data, findings=found)


def _syntax(error: yaml.YAMLError, text: str, source: str) -> SiteError:
    line = column = None
    why = str(error)
    mend = "mend the YAML syntax at or just before this place"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        why = ", ".join(part for part in (error.context, error.problem) if part)
        if mark is not None:
            line, column = mark.line + 1, mark.column + 1
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        why, mend = "has a control character that YAML does not allow", "remove the character"
    lines = text.splitlines()
    if line is not None and any("{{" in here for here in lines[max(0, line - 2) : line]):
        why += f"; a Jinja expression {_ONLY_ANSIBLE}, and wants quotes around it"
        mend = _ASK_ROLES
    printable = "".join(c if c.isprintable() else " " for c in why)
    return single(source, "", f"is not YAML: {printable}", mend, line=line, column=column)


def _root(root: yaml.Node | None, source: str) -> tuple[yaml.Node, yaml.Node]:
    if root is None:
        raise single(source, "", "is empty", f"write the description of the site under {ROOT}:")
    place = {"line": root.start_mark.line + 1, "column": root.start_mark.column + 1}
    if not isinstance(root, yaml.MappingNode):
        mend = f"write the description of the site under {ROOT}:"
        raise single(source, "", f"has no key {ROOT}: it is not a mapping", mend, **place)
    pairs = [(key, value) for key, value in root.value if key.value == ROOT]
    if not pairs:
        names = [key.value for key, _ in root.value if isinstance(key.value, str)]
        raise single(source, "", f"has no key {ROOT}", _root_mend(names), **place)
    if len(pairs) > 1:
        lines = " and ".join(str(key.start_mark.line + 1) for key, _ in pairs[:2])
        again = pairs[1][0].start_mark
        place = {"line": again.line + 1, "column": again.column + 1}
        raise single(source, ROOT, f"is written twice, on lines {lines}", "keep one", **place)
    return pairs[0]


def _root_mend(names: list[str]) -> str:
    if {"pools", "resource_manager"} & set(names):
        return f"write {ROOT}: above it, and indent all that describes the site"
    near = next((name for name in names if nearest(name, [ROOT])), None)
    if near is not None:
        return f"write: {ROOT}: instead of {show(near)}"
    return f"write the description of the site under {ROOT}:"


class _Builder:
    """Makes plain data of YAML nodes, and notes where each value stood."""

    def __init__(self, loader: yaml.SafeLoader, text: str) -> None:
        self.origins: dict[Path, Origin] = {}
        self.findings: list[Finding] = []
        self._loader = loader
        self._text = text
        self._open: set[int] = set()
        self._count = 0
        self._full = False

    def build(self, node: yaml.Node, path: Path, key: yaml.Node) -> Any:
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        self.origins[path] = Origin(
            node.start_mark.line + 1,
            node.start_mark.column + 1,
            key.start_mark.line + 1,
            key.start_mark.column + 1,
            node.value if plain else None,
        )
        self._count += 1
        if id(node) in self._open:
            return self._refuse(path, None, "holds itself", "write the values without aliases")
        if self._count > _MOST_NODES or len(path) > _DEEPEST:
            if not self._full:
                self._refuse(path, None, "holds too much", "write a shorter description")
            self._full = True
            return UNREADABLE
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            raise AssertionError(f"YAML has no node like {node}")
        finally:
            self._open.discard(id(node))

    def _refuse(self, path: Path, value: Any, why: str, do: str, **more: Any) -> Any:
        mistake = Mistake(why, do=do)
        self.findings.append(Finding(path, value, mistake, **{"blocks": True, **more}))
        return UNREADABLE

    def _tag_refused(self, node: yaml.Node, path: Path) -> Any:
        if node.tag == "!vault":
            return self._refuse(path, None, f"is encrypted, which {_ONLY_ANSIBLE}", _ASK_ROLES)
        tag = node.tag.removeprefix(_TAG)
        tag = tag if tag == node.tag else f"!!{tag}"
        return self._refuse(path, None, f"has the YAML tag {show(tag)}", "write a plain value")

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.tag == "!unsafe":
            return node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == node.tag or kind not in _SCALARS | _TEXTS:
            return self._tag_refused(node, path)
        if kind in _TEXTS:
            if "{{" in node.value or "{%" in node.value:
                why = f"{show(node.value)} has a Jinja expression, which {_ONLY_ANSIBLE}"
                return self._refuse(path, node.value, why, _ASK_ROLES)
            return node.value
        try:
            return self._loader.construct_object(node)
        except Exception:  # `!!int x` and its like: PyYAML raises what its parsing code meets
            why = f"{show(node.value)} can't be read as {kind}"
            return self._refuse(path, node.value, why, "write a plain value")

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> Any:
        if node.tag != f"{_TAG}seq":
            return self._tag_refused(node, path)
        return [self.build(item, (*path, n), item) for n, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Any:
        if node.tag != f"{_TAG}map":
            return self._tag_refused(node, path)
        if self._text.startswith("{{", node.start_mark.index):
            return self._refuse(path, None, f"a Jinja expression {_ONLY_ANSIBLE}", _ASK_ROLES)
        data: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            name = self._key(key, path)
            if name is None:
                continue
            if name in seen:
                self._repeated(name, seen[name], key, path)
                continue
            seen[name] = key.start_mark.line + 1
            data[name] = self.build(value, (*path, name), key)
        for key, value in self._merged(node, path):
            name = self._key(key, path)
            if name is not None and name not in data:
                data[name] = self.build(value, (*path, name), key)
        return data

    def _merged(
        self, node: yaml.MappingNode, path: Path, depth: int = 0
    ) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield the pairs that merge keys (`<<`) bring in, the stronger first."""
        for key, value in node.value:
            if key.tag != f"{_TAG}merge":
                continue
            self._count += 1
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for merged in sources:
                if not isinstance(merged, yaml.MappingNode) or depth > _DEEPEST:
                    self._refuse(path, None, "merges (<<) what is not a mapping", "merge mappings")
                    return
                if self._count > _MOST_NODES:
                    return
                yield from ((k, v) for k, v in merged.value if k.tag != f"{_TAG}merge")
                yield from self._merged(merged, path, depth + 1)

    def _key(self, key: yaml.Node, path: Path) -> str | None:
        if not isinstance(key, yaml.ScalarNode):
            why = f"has a key that is not text (line {key.start_mark.line + 1})"
            self._refuse(path, None, why, "write a plain key")
            return None
        name = str(key.value)
        if key.tag not in {f"{_TAG}{kind}" for kind in _TEXTS}:
            kind = key.tag.removeprefix(_TAG)
            words = {"bool": "a boolean", "int": "a number", "float": "a number", "null": "nothing"}
            why = f"the key {show(name)} without quotes is {words.get(kind, 'not text')} in YAML"
            here = (*path, name)
            mark = key.start_mark
            place = Origin(mark.line + 1, mark.column + 1, mark.line + 1, mark.column + 1)
            self.origins.setdefault(here, place)
            mistake = Mistake(why, do="write it in quotes")
            self.findings.append(Finding(here, name, mistake, at_key=True))
        return name

    def _repeated(self, name: str, first: int, key: yaml.Node, path: Path) -> None:
        again = key.start_mark.line + 1
        pool = path == ("pools",)
        what = f"the pool {show(name)} is named twice" if pool else f"{show(name)} is written twice"
        mistake = Mistake(f"{what}, on lines {first} and {again}", do="keep one of the two")
        # A place of its own: the path already belongs to the first of the two.
        place = (again, key.start_mark.column + 1)
        self.findings.append(Finding((*path, name), None, mistake, place=place))


def plain(value: Any, path: Path = ()) -> tuple[Any, list[Finding]]:
    """Return a Python value as dictionaries with text keys, lists and scalars.

    Returns
    -------
    value : Any
        A copy, without the subclasses of str and dict that Ansible and others use.
    findings : list of Finding
        Keys that are not text, and structures that hold themselves.
    """
    findings: list[Finding] = []
    count = 0

    def copy(item: Any, here: Path) -> Any:
        nonlocal count
        count += 1
        if len(here) > _DEEPEST or count > _MOST_NODES:
            mistake = Mistake("holds itself, or too much", do="write a plain value")
            found = Finding(here[:1], None, mistake, blocks=True)
            findings[:] = [f for f in findings if f.mistake.why != mistake.why] + [found]
            return UNREADABLE
        if isinstance(item, Mapping):
            return {name: copy(v, (*here, name)) for name, v in _text_keys(item, here, findings)}
        if isinstance(item, list | tuple):
            return [copy(v, (*here, n)) for n, v in enumerate(item)]
        return str(item) if isinstance(item, str) else item

    return copy(value, path), findings


def _text_keys(
    item: Mapping[Any, Any], here: Path, findings: list[Finding]
) -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if isinstance(key, str):
            yield str(key), value
            continue
        name = show(key)
        mistake = Mistake(f"the key {name} is not text", do="write it in quotes")
        findings.append(Finding((*here, name), None, mistake, at_key=True, blocks=True))
