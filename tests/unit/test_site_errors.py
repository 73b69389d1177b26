"""A site that is not right: every mistake has its place, its reason and its mend, word for word."""

import copy
import random

import pytest
import yaml

from dask_site.site import Site, SiteError

HEAD = """\
dask_site:
  schema: 1
  name: Example Centre
  resource_manager: slurm
  default_pool: cpu
  pools:
    cpu: {cores: 8, memory: 16GiB, walltime: 4h}
    gpu:
"""
GOOD = """\
      cores: 32
      memory: 500GiB
      walltime: 4h
"""
SITE_KEYS = (
    "schema, name, resource_manager, account, default_pool, escalate, pools, scheduler, "
    "state_dir, prologue, history, dashboards, environment"
)
ROLES = "write the value itself, or check the resolved inventory with the roles of dask-site"


def errors(text):
    with pytest.raises(SiteError) as caught:
        Site.from_text(text, "site.yml")
    lines = str(caught.value).splitlines()
    count = len(caught.value.problems)
    assert lines.pop() == f"site.yml: {count} error{'s' if count > 1 else ''}"
    return "\n".join(lines)


def gpu(*lines, good=GOOD):
    """Return a site file whose pool gpu has these further lines, from line 12 on."""
    return HEAD + good + "".join(f"      {line}\n" for line in lines)


def site(*lines):
    """Return a right site file with these further lines of the site, from line 12 on."""
    return HEAD + GOOD + "".join(f"  {line}\n" for line in lines)


def test_the_file_they_start_from_is_right():
    assert Site.from_text(gpu()).default_pool == "cpu"


@pytest.mark.parametrize(
    ("line", "place", "why", "mend"),
    [
        ("quue: gpu", "12:7", "gpu.quue: unknown key 'quue'", "write: queue:"),
        ("GPUs: 4", "12:7", "gpu.GPUs: unknown key 'GPUs'", "write: gpus:"),
        ("max-jobs: 4", "12:7", "gpu.max-jobs: unknown key 'max-jobs'", "write: max_jobs:"),
        (
            "name: gpu",
            "12:7",
            "gpu.name: unknown key 'name'",
            "remove it; the key above it names the pool",
        ),
        (
            "zzz: 4",
            "12:7",
            "gpu.zzz: unknown key 'zzz'",
            "remove it; known here: queue, cores, memory, walltime, processes, gpus, max_jobs, "
            "backlog, submit, exclusive, cost, account, qos, constraint, reservation, interface, "
            "scratch, directives, prologue, description",
        ),
        (
            "cost: {core_hours: 1}",
            "12:14",
            "gpu.cost.core_hours: unknown key 'core_hours'",
            "write: core_hour:",
        ),
        ("cost: 3", "12:13", "gpu.cost: 3 is not a mapping", "write a mapping"),
        (
            "cost: {gpu_hour: -1}",
            "12:24",
            "gpu.cost.gpu_hour: -1 is not a price",
            "write: gpu_hour: 0.01",
        ),
        (
            "cost: {gpu_hour: .inf}",
            "12:24",
            "gpu.cost.gpu_hour: inf is not a price",
            "write: gpu_hour: 0.01",
        ),
        (
            "cost: {gpu_hour: free}",
            "12:24",
            "gpu.cost.gpu_hour: 'free' is not a number",
            "write: gpu_hour: 0.01",
        ),
        (
            "queue: off",
            "12:14",
            "gpu.queue: off without quotes is the boolean false in YAML: quote it",
            'write: queue: "off"',
        ),
        (
            "account: yes",
            "12:16",
            "gpu.account: yes without quotes is the boolean true in YAML: quote it",
            'write: account: "yes"',
        ),
        (
            "account: 0123",
            "12:16",
            "gpu.account: 0123 without quotes is the number 83 in YAML: quote it",
            'write: account: "0123"',
        ),
        ("queue: [a]", "12:14", "gpu.queue: a list is not text", "write text"),
        (
            'queue: ""',
            "12:14",
            "gpu.queue: is empty",
            "write a name, or remove the key",
        ),
        (
            "queue: a;rm",
            "12:14",
            "gpu.queue: 'a;rm' has ';', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = /",
        ),
        (
            'account: "a\\nb"',
            "12:16",
            "gpu.account: 'a\\nb' has '\\n', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = /",
        ),
        (
            "qos: --wrap=x",
            "12:12",
            "gpu.qos: '--wrap=x' starts with '-', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = /",
        ),
        (
            "reservation: $(id)",
            "12:20",
            "gpu.reservation: '$(id)' has '$', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = /",
        ),
        (
            "constraint: a`b",
            "12:19",
            "gpu.constraint: 'a`b' has '`', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = / & | * ( ) [ ]",
        ),
        (
            'interface: "ib0 "',
            "12:18",
            "gpu.interface: 'ib0 ' has ' ', which a job script can't hold",
            "use letters, digits and . _ - , : @ + = /",
        ),
        (
            "scratch: tmp",
            "12:16",
            "gpu.scratch: 'tmp' is not an absolute path",
            "start it with /, ~ or a variable such as $TMPDIR",
        ),
        (
            "scratch: /my scratch",
            "12:16",
            "gpu.scratch: '/my scratch' is a path that a job script would have to quote",
            "use letters, digits and . _ - / @ % + = , : and $VARIABLE",
        ),
        (
            "scratch: $(mktemp)",
            "12:16",
            "gpu.scratch: '$(mktemp)' is a path that a job script would have to quote",
            "use letters, digits and . _ - / @ % + = , : and $VARIABLE",
        ),
        (
            "directives: --exclusive",
            "12:19",
            "gpu.directives: '--exclusive' is not a list",
            "write a list",
        ),
        (
            "directives: ['#SBATCH --exclusive']",
            "12:20",
            "gpu.directives[0]: '#SBATCH --exclusive' has the prefix #SBATCH, "
            "which is added for you",
            'write: - "--exclusive"',
        ),
        (
            'directives: [--a, "--b\\n--c"]',
            "12:25",
            "gpu.directives[1]: '--b\\n--c' has a line break or another control character",
            "write one list item per line",
        ),
        ("directives: ['']", "12:20", "gpu.directives[0]: is empty", "remove the item"),
        (
            "prologue: [1]",
            "12:18",
            "gpu.prologue[0]: 1 without quotes is the number 1 in YAML: quote it",
            'write: - "1"',
        ),
        (
            'description: "\\e[31m"',
            "12:20",
            "gpu.description: '\\x1b[31m' has a control character",
            "write printable text",
        ),
        (
            'exclusive: "yes"',
            "12:18",
            "gpu.exclusive: 'yes' is neither true nor false",
            "write: exclusive: true",
        ),
        ("max_jobs: 0", "12:17", "gpu.max_jobs: 0 is less than 1", "write: max_jobs: 1"),
        ("gpus: -1", "12:13", "gpu.gpus: -1 is less than 0", "write: gpus: 0"),
        (
            "gpus: many",
            "12:13",
            "gpu.gpus: 'many' is not a whole number",
            "write a whole number that is at least 0",
        ),
        ('gpus: "4"', "12:13", "gpu.gpus: '4' is not a whole number", "write: gpus: 4"),
        ("gpus: 4.0", "12:13", "gpu.gpus: 4.0 is not a whole number", "write: gpus: 4"),
        (
            "gpus: true",
            "12:13",
            "gpu.gpus: true is not a whole number",
            "write a whole number that is at least 0",
        ),
        (
            "gpus: 9999999999",
            "12:13",
            "gpu.gpus: 9999999999 is more than 2147483648",
            "write: gpus: 2147483648",
        ),
        (
            "processes: 33",
            "12:18",
            "gpu.processes: 33 processes are more than 32 cores",
            "write: processes: 32",
        ),
        (
            "cores: 64",
            "12:7",
            "gpu.cores: 'cores' is written twice, on lines 9 and 12",
            "keep one of the two",
        ),
        (
            "1: x",
            "12:7",
            "gpu.1: the key '1' without quotes is a number in YAML",
            "write it in quotes",
        ),
        (
            "queue: !!python/name:os.system",
            "12:14",
            "gpu.queue: has the YAML tag '!!python/name:os.system'",
            "write a plain value",
        ),
        (
            "gpus: !!int many",
            "12:13",
            "gpu.gpus: 'many' can't be read as int",
            "write a plain value",
        ),
        (
            "queue: !vault abc",
            "12:14",
            "gpu.queue: is encrypted, which is only resolved by Ansible",
            ROLES,
        ),
        (
            "queue: '{{ site_queue }}'",
            "12:14",
            "gpu.queue: '{{ site_queue }}' has a Jinja expression, "
            "which is only resolved by Ansible",
            ROLES,
        ),
        (
            "queue: {{ site_queue }}",
            "12:14",
            "gpu.queue: a Jinja expression is only resolved by Ansible",
            ROLES,
        ),
    ],
)
def test_one_mistake_in_a_pool(line, place, why, mend):
    expected = f"site.yml:{place}: error: dask_site.pools.{why}\n    {mend}"
    found = errors(gpu(line))
    if line == "1: x":  # and it is unknown
        found = "\n".join(found.splitlines()[:2])
    assert found == expected


@pytest.mark.parametrize(
    ("memory", "why", "mend"),
    [
        ("'240'", "'240' has no unit", "240GiB"),
        ("240", "240 has no unit", "240GiB"),
        ("240G", "'240G' may mean GB (decimal) or GiB (binary)", "240GiB"),
        ("200MiB", "200MiB is less than 256MiB", "256MiB"),
    ],
)
def test_memory(memory, why, mend):
    text = gpu(good=GOOD.replace("500GiB", memory))
    assert errors(text) == (
        f"site.yml:10:15: error: dask_site.pools.gpu.memory: {why}\n    write: memory: {mend}"
    )


def test_decimal_memory_is_right():
    assert Site.from_text(gpu(good=GOOD.replace("500GiB", "500GB"))).pools["gpu"].memory == 5e11


@pytest.mark.parametrize(
    ("walltime", "why", "mend"),
    [
        (
            "12:00:00",
            "12:00:00 without quotes is the number 43200 in YAML: quote it",
            'write: walltime: "12:00:00"',
        ),
        (
            "12:00",
            "12:00 without quotes is the number 720 in YAML: quote it",
            'write: walltime: "12:00:00"',
        ),
        (
            "43200",
            "43200 is a number: YAML reads an unquoted 12:00:00 as 43200; quote it",
            'write: walltime: "12:00:00"',
        ),
        ("0", "0 is not a walltime", "write: walltime: 4h"),
        ("0m", "'0m' is not longer than zero", "write: walltime: 4h"),
        ("-1h", "'-1h' is negative", "write: walltime: 4h"),
        (
            "soon",
            "'soon' is not a walltime",
            'write a walltime as in 4h, 90m, 1d, "12:00:00" or 1-12:00:00',
        ),
    ],
)
def test_walltime(walltime, why, mend):
    text = gpu(good=GOOD.replace("4h", walltime))
    assert errors(text) == (
        f"site.yml:11:17: error: dask_site.pools.gpu.walltime: {why}\n    {mend}"
    )


def test_a_number_that_came_through_ansible():
    pool = {"cores": 1, "memory": 240, "walltime": 43200, "queue": False}
    mapping = {"schema": 1, "name": "x", "resource_manager": "slurm", "pools": {"cpu": pool}}
    with pytest.raises(SiteError) as caught:
        Site.from_mapping(mapping)
    assert str(caught.value) == (
        "<inventory>: error: dask_site.pools.cpu.queue: false is a boolean, not text\n"
        "    write it in quotes\n"
        "<inventory>: error: dask_site.pools.cpu.memory: 240 has no unit\n"
        "    write: memory: 240GiB\n"
        "<inventory>: error: dask_site.pools.cpu.walltime: 43200 is a number: "
        "YAML reads an unquoted 12:00:00 as 43200; quote it\n"
        '    write: walltime: "12:00:00"\n'
        "<inventory>: 3 errors"
    )


def test_walltime_is_needed_but_on_one_machine():
    text = gpu(good="      cores: 1\n      memory: 1GiB\n")
    assert errors(text) == (
        "site.yml:8:5: error: dask_site.pools.gpu.walltime: is missing, and slurm needs it\n"
        "    write: walltime: 4h"
    )
    assert Site.from_text(text.replace("slurm", "local")).pools["gpu"].walltime is None


@pytest.mark.parametrize(
    ("gpus", "processes", "fewer", "mend"),
    [(4, 3, "more", 2), (2, 4, "fewer", 2), (6, 4, "more", 3)],
)
def test_gpus_are_shared_evenly(gpus, processes, fewer, mend):
    assert errors(gpu(f"gpus: {gpus}", f"processes: {processes}")) == (
        f"site.yml:13:18: error: dask_site.pools.gpu.processes: {gpus} GPUs are {fewer} than "
        f"{processes} processes can share evenly\n    write: processes: {mend}"
    )


def test_memory_per_process():
    assert errors(gpu("processes: 4", good=GOOD.replace("500GiB", "512MiB"))) == (
        "site.yml:10:15: error: dask_site.pools.gpu.memory: 512MiB is less than 256MiB "
        "for each of 4 processes\n    write: memory: 1GiB"
    )


@pytest.mark.parametrize("key", ["qos", "constraint", "reservation"])
def test_what_only_slurm_knows(key):
    text = gpu(f"{key}: x").replace("slurm", "pbs")
    assert errors(text) == (
        f"site.yml:12:7: error: dask_site.pools.gpu.{key}: is for Slurm, but this site's resource "
        "manager is 'pbs'\n"
        "    remove it; what the resource manager calls it can stand in directives"
    )


def test_arrays_are_for_slurm():
    assert Site.from_text(gpu("submit: array")).pools["gpu"].submit == "array"
    assert Site.from_text(gpu("submit: single").replace("slurm", "pbs"))
    assert errors(gpu("submit: array").replace("slurm", "pbs")) == (
        "site.yml:12:15: error: dask_site.pools.gpu.submit: arrays are for Slurm, but this site's "
        "resource manager is 'pbs'\n    write: submit: single"
    )
    assert "'arrays' is not one of single, array" in errors(gpu("submit: arrays"))


def test_constraints_may_combine_features():
    assert Site.from_text(gpu('constraint: "[a100|h100*2]&ib"')).pools["gpu"].constraint


def test_htcondor_takes_attributes():
    text = gpu("directives: [--exclusive]").replace("slurm", "htcondor")
    assert errors(text) == (
        "site.yml:12:20: error: dask_site.pools.gpu.directives[0]: '--exclusive' is not an "
        "HTCondor attribute\n    write: - name = value"
    )
    Site.from_text(text.replace("--exclusive", "'+Project = \"x\"'"))


@pytest.mark.parametrize(
    ("line", "place", "why", "mend"),
    [
        ("acount: x", "12:3", "acount: unknown key 'acount'", "write: account:"),
        (
            "zzz: x",
            "12:3",
            "zzz: unknown key 'zzz'",
            f"remove it; known here: {SITE_KEYS}",
        ),
        (
            "escalate: [cpu, gpus]",
            "12:19",
            "escalate[1]: 'gpus' is not a pool of this site (cpu, gpu)",
            "write: - gpu",
        ),
        (
            "escalate: [zzz]",
            "12:14",
            "escalate[0]: 'zzz' is not a pool of this site (cpu, gpu)",
            "name one of them",
        ),
        (
            "escalate: [cpu, gpu, cpu]",
            "12:24",
            "escalate[2]: 'cpu' stands twice: escalation must not come back to a pool",
            "name each pool once",
        ),
        (
            "escalate: [gpu, cpu]",
            "12:19",
            "escalate[1]: escalation must grow: a worker of 'cpu' has 16GiB, "
            "one of 'gpu' before it 500GiB",
            "order the pools by memory per process",
        ),
        ("escalate: cpu", "12:13", "escalate: 'cpu' is not a list", "write a list"),
        (
            "scheduler: {interfce: ib0}",
            "12:15",
            "scheduler.interfce: unknown key 'interfce'",
            "write: interface:",
        ),
        (
            "scheduler: {port: 80}",
            "12:21",
            "scheduler.port: 80 is not a port that users may listen on (1024 to 65535, or 0)",
            "write: port: 0",
        ),
        ("scheduler: {port: x}", "12:21", "scheduler.port: 'x' is not a port", "write: port: 0"),
        (
            "environment: {provider: conda}",
            "12:27",
            "environment.provider: 'conda' is not one of wheels, spack",
            "write one of: wheels, spack",
        ),
        (
            "state_dir: .dask",
            "12:14",
            "state_dir: '.dask' is not an absolute path",
            "start it with /, ~ or a variable such as $TMPDIR",
        ),
        (
            "scheduler: &a {port: *a}",
            "12:14",
            "scheduler.port: holds itself",
            "write the values without aliases",
        ),
        (
            "<<: 3",
            "2:3",
            ": merges (<<) what is not a mapping",
            "merge mappings",
        ),
    ],
)
def test_one_mistake_in_a_site(line, place, why, mend):
    dot = "" if why.startswith(":") else "."
    assert errors(site(line)) == f"site.yml:{place}: error: dask_site{dot}{why}\n    {mend}"


@pytest.mark.parametrize(
    ("old", "new", "place", "why", "mend"),
    [
        (
            "schema: 1",
            "schema: 2",
            "2:11",
            "schema: 2 is not a schema of this dask-site, which reads 1",
            "write: schema: 1",
        ),
        (
            "schema: 1",
            "schema: true",
            "2:11",
            "schema: true is not a schema of this dask-site, which reads 1",
            "write: schema: 1",
        ),
        ("schema: 1\n  ", "", "1:1", "schema: is missing", "write: schema: 1"),
        (
            "Example Centre",
            '"Example\\nCentre"',
            "3:9",
            "name: 'Example\\nCentre' has a line break or another control character",
            "write printable text on one line",
        ),
        (
            "Example Centre",
            '" "',
            "3:9",
            "name: is empty",
            "write text, or remove the key",
        ),
        (
            "Example Centre",
            "x" * 101,
            "3:9",
            f"name: '{'x' * 55}...' is longer than 100 characters",
            "write a shorter text",
        ),
        (
            "slurm",
            "Slurm",
            "4:21",
            "resource_manager: 'Slurm' is not one of slurm, sge, pbs, lsf, htcondor, oar, local",
            "write: resource_manager: slurm",
        ),
        (
            "slurm",
            "kubernetes",
            "4:21",
            "resource_manager: 'kubernetes' is not one of "
            "slurm, sge, pbs, lsf, htcondor, oar, local",
            "write one of: slurm, sge, pbs, lsf, htcondor, oar, local",
        ),
        (
            "default_pool: cpu\n  ",
            "",
            "1:1",
            "default_pool: is missing, and there are several pools",
            "write: default_pool: cpu",
        ),
        (
            "default_pool: cpu",
            "default_pool: standard",
            "5:17",
            "default_pool: 'standard' is not a pool of this site (cpu, gpu)",
            "write: default_pool: cpu",
        ),
        (
            "walltime: 4h}",
            "walltime: 4h, exclusive: true}",
            "5:17",
            "default_pool: 'cpu' is exclusive, so that ordinary work would have no pool",
            "write: default_pool: gpu",
        ),
        (
            "    gpu:",
            "    Gpu:",
            "8:5",
            "pools.Gpu: 'Gpu' can't name a pool",
            "use at most 32 of a-z, 0-9, _ and -, beginning with a letter",
        ),
        (
            "    gpu:",
            '    "a b":',
            "8:5",
            "pools['a b']: 'a b' can't name a pool",
            "use at most 32 of a-z, 0-9, _ and -, beginning with a letter",
        ),
        (
            "    gpu:",
            "    all:",
            "8:5",
            "pools.all: 'all' can't name a pool: Dask has another use for the word",
            "give the pool another name",
        ),
        (
            "    gpu:",
            "    slurm:",
            "8:5",
            "pools.slurm: 'slurm' can't name a pool: Dask has another use for the word",
            "give the pool another name",
        ),
        (
            "    gpu:",
            "    on:",
            "8:5",
            "pools.on: the key 'on' without quotes is a boolean in YAML",
            "write it in quotes",
        ),
        (
            "    gpu:",
            "    cpu:",
            "8:5",
            "pools.cpu: the pool 'cpu' is named twice, on lines 7 and 8",
            "keep one of the two",
        ),
    ],
)
def test_one_wrong_value(old, new, place, why, mend):
    text = gpu().replace(old, new, 1)
    assert errors(text) == f"site.yml:{place}: error: dask_site.{why}\n    {mend}"


def test_names_that_dask_can_not_tell_apart():
    text = gpu().replace("    cpu:", "    cpu: {cores: 1, memory: 1GiB, walltime: 1h}\n    a-b:")
    assert errors(text.replace("    gpu:", "    a_b:")) == (
        "site.yml:9:5: error: dask_site.pools.a_b: 'a_b' and 'a-b' are the same name to Dask's "
        "configuration\n    give the pool another name"
    )


@pytest.mark.parametrize(
    ("pools", "why", "mend"),
    [
        ("{}", "pools: holds no pool", "describe at least one pool"),
        ("[cpu]", "pools: a list is not a mapping", "write a mapping"),
        (
            "",
            "pools: is missing",
            "write: pools: {cpu: {cores: 64, memory: 240GiB, walltime: 4h}}",
        ),
        (
            "{cpu: }",
            "pools.cpu: the pool is empty",
            "describe the pool, or remove its name",
        ),
        (
            "{cpu: 3}",
            "pools.cpu: 3 is not the description of a pool",
            "write a mapping",
        ),
    ],
)
def test_pools_that_are_none(pools, why, mend):
    text = f"dask_site: {{schema: 1, name: x, resource_manager: slurm, pools: {pools}}}"
    with pytest.raises(SiteError) as caught:
        Site.from_text(text)
    (problem,) = caught.value.problems
    assert (f"{problem.path}: {problem.why}", problem.mend) == (f"dask_site.{why}", mend)


def test_all_mistakes_at_once_in_the_order_of_the_file():
    text = gpu("memry: 1GiB", "queue: off", good="      cores: 0\n      walltime: 12:00:00\n")
    text = text.replace("slurm", "slrum").replace("default_pool: cpu", "default_pool: cpus")
    with pytest.raises(SiteError) as caught:
        Site.from_text(text)
    assert [(p.line, p.path.removeprefix("dask_site.")) for p in caught.value.problems] == [
        (4, "resource_manager"),
        (5, "default_pool"),
        (8, "pools.gpu.memory"),
        (9, "pools.gpu.cores"),
        (10, "pools.gpu.walltime"),
        (11, "pools.gpu.memry"),
        (12, "pools.gpu.queue"),
    ]
    assert caught.value.problems[3].value == 0
    assert caught.value.problems[2].value is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "site.yml: error: is empty\n    write the description of the site under dask_site:"),
        (
            "# only\n",
            "site.yml: error: is empty\n    write the description of the site under dask_site:",
        ),
        (
            "- 1",
            "site.yml:1:1: error: has no key dask_site: it is not a mapping\n"
            "    write the description of the site under dask_site:",
        ),
        (
            "schema: 1\npools: {}\n",
            "site.yml:1:1: error: has no key dask_site\n"
            "    write dask_site: above it, and indent all that describes the site",
        ),
        (
            "dask-site: {}\n",
            "site.yml:1:1: error: has no key dask_site\n"
            "    write: dask_site: instead of 'dask-site'",
        ),
        (
            "other: 1\n",
            "site.yml:1:1: error: has no key dask_site\n"
            "    write the description of the site under dask_site:",
        ),
        (
            "dask_site: {}\ndask_site: {}\n",
            "site.yml:2:1: error: dask_site: is written twice, on lines 1 and 2\n    keep one",
        ),
        (
            "dask_site: 3\n",
            "site.yml:1:12: error: dask_site: 3 is not the description of a site\n"
            "    write: schema, name, resource_manager and pools",
        ),
        (
            "dask_site:\n",
            "site.yml:1:11: error: dask_site: null is not the description of a site\n"
            "    write: schema, name, resource_manager and pools",
        ),
        (
            "dask_site: '{{ all_of_it }}'\n",
            "site.yml:1:12: error: dask_site: '{{ all_of_it }}' has a Jinja expression, "
            f"which is only resolved by Ansible\n    {ROLES}",
        ),
        (
            "dask_site:\n  a: [1\n  b: 2\n",
            "site.yml:3:4: error: is not YAML: while parsing a flow sequence, "
            "expected ',' or ']', but got ':'\n"
            "    mend the YAML syntax at or just before this place",
        ),
        (
            "dask_site:\n\tname: x\n",
            "site.yml:2:1: error: is not YAML: while scanning for the next token, "
            "found character '\\t' that cannot start any token\n"
            "    mend the YAML syntax at or just before this place",
        ),
        (
            "dask_site:\n  memory: {{ m }}GiB\n",
            "site.yml:2:18: error: is not YAML: while parsing a block mapping, expected <block "
            "end>, but found '<scalar>'; a Jinja expression is only resolved by Ansible, and wants "
            f"quotes around it\n    {ROLES}",
        ),
        (
            "dask_site:\n  name: a\0b\n",
            "site.yml:2:10: error: is not YAML: has a control character that YAML does not allow\n"
            "    remove the character",
        ),
        (
            "dask_site: {}\n---\ndask_site: {}\n",
            "site.yml:2:1: error: is not YAML: expected a single document in the stream, "
            "but found another document\n    mend the YAML syntax at or just before this place",
        ),
        (
            "[" * 3000,
            "site.yml:1:1: error: is nested too deeply",
        ),
    ],
)
def test_files_that_hold_no_site(text, message):
    assert errors(text) == message


def test_files_that_can_not_be_read(tmp_path):
    def told(path):
        with pytest.raises(SiteError) as caught:
            Site.load(path)
        return str(caught.value).replace(str(tmp_path), "")

    missing = tmp_path / "site.yml"
    assert told(missing) == "/site.yml: error: can't be read: No such file or directory\n" + (
        "/site.yml: 1 error"
    )
    assert "can't be read: Is a directory" in told(tmp_path)
    assert "can't be read: embedded null byte" in told("a\0b")
    missing.write_bytes(b"dask_site:\n  name: Universit\xe9\n")
    assert told(missing) == (
        "/site.yml:2:18: error: is not UTF-8 text (byte 0xe9)\n    save the file as UTF-8\n"
        "/site.yml: 1 error"
    )
    missing.write_bytes(b" " * (2**20 + 1))
    assert "is larger than 1 MiB, so it is not a site file" in told(missing)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "site.yml"
    path.write_bytes(b"\xef\xbb\xbf" + gpu().encode())
    assert Site.load(path).default_pool == "cpu"


def test_anchors_that_multiply_are_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "holds too much" in errors("\n".join([*lines, "dask_site: {prologue: *a8}"]))


def test_the_error_can_be_sent_to_another_process():
    import pickle

    with pytest.raises(SiteError) as caught:
        Site.from_text(gpu("queue: off"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


ODD = [
    None, True, False, 0, -1, 1, 4.0, 10**30, float("nan"), float("inf"), "", " ", "x", "240", "\n",
    "\0", "\ud83d", "{{ x }}", "{% x", "12:00:00", "-4h", "~", "$", "/", [], {}, [[]], [None],
    {"": {}}, {"a": []}, {1: 2}, {None: None}, (1,), object(), b"x", {"x"}, "x" * 9999, "é", "²h",
    "٣GiB", "9" * 5000 + "GiB", "9" * 400 + "h", 1 << 20000, "cpu", ["cpu", "cpu"], {"cpu": {}},
]  # fmt: skip


def spots(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from spots(value[key], (*path, key))


def mutated(mapping, chance):
    mapping = copy.deepcopy(mapping)
    for _ in range(chance.randrange(1, 5)):
        path = chance.choice([p for p in spots(mapping) if p])
        holder = mapping
        for part in path[:-1]:
            holder = holder[part]
        if chance.random() < 0.2:
            del holder[path[-1]]
        elif isinstance(holder, dict) and chance.random() < 0.2:
            key = chance.choice([o for o in ODD if getattr(o, "__hash__", None)])
            holder[key] = holder.pop(path[-1])
        else:
            holder[path[-1]] = chance.choice(ODD)
        if not mapping:
            break
    return mapping


def never_a_traceback(make):
    try:
        site = make()
    except SiteError as error:
        assert error.problems
        text = str(error)
        assert all(line.isprintable() for line in text.splitlines())
        for problem in error.problems:
            assert problem.why
            problem.to_mapping()
    else:
        assert Site.from_mapping(site.to_mapping()) == site


def test_no_mapping_is_a_traceback():
    chance = random.Random(7)
    whole = Site.from_text(site("escalate: [cpu, gpu]", "prologue: [a]")).to_mapping()
    for _ in range(1500):
        mapping = mutated(whole, chance)
        never_a_traceback(lambda: Site.from_mapping(mapping))  # noqa: B023  (called at once)
    for odd in ODD:
        never_a_traceback(lambda: Site.from_mapping(odd))  # noqa: B023  (called at once)


def test_no_text_is_a_traceback():
    chance = random.Random(8)
    start = gpu("queue: &q gpu", "account: *q", "directives: [--a, '--b']", "<<: {gpus: 4}")
    pieces = list("{}[]:-&*!|>%@`'\"#,\n\t \0\\?~<\ud83d é")
    pieces += ["{{", "}}", "<<: ", "*q", "&q ", "!!int ", "!!timestamp ", "!!binary ", "!!set "]
    pieces += ["---\n", "? ", "- ", ": ", "0x", "1e999", "2024-99-99", "12:00:00", "dask_site: "]
    pieces += ["%YAML 9.9\n"]
    for _ in range(1500):
        text = start
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(pieces) + text[at + chance.randrange(3) :]
        never_a_traceback(lambda: Site.from_text(text))  # noqa: B023  (called at once)


def test_no_values_without_structure_are_a_traceback():
    loop = {}
    loop["pools"] = loop
    never_a_traceback(lambda: Site.from_mapping(loop))
    wide = []
    wide += [wide, wide]
    never_a_traceback(lambda: Site.from_mapping({"pools": wide}))
    never_a_traceback(lambda: Site.from_text(yaml.dump({"dask_site": {"pools": wide}})))


@pytest.mark.parametrize(
    ("line", "place", "why", "mend"),
    [
        (
            "history: {enabled: true, spool: /scratch/$USER}",
            "12:35",
            "history.spool: '/scratch' has more in it than this, and would be taken for it alone",
            "write: spool: /scratch/dask-site/spool/$USER",
        ),
        (
            "history: {enabled: true, spool: '/home/${USER}/'}",
            "12:35",
            "history.spool: '/home' has more in it than this, and would be taken for it alone",
            "write: spool: /shared/dask-site/spool/$USER",
        ),
        (
            "history: {enabled: true, state: /opt/dask-site/}",
            "12:35",
            "history.state: '/opt/dask-site' has more in it than this, and would be taken for it "
            "alone",
            "write: state: /shared/dask-site/history",
        ),
        (
            "history: {enabled: true, state: /shared/../etc}",
            "12:35",
            "history.state: '/etc' has more in it than this, and would be taken for it alone",
            "write: state: /shared/dask-site/history",
        ),
        (
            "dashboards: {enabled: true, domain: x.test, state: /scratch}",
            "12:54",
            "dashboards.state: '/scratch' has more in it than this, and would be taken for it "
            "alone",
            "write: state: /scratch/dask-site/dashboards",
        ),
        (
            "dashboards: {enabled: true, domain: x.test, state: //}",
            "12:54",
            "dashboards.state: '/' has more in it than this, and would be taken for it alone",
            "write: state: /shared/dask-site/dashboards",
        ),
        (
            "history: {enabled: true, spool: /a/b/$USER, state: /a/b}",
            "12:54",
            "history.state: '/a/b' is the folder of history.spool",
            "give each a folder of its own",
        ),
        (
            "history: {enabled: true, spool: /a/b/$USER, state: /a/b/c}",
            "12:54",
            "history.state: '/a/b/c' lies in the folder of history.spool",
            "give each a folder of its own",
        ),
    ],
)
def test_folders_that_others_use(line, place, why, mend):
    assert errors(site(line)) == f"site.yml:{place}: error: dask_site.{why}\n    {mend}"


@pytest.mark.parametrize(
    "lines",
    [
        ["history: {enabled: true, spool: /a/b/$USER, state: /a/c}"],
        ["history: {enabled: true}", "dashboards: {enabled: true, domain: x.test}"],
        ["history: {enabled: false, spool: /scratch/$USER, state: /}"],
        ["history: {enabled: true, spool: $SCRATCH/$USER, state: $SHARED}"],
        ["history: {enabled: true, spool: /scratch/$USER/spool}"],
    ],
)
def test_folders_of_their_own(lines):
    assert Site.from_text(site(*lines)).pools
