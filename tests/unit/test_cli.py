"""The command line: what it prints where, and its exit status."""

import json
from pathlib import Path

import dask.config
import pytest
from click.testing import CliRunner

import dask_site
from dask_site.cli import main
from dask_site.site import Site

CENTRE = str(Path(__file__).parents[1] / "golden" / "centre.yml")


@pytest.fixture
def run():
    def run(*arguments, stdin=None):
        return CliRunner().invoke(main, arguments, input=stdin, prog_name="dask-site")

    return run


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.yml"
    path.write_text(Path(CENTRE).read_text().replace("240GiB", "240"))
    return str(path)


def test_check_says_what_the_site_is(run):
    done = run("check", CENTRE)
    assert done.exit_code == 0
    assert done.stdout == f"{CENTRE}: ok: Example Centre, slurm, 3 pools (cpu, highmem, gpu)\n"
    assert done.stderr == ""


def test_check_prints_mistakes_like_a_compiler(run, wrong):
    done = run("check", CENTRE, wrong)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{CENTRE}: ok: ")
    assert done.stderr == (
        f"{wrong}:14:15: error: dask_site.pools.cpu.memory: 240 has no unit\n"
        f"    write: memory: 240GiB\n{wrong}: 1 error\n"
    )


def test_check_reads_stdin(run):
    text = Path(CENTRE).read_text()
    assert run("check", "-", stdin=text).stdout.startswith("<stdin>: ok: Example Centre")
    as_json = json.dumps({"dask_site": Site.load(CENTRE).to_mapping()})
    assert run("check", "-", stdin=as_json).exit_code == 0
    done = run("check", "-", stdin=as_json.replace("240GiB", "240"))
    assert done.exit_code == 2
    assert done.stderr.startswith("<stdin>: error: dask_site.pools.cpu.memory: '240' has no unit\n")
    assert run("check", "-", stdin=b"\xff").exit_code == 2


def test_check_prints_json(run, wrong):
    assert json.loads(run("check", "--json", CENTRE).stdout) == []
    done = run("check", "--json", CENTRE, wrong)
    assert done.exit_code == 2
    assert done.stderr == ""
    assert json.loads(done.stdout) == [
        {
            "file": wrong,
            "path": "dask_site.pools.cpu.memory",
            "value": 240,
            "why": "240 has no unit",
            "mend": "write: memory: 240GiB",
            "line": 14,
            "column": 15,
        }
    ]


@pytest.mark.parametrize("command", [["check"], ["render", "site"], ["pools"]])
def test_a_file_that_is_not_there(run, command, tmp_path):
    done = run(*command, str(tmp_path / "none.yml"))
    assert done.exit_code == 2
    assert "can't be read: No such file or directory" in done.stderr


def test_schema(run):
    assert json.loads(run("schema").stdout) == Site.json_schema()


@pytest.mark.parametrize("what", ["site", "jobqueue"])
def test_render(run, what):
    golden = Path(CENTRE).with_name(f"{what}.yaml").read_text()
    assert run("render", what, CENTRE).stdout == golden
    assert run("render", what, "-", stdin=Path(CENTRE).read_text()).stdout == golden


def test_pools(run):
    assert run("pools", CENTRE).stdout == (
        "pool     queue     cores  memory  GPUs  processes  walltime    max jobs  exclusive\n"
        "cpu      standard  64     240GiB  -     1          04:00:00    50        -\n"
        "highmem  highmem   64     2TiB    -     1          1-00:00:00  4         yes\n"
        "gpu      gpu       32     512GB   4     4          12:00:00    -         yes\n"
    )
    assert list(json.loads(run("pools", "--json", CENTRE).stdout)) == ["cpu", "highmem", "gpu"]


def test_pools_of_this_site(run, monkeypatch):
    mapping = Site.load(CENTRE).to_mapping()
    monkeypatch.setattr(dask.config, "global_config", {"dask_site": mapping})
    assert run("pools").stdout == run("pools", CENTRE).stdout
    monkeypatch.setattr(dask.config, "global_config", {})
    done = run("pools")
    assert done.exit_code == 2
    assert "no site is configured" in done.stderr


@pytest.mark.parametrize("command", [[], ["check"], ["schema"], ["render"], ["pools"]])
def test_every_command_has_examples(run, command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert "Examples:\n    dask-site " in done.stdout


@pytest.mark.parametrize("arguments", [["check"], ["render", "other", CENTRE], ["nothing"]])
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_version(run):
    assert run("--version").stdout == f"dask-site, version {dask_site.__version__}\n"


def test_it_is_a_command_of_dask_too():
    import dask.cli

    assert main.name == "site"
    assert isinstance(main, dask.cli.click.Group)


def test_colours_are_for_terminals(run, wrong):
    assert "\x1b" not in run("check", wrong).stderr
    runner = CliRunner()
    assert "\x1b[31m" in runner.invoke(main, ["check", wrong], color=True).stderr
