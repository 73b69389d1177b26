"""The command line: what it prints where, and its exit status."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from click.testing import CliRunner

import dask_site
from dask_site.cli import main
from dask_site.cluster import reach
from dask_site.cluster.folder import ClusterFolder
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


@pytest.mark.parametrize("command", [[], ["check"], ["schema"], ["render"], ["pools"], ["explain"]])
def test_every_command_has_examples(run, command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert "Examples:\n    dask-site " in done.stdout


@pytest.mark.parametrize("arguments", [["check"], ["render", "other", CENTRE], ["nothing"]])
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


def test_version(run):
    assert run("--version").stdout == f"dask-site, version {dask_site.__version__}\n"


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    mapping = {**Site.load(CENTRE).to_mapping(), "state_dir": str(tmp_path)}
    config = {**dask.config.global_config, "dask_site": mapping}
    monkeypatch.setattr(dask.config, "global_config", config)
    monkeypatch.setattr(reach, "TIMEOUT", 0.5)
    return tmp_path


@pytest.fixture
def folder_of(state_dir):
    """Return a function that makes what a running cluster keeps."""

    def make(name, **card):
        folder = ClusterFolder(state_dir, f"{name}1")
        folder.security()
        card = {
            "name": name,
            "site": "Centre",
            "host": socket.gethostname(),
            "address": "tls://127.0.0.1:1",
            "pid": os.getpid(),
            **card,
        }
        folder.write("cluster.json", json.dumps(card))
        return folder

    return make


@pytest.mark.parametrize("exists", [True, False])
def test_explain_without_a_cluster(run, state_dir, exists):
    if not exists:
        state_dir.rmdir()
    done = run("explain")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"No cluster of yours is running (looked in {state_dir}).\n"
    assert run("explain", "mine").exit_code == 1
    assert run("explain", "--json").stdout == "[]\n"


def test_explain_without_a_site(run, monkeypatch):
    monkeypatch.setattr(dask.config, "global_config", {})
    done = run("explain")
    assert done.exit_code == 2
    assert done.stderr == run("pools").stderr


def test_explain_an_unknown_cluster(run, folder_of):
    folder_of("mine")
    folder_of("other")
    done = run("explain", "mime")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "You have no cluster 'mime'; there is mine, other. Did you mean 'mine'?\n"
    )


def test_explain_passes_over_what_is_left_of_a_cluster(run, folder_of):
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = folder_of("dead", pid=dead.pid)
    folder_of("refused")
    done = run("explain")
    assert (done.exit_code, done.stdout) == (1, "")
    head = f"Cluster dead (Centre; process {dead.pid} on {socket.gethostname()}) has ended. "
    assert done.stderr.startswith(f"{head}Left of it: {folder.path}\nCluster refused (")
    assert "No cluster of yours is running" in done.stderr
    assert run("explain", "--json").stdout == "[]\n"


def test_explain_takes_one_with_another_key_for_gone(run, folder_of, monkeypatch):
    """Another program has the port by now: it is not told anything, nor believed."""
    code = (
        "import socket, ssl, sys\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "context.load_cert_chain(sys.argv[1] + '/cert.pem', sys.argv[1] + '/key.pem')\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        context.wrap_socket(server.accept()[0], server_side=True)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    keys = str(folder_of("theirs", pid=2**22 + 1).tls)
    with subprocess.Popen([sys.executable, "-c", code, keys], stdout=subprocess.PIPE) as server:
        try:
            port = int(server.stdout.readline())
            folder_of("mine", address=f"tls://127.0.0.1:{port}")
            monkeypatch.setattr(reach, "TIMEOUT", 10)
            done = run("explain", "mine")
        finally:
            server.kill()
    assert "Cluster mine" in done.stderr
    assert "has ended" in done.stderr


def test_explain_does_not_wait_long_for_an_answer(run, folder_of):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tls://127.0.0.1:{silent.getsockname()[1]}"
        folder_of("busy", address=address)
        done = run("explain")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Cluster busy (Centre; process " in done.stderr
    assert "does not answer within 0.5 s: its program is busy or stopped" in done.stderr
    assert "No cluster" not in done.stderr


def test_explain_says_where_a_local_cluster_can_be_asked(run, folder_of):
    folder_of("mine", host="elsewhere")
    done = run("explain", "--json")
    assert done.exit_code == 1
    assert "can be asked on elsewhere only" in done.stderr
    (told,) = json.loads(done.stdout)
    assert told["explanation"] is None
    assert "only" in told["error"]


def test_explain_believes_no_folder_that_others_can_write_to(run, folder_of, tmp_path):
    folder_of("mine").path.chmod(0o770)
    (tmp_path / "link").symlink_to("mine1")
    assert "No cluster of yours" in run("explain").stderr


def test_explain_passes_over_a_folder_without_a_readable_card(run, folder_of, state_dir):
    (state_dir / "starting").mkdir(mode=0o700)
    (state_dir / "waits.json").write_text("{}")
    folder_of("half").write("cluster2.json", "{}")
    (state_dir / "half1" / "cluster.json").write_text('{"name": "half"')
    assert run("explain").stderr.startswith("No cluster of yours")


def test_the_command_line_starts_without_distributed():
    code = "import sys, dask_site.cli; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_it_is_a_command_of_dask_too():
    import dask.cli

    assert main.name == "site"
    assert isinstance(main, dask.cli.click.Group)


def test_colours_are_for_terminals(run, wrong):
    assert "\x1b" not in run("check", wrong).stderr
    runner = CliRunner()
    assert "\x1b[31m" in runner.invoke(main, ["check", wrong], color=True).stderr
