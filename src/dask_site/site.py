"""The description of a site: read from one file, judged as a whole, written back in one form."""

import json
import os
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic.config import JsonDict

from dask_site.people import name_of
from dask_site.sitefile import fields, find, reader, report, rules, scale
from dask_site.sitefile.parts import (
    Cost,
    Dashboards,
    Environment,
    History,
    Oidc,
    Part,
    Pool,
    Portal,
    Retention,
    SchedulerOptions,
)
from dask_site.sitefile.problems import (
    Document,
    Finding,
    Mistake,
    Problem,
    SiteError,
    located,
    nearest,
    show,
    single,
)
from dask_site.sitefile.units import (
    format_memory,
    format_walltime,
    parse_memory,
    parse_walltime,
)

__all__ = [
    "Cost",
    "Environment",
    "Pool",
    "Problem",
    "SchedulerOptions",
    "Site",
    "SiteError",
    "format_memory",
    "format_walltime",
    "parse_memory",
    "parse_walltime",
]


def _no_default(schema: JsonDict) -> None:
    schema.pop("default", None)


class Site(Part):
    """A centre: its resource manager, its pools and what they have in common.

    Made by `load`, `from_text`, `from_mapping` or `find`, which report every mistake at once.

    Attributes
    ----------
    schema_version : int
        The number under ``schema``.
    pools : dict of str to Pool
        In the order of the file: cheapest first.
    default_pool : str
        Where work goes that asks for nothing; always the name of one of the pools.
    """

    schema_version: Annotated[Literal[1], fields.version(1)] = Field(
        alias="schema", title="Schema", description="Version of this format.", examples=[1]
    )
    name: fields.Name = Field(description="Name of the centre.", examples=["Example Centre"])
    resource_manager: Annotated[
        Literal["slurm", "sge", "pbs", "lsf", "htcondor", "oar", "local"],
        fields.choice(*rules.MANAGERS),
    ] = Field(description="What runs the jobs; local stands for this machine.", examples=["slurm"])
    account: fields.Token | None = Field(
        default=None, description="Account of every pool that names none.", examples=["climate"]
    )
    default_pool: fields.Word = Field(
        default="",
        description="Pool for work that asks for nothing; may be left out if there is only one.",
        examples=["cpu"],
        json_schema_extra=_no_default,
    )
    escalate: list[fields.Word] = Field(
        default=[],
        description="Where tasks go on that ran out of memory, or whose inputs are too large.",
        examples=[["cpu", "highmem"]],
    )
    pools: dict[str, Pool] = Field(
        description="The pools by name, cheapest first.",
        examples=[{"cpu": {"cores": 64, "memory": "240GiB", "walltime": "4h"}}],
        json_schema_extra={
            "minProperties": 1,
            "propertyNames": {"pattern": "^[a-z][a-z0-9_-]{0,31}$"},
        },
    )
    scheduler: SchedulerOptions = Field(
        default=SchedulerOptions(),
        description="Network interface and port of the Dask scheduler.",
        examples=[{"interface": "ib0"}],
    )
    state_dir: fields.Folder = Field(
        default="~/.dask-site",
        description="Each user's folder, on storage that login and compute nodes share.",
        examples=["~/.dask-site", "/project/$USER/.dask-site"],
    )
    prologue: list[fields.ShellLine] = Field(
        default=[],
        description="Shell lines that each job runs before its workers.",
        examples=[["module load dask-site"]],
    )
    history: History = Field(
        default=History(),
        description="What is recorded of computations, and where.",
        examples=[{"enabled": True}],
    )
    dashboards: Dashboards = Field(
        default=Dashboards(),
        description="How dashboards are reached.",
        examples=[{"enabled": True, "domain": "dask.example.org"}],
    )
    environment: Environment = Field(
        default=Environment(),
        description="How the software of the site is provided.",
        examples=[{"provider": "wheels"}],
    )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Site":
        """Read a site file; other keys than `dask_site` in it are ignored.

        Raises
        ------
        SiteError
            If the file can't be read or is not right.
        """
        return cls.from_text(reader.read_file(path), os.fsdecode(path))

    @classmethod
    def from_text(cls, text: str, source: str = "<text>") -> "Site":
        """Read the YAML or JSON text of a site file; `source` names it in errors.

        Raises
        ------
        SiteError
            If the text is not right; the positions are those in the text.
        """
        return cls._judged(reader.read(text, source), source)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], source: str = "<inventory>") -> "Site":
        """Build a site from values, with or without `dask_site` around them.

        Raises
        ------
        SiteError
            If the values are not right; its problems have paths but no positions.
        """
        if isinstance(mapping, Mapping) and reader.ROOT in mapping:
            mapping = mapping[reader.ROOT]
        data, found = reader.plain(mapping)
        return cls._judged(Document(data, findings=found), source)

    @classmethod
    def find(cls) -> "Site":
        """Return the site that Dask's configuration describes: the centre's, then the user's.

        Raises
        ------
        SiteError
            If no site is configured, naming the folders that were looked in, or it is not right.
        """
        mapping, source = find.from_dask_config(_MODELS)
        return cls.from_mapping(mapping, source)

    @classmethod
    def _judged(cls, document: Document, source: str) -> "Site":
        """Return the site, or raise every finding at once."""
        if not isinstance(document.data, Mapping):
            if document.data is not reader.UNREADABLE:
                mistake = Mistake(
                    f"{show(document.data)} is not the description of a site",
                    do="write: schema, name, resource_manager and pools",
                )
                document.findings.append(Finding((), document.data, mistake))
            raise SiteError(located(document), source)
        data = _without_nothing(document.data, (), document.findings)
        site = None
        try:
            site = cls.model_validate(_prepared(data))
        except ValidationError as error:
            document.findings += report.findings(error, _MODELS)
        document.findings += rules.check(data)
        if site is None or document.findings:
            raise SiteError(located(document), source)
        return site

    def to_mapping(self) -> dict[str, Any]:
        """Return the description as JSON-ready values, without `dask_site` around them.

        Defaults are filled in, memory reads as ``240GiB`` and walltime as ``04:00:00``;
        `from_mapping` makes an equal site of it.
        """
        values = self.model_dump(mode="json", by_alias=True)
        # JSON's own types only: no shared lists, and the order of the pools kept.
        mapping: dict[str, Any] = json.loads(json.dumps(values))
        return mapping

    def state_path(self) -> Path:
        """Return `state_dir` with ``~`` and variables expanded for the calling user.

        Raises
        ------
        SiteError
            If a variable is not set, or the result is not an absolute path.
        """
        known = {"HOME": str(Path("~").expanduser()), **os.environ}
        known.setdefault("USER", name_of())
        try:
            path = Path(string.Template(self.state_dir).substitute(known)).expanduser()
        except (KeyError, RuntimeError) as error:
            why = f"{show(self.state_dir)} can't be expanded: no {str(error).strip(chr(39))}"
            raise self._state_error(why) from None
        if not path.is_absolute():
            raise self._state_error(
                f"{show(self.state_dir)} is the relative path {show(str(path))}"
            )
        return path

    def _state_error(self, why: str) -> SiteError:
        mend = "set the variable, or write another state_dir"
        return single(self.name, "dask_site.state_dir", why, mend, value=self.state_dir)

    def with_pools(self, pools: Iterable[str | Pool]) -> "Site":
        """Return this site with only some of its pools, or with changed ones.

        Parameters
        ----------
        pools : iterable of str or Pool
            Names of pools to keep as they are, and pools that take the place of those of their
            name. The order of the site is kept; new ones come last.

        Returns
        -------
        Site
            `escalate` is cut to what is left. If the default pool is not left, the first one
            that is not exclusive takes its place; if all are exclusive, the first one is opened
            to ordinary work.

        Raises
        ------
        SiteError
            If a name is not a pool of this site, or no pool is left.
        """
        chosen = {p if isinstance(p, str) else p.name: p for p in pools}
        unknown = [n for n, p in chosen.items() if isinstance(p, str) and n not in self.pools]
        if unknown or not chosen:
            raise self._unknown_pools(unknown)
        order = [n for n in self.pools if n in chosen] + [n for n in chosen if n not in self.pools]
        kept = {n: self.pools[n] if isinstance(chosen[n], str) else chosen[n] for n in order}
        found = {n: p for n, p in kept.items() if isinstance(p, Pool)}
        default = self.default_pool
        if default not in found or found[default].exclusive:
            default = next((n for n, p in found.items() if not p.exclusive), order[0])
            found[default] = found[default].model_copy(update={"exclusive": False})
        escalate = [n for n in self.escalate if n in found]
        update = {"pools": found, "default_pool": default, "escalate": escalate}
        return self.model_copy(update=update)

    def _unknown_pools(self, names: list[str]) -> SiteError:
        known = ", ".join(self.pools)
        if not names:
            return single(self.name, "pools", "no pool is left", f"choose from: {known}")
        problems = []
        for name in names:
            near = nearest(name, self.pools)
            mend = f"write: {near}" if near else f"choose from: {known}"
            why = f"{show(name)} is not a pool of this site ({known})"
            problems.append(Problem("pools", name, why, mend))
        return SiteError(problems, self.name)

    def scaled_to_machine(self, cores: int, memory: int) -> "Site":
        """Return the site with pools that fit on one machine.

        All pools shrink by one factor, so that a job of each fits together into 80 % of the
        memory; none grows, and no process gets less than 256 MiB. GPUs and the number of jobs
        stay as declared.

        Parameters
        ----------
        cores : int
            Cores of the machine; a pool has at most so many, and as many processes at most as
            share its GPUs evenly.
        memory : int
            Bytes of the machine.
        """
        pools = scale.scaled(self.pools.values(), cores, memory)
        return self.model_copy(update={"pools": pools})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of a whole site file, for editors."""
        inner = cls.model_json_schema(by_alias=True, mode="validation")
        definitions = inner.pop("$defs")
        pool = definitions["Pool"]
        del pool["properties"]["name"]
        pool["required"].remove("name")
        definitions["Site"] = inner
        for part in definitions.values():  # the docstring's first paragraph
            part["description"] = part["description"].partition("\n\n")[0]
            for key, field in part["properties"].items():
                field.setdefault("title", key.replace("_", " ").capitalize())
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Site file of dask-site",
            "description": "An Ansible variables file; only the key dask_site is described.",
            "type": "object",
            "required": [reader.ROOT],
            "properties": {reader.ROOT: {"$ref": "#/$defs/Site"}},
            "$defs": dict(sorted(definitions.items())),
        }


_MODELS: report.Models = {
    (): Site,
    ("scheduler",): SchedulerOptions,
    ("history",): History,
    ("history", "retention"): Retention,
    ("dashboards",): Dashboards,
    ("dashboards", "oidc"): Oidc,
    ("dashboards", "portal"): Portal,
    ("environment",): Environment,
    ("pools", "*"): Pool,
    ("pools", "*", "cost"): Cost,
}


def _without_nothing(
    data: Mapping[str, Any], path: tuple[str | int, ...], found: list[Finding]
) -> dict[str, Any]:
    """Leave out the keys without a value; a pool without one is told, not lost."""
    kept: dict[str, Any] = {}
    for key, value in data.items():
        here = (*path, key)
        if value is None and path == ("pools",):
            mistake = Mistake("the pool is empty", do="describe the pool, or remove its name")
            found.append(Finding(here, None, mistake, blocks=True))
            kept[key] = reader.UNREADABLE
        elif isinstance(value, Mapping):
            kept[key] = _without_nothing(value, here, found)
        elif value is not None:
            kept[key] = value
    return kept


def _prepared(data: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping as the models want it: each pool with its name, and a default pool."""
    pools = data.get("pools")
    if not isinstance(pools, Mapping):
        return data
    named = {
        key: {**value, "name": key} if isinstance(value, Mapping) else value
        for key, value in pools.items()
    }
    default = {"default_pool": next(iter(pools))} if len(pools) == 1 else {}
    return {**default, **data, "pools": named}
