"""What is open ends when it should, and nothing opens when the broker is away (classes 11, 13)."""

import time

import pytest
from attacked import LOCAL, kept_out, link_to_id, started_in_a_job
from visiting import NAVIGATION

from nodes import node, until

SHOWN = "/status"


def opened(visitor, cluster, address=None):
    """Return a WebSocket of a dashboard, as its page opens it."""
    url = f"{visitor.origin(cluster)}{SHOWN}"
    # Other login nodes hear of a new one within a second or two.
    assert until(lambda: visitor.go(url, address=address).status == 200, 20)
    status, stream = visitor.websocket(cluster, address=address)
    assert status == 101
    return stream


def ended(stream, seconds=30.0):
    """Say whether a WebSocket ends within some time; what comes before is read."""
    deadline = time.monotonic() + seconds
    stream.settimeout(0.5)
    while time.monotonic() < deadline:
        try:
            if not stream.recv(65536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize("where", ["login", "job"])
@pytest.mark.parametrize("through", ["login1", "login2"])
def test_logout_ends_what_is_open(where, through, ids, browser, address):
    visitor, other = browser("alice"), browser("alice")
    stays = opened(other, ids[where])
    stream = opened(visitor, ids[where], address(through))
    assert not ended(stream, 2)  # the control
    answer = visitor.request(
        f"{visitor.origin()}/logout",
        "POST",
        b"",
        {"Origin": visitor.origin()},
        address=address("login2"),
    )
    assert answer.status == 303
    kept_out(ended(stream), "a WebSocket goes on")
    url = f"{visitor.origin(ids[where])}{SHOWN}"
    for node_ in ("login1", "login2"):
        at = address(node_)
        kept_out(until(lambda at=at: visitor.request(url, address=at).status == 302, 20), node_)
    kept_out(visitor.curl(url)[0] == 302, "HTTP/2")
    assert not ended(stays, 1)
    stays.close()


def test_sharing_ends_what_is_open(ids, browser, as_user):
    bob = browser("bob")
    command = "module load dask-site && dask-site dashboards {} {} bob {}"
    done = as_user("alice", command.format("share", ids["login"], "--for 1h"))
    assert done.rc == 0, done.stderr
    stream = opened(bob, ids["login"])
    assert ids["login"] in as_user("bob", "module load dask-site; dask-site dashboards").stdout
    # He looks, and passes nothing on.
    assert as_user("bob", command.format("share", ids["login"], "")).rc == 1
    assert as_user("bob", f"{command.format('share', ids['login'], '')} carol").rc != 0
    assert as_user("alice", command.format("unshare", ids["login"], "")).rc == 0
    kept_out(ended(stream), "a WebSocket goes on")
    url = f"{bob.origin(ids['login'])}{SHOWN}"
    kept_out(bob.go(url).status == 403 and bob.curl(url)[0] == 403, "a page")
    audit = node("login1").check_output("cat /home/dask-site/dashboards/secret/audit/login1.jsonl")
    assert '"what": "share"' in audit and '"user_asked": "bob"' in audit


@pytest.fixture
def carols(in_background):
    """The ids of carol's clusters, by where their schedulers are."""
    facts, *_ = in_background("carol", LOCAL)
    told, _ = started_in_a_job("carol", LOCAL, "ending")
    yield {where: link_to_id(one["link"]) for where, one in (("login", facts), ("job", told))}
    node("login1").run("scancel -u carol")


def test_an_account_that_is_locked(carols, browser):
    clusters, carol = carols, browser("carol")
    streams = {where: opened(carol, cluster) for where, cluster in clusters.items()}
    root = "runuser -l root -c 'module load dask-site && dask-site dashboards {} carol'"
    assert not any(ended(stream, 1) for stream in streams.values())  # the control
    assert node("login2").run(root.format("lock")).rc == 0
    try:
        for where, stream in streams.items():
            kept_out(ended(stream), where, "a WebSocket goes on")
        kept_out(until(lambda: "Log in" in carol.go(f"{carol.origin()}/").text, 20), "her list")
        for where, cluster in clusters.items():
            url = f"{carol.origin(cluster)}{SHOWN}"
            kept_out(carol.request(url, headers=NAVIGATION).status == 302, where)
            kept_out(carol.curl(url)[0] == 302, where, "HTTP/2")
            kept_out("Bokeh" not in carol.go(url).text, where)
        refused = node("login1").run(
            "runuser -l carol -c 'module load dask-site && dask-site dashboards'"
        )
        kept_out(refused.rc == 1 and "locked" in refused.stderr, "a new link")
    finally:
        assert node("login2").run(root.format("unlock")).rc == 0
    for user in ("bob", "alice"):
        command = f"runuser -l {user} -c 'module load dask-site && dask-site dashboards lock carol'"
        kept_out(node("login1").run(command).rc == 1, "a lock by others")


@pytest.mark.parametrize(
    ("locked", "unlocked"),
    [
        ("usermod -s /usr/sbin/nologin carol", "usermod -s /bin/bash carol"),
        ("chage -E 2020-01-01 carol", "chage -E -1 carol"),
        ("passwd -l carol", "passwd -u carol"),
    ],
)
def test_an_account_that_the_system_locks(carols, browser, locked, unlocked):
    node("login1").check_output("usermod -p '$y$j9T$salt$hash' carol")
    carol = browser("carol")
    streams = {where: opened(carol, cluster) for where, cluster in carols.items()}
    assert not any(ended(stream, 3) for stream in streams.values())  # the control
    node("login1").check_output(locked)
    try:
        for where, stream in streams.items():
            # A shell is looked for each half minute.
            kept_out(ended(stream, 90), where, "a WebSocket goes on")
        kept_out(until(lambda: "Log in" in carol.go(f"{carol.origin()}/").text, 20), "her list")
    finally:
        node("login1").check_output(f"{unlocked}; usermod -p '!*' carol")
    assert until(lambda: browser_works(browser), 60)  # as others find her


def test_a_job_that_is_cancelled(as_user, browser, ids):
    """What was open ends, and nothing is found at its address afterwards; others go on."""
    facts, job = started_in_a_job("carol", LOCAL, "ending")
    cluster = link_to_id(facts["link"])
    carol, alice = browser("carol"), browser("alice")
    stream, stays = opened(carol, cluster), opened(alice, ids["job"])
    assert not ended(stream, 1)  # the control
    assert as_user("carol", f"scancel {job}").rc == 0
    kept_out(ended(stream, 60), "a WebSocket goes on")
    url = f"{carol.origin(cluster)}{SHOWN}"
    kept_out(until(lambda: carol.request(url).status in {403, 502}, 60), "a page")
    kept_out(carol.curl(url)[0] in {403, 502}, "HTTP/2")
    status, other = carol.websocket(cluster)
    other.close()
    kept_out(status in {403, 502}, "a new WebSocket", status)
    assert not ended(stays, 1)
    stays.close()


def browser_works(browser):
    try:
        return browser("carol")
    except AssertionError:
        return None


def test_a_cluster_that_is_gone(in_background, browser):
    facts, pid, _ = in_background("bob", LOCAL)
    cluster, bob = link_to_id(facts["link"]), browser("bob")
    stream = opened(bob, cluster)
    node("login1").run(f"kill -KILL -- -{pid}; kill -KILL {pid}; pkill -KILL -u bob -f background")
    kept_out(ended(stream), "a WebSocket goes on")
    url = f"{bob.origin(cluster)}{SHOWN}"
    kept_out(bob.go(url).status in {403, 502} and bob.curl(url)[0] in {403, 502}, "a page")
    door = f"/run/dask-dashboards/clusters/{cluster}.sock"
    assert until(lambda: not node("login1").file(door).exists, 90)


def test_without_the_broker_nothing_opens_and_all_goes_on_afterwards(ids, browser, stranger):
    host, alice, bob = node("login1"), browser("alice"), browser("bob")
    opened(alice, ids["job"]).close()
    stream = opened(alice, ids["login"])
    urls = [f"{alice.origin(cluster)}{SHOWN}" for cluster in ids.values()]
    host.check_output("systemctl kill -s KILL dask-dashboards.service")
    for url in urls:
        kept_out(bob.request(url).status in {302, 502, 503}, "just after it was killed")
    assert until(lambda: alice.request(urls[0]).status == 200, 40)  # nobody logs in again
    assert not ended(stream, 1)
    host.check_output("systemctl stop dask-dashboards.service")
    try:
        for visitor in (alice, bob, stranger()):
            for url in (*urls, f"{visitor.origin()}/"):
                kept_out(visitor.request(url).status in {502, 503}, url)
                kept_out(visitor.curl(url)[0] in {502, 503}, url, "HTTP/2")
            status, other = visitor.websocket(ids["login"])
            other.close()
            kept_out(status == 502, "WebSocket", status)
        asked = host.run("runuser -l alice -c 'module load dask-site && dask-site dashboards'")
        assert asked.rc == 1 and "does not answer" in asked.stderr
    finally:
        host.check_output("systemctl start dask-dashboards.service")
    for url in urls:
        assert until(lambda url=url: alice.request(url).status == 200, 60), alice.request(url)
        kept_out(bob.request(url, headers=NAVIGATION).status == 302, "bob, afterwards")
    # A link is used up also for a broker that was started anew, and a logout holds.
    assert not ended(stream, 1)
    alice.request(f"{alice.origin()}/logout", "POST", b"", {"Origin": alice.origin()})
    kept_out(until(lambda: alice.request(urls[0]).status == 302, 20), "after a logout")
    kept_out(
        ended(stream), "a WebSocket goes on"
    )  # perhaps only when its scheduler has found the broker again


def test_a_broker_that_hangs_lets_nobody_in(ids, browser):
    host, alice = node("login1"), browser("alice")
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    host.check_output("systemctl kill -s STOP dask-dashboards.service")
    try:
        kept_out(alice.request(url).status == 502, "HTTP/1.1")
        kept_out(alice.curl(url)[0] == 502, "HTTP/2")
        status, stream = alice.websocket(ids["login"])
        stream.close()
        kept_out(status == 502, "WebSocket", status)
    finally:
        host.check_output("systemctl kill -s CONT dask-dashboards.service")
    assert until(lambda: alice.request(url).status == 200, 60)


def test_a_reload_of_nginx_ends_nothing(ids, browser):
    alice = browser("alice")
    stream = opened(alice, ids["login"])
    node("login1").check_output("systemctl reload dask-proxy.service")
    assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
    assert not ended(stream, 2)
    stream.close()
