"""Schedulers that aren't what they say (class 9)."""

import json

from attacked import node, until

SHOWN = "/status"
ASKED = """
from dask_site.dashboards import asking, keys
from dask_site.dashboards.places import Places
where = asking.places()

def ask(**question):
    try:
        return asking.ask_elsewhere(where, question)[0]
    except asking.DashboardError as error:
        return {"error": str(error)}

def near(**question):
    connection = asking.connect(where, question)
    return json.loads(connection.recv(65536) or b"{}")
"""


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
        assert ids[where] not in got
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
        assert said.get("error"), wrong
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
    assert known(facts["id"])["address"] == f"{address('c2')}:6818"
    # slurmd is there, which has no certificate of the site: nginx tells it nothing.
    bob = browser("bob")
    assert bob.go(f"{bob.origin(facts['id'])}/").status in {403, 502}


def known(cluster):
    """Return what a broker has written down of a cluster."""
    for host in ("login1", "login2"):
        path = f"/home/dask-site/dashboards/secret/nodes/{host}.json"
        said = json.loads(node("login1").check_output(f"cat {path}"))
        for one in said["clusters"]:
            if one["id"] == cluster:
                return one
    return None


def test_a_port_that_another_took_over_gets_nothing(python, browser, in_background, alices):
    """Bob's cluster says the port of alice's: its certificate has another name."""
    host = alices["job"]["node"]
    shown = node(host).check_output("ss -tlnpH")
    owned = node(host).run("pgrep -u alice").stdout.split()
    for line in shown.splitlines():
        if not any(f"pid={pid}," in line for pid in owned):
            continue
        local = line.split()[3]
        if local.startswith("127."):
            continue
        facts, result = python(
            "bob",
            f"""
            {ASKED.replace(chr(10), chr(10) + "            ")}
            request, _ = keys.request()
            port = {local.rpartition(":")[2]}
            tell(**ask(op="register", name="over", port=port, request=request))
            """,
            host=host,
        )
        assert facts.get("id"), result.stderr
        bob = browser("bob")
        answer = bob.go(f"{bob.origin(facts['id'])}{SHOWN}")
        assert answer.status == 502
        assert "Bokeh" not in answer.text


def test_sockets_are_where_no_user_gets(as_user, alices):
    doors = "/run/dask-dashboards/clusters"
    for user in ("bob", "alice"):
        assert as_user(user, f"ls {doors}").rc != 0
        assert as_user(user, f"ln -s /tmp/x {doors}/x.sock").rc != 0
        assert as_user(user, "ls /run/dask-dashboards/proxy").rc != 0
        assert as_user(user, f"mv /run/dask-dashboards /tmp/x; rm -rf {doors}").rc != 0
        for kept in ("secret", "proxy"):
            assert as_user(user, f"ls /home/dask-site/dashboards/{kept}").rc != 0
        assert as_user(user, "touch /home/dask-site/dashboards/public/x.json").rc != 0


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
    assert set(facts["tried"].values()) == {401}, facts


def test_the_proxies_of_nodes_take_each_other_only(ids, stranger, address):
    """By the name of a node a dashboard is reached by a proxy of the site, by nobody else."""
    visitor = stranger()
    context_host = "login1"
    connection = visitor.stream(context_host)
    connection.sendall(
        f"GET {SHOWN} HTTP/1.1\r\nHost: login1\r\nX-Dask-Cluster: {ids['login']}\r\n"
        "X-Dask-View: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert b" 403 " in connection.recv(4096).split(b"\r\n")[0]
    connection.close()
