"""What is open ends when it should, and nothing opens when the broker is away (11 and 13)."""

import time

import pytest
from attacked import LOCAL, link_to_id, node, until

SHOWN = "/status"


def opened(visitor, cluster, address=None):
    """Return a WebSocket of a dashboard, as its page opens it."""
    assert visitor.go(f"{visitor.origin(cluster)}{SHOWN}", address=address).status == 200
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
    assert ended(stream)
    url = f"{visitor.origin(ids[where])}{SHOWN}"
    for node_ in ("login1", "login2"):
        at = address(node_)
        assert until(lambda at=at: visitor.request(url, address=at).status in {302, 401}, 20), node_
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
    assert ended(stream)
    assert bob.go(f"{bob.origin(ids['login'])}{SHOWN}").status == 403
    audit = node("login1").check_output("cat /home/dask-site/dashboards/secret/audit/login1.jsonl")
    assert '"what": "share"' in audit and '"user_asked": "bob"' in audit


def test_an_account_that_is_locked(in_background, browser):
    facts, *_ = in_background("carol", LOCAL)
    cluster = link_to_id(facts["link"])
    carol = browser("carol")
    stream = opened(carol, cluster)
    root = "runuser -l root -c 'module load dask-site && dask-site dashboards {} carol'"
    assert node("login2").run(root.format("lock")).rc == 0
    try:
        assert ended(stream)
        assert carol.go(f"{carol.origin(cluster)}{SHOWN}").status in {200, 403}
        assert until(lambda: "Log in" in carol.go(f"{carol.origin()}/").text, 20)
        refused = node("login1").run(
            "runuser -l carol -c 'module load dask-site && dask-site dashboards'"
        )
        assert refused.rc == 1 and "locked" in refused.stderr
    finally:
        assert node("login2").run(root.format("unlock")).rc == 0
    for user in ("bob", "alice"):
        command = f"runuser -l {user} -c 'module load dask-site && dask-site dashboards lock carol'"
        assert node("login1").run(command).rc == 1
    # As the system locks one: found out within half a minute.
    assert until(lambda: browser_works(browser), 30)
    carol = browser("carol")
    stream = opened(carol, cluster)
    node("login1").check_output("usermod -s /usr/sbin/nologin carol")
    try:
        assert ended(stream, 90)
    finally:
        node("login1").check_output("usermod -s /bin/bash carol")


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
    assert ended(stream)
    assert bob.go(f"{bob.origin(cluster)}{SHOWN}").status in {403, 502}
    door = f"/run/dask-dashboards/clusters/{cluster}.sock"
    assert until(lambda: not node("login1").file(door).exists, 90)


def test_without_the_broker_nothing_opens_and_all_goes_on_afterwards(ids, browser, stranger):
    host, alice, bob = node("login1"), browser("alice"), browser("bob")
    opened(alice, ids["job"]).close()
    stream = opened(alice, ids["login"])
    urls = [f"{alice.origin(cluster)}{SHOWN}" for cluster in ids.values()]
    host.check_output("systemctl kill -s KILL dask-dashboards.service")
    for url in urls:
        assert bob.request(url).status != 200
    assert until(lambda: alice.request(urls[0]).status == 200, 40)  # nobody logs in again
    assert not ended(stream, 1)
    host.check_output("systemctl stop dask-dashboards.service")
    try:
        for visitor in (alice, bob, stranger()):
            for url in (*urls, f"{visitor.origin()}/"):
                assert visitor.request(url).status in {500, 502, 503}
            status, other = visitor.websocket(ids["login"])
            other.close()
            assert status in {500, 502, 503}
        asked = host.run("runuser -l alice -c 'module load dask-site && dask-site dashboards'")
        assert asked.rc == 1 and "does not answer" in asked.stderr
    finally:
        host.check_output("systemctl start dask-dashboards.service")
    for url in urls:
        assert until(lambda url=url: alice.request(url).status == 200, 60), alice.request(url)
        assert bob.request(url, headers={"Sec-Fetch-Dest": "document"}).status in {302, 403}
    # A link is used up also for a broker that was started anew, and a logout holds.
    assert not ended(stream, 1)
    alice.request(f"{alice.origin()}/logout", "POST", b"", {"Origin": alice.origin()})
    assert until(lambda: alice.request(urls[0]).status != 200, 20)
    assert ended(stream)  # perhaps only when its scheduler has found the broker again


def test_a_broker_that_hangs_lets_nobody_in(ids, browser):
    host, alice = node("login1"), browser("alice")
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    host.check_output("systemctl kill -s STOP dask-dashboards.service")
    try:
        assert alice.request(url).status in {500, 502, 504}
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


FLOOD = """
import resource, socket
from dask_site.dashboards import asking
where = asking.places()
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
kept, refused = [], 0
for number in range(400):
    try:
        one = asking.connect(where, {"op": "register", "name": f"flood {number}"})
        data, given, _, _ = socket.recv_fds(one, 65536, 1)
    except OSError:
        refused += 1
        continue
    refused += b"error" in data or not data
    kept.append((one, given))
links = 0
for number in range(300):
    try:
        links += "url" in asking.ask(where, op="link")
    except asking.DashboardError:
        pass
raw = []
for number in range(300):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(2)
    try:
        one.connect(str(where.control))
        one.sendall(b"{" * 60000)
    except OSError:
        pass
    raw.append(one)
tell(kept=len(kept) - refused, refused=refused, links=links)
time.sleep(60)
"""


def test_floods_of_one_user_are_his_own_trouble(ids, browser, in_background, dashboards):
    facts, pid, _ = in_background("bob", FLOOD)
    try:
        assert facts["kept"] <= 100 and facts["refused"] >= 300
        began = time.monotonic()
        alice = browser("alice")
        assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
        assert {one["id"] for one in dashboards("alice")["dashboards"]} >= set(ids.values())
        assert time.monotonic() - began < 60
    finally:
        node("login1").run(f"kill -KILL -- -{pid}; kill -KILL {pid}; pkill -KILL -u bob python")
    assert until(lambda: not dashboards("bob")["dashboards"], 90)
