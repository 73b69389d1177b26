"""What a broker decides, and what brokers tell each other."""

import asyncio
import json
import os
import pwd
import stat
import time
from dataclasses import replace

import pytest
from cryptography import x509

from dask_site.dashboards import accounts, clusters, keys
from dask_site.dashboards.broker import Broker
from dask_site.dashboards.gate import Asked
from dask_site.dashboards.onward import after_login
from dask_site.dashboards.past import Past
from dask_site.dashboards.peers import Peers
from dask_site.dashboards.places import ID, Places
from dask_site.dashboards.registry import EACH, Cluster, RefusedError, new_id
from dask_site.people import name_of

ME = os.getuid()
OTHER = 12345


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def places(tmp_path):
    found = Places("dask.test", 8443, tmp_path / "state", tmp_path / "run", "login1")
    keys.ensure(found, web=True)
    for folder in (found.doors, found.http.parent):
        folder.mkdir(parents=True)
    return found


@pytest.fixture
def make(places, clock):
    def made(host="login1", past=None):
        return Broker(replace(places, host=host), 3600, clock, past)

    return made


@pytest.fixture
def broker(make):
    return make()


@pytest.fixture
def past(tmp_path):
    (tmp_path / "history").mkdir()
    return Past(tmp_path / "history.sock", tmp_path / "history")


def writes(past, host):
    (past.state / "where.json").write_text(json.dumps({"host": host, "port": 8791}))


def registered(broker, uid=ME, lines=None, **about):
    said, listener = broker.clusters.register(
        uid, about, (lines if lines is not None else []).append
    )
    if listener is not None:
        listener.close()
    return said["id"]


def job(broker, uid=ME, lines=None, **more):
    asked = {"port": 40000, "request": keys.request()[0], **more}
    return broker.clusters.register_job(
        uid, asked, "10.0.0.7", (lines if lines is not None else []).append
    )


def logged_in(broker, uid, *clusters):
    _, session = broker.sessions.begin(uid)
    cookies = [broker.sessions.redeem(broker.sessions.ticket(session, c), c) for c in clusters]
    return session, *cookies


def test_the_owner_passes_and_others_do_not(broker, places):
    cluster = registered(broker)
    _, mine = logged_in(broker, ME, cluster)
    verdict = broker.gate.decide(Asked(cluster, mine))
    assert verdict.status == 204
    assert verdict.upstream == f"http://unix:{places.doors}/{cluster}.sock:"
    assert verdict.host == f"{cluster}.dask.test:8443"
    _, theirs = logged_in(broker, OTHER, cluster)
    assert broker.gate.decide(Asked(cluster, theirs)).status == 403
    assert broker.gate.decide(Asked(cluster, "")).status == 401
    assert broker.gate.decide(Asked(cluster, "x.y")).status == 401
    for name in ("", "../x", new_id()[:-1], cluster.upper(), f"{cluster}.sock", "a b"):
        assert broker.gate.decide(Asked(name, mine)).status == 403
    assert broker.gate.decide(Asked(new_id(), mine)).status == 401


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 204),
        ({"origin": "https://{id}.dask.test:8443"}, 204),
        ({"site": "same-origin"}, 204),
        ({"site": "none", "mode": "navigate", "dest": "document"}, 204),
        ({"site": "cross-site", "mode": "navigate", "dest": "document"}, 204),
        ({"site": "same-site", "mode": "navigate", "dest": "iframe"}, 403),
        ({"site": "same-site", "mode": "cors", "dest": "empty"}, 403),
        ({"site": "cross-site", "mode": "no-cors", "dest": "script"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://dask.test:8443"}, 403),
        ({"upgrade": "websocket", "origin": "https://{id}.dask.test:8443"}, 204),
        ({"upgrade": "websocket"}, 403),
        ({"upgrade": "websocket", "origin": "https://{id}.dask.test"}, 403),
        ({"upgrade": "websocket", "origin": "https://evil.test"}, 403),
    ],
)
def test_from_which_page_it_is_asked(broker, asked, status):
    cluster = registered(broker)
    _, mine = logged_in(broker, ME, cluster)
    given = {key: value.format(id=cluster) for key, value in asked.items()}
    assert broker.gate.decide(Asked(cluster, mine, **given)).status == status


def test_sharing_is_for_a_while_and_by_its_owner(broker, clock, monkeypatch):
    monkeypatch.setattr(accounts, "uid_of", {"bob": OTHER, "me": ME}.get)
    lines = []
    cluster = registered(broker, lines=lines, name="mine")
    session, theirs = logged_in(broker, OTHER, cluster)
    asyncio.run(broker.shares.share(ME, "mine", "bob", 60))
    assert broker.gate.decide(Asked(cluster, theirs)).status == 204
    assert [one["id"] for one in asyncio.run(broker.shares.listed(OTHER))] == [cluster]
    with pytest.raises(RefusedError, match="no such cluster"):
        asyncio.run(broker.shares.share(OTHER, cluster, "me", 60))
    asyncio.run(broker.shares.share(ME, cluster, "bob", 0))
    assert broker.gate.decide(Asked(cluster, theirs)).status == 403
    assert lines == [{"cut": [broker.sessions.view(session.id, cluster)]}]
    asyncio.run(broker.shares.share(ME, cluster, "bob", 30))
    clock.now += 31
    assert broker.gate.decide(Asked(cluster, theirs)).status == 403
    asyncio.run(broker.exchange.hear())
    assert len(lines) == 2
    for user, seconds, why in (
        ("nobody-here", 60, "no such user"),
        ("me", 60, "yours already"),
        ("bob", -1, "7 days"),
        ("bob", 9e9, "7 days"),
        ("bob", True, "7 days"),
        ("bob", "60", "7 days"),
        ("bob", float("nan"), "7 days"),
        (None, 60, "no such user"),
    ):
        with pytest.raises(RefusedError, match=why):
            asyncio.run(broker.shares.share(ME, cluster, user, seconds))


def test_what_is_shared_is_written_down_first(broker, places, monkeypatch):
    monkeypatch.setattr(accounts, "uid_of", {"bob": OTHER}.get)
    cluster = registered(broker)
    asyncio.run(broker.shares.share(ME, cluster, "bob", 60))
    audit = next((places.secret / "audit").glob("*.jsonl")).read_text()
    assert '"what": "share"' in audit and '"user_asked": "bob"' in audit

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broker.notes.audit, "note", full)
    with pytest.raises(RefusedError, match="nothing is shared"):
        asyncio.run(broker.shares.share(ME, cluster, "bob", 3600))


def test_a_scheduler_comes_back_under_its_name_and_no_other_does(broker, places):
    lines = []
    cluster = registered(broker, lines=lines)
    assert registered(broker, OTHER, id=cluster) != cluster
    said, listener = broker.clusters.register(ME, {"id": cluster}, lines.append)
    assert (said["id"], listener) == (cluster, None)
    (places.doors / f"{cluster}.sock").unlink()
    said, listener = broker.clusters.register(ME, {"id": cluster}, lines.append)
    assert said["id"] == cluster and listener is not None
    listener.close()
    assert job(broker, id=cluster)["id"] != cluster  # it was on this node
    for wrong in (None, 7, [], {"x": 1}, "x" * 1000):
        assert ID.fullmatch(registered(broker, id=wrong))


def test_what_ended_while_a_scheduler_was_away_is_not_kept(broker, monkeypatch):
    monkeypatch.setattr(accounts, "uid_of", {"bob": OTHER}.get)
    cluster = registered(broker)
    stays, goes, theirs = (broker.sessions.begin(uid)[1] for uid in (ME, ME, OTHER))
    broker.clusters.lost(cluster, broker.lines._lines[cluster])
    broker.logins.close(goes)

    def kept():
        return broker.clusters.register(ME, {"id": cluster}, print)[0]["keep"]

    assert kept() == [broker.sessions.view(stays.id, cluster)]
    asyncio.run(broker.shares.share(ME, cluster, "bob", 60))
    assert broker.sessions.view(theirs.id, cluster) in kept()


def test_a_cluster_of_which_nothing_is_heard_is_forgotten(broker, clock, places):
    lines = []
    line = lines.append
    said, listener = broker.clusters.register(ME, {}, line)
    listener.close()
    broker.clusters.lost(said["id"], lambda _: None)  # a connection that was replaced
    assert not broker.registry.own[said["id"]].lost
    broker.clusters.lost(said["id"], line)
    asyncio.run(broker.exchange.hear())
    assert said["id"] in broker.registry.own
    clock.now += clusters.PATIENCE + 1
    asyncio.run(broker.exchange.hear())
    assert said["id"] not in broker.registry.own
    assert list(places.doors.iterdir()) == []


def test_a_user_has_so_many_clusters(broker):
    for _ in range(EACH):
        job(broker)
    with pytest.raises(RefusedError, match="that is the most"):
        job(broker)
    assert job(broker, OTHER)["id"]


def test_a_job_gets_a_certificate_for_its_name_alone(broker, places):
    said = job(broker)
    certificate = x509.load_pem_x509_certificate(said["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{said['id']}.clusters.dask-site.invalid"]
    authority = x509.load_pem_x509_certificate((places.public / "clusters.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    _, mine = logged_in(broker, ME, said["id"])
    verdict = broker.gate.decide(Asked(said["id"], mine))
    assert (verdict.upstream, verdict.name) == ("https://10.0.0.7:40000", names[0].value)


@pytest.mark.parametrize("port", [0, 22, 1023, 65536, True, "40000", None, 4e4])
def test_ports_that_are_none(broker, port):
    with pytest.raises(RefusedError, match="1024 to 65535"):
        job(broker, port=port)
    assert not broker.registry.own


@pytest.mark.parametrize("request_", ["", "x", None, [], "-----BEGIN CERTIFICATE-----", "é" * 99])
def test_requests_that_are_none(broker, request_):
    with pytest.raises(RefusedError, match="request for a certificate"):
        job(broker, request=request_)
    assert not broker.registry.own


def test_brokers_of_two_nodes(make, clock):
    here, there = make("login1"), make("login2")
    lines = []
    cluster, far = registered(here, lines=lines), job(here)["id"]
    cookie, session = here.sessions.begin(ME)
    asyncio.run(here.exchange.tell())
    there.gate._addresses["login1"] = "10.0.0.1"
    asyncio.run(there.exchange.hear())
    assert there.sessions.of(cookie) == session
    word = there.sessions.redeem(there.sessions.ticket(session, cluster), cluster)
    verdict = there.gate.decide(Asked(cluster, word))
    assert (verdict.upstream, verdict.name) == ("https://10.0.0.1:8443", "login1")
    # A logout there ends what is open here.
    there.logins.close(there.sessions.of(cookie))
    asyncio.run(there.exchange.tell())
    asyncio.run(here.exchange.hear())
    assert lines == [{"cut": [here.sessions.view(session.id, cluster)]}]
    assert here.sessions.of(cookie) is None
    # A node that is down takes its own clusters along, and those of jobs go on.
    clock.now += 120
    asyncio.run(there.exchange.hear())
    assert set(there.registry.others) == {far}
    again = job(there, id=far)
    assert again["id"] == far and far in there.registry.own
    assert job(there, OTHER, id=far)["id"] != far


def test_a_link_works_once_on_all_nodes(make):
    here, there = make("login1"), make("login2")
    _, _, word = here.logins.link(ME).partition("#")
    assert asyncio.run(there.logins.open(word)) is not None
    assert asyncio.run(here.logins.open(word)) is None


def test_a_link_that_can_not_be_marked_as_used_lets_nobody_in(broker, places):
    _, _, word = broker.logins.link(ME).partition("#")
    (places.secret / "used").write_text("no folder")
    assert asyncio.run(broker.logins.open(word)) is None
    assert not broker.sessions.all()


def test_root_logs_everyone_out_on_all_nodes(make):
    here, there = make("login1"), make("login2")
    cookies = [here.sessions.begin(uid)[0] for uid in (ME, OTHER)]
    asyncio.run(here.exchange.tell())
    asyncio.run(there.exchange.hear())
    with pytest.raises(RefusedError, match="Only root"):
        asyncio.run(there.logins.log_out_everyone(OTHER))
    assert asyncio.run(there.logins.log_out_everyone(0)) == 2
    asyncio.run(there.exchange.tell())
    asyncio.run(here.exchange.hear())
    assert [here.sessions.of(cookie) for cookie in cookies] == [None, None]


def test_a_broker_that_was_killed_goes_on_where_it_was(make, places, clock):
    broker = make()
    cluster = registered(broker)
    cookie, session = broker.sessions.begin(ME)
    (places.doors / "left.sock").touch()
    asyncio.run(broker.exchange.tell())
    after = make()
    after.restore()
    assert after.sessions.of(cookie) == session
    assert after.registry.own[cluster].lost == clock.now  # until its scheduler comes back
    assert sorted(path.name for path in places.doors.iterdir()) == [f"{cluster}.sock"]


def test_locked_users(broker, make):
    me = name_of(ME)
    lines = []
    cluster = registered(broker, lines=lines)
    _, mine = logged_in(broker, ME, cluster)
    with pytest.raises(RefusedError, match="Only root"):
        asyncio.run(broker.logins.lock(OTHER, me, locked=True))
    assert asyncio.run(broker.logins.lock(0, me, locked=True))["ended"] == 1
    assert lines
    assert broker.gate.decide(Asked(cluster, mine)).status == 401
    with pytest.raises(RefusedError, match="locked"):
        broker.logins.link(ME)
    with pytest.raises(RefusedError, match="locked"):
        registered(broker)
    asyncio.run(broker.exchange.tell())
    other = make("login2")
    asyncio.run(other.exchange.hear())
    assert other.barred.is_barred(ME)
    asyncio.run(broker.logins.lock(0, me, locked=False))
    assert broker.logins.link(ME)


def test_accounts_that_are_gone_or_have_no_shell(monkeypatch):
    shells = {1: "/bin/bash", 2: "/usr/sbin/nologin", 3: "/bin/false", 4: "/bin/zsh"}

    me = pwd.getpwuid(os.getuid())

    def entry(uid):
        person = list(me)
        person[6] = shells[uid]
        return pwd.struct_passwd(person)

    monkeypatch.setattr(accounts.pwd, "getpwuid", entry)
    assert accounts.Accounts().find_unusable({1, 2, 3, 4, 5}) == {2, 3, 5}


def test_accounts_that_the_system_has_locked(tmp_path):
    """Told by a file that is not there where nobody writes it; once it was, what it said holds."""
    locked = tmp_path / "locked"
    known = accounts.Accounts(locked)
    me = os.getuid()
    assert not known.find_unusable([me])
    locked.write_text(f"daemon\n{pwd.getpwuid(me).pw_name}\n")
    assert known.find_unusable([me]) == {me}
    asyncio.run(known.look({me}))
    assert known.unusable == {me}
    locked.unlink()
    assert known.find_unusable([me]) == {me}
    locked.write_text("daemon\n")
    assert not known.find_unusable([me])


def test_a_lock_of_the_system_is_seen_at_once(tmp_path):
    known = accounts.Accounts(tmp_path / "locked")

    async def seen():
        waits = asyncio.create_task(known.change(60))
        await asyncio.sleep(0.1)
        assert not waits.done()
        (tmp_path / "locked").write_text("somebody\n")
        await asyncio.wait_for(waits, 10)
        await known.look(set())
        began = time.monotonic()
        await known.change(0.3)
        assert time.monotonic() - began > 0.2, "by then nothing has changed"

    asyncio.run(seen())


def test_a_login_hides_no_lock_from_who_looks(tmp_path):
    known = accounts.Accounts(tmp_path / "locked")

    async def seen():
        await known.look(set())
        (tmp_path / "locked").write_text("somebody\n")
        known.find_unusable([os.getuid()])  # as a login does
        await asyncio.wait_for(known.change(60), 5)

    asyncio.run(seen())


def test_files_of_peers_that_can_not_be_read_cost_those_alone(tmp_path, clock):
    here = Peers(tmp_path, "login1", clock)
    other = Peers(tmp_path, "login2", clock)
    said = {"clusters": [], "sessions": [], "closed": []}
    other.tell(said)
    folder = tmp_path / "nodes"
    for number, text in enumerate(
        ["", "{", "[]", "null", '{"host": 1}', '{"host": "x", "seen": {}}']
    ):
        (folder / f"bad{number}.json").write_text(text)
    assert [one.host for one in here.others()] == ["login2"]
    assert stat.S_IMODE((folder / "login2.json").stat().st_mode) == 0o600


def test_keys_are_made_once_and_renewed_in_time(places, monkeypatch):
    assert keys.ensure(places, web=True) == []
    for path in (*places.secret.glob("*.key"), places.secret / "hmac"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = (places.public / "clusters.pem").read_bytes()
    monkeypatch.setattr(keys, "_RENEWED", keys._LASTS)
    made = {path.name for path in keys.ensure(places, web=True)}
    assert made == {"node-login1.pem", "client.pem", "web.pem"}
    assert (places.public / "clusters.pem").read_bytes() == before
    monkeypatch.undo()
    (places.proxy / "web.pem").write_text("spoiled")
    assert [path.name for path in keys.ensure(places, web=True)] == ["web.pem"]


def test_names_that_users_choose_are_one_line(broker):
    cluster = registered(broker, name="a\nb\x1b[2J" + "w" * 500, pools=["x\n", 7, "y"] * 99)
    known = broker.registry.own[cluster]
    assert known.name.isprintable() and len(known.name) <= 100
    assert set(known.pools) == {"x", "y"} and len(known.pools) <= 50
    assert Cluster.from_dict(known.to_dict()) == known


# -- the history ---------------------------------------------------------------------------------


def test_the_history_has_the_same_login(make, past):
    broker = make(past=past)
    _, mine = logged_in(broker, ME, "history")
    verdict = broker.gate.decide(Asked("history", mine))
    assert (verdict.status, verdict.user) == (204, str(ME))
    assert verdict.upstream == f"http://unix:{past.socket}:"
    assert verdict.host == "history.dask.test:8443"
    for cookie in ("", "x.y", mine[:-1], mine.replace("history", "a" * 16)):
        assert broker.gate.decide(Asked("history", cookie)).status == 401
    cluster = registered(broker)
    _, theirs = logged_in(broker, OTHER, cluster)
    # A cookie of one origin is none of another, and a dashboard is told nobody's number.
    assert broker.gate.decide(Asked("history", theirs)).status == 401
    assert broker.gate.decide(Asked(cluster, mine)).status == 401
    _, own = logged_in(broker, ME, cluster)
    assert broker.gate.decide(Asked(cluster, own)).user == ""
    _, theirs = logged_in(broker, OTHER, "history")
    assert broker.gate.decide(Asked("history", theirs)).user == str(OTHER)


def test_a_ticket_for_the_history_is_none_for_a_cluster(make, past):
    broker = make(past=past)
    cluster, (_, session) = registered(broker), broker.sessions.begin(ME)
    for one, other in (("history", cluster), (cluster, "history")):
        ticket = broker.sessions.ticket(session, one)
        assert broker.sessions.redeem(ticket, other) is None
        assert broker.sessions.redeem(ticket, one)
        assert broker.sessions.redeem(ticket, one) is None


def test_where_there_is_no_history_nobody_is_led_to_it(broker):
    _, mine = logged_in(broker, ME, "history")
    assert broker.gate.decide(Asked("history", mine)).status == 403
    assert not broker.gate.reaches(ME, "history") and not broker.gate.history_url
    with pytest.raises(RefusedError, match="no such dashboard"):
        broker.logins.link(ME, "history")


def test_where_clusters_have_paths_the_history_is_not_among_them(places, past, clock):
    broker = Broker(replace(places, paths=True), 3600, clock, past)
    writes(past, "login1")
    asyncio.run(broker.exchange.hear())
    cookie, _ = broker.sessions.begin(ME)
    assert broker.gate.decide(Asked("history", cookie)).status == 403
    assert not broker.gate.reaches(ME, "history") and not broker.gate.history_url


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 204),
        ({"origin": "https://history.dask.test:8443", "site": "same-origin"}, 204),
        ({"site": "same-site", "mode": "navigate", "dest": "document"}, 204),
        ({"origin": "https://dask.test:8443"}, 403),
        ({"origin": "https://aaaaaaaaaaaaaaaa.dask.test:8443"}, 403),
        ({"origin": "https://history.dask.test"}, 403),
        ({"origin": "null"}, 403),
        ({"site": "same-site", "mode": "cors", "dest": "empty"}, 403),
        ({"site": "same-site", "mode": "navigate", "dest": "iframe"}, 403),
        ({"upgrade": "websocket", "origin": "https://aaaaaaaaaaaaaaaa.dask.test:8443"}, 403),
    ],
)
def test_from_which_page_the_history_is_asked(make, past, asked, status):
    broker = make(past=past)
    _, mine = logged_in(broker, ME, "history")
    assert broker.gate.decide(Asked("history", mine, **asked)).status == status


def test_who_is_kept_out_sees_no_history(make, past):
    broker = make(past=past)
    session, mine = logged_in(broker, ME, "history")
    assert broker.gate.decide(Asked("history", mine)).status == 204
    broker.accounts.unusable = frozenset(
        {ME}
    )  # an account that is gone, before its session is ended
    assert broker.gate.decide(Asked("history", mine)).status == 403
    assert not broker.gate.reaches(ME, "history")
    broker.accounts.unusable = frozenset()
    asyncio.run(broker.logins.lock(0, name_of(ME), locked=True))
    assert broker.gate.decide(Asked("history", mine)).status == 401
    asyncio.run(broker.logins.lock(0, name_of(ME), locked=False))
    assert broker.gate.decide(Asked("history", mine)).status == 401
    session, mine = logged_in(broker, ME, "history")
    broker.logins.close(session)
    assert broker.gate.decide(Asked("history", mine)).status == 401


def test_the_history_is_asked_where_it_is_written(make, past):
    here, there = make("login1", past), make("login2", past)
    _, mine = logged_in(here, ME, "history")
    assert not here.gate.history_url
    asyncio.run(there.exchange.tell())
    for host, upstream, name in (
        ("login1", f"http://unix:{past.socket}:", "-"),
        ("login2", "https://10.0.0.2:8443", "login2"),
        ("elsewhere", f"http://unix:{past.socket}:", "-"),  # no proxy leads there
    ):
        writes(past, host)
        here.gate._addresses["login2"] = "10.0.0.2"
        asyncio.run(here.exchange.hear())
        verdict = here.gate.decide(Asked("history", mine))
        assert (verdict.status, verdict.upstream, verdict.name) == (204, upstream, name)
        assert verdict.user == str(ME)
        assert here.gate.history_url == "https://history.dask.test:8443/"
    (past.state / "where.json").write_text("{")
    asyncio.run(here.exchange.hear())
    assert here.gate.decide(Asked("history", mine)).upstream == f"http://unix:{past.socket}:"


def test_links_lead_on_to_pages_of_ours_alone(make, past):
    broker = make(past=past)
    before, _, after = broker.logins.link(ME, "history", "/clusters/ab-1").partition("#")
    word, slash, rest = after.partition("/")
    assert before == "https://dask.test:8443/login"
    assert broker.sessions.linked(word) == ME
    assert after_login(slash + rest) == "/ticket?cluster=history&path=/clusters/ab-1"
    cluster = registered(broker)
    assert broker.logins.link(ME, cluster, "/status").endswith(
        f"/ticket?cluster={cluster}&path=/status"
    )
    with pytest.raises(RefusedError, match="no such dashboard"):
        broker.logins.link(OTHER, cluster, "/status")
    for name in ("", "x", "historyy", new_id(), 7, [], "history\n"):
        with pytest.raises(RefusedError, match="no such dashboard"):
            broker.logins.link(ME, name)
    for path in ("", "x", "//evil.example", "/a?b", "/a b", "/\\x", "/a\n", None, 7, "/" * 300):
        with pytest.raises(RefusedError, match="path must be"):
            broker.logins.link(ME, "history", path)


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", "//evil.example", "https://evil.example/", "/\\evil.example", "/logout"),
        *("/ticket", "/ticket?cluster=history", "/ticket?cluster=history&path=//evil.example"),
        *("/ticket?cluster=history&path=/\r\nX: y", "/ticket?cluster=history&path=/a&path=//b"),
        *("/ticket?cluster=evil&path=/", "/ticket?cluster=history&path=/\n", "/ticket/../x"),
        *("//ticket?cluster=history&path=/", " /ticket?cluster=history&path=/"),
    ],
)
def test_a_login_leads_nowhere_else(given):
    assert after_login(given) == "/"
