"""Schedulers that aren't what they say (class 9)."""

from attacked import kept_out
from registering import ASKED, known
from visiting import PORT

from nodes import node, until

SHOWN = "/status"


def test_nobody_takes_anothers_name(ids, python, alice):
    facts, result = python(
        "bob",
        f"""
        {ASKED.replace(chr(10), chr(10) + "        ")}
        said = {{}}
        for where_, id in {ids!r}.items():
            request, _ = keys.request()
            said[where_] = [near(op="register", id=id, name="x").get("id"),
                            ask(op="register", id=id, port=40001, request=request).get("id")]
        tell(said=said)
        """,
    )
    assert facts, result.stderr
    for where, got in facts["said"].items():
        kept_out(ids[where] not in got, where)
        assert all(got)  # the control: under a new name he may
    for where, cluster in ids.items():
        assert alice.go(f"{alice.origin(cluster)}{SHOWN}").status == 200, where


REQUEST = "-----BEGIN CERTIFICATE REQUEST-----"
WRONG = [
    *({"port": p} for p in (0, 22, 80, 1023, 65536, -1, "8787", "22@x", 8787.5, True, [])),
    {"port": None},
    {"port": 6817, "request": "no request"},
    {"port": 40002, "request": f"{REQUEST}\nAAAA\n"},
    {"port": 40002, "request": None},
    {"port": 40002, "request": ["x"]},
    {"port": 40002, "request": REQUEST * 1000},
]


def test_what_is_no_scheduler_is_refused(python):
    facts, result = python(
        "bob",
        f"""
        {ASKED.replace(chr(10), chr(10) + "        ")}
        request, _ = keys.request()
        good = {{"op": "register", "name": "x", "request": request}}
        tell(said=[ask(**{{**good, **wrong}}) for wrong in {WRONG!r}])
        """,
    )
    assert len(facts["said"]) == len(WRONG), result.stderr
    for wrong, said in zip(WRONG, facts["said"], strict=True):
        kept_out(said.get("error"), wrong)
        assert "something went wrong" not in said["error"], wrong


def test_an_address_is_where_it_calls_from_and_nowhere_else(python, browser, address):
    """Metadata service, loopback, other nodes: nobody can have nginx go there."""
    facts, result = python(
        "bob",
        f"""
        {ASKED.replace(chr(10), chr(10) + "        ")}
        request, _ = keys.request()
        said = ask(op="register", name="elsewhere", port=6818, request=request,
                   host="169.254.169.254", address="127.0.0.1:22", ip="::ffff:127.0.0.1",
                   url="http://x", **{{"X-Real-IP": "10.0.0.1"}})
        tell(**said)
        """,
        host="c2",
    )
    assert facts["id"], result.stderr
    assert until(lambda: known(facts["id"]), 20)
    kept_out(known(facts["id"])["address"] == f"{address('c2')}:6818", "an address of his own")
    # slurmd is there, which has no certificate of the site: nginx tells it nothing.
    bob = browser("bob")
    kept_out(bob.go(f"{bob.origin(facts['id'])}/").status == 502, "slurmd")


def test_sockets_are_where_no_user_gets(as_user, alices):
    doors = "/run/dask-dashboards/clusters"
    door = f"{doors}/{alices['login']['id']}.sock"
    for user in ("bob", "alice"):
        for command in (
            f"ls {doors}",
            f"ln -s /tmp/x {doors}/x.sock",
            f"rm -f {doors}/{alices['login']['id']}.sock && false",
            f"python3 -c 'import socket; socket.socket(1).connect(\"{door}\")'",
            "ls /run/dask-dashboards/proxy",
            f"mv /run/dask-dashboards /tmp/x; rm -rf {doors}",
            "ls /home/dask-site/dashboards/secret",
            "ls /home/dask-site/dashboards/proxy",
            "touch /home/dask-site/dashboards/public/x.json",
        ):
            kept_out(as_user(user, command).rc != 0, user, command)
    assert as_user("bob", "test -S /run/dask-dashboards/control.sock").rc == 0  # the controls
    assert node("login1").file(door).is_socket


def test_munge_for_another_request_is_refused(python, address):
    facts, result = python(
        "bob",
        f"""
        {ASKED.replace(chr(10), chr(10) + "        ")}
        import http.client, ssl
        from dask_site.identity import request_credential
        one = asking.brokers(where)[0]
        body = json.dumps({{"op": "list"}}).encode()
        good = request_credential(one.host, "POST", "/api/v1/ask", body)
        tried = {{}}
        def send(name, credential, sent=body, path="/api/v1/ask"):
            c = http.client.HTTPSConnection(one.host, one.port, timeout=10,
                                            context=ssl._create_unverified_context())
            c.request("POST", path, sent, {{"Authorization": credential}})
            answer = c.getresponse()
            tried[name] = answer.status
            answer.read()
        send("other body", "MUNGE " + good, b'{{"op": "link"}}')
        fresh = lambda *given: "MUNGE " + request_credential(*given)
        send("other host", fresh("login9", "POST", "/api/v1/ask", body))
        send("other path", fresh(one.host, "POST", "/api/v1/wait", body))
        send("none", "x")
        send("made up", "MUNGE MUNGE:AAAA:")
        send("basic", "Basic YWxpY2U6eA==")
        kept = fresh(one.host, "POST", "/api/v1/ask", body)
        send("control", kept)
        send("again", kept)
        tell(tried=tried)
        """,
    )
    assert facts, result.stderr
    assert facts["tried"].pop("control") == 200
    for name, status in facts["tried"].items():
        kept_out(status == 401, name, status)


def test_the_proxies_of_nodes_take_each_other_only(ids, stranger, alice):
    """By the name of a node a dashboard is reached by a proxy of the site, by nobody else."""
    assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200  # it is there
    nobody, url = stranger(), f"https://login1:{PORT}{SHOWN}"
    for view in ({}, {"X-Dask-View": "x"}):
        headers = {"X-Dask-Cluster": ids["login"], **view}
        kept_out(nobody.request(url, headers=headers).status == 403, view)
        given = [part for k, v in headers.items() for part in ("-H", f"{k}: {v}")]
        kept_out(nobody.curl(url, *given)[0] == 403, view, "HTTP/2")
