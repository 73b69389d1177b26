"""What users do all day: their own dashboards, from everywhere, without a line of theirs."""

import pytest
from attacked import link_to_id

from nodes import node, variables

SHOWN = "/status"
KINDS = {
    "Cluster": """
        from dask_site import Cluster
        if __name__ == "__main__":
            with Cluster(name="kinds") as cluster, cluster.get_client() as client:
                assert cluster.dashboard_link == client.dashboard_link
                tell(link=cluster.dashboard_link, at=time.time())
                time.sleep(600)
    """,
    "SLURMCluster": """
        from dask_jobqueue import SLURMCluster
        from distributed import Client
        if __name__ == "__main__":
            cluster = SLURMCluster()
            tell(link=Client(cluster).dashboard_link, at=time.time())
            time.sleep(600)
    """,
    "dask scheduler": """
        import subprocess
        from distributed import Client
        if __name__ == "__main__":
            subprocess.Popen(["dask", "scheduler", "--host", "127.0.0.1", "--port", "18786"])
            tell(link=Client("tls://127.0.0.1:18786", timeout=30).dashboard_link, at=time.time())
            time.sleep(600)
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cluster_is_reached_at_once(kind, in_background, browser, dashboards):
    alice = browser("alice")
    before = node("login1").check_output("systemctl show -p ExecMainPID dask-proxy.service")
    facts, *_ = in_background("alice", KINDS[kind])
    domain = alice.domain
    cluster = link_to_id(facts["link"])
    assert facts["link"] == f"https://{cluster}.{domain}:8443/status"
    assert alice.go(facts["link"]).status == 200
    for path in ("/workers", "/tasks", "/info/main/workers.html"):
        assert alice.go(f"{alice.origin(cluster)}{path}").status == 200
    status, stream = alice.websocket(cluster)
    assert status == 101 and stream.recv(1)
    stream.close()
    (listed,) = [one for one in dashboards("alice")["dashboards"] if one["id"] == cluster]
    assert listed["begun"] <= facts["at"] + 0.5
    assert listed["pools"] == (["cpu", "highmem", "gpu"] if kind == "Cluster" else [])
    # nginx was told nothing of it.
    after = node("login1").check_output("systemctl show -p ExecMainPID dask-proxy.service")
    assert after == before
    node("login1").run("pkill -u alice -f background.py; pkill -u alice -f 18786; scancel -u alice")


@pytest.mark.parametrize("where", ["login", "job"])
@pytest.mark.parametrize("through", ["login1", "login2"])
def test_any_login_node_leads_there(where, through, ids, browser, address):
    alice = browser("alice", "login2")
    url = f"{alice.origin(ids[where])}{SHOWN}"
    assert alice.go(url, address=address(through)).status == 200
    status, stream = alice.websocket(ids[where], address=address(through))
    assert status == 101 and stream.recv(1)
    stream.close()


def test_a_page_comes_back_by_itself(ids, alice):
    """What a page loads to that end comes from us, before anything of the dashboard's."""
    page = alice.go(f"{alice.origin(ids['login'])}{SHOWN}").text
    assert page.index("/_dask-site/back.js") < page.index("<script") + 40
    for ours, kind in (("back.js", "javascript"), ("info.css", "css")):
        answer = alice.request(f"{alice.origin(ids['login'])}/_dask-site/{ours}")
        assert answer.status == 200 and kind in answer.header("content-type")
    info = alice.go(f"{alice.origin(ids['login'])}/info/main/workers.html").text
    assert "cloudflare" not in info


def test_sharing_from_python(in_background, browser, as_user):
    facts, *_ = in_background(
        "alice",
        """
        from dask_site import Cluster
        from dask_site.cluster.errors import ClusterError
        if __name__ == "__main__":
            with Cluster(name="shared") as cluster:
                until = cluster.share("bob", for_="30m")
                wrong = []
                for user, how in (("nobody-here", "1h"), ("bob", "9d"), ("bob", "x")):
                    try:
                        cluster.share(user, for_=how)
                    except (ClusterError, ValueError) as error:
                        wrong.append(str(error))
                tell(link=cluster.dashboard_link, minutes=(until.timestamp() - time.time()) / 60,
                     wrong=wrong)
                time.sleep(600)
        """,
    )
    assert 29 < facts["minutes"] < 31
    assert len(facts["wrong"]) == 3 and "no such user" in facts["wrong"][0]
    bob = browser("bob")
    assert bob.go(facts["link"]).status == 200
    assert "shared" in bob.request(f"{bob.origin()}/").text
    told = as_user("bob", "module load dask-site; dask-site dashboards --no-login").stdout
    assert "by alice" in told
    done = as_user("alice", "module load dask-site; dask-site dashboards unshare shared bob")
    assert done.rc == 0, done.stderr
    assert bob.go(facts["link"]).status == 403


def test_a_portal_lets_its_users_in_and_nobody_else_does(stranger, as_user):
    state = variables()["site"]["dashboards"]["state"]
    path = f"{state}/secret/portal"
    secret = node("login1").check_output(f"cat {path}").strip()
    assert as_user("carol", f"cat {path}").rc != 0
    visitor = stranger()
    url = f"{visitor.origin()}/login/portal"
    for headers in (
        {"X-Remote-User": "alice"},
        {"X-Remote-User": "alice", "X-Dask-Portal": "x" * 64},
        {"X-Dask-Portal-User": "alice", "X-Dask-Portal": secret},
        {"X-Remote-User": "root", "X-Dask-Portal": secret},
        {"X-Remote-User": "alice, bob", "X-Dask-Portal": secret},
        {"X-Remote-User": "nobody-here", "X-Dask-Portal": secret},
    ):
        answer = visitor.request(url, headers=headers)
        assert answer.status == 403 and not answer.header("location"), headers
        more = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        assert visitor.curl(url, *more)[0] == 403, headers
    right = {"X-Remote-User": "alice", "X-Dask-Portal": secret}
    assert visitor.request(url, "POST", b"", right).status in {403, 405}
    answer = visitor.request(url, headers=right)
    assert answer.status == 303 and not answer.header("set-cookie")
    assert visitor.log_in(answer.header("location")).status == 303
    assert "alice" in visitor.request(f"{visitor.origin()}/").text
    journal = node("login1").check_output("journalctl --no-pager -u dask-dashboards -t dask_proxy")
    assert secret not in journal


def test_the_command_line_says_what_is_wrong(as_user):
    run = "module load dask-site && dask-site dashboards {}"
    for given, said in (
        ("share nothing bob", "You have no such cluster"),
        ("share x bob --for 3parsecs", "--for"),
        ("lock bob", "Only root"),
        ("nonsense", "No such command"),
    ):
        result = as_user("carol", run.format(given))
        assert result.rc != 0 and said in result.stderr, given
        assert "Traceback" not in result.stderr
    shown = as_user("carol", run.format("--no-login")).stdout
    assert "No cluster of yours is running." in shown
    assert "/login#" not in shown
    far = as_user("carol", run.format("--json"), "c2")
    assert '"dashboards": []' in far.stdout, far.stderr
