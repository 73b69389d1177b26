"""What no single value can tell: the rules between the values of a site file.

They look at the raw mapping, so that a value which is wrong in itself hides no other mistake.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dask_site.sitefile.problems import Finding, Mistake, nearest, show
from dask_site.sitefile.units import format_memory, parse_memory

LEAST_MEMORY = 256 * 2**20
"""Bytes below which a worker process does not start."""

MANAGERS = ("slurm", "sge", "pbs", "lsf", "htcondor", "oar", "local")
SLURM_ONLY = ("qos", "constraint", "reservation")
_RESERVED = {"scheduler", "all", "n", "n_workers", "self", "timeout"}
# The sections of dask-jobqueue's own configuration, beside which the pools' sections stand.
_SECTIONS = {"oar", "pbs", "sge", "slurm", "moab", "lsf", "htcondor", "local"}
# What else lies in / itself is the root of a file system, as a rule.
_OF_OTHERS = re.compile(
    r"/(bin|boot|dev|etc|home|lib|opt(/dask-site)?|proc|root|run|sbin|sys|tmp"
    r"|usr(/(lib|local|share))?|var(/(cache|lib|log|spool|tmp))?)?"
)
_POOL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
Raw = Mapping[str, Any]


def check(data: Raw) -> Iterator[Finding]:
    """Yield what is wrong between the values of a site's raw mapping."""
    yield from _dashboards(data.get("dashboards"))
    yield from _folders(data)
    pools = data.get("pools")
    if not isinstance(pools, Mapping):
        return
    manager = data.get("resource_manager")
    manager = manager if manager in MANAGERS else None
    yield from _pool_names(pools, manager)
    for name, pool in pools.items():
        if isinstance(pool, Mapping):
            yield from _name_inside(name, pool)
            yield from _manager(name, pool, manager)
            yield from _sharing(name, pool)
    yield from _default_pool(data, pools)
    yield from _escalation(data.get("escalate"), pools)


def _dashboards(said: Any) -> Iterator[Finding]:
    if not isinstance(said, Mapping) or said.get("enabled") is not True:
        return
    if said.get("domain") is None:
        mistake = Mistake("is missing, and dashboards need it", write="dask.example.org")
        yield Finding(("dashboards", "domain"), None, mistake)
    for one, other in (("certificate", "key"), ("key", "certificate")):
        if said.get(one) is None and said.get(other) is not None:
            do = "name the certificate and its key, or neither: then they are made"
            yield Finding(("dashboards", one), None, Mistake("is missing", do=do))


def _folders(data: Raw) -> Iterator[Finding]:
    """Look at the folders that a rollout takes for services, and an uninstall with data removes."""
    spool = ("history", "spool")
    taken: dict[str, tuple[str, ...]] = {}
    for path in (spool, ("history", "state"), ("dashboards", "state")):
        part = data.get(path[0])
        if not isinstance(part, Mapping) or part.get("enabled") is not True:
            continue
        said = part.get(path[1])
        user = "/$USER" if path == spool else ""
        folder = _folder(said, of_users=path == spool)
        if folder is None:
            continue
        mistake: Mistake | None = None
        above = next((key for at, key in taken.items() if key == spool and _within(folder, at)), "")
        of_others = _OF_OTHERS.fullmatch(folder)
        if of_others or folder.count("/") == 1:
            why = f"{show(folder)} has more in it than this, and would be taken for it alone"
            parent = "/shared" if of_others else folder
            name = "dashboards" if path[0] == "dashboards" else path[1].replace("state", "history")
            mistake = Mistake(why, write=f"{parent}/dask-site/{name}{user}")
        elif folder in taken or above:
            other = ".".join(taken.get(folder) or above)
            why = f"{show(folder)} {'is' if folder in taken else 'lies in'} the folder of {other}"
            mistake = Mistake(why, do="give each a folder of its own")
        if mistake is not None:
            yield Finding(path, said, mistake)
        taken.setdefault(folder, path)


def _folder(said: Any, *, of_users: bool) -> str | None:
    """Return a folder as it is on every node, without the users' part; None where it is not."""
    if not isinstance(said, str):
        return None
    above = re.sub(r"/\$(USER|\{USER\})/*$", "", said) if of_users else said
    if not said.startswith("/") or "$" in above or (of_users and above == said):
        return None
    return "/" + posixpath.normpath(above or "/").lstrip("/")


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer.rstrip('/')}/")


def _pool_names(pools: Raw, manager: str | None) -> Iterator[Finding]:
    if not pools:
        yield Finding(("pools",), {}, Mistake("holds no pool", do="describe at least one pool"))
    seen: dict[str, str] = {}
    for name in pools:
        twin = seen.setdefault(name.replace("-", "_"), name)
        mistake: Mistake | None = None
        if not _POOL_NAME.fullmatch(name):
            why = f"{show(name)} can't name a pool"
            do = "use at most 32 of a-z, 0-9, _ and -, beginning with a letter"
            mistake = Mistake(why, do=do)
        elif name in _RESERVED or (name in _SECTIONS and manager != "local"):
            why = f"{show(name)} can't name a pool: Dask has another use for the word"
            mistake = Mistake(why, do="give the pool another name")
        elif any(re.fullmatch(rf"{re.escape(other)}(-\d+)+", name) for other in pools):
            why = f"{show(name)} can't name a pool: the workers of another pool are named so"
            mistake = Mistake(why, do="give the pool another name")
        elif twin != name:
            why = f"{show(name)} and {show(twin)} are the same name to Dask's configuration"
            mistake = Mistake(why, do="give the pool another name")
        if mistake is not None:
            yield Finding(("pools", name), name, mistake, at_key=True)


def _name_inside(name: str, pool: Raw) -> Iterator[Finding]:
    if "name" in pool:
        mistake = Mistake("unknown key 'name'", do="remove it; the key above it names the pool")
        yield Finding(("pools", name, "name"), pool["name"], mistake, at_key=True)


def _manager(name: str, pool: Raw, manager: str | None) -> Iterator[Finding]:
    if manager is None:
        return
    if manager != "local" and pool.get("walltime") is None:
        mistake = Mistake(f"is missing, and {manager} needs it", write="4h")
        yield Finding(("pools", name, "walltime"), None, mistake)
    if manager != "slurm":
        for key in SLURM_ONLY:
            if pool.get(key) is not None:
                why = f"is for Slurm, but this site's resource manager is {show(manager)}"
                do = "remove it; what the resource manager calls it can stand in directives"
                path = ("pools", name, key)
                yield Finding(path, pool[key], Mistake(why, do=do), at_key=True)
        if pool.get("submit") == "array":
            why = f"arrays are for Slurm, but this site's resource manager is {show(manager)}"
            mistake = Mistake(why, write="single")
            yield Finding(("pools", name, "submit"), pool["submit"], mistake)
    if manager == "htcondor":
        yield from _attributes(name, pool.get("directives"))


def _attributes(name: str, directives: Any) -> Iterator[Finding]:
    for n, line in enumerate(directives if isinstance(directives, list) else []):
        if isinstance(line, str) and line.strip() and not re.match(r"\s*[+\w.]+\s*=", line):
            mistake = Mistake(
                f"{show(line)} is not an HTCondor attribute", do="write: - name = value"
            )
            yield Finding(("pools", name, "directives", n), line, mistake)


def _sharing(name: str, pool: Raw) -> Iterator[Finding]:
    cores, gpus = _count(pool, "cores"), _count(pool, "gpus", 0)
    processes, memory = _count(pool, "processes", 1), _memory(pool)
    path = ("pools", name, "processes")
    fitting = str(_fitting(processes or 1, cores, gpus))
    if processes and cores and processes > cores:
        mistake = Mistake(f"{processes} processes are more than {cores} cores", write=fitting)
        yield Finding(path, processes, mistake)
    if processes and gpus and gpus % processes:
        fewer = "fewer" if gpus < processes else "more"
        why = f"{gpus} GPUs are {fewer} than {processes} processes can share evenly"
        yield Finding(path, processes, Mistake(why, write=fitting))
    if memory and processes and memory < LEAST_MEMORY * processes:
        each = f" for each of {processes} processes" if processes > 1 else ""
        why = f"{format_memory(memory)} is less than {format_memory(LEAST_MEMORY)}{each}"
        mistake = Mistake(why, write=format_memory(LEAST_MEMORY * processes))
        yield Finding(("pools", name, "memory"), pool["memory"], mistake)


def _fitting(processes: int, cores: int | None, gpus: int | None) -> int:
    """Return the largest number of processes, up to the given one, that cores and GPUs allow."""
    most = min(processes, cores or processes)
    return next((n for n in range(min(most, gpus or most), 0, -1) if not (gpus or 0) % n), 1)


def _default_pool(data: Raw, pools: Raw) -> Iterator[Finding]:
    path = ("default_pool",)
    default = data.get("default_pool")
    open_pools = [n for n, p in pools.items() if not (isinstance(p, Mapping) and _exclusive(p))]
    first = next(iter(open_pools or pools), "")
    if default is None:
        if len(pools) > 1:
            mistake = Mistake("is missing, and there are several pools", write=first)
            yield Finding(path, None, mistake)
        return
    if not isinstance(default, str):
        return
    if default not in pools:
        yield Finding(path, default, _no_such_pool(default, pools, first))
    elif default not in open_pools:
        why = f"{show(default)} is exclusive, so that ordinary work would have no pool"
        do = "name a pool that is not exclusive"
        mistake = Mistake(why, write=first) if open_pools else Mistake(why, do=do)
        yield Finding(path, default, mistake)


def _no_such_pool(name: str, pools: Raw, otherwise: str = "") -> Mistake:
    why = f"{show(name)} is not a pool of this site ({', '.join(map(_bare, pools))})"
    return Mistake(why, write=nearest(name, pools) or otherwise, do="name one of them")


def _bare(name: str) -> str:
    return name if _POOL_NAME.fullmatch(name) else show(name)


def _escalation(escalate: Any, pools: Raw) -> Iterator[Finding]:
    if not isinstance(escalate, list):
        return
    seen: set[str] = set()
    before: tuple[str, int] | None = None
    for n, name in enumerate(escalate):
        path = ("escalate", n)
        if not isinstance(name, str):
            continue
        if name not in pools:
            yield Finding(path, name, _no_such_pool(name, pools))
            continue
        if name in seen:
            why = f"{show(name)} stands twice: escalation must not come back to a pool"
            yield Finding(path, name, Mistake(why, do="name each pool once"))
            continue
        seen.add(name)
        memory = _worker_memory(pools[name])
        if memory and before and memory < before[1]:
            why = (
                f"escalation must grow: a worker of {show(name)} has {format_memory(memory)}, "
                f"one of {show(before[0])} before it {format_memory(before[1])}"
            )
            yield Finding(path, name, Mistake(why, do="order the pools by memory per process"))
        if memory:
            before = (name, memory)


def _worker_memory(pool: Any) -> int | None:
    """Return the bytes that one process has: what a task that ran out of memory needs more of."""
    if not isinstance(pool, Mapping):
        return None
    memory, processes = _memory(pool), _count(pool, "processes", 1)
    return memory // processes if memory and processes else None


def _exclusive(pool: Raw) -> bool:
    return pool.get("exclusive") is True


def _count(pool: Raw, key: str, default: int | None = None) -> int | None:
    value = pool.get(key, default)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return value if usable else None


def _memory(pool: Raw) -> int | None:
    return _parsed(parse_memory, pool.get("memory"))


def _parsed(parse: Callable[[Any], int], value: Any) -> int | None:
    try:
        return parse(value)
    except Mistake:
        return None
