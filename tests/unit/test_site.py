"""A site that is right: what it holds, how it is found, changed and written back."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dask.config
import jsonschema
import pytest
import yaml

from dask_site.site import Pool, Site, SiteError, format_memory

EXAMPLE = """
---
another_role_variable: !vault |
  0123
dask_site:
  schema: 1
  name: Example Centre
  resource_manager: slurm
  default_pool: cpu
  escalate: [cpu, highmem]
  pools:  # cheapest first
    cpu: &standard
      queue: standard
      cores: 64
      memory: 240GiB
      walltime: 4h
      max_jobs: 50
      cost: {core_hour: 0.01}
    highmem:
      <<: *standard
      queue: highmem
      memory: 2TiB
      walltime: 8h
      exclusive: true
    gpu: {queue: gpu, cores: 32, memory: 500GiB, walltime: "12:00:00", gpus: 4, processes: 4}
  scheduler:
  state_dir: /project/$USER/.dask-site
"""
GIB = 2**30


@pytest.fixture
def site():
    return Site.from_text(EXAMPLE)


def small(**values):
    return {
        "schema": 1,
        "name": "Small",
        "resource_manager": "local",
        "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
        **values,
    }


def test_values_are_ready_to_use(site):
    assert list(site.pools) == ["cpu", "highmem", "gpu"]
    cpu = site.pools["cpu"]
    assert (cpu.name, cpu.cores, cpu.memory) == ("cpu", 64, 240 * GIB)
    assert cpu.walltime == timedelta(hours=4)
    assert (cpu.processes, cpu.gpus, cpu.exclusive, cpu.account) == (1, 0, False, None)
    assert cpu.cost is not None
    assert (cpu.cost.core_hour, cpu.cost.gpu_hour) == (0.01, 0.0)
    assert site.pools["gpu"].cost is None
    assert site.scheduler.port == 0
    assert site.environment.provider == "wheels"


def test_merge_keys_are_weaker_than_what_is_written(site):
    highmem = site.pools["highmem"]
    assert (highmem.queue, highmem.cores, highmem.max_jobs) == ("highmem", 64, 50)


def test_nothing_changes_a_site(site):
    with pytest.raises(ValueError, match="frozen"):
        site.name = "Another"


def test_a_single_pool_is_the_default_pool():
    site = Site.from_mapping(small())
    assert site.default_pool == "cpu"
    assert site.pools["cpu"].walltime is None


def test_a_mapping_may_be_wrapped():
    assert Site.from_mapping({"dask_site": small()}) == Site.from_mapping(small())


def test_values_of_ansibles_own_types_are_taken_as_what_they_are():
    class Tagged(str):
        __slots__ = ()

    site = Site.from_mapping(small(name=Tagged("Small")))
    assert type(site.name) is str


def test_json_is_read_too(tmp_path, site):
    path = tmp_path / "site.json"
    path.write_text(json.dumps({"dask_site": site.to_mapping()}, indent=2))
    assert Site.load(path) == site
    path.write_text(json.dumps({"dask_site": site.to_mapping()}))
    assert Site.load(str(path)) == site


def test_what_ansible_resolved_may_hold_braces():
    text = json.dumps({"dask_site": small(prologue=["echo {{ now }}"])})
    assert Site.from_text(text).prologue == ["echo {{ now }}"]


def test_unsafe_text_is_not_jinja():
    text = yaml.safe_dump({"dask_site": small()}) + '  prologue: [!unsafe "echo {{ now }}"]\n'
    assert Site.from_text(text).prologue == ["echo {{ now }}"]


def test_the_mapping_is_plain_and_reads_back(site):
    mapping = site.to_mapping()
    assert mapping["pools"]["gpu"]["memory"] == "500GiB"
    assert mapping["pools"]["cpu"]["walltime"] == "04:00:00"
    assert mapping["pools"]["cpu"]["processes"] == 1
    assert "name" not in mapping["pools"]["cpu"]
    assert list(mapping["pools"]) == ["cpu", "highmem", "gpu"]
    assert Site.from_mapping(json.loads(json.dumps(mapping))) == site
    assert Site.from_mapping(yaml.safe_load(yaml.safe_dump(mapping, sort_keys=False))) == site


def test_state_dir_is_expanded_for_the_caller(site, monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "alice")
    assert site.state_path() == Path("/project/alice/.dask-site")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Site.from_mapping(small()).state_path() == tmp_path / ".dask-site"
    assert Site.from_mapping(small(state_dir="${HOME}/d")).state_path() == tmp_path / "d"


def test_state_dir_without_its_variable_is_an_error(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    site = Site.from_mapping(small(state_dir="$NO_SUCH/d"))
    with pytest.raises(SiteError) as caught:
        site.state_path()
    assert str(caught.value) == (
        "Small: error: dask_site.state_dir: '$NO_SUCH/d' can't be expanded: no NO_SUCH\n"
        "    set the variable, or write another state_dir\n"
        "Small: 1 error"
    )
    monkeypatch.setenv("NO_SUCH", "here")
    with pytest.raises(SiteError, match="is the relative path 'here/d'"):
        site.state_path()


class TestWithPools:
    def test_names_keep_the_order_of_the_site(self, site):
        some = site.with_pools(["gpu", "cpu"])
        assert list(some.pools) == ["cpu", "gpu"]
        assert (some.default_pool, some.escalate) == ("cpu", ["cpu"])

    def test_a_default_pool_is_always_left(self, site):
        some = site.with_pools(["highmem", "gpu"])
        assert some.default_pool == "gpu"
        assert some.pools["highmem"].exclusive

    def test_ordinary_work_runs_even_if_all_pools_are_exclusive(self, site):
        some = site.with_pools(["highmem"])
        assert some.default_pool == "highmem"
        assert not some.pools["highmem"].exclusive
        assert Site.from_mapping(some.to_mapping()) == some

    def test_pools_replace_those_of_their_name(self, site):
        changed = site.pools["gpu"].model_copy(update={"max_jobs": 1})
        assert site.with_pools([*site.pools, changed]).pools["gpu"].max_jobs == 1
        new = Pool(name="tiny", cores=1, memory="1GiB")
        assert list(site.with_pools(["cpu", new]).pools) == ["cpu", "tiny"]

    def test_an_unknown_name_is_told(self, site):
        with pytest.raises(SiteError) as caught:
            site.with_pools(["cpu", "gpus"])
        assert str(caught.value).splitlines()[:2] == [
            "Example Centre: error: pools: 'gpus' is not a pool of this site (cpu, highmem, gpu)",
            "    write: gpu",
        ]

    def test_no_pool_is_told(self, site):
        with pytest.raises(SiteError, match="no pool is left"):
            site.with_pools([])


class TestScaledToMachine:
    def test_one_job_of_every_pool_fits_together(self, site):
        memory = 16 * GIB
        small = site.scaled_to_machine(8, memory)
        assert sum(pool.memory for pool in small.pools.values()) <= 0.8 * memory
        assert [pool.cores for pool in small.pools.values()] == [8, 8, 8]
        ratio = small.pools["highmem"].memory / small.pools["cpu"].memory
        assert ratio == pytest.approx(2048 / 240, rel=0.01)
        assert small.pools["gpu"].gpus == 4
        assert small.pools["cpu"].max_jobs == 50
        assert Site.from_mapping(small.to_mapping()) == small

    def test_nothing_grows(self):
        site = Site.from_mapping(small())
        assert site.scaled_to_machine(64, 512 * GIB) == site

    def test_processes_fit_the_cores_and_share_the_gpus(self, site):
        gpu = site.scaled_to_machine(3, 16 * GIB).pools["gpu"]
        assert (gpu.cores, gpu.processes, gpu.gpus) == (3, 2, 4)

    def test_no_process_gets_too_little(self, site):
        tiny = site.scaled_to_machine(4, GIB // 2)
        assert min(p.memory // p.processes for p in tiny.pools.values()) == 256 * 2**20
        assert Site.from_mapping(tiny.to_mapping()) == tiny

    @pytest.mark.parametrize("cores", [1, 2, 3, 5, 64])
    def test_the_result_is_a_site_that_is_right(self, site, cores):
        for gibibytes in (1, 7, 100, 4000):
            scaled = site.scaled_to_machine(cores, gibibytes * GIB)
            assert Site.from_mapping(scaled.to_mapping()) == scaled


class TestFind:
    @pytest.fixture(autouse=True)
    def nothing_configured(self, monkeypatch, tmp_path):
        monkeypatch.setattr(dask.config, "paths", [str(tmp_path / "root"), str(tmp_path / "user")])
        monkeypatch.setattr(dask.config, "global_config", {})

    def configure(self, monkeypatch, tmp_path, **files):
        for folder, text in files.items():
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "site.yaml").write_text(text)
        monkeypatch.setattr(
            dask.config, "global_config", dask.config.collect(dask.config.paths, env={})
        )

    def test_the_centres_file(self, monkeypatch, tmp_path, site):
        self.configure(monkeypatch, tmp_path, root=EXAMPLE.replace("!vault", ""))
        assert Site.find() == site

    def test_the_users_values_win_and_keep_the_order(self, monkeypatch, tmp_path):
        user = "dask-site: {default-pool: gpu, pools: {gpu: {max-jobs: 2, walltime: 1h}}}"
        self.configure(monkeypatch, tmp_path, root=EXAMPLE.replace("!vault", ""), user=user)
        site = Site.find()
        assert site.default_pool == "gpu"
        assert list(site.pools) == ["cpu", "highmem", "gpu"]
        assert site.pools["gpu"].max_jobs == 2
        assert site.pools["gpu"].walltime == timedelta(hours=1)

    def test_errors_name_the_files(self, monkeypatch, tmp_path):
        user = "dask_site: {pools: {gpu: {memory: 240}}}"
        self.configure(monkeypatch, tmp_path, root=EXAMPLE.replace("!vault", ""), user=user)
        with pytest.raises(SiteError) as caught:
            Site.find()
        files = f"{tmp_path}/root/site.yaml + {tmp_path}/user/site.yaml"
        assert str(caught.value).splitlines()[0] == (
            f"{files}: error: dask_site.pools.gpu.memory: 240 has no unit"
        )

    def test_values_set_in_the_program_are_enough(self, monkeypatch):
        monkeypatch.setattr(dask.config, "global_config", {"dask_site": small()})
        assert Site.find().name == "Small"

    def test_no_site_says_where_it_was_looked_for_and_what_to_do(self, tmp_path):
        with pytest.raises(SiteError) as caught:
            Site.find()
        assert str(caught.value) == (
            "Dask's configuration: error: dask_site: no site is configured "
            f"(looked in {tmp_path}/root, {tmp_path}/user)\n"
            '    run: module load dask-site; or use Cluster("site.yml"); '
            "or set DASK_CONFIG=/path/to/site.yml\n"
            "Dask's configuration: 1 error"
        )

    def test_a_value_that_is_no_site_is_told(self, monkeypatch):
        monkeypatch.setattr(dask.config, "global_config", {"dask_site": 3})
        with pytest.raises(SiteError, match="3 is not the description of a site"):
            Site.find()


class TestSchema:
    def test_it_is_a_schema_of_the_draft(self):
        schema = Site.json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        json.dumps(schema)

    def test_every_key_is_explained(self):
        for part in Site.json_schema()["$defs"].values():
            for key, field in part["properties"].items():
                assert field["title"], key
                assert field["description"], key
                assert field["examples"], key

    def test_it_agrees_with_the_validator(self, site):
        validator = jsonschema.Draft202012Validator(Site.json_schema())
        assert validator.is_valid({"other": 1, "dask_site": small()})
        assert validator.is_valid({"dask_site": site.to_mapping()})
        assert not validator.is_valid({"dask_site": small(unknown=1)})
        pool = {"cores": 0, "memory": "240", "walltime": 43200, "name": "x"}
        errors = list(validator.iter_errors({"dask_site": small(pools={"Cpu": pool})}))
        paths = {error.json_path for error in errors}
        assert {f"$.dask_site.pools.Cpu.{key}" for key in ("cores", "memory", "walltime")} <= paths


@pytest.mark.parametrize("memory", ["240GiB", "256GB", "1.5TiB", "1024B"])
def test_the_schemas_pattern_takes_every_memory_that_is_written(memory):
    schema = {"$ref": "#/$defs/Pool/properties/memory", "$defs": Site.json_schema()["$defs"]}
    from dask_site.site import parse_memory

    jsonschema.validate(memory, schema)
    jsonschema.validate(format_memory(parse_memory(memory)), schema)


def test_importing_it_leaves_distributed_alone():
    code = (
        "import sys, dask_site.site, dask_site.cli\n"
        "heavy = {'dask', 'distributed', 'dask_jobqueue'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert (done.returncode, done.stderr) == (0, "")
