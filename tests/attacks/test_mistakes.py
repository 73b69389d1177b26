"""What a user does to himself, and what another has put in his way (classes 2, 3)."""

import textwrap

import pytest
from attacked import LOCAL, OPEN, gets_through, kept_out
from ports import attempts, ports_of

from nodes import node, until

# What somebody reads in a forum and writes into ~/.config/dask.
TURNED_OFF = """
distributed:
  comm:
    default-scheme: tcp
    require-encryption: false
    tls: {ca-file: null, scheduler: {cert: null, key: null}, worker: {cert: null, key: null}}
  scheduler:
    dashboard: {tls: {ca-file: null, cert: null, key: null}}
    blocked-handlers: [of-hers]
"""


def test_her_own_file_that_turns_tls_off(in_background, as_user, python):
    as_user("alice", f"mkdir -p .config/dask; cat > .config/dask/x.yaml <<'EOF'\n{TURNED_OFF}EOF")
    try:
        asked = "import dask, distributed; print(dask.config.get('distributed.scheduler'))"
        read = as_user("alice", f'module load dask-site; python -c "{asked}"')
        assert "of-hers" in read.stdout, read.stderr  # the control: it counts
        in_background("alice", LOCAL)
        ports = ports_of("alice", "login1")
        assert ports
        facts, result = python("bob", attempts(ports))
        assert facts.get("tried") == len(ports), result.stderr
        kept_out(facts["found"] == [], facts["found"])
    finally:
        as_user("alice", "rm -f .config/dask/x.yaml")


def modes(user, folder, host="login1"):
    """Return what in a folder of a user's others can read or write, and how much there is."""
    found = node(host).check_output(f"find {folder} -mindepth 1 -printf '%m %p\\n'").splitlines()
    open_ones = [line for line in found if int(line.split()[0], 8) & 0o077]
    return open_ones, len(found)


def test_a_umask_that_gives_all_to_everybody(in_background, as_user):
    """Keys and scripts are hers alone, whatever her shell makes files with."""
    as_user("alice", "rm -rf .dask-site/keys")
    code = """
    os.umask(0)
    if __name__ == "__main__":
        with Cluster(name="open hands") as cluster:
            cluster.scale(cpu=1)
            with cluster.get_client() as client:
                client.wait_for_workers(1, timeout=120)
                open(os.path.expanduser("~/by-umask"), "w").close()
                tell(ready=True)
                time.sleep(600)
    """
    as_user("alice", "umask 000; module load dask-site")
    in_background("alice", code)
    try:
        host = node("login1")
        assert host.check_output("stat -c %a /home/alice/by-umask") == "666"  # the control
        found, count = modes("alice", "/home/alice/.dask-site")
        assert count > 4
        readable = [line for line in found if "waits.json" not in line]
        top = host.check_output("stat -c %a /home/alice/.dask-site")
        kept_out(top == "700" or not readable, top, readable)
        for name in ("keys", "keys/key.pem"):
            mode = host.check_output(f"stat -c %a /home/alice/.dask-site/{name}")
            kept_out(int(mode, 8) & 0o077 == 0, name, mode)
        folders = "find /home/alice/.dask-site -name '*.sh' -o -name '*key*'"
        for path in host.check_output(folders).splitlines():
            kept_out(as_user("bob", f"cat {path}").rc != 0, path)
    finally:
        node("login1").run("rm -f /home/alice/by-umask; pkill -u alice -f background.py")
        node("login1").run("scancel -u alice")


def test_keys_that_are_a_link_to_his(as_user, in_background, python):
    """Where alice's key should be leads to a folder of bob's, who has put his there."""
    planted = "/tmp/planted"
    as_user("bob", f"module load dask-site; rm -rf {planted}; cp -rL .dask-site/keys {planted}")
    as_user("bob", f"chmod 755 {planted}; chmod 644 {planted}/*")
    as_user(
        "carol", f"rm -rf .dask-site/keys; mkdir -p .dask-site; ln -s {planted} .dask-site/keys"
    )
    code = """
    from distributed import LocalCluster
    if __name__ == "__main__":
        try:
            with LocalCluster(n_workers=0) as cluster:
                tell(address=cluster.scheduler_address)
        except Exception as error:
            tell(why=str(error))
    """
    try:
        facts, result = python("carol", code)
        kept_out("address" not in facts, facts)
        assert "could put other job scripts" in facts.get("why", "") + result.stderr, result.stderr
    finally:
        as_user("carol", "rm -rf .dask-site/keys")
    facts, result = python("carol", code)
    assert facts.get("address", "").startswith("tls://"), result.stderr  # the control
    # What bob would have had: with the same key on both sides he is let in.
    as_user("bob", f"rm -rf {planted}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("LocalCluster(n_workers=0, protocol='tcp')", "failed to start"),
        ("LocalCluster(n_workers=0, protocol='ws')", ""),
        ("LocalCluster(n_workers=0, scheduler_kwargs={'jupyter': True})", "Start Jupyter"),
        ("LocalCluster(n_workers=0, host='0.0.0.0', dashboard_address='0.0.0.0:8787')", None),
    ],
)
def test_her_own_mistakes_open_nothing(code, said, python):
    facts, result = python(
        "alice",
        f"""
        from distributed import LocalCluster
        import psutil
        if __name__ == "__main__":
            try:
                cluster = {code}
                why = ""
            except Exception as error:
                why = repr(error)
            mine = psutil.Process().net_connections("tcp")
            ports = [one.laddr.port for one in mine if one.status == psutil.CONN_LISTEN]
            own = [int(cluster.scheduler_address.rpartition(":")[2])] if not why else []
            tell(why=why, ports=ports, own=own)
        """,
    )
    assert facts, result.stderr
    kept_out(set(facts["ports"]) <= set(facts["own"]), facts)
    if said is not None:
        assert said in facts["why"] and facts["why"]


def test_jupyter_on_the_command_line(as_user):
    command = "module load dask-site && timeout 20 dask scheduler --jupyter --port 0"
    result = as_user("alice", command)
    kept_out(result.rc not in {0, 124}, result.rc)
    assert "Start Jupyter on its own" in result.stderr


def test_scratch_that_another_put_there(as_user, python):
    space = "/tmp/trap/dask-scratch-space"
    node("login1").run("rm -rf /tmp/trap")
    as_user("carol", f"umask 000; mkdir -p {space}; chmod 1777 /tmp/trap; chmod 777 {space}")
    code = """
    from distributed import LocalCluster, Client
    if __name__ == "__main__":
        try:
            with LocalCluster(n_workers=1, threads_per_worker=1) as cluster:
                with Client(cluster) as client:
                    tell(ran=client.submit(where).result(timeout=30))
        except Exception as error:
            tell(why=repr(error))
    """
    before = "export DASK_TEMPORARY_DIRECTORY=/tmp/trap;"
    facts, result = python("alice", code, before=before)
    kept_out("ran" not in facts, facts)
    assert "others could put code in place" in result.stderr
    # Also with Python's path led there by the command line, before any of ours is imported.
    trap = f"mkdir -p {space}/numpy && echo 'print(\"TRAPPED\")' > {space}/numpy/__init__.py"
    as_user("carol", trap)
    command = "module load dask-site && timeout 20 dask scheduler --port 0 --no-dashboard"
    result = as_user("alice", f"{before} {command}")
    kept_out("TRAPPED" not in result.stdout + result.stderr, "what Python imports")
    assert "others could put code in place" in result.stderr
    node("login1").run(f"rm -rf {space}/numpy")
    facts, result = python("alice", OPEN + textwrap.dedent(code), before=before)
    gets_through(facts.get("ran"), result.stderr)
    node("login1").run("rm -rf /tmp/trap")
    assert until(lambda: not node("login1").file("/tmp/trap").exists, 5)
