"""Nothing secret where others can read it, and nothing forged where admins read (class 12)."""

from urllib.parse import urlsplit

from attacked import OPEN, gets_through, kept_out
from visiting import COOKIE, NAVIGATION

from nodes import node, until

SHOWN = "/status"


def test_no_secret_is_left_where_others_read(ids, browser, dashboards, stranger):
    link = dashboards("alice")["login"]
    visitor = stranger()
    assert visitor.log_in(link).status == 303
    assert visitor.go(f"{visitor.origin(ids['login'])}{SHOWN}").status == 200
    ticket = visitor.request(
        f"{visitor.origin()}/ticket?cluster={ids['login']}&path=/status", headers=NAVIGATION
    ).header("location")
    secrets = [
        urlsplit(link).fragment.rpartition(".")[2],
        urlsplit(ticket).query.partition("=")[2].partition("&")[0].rpartition(".")[2],
        *(word.rpartition(".")[2] for word in visitor.cookies.values()),
    ]
    assert all(len(word) >= 40 for word in secrets)
    # The control: what is in a command line is found in the places that are looked at.
    shown = node("login1").run("bash -c 'cat /proc/[0-9]*/cmdline; : in-a-command-line'").stdout
    assert "in-a-command-line" in shown
    assert visitor.request(f"{visitor.origin(ids['login'])}/in-the-journal").status == 404
    journal = "journalctl --no-pager -o cat -t dask_proxy"
    assert until(lambda: "/in-the-journal" in node("login1").run(journal).stdout)
    host = node("login1")
    places = {
        "command lines": "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
        "journal": "journalctl --no-pager -o cat; journalctl --no-pager -o cat -t dask_proxy",
        "logs": "cat /var/log/dask-proxy/* /var/log/syslog /var/log/nginx/* 2>/dev/null",
        "jobs": "scontrol show job --details; squeue -o '%all'",
        "the state that all read": "cat /home/dask-site/dashboards/public/*",
    }
    for place, command in places.items():
        text = host.run(command).stdout
        assert text.strip() or place == "logs", place
        for word in secrets:
            kept_out(word not in text, place)
    # Not even the broker keeps what lets in.
    kept = host.run("cat /home/dask-site/dashboards/secret/nodes/*").stdout
    assert '"sessions"' in kept
    for word in (visitor.cookies[visitor.domain], secrets[0]):
        kept_out(word not in kept, "the broker's file")


def test_the_environment_of_her_processes(alices, as_user):
    """Who runs them can read it; there is no key in it all the same."""
    for where, facts in alices.items():
        host = facts["node"]
        pids = node(host).check_output("pgrep -u alice -f '(here|attacked)[.]py'").split()
        assert pids, where
        for pid in pids:
            read = f"tr '\\0' '\\n' < /proc/{pid}/environ"
            own = as_user("alice", read, host)
            assert "DASK_SITE_KEYS=" in own.stdout, own.stderr  # the control
            for said in ("BEGIN", "PRIVATE KEY", COOKIE):
                kept_out(said not in own.stdout, where, said)
            others = as_user("bob", read, host)
            kept_out(others.rc != 0 and "DASK" not in others.stdout, where, pid)


# Stands for sbatch: it writes down what the file is that it is given, and who can read it.
WATCHES = """#!/bin/bash
for given; do :; done
exec 3>> ~/watched
stat -Lc 'mode %a of %U' "$given" >&3
stat -Lc 'in %a' "$(dirname "$given")" >&3
cat "$given" >&3
exec /usr/bin/sbatch "$@"
"""
PLAIN = f"""
{OPEN}
from dask_jobqueue import SLURMCluster
if __name__ == "__main__":
    cluster = SLURMCluster(cores=1, memory="1GiB", queue="standard", walltime="00:10:00",
                           interface="eth0")
    cluster.scale(jobs=1)
    until = time.time() + 60
    while not os.path.exists(os.path.expanduser("~/watched")) and time.time() < until:
        time.sleep(0.2)
    tell(done=True)
"""
OURS = """
if __name__ == "__main__":
    with Cluster(name="watched") as cluster:
        cluster.scale(cpu=1)
        with cluster.get_client() as client:
            client.wait_for_workers(1, timeout=120)
            tell(done=True)
            time.sleep(600)
"""


def watched(as_user, in_background, code):
    """Return what sbatch was given by a cluster of alice's: (modes, text)."""
    as_user("alice", f"rm -f watched; mkdir -p bin; cat > bin/sbatch <<'EOF'\n{WATCHES}EOF")
    as_user("alice", "chmod 755 bin/sbatch")
    in_background("alice", f"os.environ['PATH'] = '/home/alice/bin:' + os.environ['PATH']\n{code}")
    text = node("login1").check_output("cat /home/alice/watched")
    modes = [line for line in text.splitlines() if line.startswith(("mode ", "in "))]
    return modes, text


def test_the_script_of_her_job(as_user, in_background):
    """What Slurm gets, as a file before and as a record afterwards."""
    try:
        modes, text = watched(as_user, in_background, OURS)
        assert "#!/" in text and "dask" in text
        script, folder = modes[0].split(), modes[1].split()
        private = int(script[1], 8) & 0o077 == 0 or int(folder[1], 8) & 0o077 == 0
        kept_out(script[3] == "alice" and private, "its file", modes)
        shown = node("login1").check_output("scontrol show job --details; squeue -o '%all'")
        job = node("login1").check_output("squeue -h -u alice -o %i").split()[0]
        record = as_user("alice", f"scontrol write batch_script {job} -")
        assert "#!/" in record.stdout, record.stderr
        for place, said in (("script", text), ("Slurm's", shown), ("record", record.stdout)):
            for word in ("BEGIN", "PRIVATE", COOKIE):
                kept_out(word not in said, place, word)
        others = as_user("bob", f"scontrol write batch_script {job} -")
        kept_out("#!/" not in others.stdout, "the record, as bob")
        modes, _ = watched(as_user, in_background, PLAIN)
        gets_through(int(modes[0].split()[1], 8) & 0o044, "its file, of plain dask-jobqueue", modes)
    finally:
        as_user("alice", "rm -rf bin/sbatch watched; scancel -u alice")


def test_lines_in_logs_are_one_request_each(ids, stranger):
    nobody = stranger()
    mark = "forged-by-bob"
    cluster = ids["login"]
    host = f"{cluster}.{nobody.domain}"
    stream = nobody.stream(host)
    stream.sendall(
        f"GET /x%0a{mark}%0d%0a HTTP/1.1\r\nHost: {host}\r\n"
        f'User-Agent: a\x1b[2J\x07 {mark}" 200 0\tx\r\nConnection: close\r\n\r\n'.encode()
    )
    stream.recv(4096)
    stream.close()
    agent = f'User-Agent: b\t{mark}" 200 0'
    assert nobody.curl(f"{nobody.origin(cluster)}/y%0d%0a{mark}", "-H", agent)[0] == 302
    read = "journalctl --no-pager -o cat -t dask_proxy -n 100"
    assert until(lambda: node("login1").check_output(read).count(mark) >= 4)
    log = node("login1").check_output(read)
    lines = [line for line in log.splitlines() if mark in line]
    assert lines
    for line in lines:
        kept_out("TLSv1" in line, line)  # it begins as each line does
        kept_out("\x1b" not in line and "\x07" not in line, line)
        kept_out(f'{mark}" 200' not in line, line)
    kept_out(COOKIE not in log, "cookies in the log")
