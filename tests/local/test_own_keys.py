"""Clusters that users start themselves, with the environment that a release's module sets."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from dask_site import own_keys
from dask_site.cluster.errors import ClusterError

pytestmark = pytest.mark.slow
STRANGER = """
import sys
from distributed import Client
from distributed.security import Security
arguments = dict(security=Security.temporary()) if sys.argv[2] == "foreign" else {}
with Client(sys.argv[1], timeout=5, **arguments) as client:
    print("ran", client.submit(lambda: 6 * 7).result())
"""


@pytest.fixture
def state(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "state"


def environment(keys):
    """As roles/dask_environment/templates/module.lua.j2 sets it."""
    prefix = "DASK_DISTRIBUTED__COMM__"
    own = {
        "DASK_SITE_KEYS": str(keys),
        "DASK_DISTRIBUTED__SCHEDULER__PRELOAD": "dask_site.cluster.preload",
        f"{prefix}DEFAULT_SCHEME": "tls",
        f"{prefix}REQUIRE_ENCRYPTION": "True",
        f"{prefix}TLS__CA_FILE": str(keys / "cert.pem"),
    }
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        own[f"{prefix}TLS__{role}__CERT"] = str(keys / "cert.pem")
        own[f"{prefix}TLS__{role}__KEY"] = str(keys / "key.pem")
    return {**os.environ, **own}


def python(code, *arguments, env=None):
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_key_is_made_once_and_is_the_owners_alone(state):
    assert own_keys.make(state)
    files = sorted((state / "keys").iterdir())
    assert [file.name for file in files] == ["cert.pem", "key.pem"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (state / "keys").stat().st_mode & 0o777 == 0o700
    before = [file.read_bytes() for file in files]
    assert not own_keys.make(state)
    assert [file.read_bytes() for file in files] == before
    assert own_keys.make(state, renew=True)
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))
    files[0].unlink()
    assert own_keys.make(state)
    assert list(state.iterdir()) == [state / "keys"]


def test_of_several_at_once_one_key_counts(state):
    code = "import sys, pathlib, dask_site.own_keys as k; k.make(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(state)]
    for running in [subprocess.Popen(command) for _ in range(5)]:
        assert running.wait(60) == 0
    assert list(state.iterdir()) == [state / "keys"]
    done = python(
        """
        import ssl, sys
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*sys.argv[1:])
        """,
        *(str(state / "keys" / name) for name in ("cert.pem", "key.pem")),
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_others_can_exchange_is_refused(state):
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(ClusterError, match="Others can write to"):
        own_keys.make(state)
    assert not list(state.iterdir())


def test_above_it_there_may_be_links(state, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir(mode=0o700)
    assert own_keys.make(tmp_path / "link" / "state")
    assert (tmp_path / "real" / "state" / "keys" / "key.pem").is_file()


@pytest.mark.parametrize(
    ("mode", "said"), [(0o777, "Others can write to"), (None, "no key of yours")]
)
def test_a_key_that_another_may_have_put_there_serves_nobody(state, mode, said):
    own_keys.make(state)
    if mode is None:
        (state / "keys").rename(state / "away")
    else:
        (state / "keys").chmod(mode)
    code = """
        from distributed import LocalCluster
        if __name__ == "__main__":
            with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
                print(cluster.scheduler_address)
    """
    env = environment(state / "keys")
    done = python(code, env=env)
    assert (done.stdout, done.returncode) == ("", 1)
    assert said in done.stderr
    # Whoever undoes the settings, as the documentation says, does not need it.
    unset = 'unset ${!DASK_DISTRIBUTED__COMM__@}; exec "$@"'
    command = ["bash", "-c", unset, "bash", sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.check_output(command, env=env, text=True).startswith("tcp://")


@pytest.mark.parametrize(
    "made",
    [
        "LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)",
        "LocalCluster(n_workers=1, processes=False, dashboard_address=None)",
    ],
)
def test_a_local_cluster_takes_its_owner_and_nobody_else(state, made):
    own_keys.make(state)
    env = environment(state / "keys")
    code = f"""
        import sys
        from distributed import Client, LocalCluster
        if __name__ == "__main__":
            with {made} as cluster:
                print(cluster.scheduler_address, flush=True)
                sys.stdin.readline()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            address = running.stdout.readline().strip()
            assert address.startswith("tls://")
            mine = python(STRANGER, address, "own", env=env)
            assert mine.stdout == "ran 42\n", mine.stderr
            foreign = python(STRANGER, address, "foreign")
            plain = python(STRANGER, address.replace("tls", "tcp"), "own")
            assert (foreign.stdout, plain.stdout) == ("", "")
            assert foreign.returncode
            assert plain.returncode
        finally:
            running.communicate("\n", timeout=60)


def test_scheduler_and_worker_of_the_command_line_find_each_other(state, tmp_path):
    own_keys.make(state)
    env = environment(state / "keys")
    where = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(where), "--no-dashboard"]
    commands = [
        [*dask, "scheduler", "--port", "0", *common],
        [*dask, "worker", *common, "--nworkers", "1", "--local-directory", str(tmp_path)],
    ]
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
            while not where.exists():
                assert running[0].poll() is None
                time.sleep(0.1)
        done = python(
            """
            import sys
            from distributed import Client
            with Client(scheduler_file=sys.argv[1], timeout=20) as client:
                print(client.submit(lambda: 6 * 7).result(timeout=40), client.scheduler.address[:6])
            """,
            str(where),
            env=env,
        )
        assert done.stdout == "42 tls://\n", done.stderr
    finally:
        for one in reversed(running):
            one.terminate()
            one.wait(30)
