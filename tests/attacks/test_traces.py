"""Nothing secret where others can read it, and nothing forged where admins read (class 12)."""

from urllib.parse import urlsplit

from attacked import node
from visiting import COOKIE, NAVIGATION

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
        for word in secrets:
            assert word not in text, place
    # Not even the broker keeps what lets in.
    kept = host.run("cat /home/dask-site/dashboards/secret/nodes/*").stdout
    assert '"sessions"' in kept
    for word in (visitor.cookies[visitor.domain], secrets[0]):
        assert word not in kept


def test_the_job_has_no_secret_in_script_or_environment(alices, as_user):
    shown = node("login1").check_output("scontrol show job --details")
    assert "key.pem" not in shown and "BEGIN" not in shown
    seen = as_user("bob", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'", "login1")
    assert "alice" not in seen.stdout


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
    log = node("login1").check_output("journalctl --no-pager -o cat -t dask_proxy -n 50")
    lines = [line for line in log.splitlines() if mark in line]
    assert lines
    for line in lines:
        assert "TLSv1" in line, line  # it begins as each line does
        assert "\x1b" not in line and "\x07" not in line
        assert f'{mark}" 200' not in line
    assert COOKIE not in log
