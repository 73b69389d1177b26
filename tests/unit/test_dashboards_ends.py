"""What a broker lets nobody undo: ends, locks, names, and what it does when it can't know."""
# ruff: noqa: F811  # fixtures of the other module

import asyncio
import json
import os
import pwd
from dataclasses import replace

import pytest
from test_dashboards_broker import (  # noqa: F401  # fixtures
    ME,
    OTHER,
    broker,
    clock,
    job,
    logged_in,
    make,
    places,
    registered,
)

from dask_site.dashboards import accounts, asking, keys
from dask_site.dashboards.control import answer
from dask_site.dashboards.exchange import STALE
from dask_site.dashboards.gate import Asked
from dask_site.dashboards.peers import Peers, Told
from dask_site.dashboards.registry import RefusedError
from dask_site.people import name_of
from dask_site.services.buckets import Buckets

BOB = "bob"
SAID = {"clusters": [], "sessions": [], "closed": []}


@pytest.fixture(autouse=True)
def bob(monkeypatch):
    known = {BOB: OTHER, name_of(ME): ME}
    monkeypatch.setattr(accounts, "uid_of", known.get)


def asked(broker, uid, **question):
    return asyncio.run(answer(broker, uid, question))


def shared(broker, cluster, uid=ME):
    assert "error" not in asked(broker, uid, op="share", cluster=cluster, user=BOB, seconds=3600)


def lock(broker, user, locked=True):
    return asked(broker, 0, op="lock" if locked else "unlock", user=user)


def audited(places):
    lines = "".join(path.read_text() for path in (places.secret / "audit").glob("*.jsonl"))
    return [json.loads(line) for line in lines.splitlines()]


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", " {}", "{} ", "0{}", "{}\n"])
def test_a_provider_can_not_name_a_user_by_his_number(broker, monkeypatch, form):
    user = next(one for one in pwd.getpwall() if one.pw_uid)
    monkeypatch.setattr(broker.accounts, "find_unusable", lambda _: frozenset())
    with pytest.raises(RefusedError, match="no such user"):
        asyncio.run(broker.logins.enter(form.format(user.pw_uid)))
    with pytest.raises(RefusedError, match="no such user"):
        asyncio.run(broker.logins.link_of(form.format(user.pw_uid)))
    assert asyncio.run(broker.logins.enter(user.pw_name))[1].uid == user.pw_uid  # the control


# -- nodes ---------------------------------------------------------------------------------------


def test_who_has_a_jobs_cluster_by_now_is_asked_about_it(make, clock):
    here, there = make("login1"), make("login2")
    cluster = job(here)["id"]
    shared(here, cluster)
    asyncio.run(there.exchange.hear())
    here = make("login1")  # it was killed
    here.restore()
    clock.now += 1
    job(there, id=cluster)
    assert asked(there, ME, op="list")["dashboards"][0]["shares"]
    asyncio.run(there.exchange.tell())
    said = asked(here, ME, op="unshare", cluster=cluster, user=BOB)
    assert (said["status"], said["host"]) == (421, "login2")
    assert "error" not in asked(there, ME, op="unshare", cluster=cluster, user=BOB)
    asyncio.run(here.exchange.hear())
    assert cluster in here.registry.others and not here.gate.visible(OTHER, cluster)
    # It comes back the same way, whatever the clock of this node says.
    clock.now -= 30
    job(here, id=cluster)
    asyncio.run(here.exchange.tell())
    asyncio.run(there.exchange.hear())
    assert cluster in there.registry.others and here.registry.own[cluster].host == "login1"


def test_a_command_goes_on_to_the_node_that_can_answer(tmp_path, monkeypatch):
    where = replace(asking.Places("dask.test", 1, tmp_path, tmp_path), host="login1")
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "login2.json").write_text('{"host": "login2", "port": 1}')
    went = []

    def called(one, question):
        went.append((one.host, question))
        return {"id": "x"}

    monkeypatch.setattr(asking, "_called", called)

    def refuses(host):
        def ask_here(*_):
            raise asking.DashboardError("Its broker is elsewhere", host)

        monkeypatch.setattr(asking, "is_near", lambda _: True)
        monkeypatch.setattr(asking, "_ask_here", ask_here)

    refuses("login2")
    assert asking.ask(where, op="share", cluster="x") == {"id": "x"}
    assert went == [("login2", {"op": "share", "cluster": "x"})]
    refuses("login3")
    with pytest.raises(asking.BrokerDownError, match=r"login3.*has not run yet"):
        asking.ask(where, op="share", cluster="x")
    refuses("../secret/x")
    with pytest.raises(asking.DashboardError, match="no name of a login node"):
        asking.ask(where, op="share", cluster="x")
    refuses("")
    with pytest.raises(asking.DashboardError, match="elsewhere"):
        asking.ask(where, op="share", cluster="x")


def test_a_ticket_works_once_on_all_nodes(make):
    here, there = make("login1"), make("login2")
    cluster = registered(here)
    _, session = here.sessions.begin(ME)
    asyncio.run(here.exchange.tell())
    asyncio.run(there.exchange.hear())
    state = "5" * 32
    word = here.sessions.ticket(session, cluster, state)
    assert asyncio.run(here.logins.arrive(word, cluster, state))[1] == session
    for one in (here, there):
        with pytest.raises(RefusedError):
            asyncio.run(one.logins.arrive(word, cluster, state))


def test_a_ticket_is_for_the_browser_that_was_sent_for_it(broker):
    cluster = registered(broker)
    _, session = broker.sessions.begin(ME)
    for given, shown in (("5" * 32, "6" * 32), ("5" * 32, ""), ("", ""), ("", "5" * 32)):
        word = broker.sessions.ticket(session, cluster, given)
        assert asyncio.run(broker.logins.arrive(word, cluster, shown)) is None
        with pytest.raises(RefusedError, match="no ticket"):  # it is used up all the same
            asyncio.run(broker.logins.arrive(word, cluster, given))


@pytest.mark.parametrize(
    "ip",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.169.254", "224.0.0.1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "fe80::1", "ff02::1"),
        "fe80::1%eth0",
    ],
)
def test_addresses_that_no_compute_node_has(broker, ip):
    about = {"port": 40000, "request": keys.request()[0]}
    with pytest.raises(RefusedError, match="no address by which"):
        broker.clusters.register_job(ME, about, ip, print)
    assert not broker.registry.own


def test_a_mapped_address_is_the_one_that_it_stands_for(broker):
    about = {"port": 40000, "request": keys.request()[0]}
    name = broker.clusters.register_job(ME, about, "::ffff:10.0.0.7", print)["id"]
    assert broker.registry.own[name].address == "10.0.0.7:40000"
    name = broker.clusters.register_job(ME, about, "2001:db8::7", print)["id"]
    assert broker.registry.own[name].address == "[2001:db8::7]:40000"


# -- ends ----------------------------------------------------------------------------------------


def test_a_session_that_makes_room_for_another_is_cut(broker):
    lines = []
    cluster = registered(broker, lines=lines)
    first = broker.sessions.begin(ME)[1]
    broker._clock.now += 1  # which ends first
    for _ in range(20):
        word = broker.logins.link(ME).partition("#")[2]
        assert asyncio.run(broker.logins.open(word)) is not None
    assert lines == [{"cut": [broker.sessions.view(first.id, cluster)]}]


def test_who_is_kept_out_is_let_in_from_any_node(make, clock):
    me = name_of(ME)
    here, there = make("login1"), make("login2")
    assert lock(here, me)["locked"]
    asyncio.run(there.exchange.hear())
    assert there.barred.is_barred(ME)
    clock.now += 90 * 86400.0
    there.exchange.peers.tidy(600.0)
    for one in (here, there):
        asyncio.run(one.exchange.hear())
        assert one.barred.is_barred(ME)
    assert not lock(there, me, locked=False)["locked"]
    asyncio.run(here.exchange.hear())
    assert not here.barred.is_barred(ME) and here.logins.link(ME)


def test_a_lock_is_not_lost_with_what_says_it(make, places):
    here, there = make("login1"), make("login2")
    lock(here, name_of(ME))
    asyncio.run(there.exchange.hear())
    here.barred.locks.path.write_text("[1")
    asyncio.run(there.exchange.hear())
    assert there.barred.is_barred(ME)
    assert lock(here, BOB)["status"] == 503
    assert not [one for one in places.secret.iterdir() if one.name.startswith(".locked")]


def test_guests_of_who_is_kept_out_see_nothing_more(make):
    lines = []
    here, there = make("login1"), make("login2")
    cluster = registered(here, lines=lines)
    shared(here, cluster)
    guest, cookie = logged_in(here, OTHER, cluster)
    assert here.gate.decide(Asked(cluster, cookie)).status == 204
    lock(there, name_of(ME))
    asyncio.run(here.exchange.hear())
    assert here.gate.decide(Asked(cluster, cookie)).status == 403
    assert {"cut": [here.sessions.view(guest.id, cluster)]} in lines
    assert here.sessions.get(guest.id) is not None


@pytest.mark.parametrize("op", ["logout", "logout-everyone", "lock", "unshare"])
def test_what_was_answered_is_there_after_a_crash(make, op):
    before = make()
    cluster = registered(before)
    shared(before, cluster)
    _, mine = logged_in(before, ME, cluster)
    _, theirs = logged_in(before, OTHER, cluster)
    asyncio.run(before.exchange.tell())
    about = {"cluster": cluster, "user": BOB} if op == "unshare" else {"user": name_of(ME)}
    uid = 0 if op in {"lock", "logout-everyone"} else ME
    assert "error" not in asked(before, uid, op=op, **about)
    after = make()  # at once: nothing else was written
    after.restore()
    asyncio.run(after.exchange.hear())
    who = theirs if op == "unshare" else mine
    assert after.gate.decide(Asked(cluster, who)).status in {401, 403}


def test_what_can_not_be_written_is_said(broker, places):
    broker.sessions.begin(ME)
    (places.secret / "nodes").write_text("no folder")
    said = asked(broker, ME, op="logout")
    assert said["status"] == 503 and "on this login node alone" in said["error"]
    assert not broker.sessions.of_user(ME)


def test_what_root_does_and_the_end_of_a_share_is_noted(make, places, clock):
    broker = make()
    cluster = registered(broker, name="mine")
    assert "error" not in asked(broker, ME, op="share", cluster=cluster, user=BOB, seconds=10)
    lock(broker, BOB)
    lock(broker, BOB, locked=False)
    asked(broker, 0, op="logout-everyone")
    clock.now += 11
    asyncio.run(broker.exchange.hear())
    noted = [(one["what"], one["uid"], one.get("user_asked")) for one in audited(places)]
    assert noted == [
        ("share", ME, BOB),
        ("lock", 0, BOB),
        ("unlock", 0, BOB),
        ("logout-everyone", 0, None),
        ("share-ended", ME, str(OTHER)),
    ]


def test_who_is_not_noted_is_not_let_in_again(broker, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broker.notes.audit, "note", full)
    assert lock(broker, BOB)["locked"]
    assert lock(broker, BOB, locked=False)["status"] == 503
    assert broker.barred.is_barred(OTHER)


# -- what can't be known -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"host": "x", "seen": 1e999, "clusters": [], "sessions": [], "closed": []}',
        '{"host": "x", "seen": NaN, "clusters": [], "sessions": [], "closed": []}',
        '{"host": "x", "seen": 1, "clusters": [], "sessions": [["a", 1e999, 1]], "closed": []}',
        '{"host": "x", "seen": 1, "clusters": [], "sessions": [["a", 1, %s]], "closed": []}'
        % ("9" * 400),
        "[" * 100_000,
        '{"a":' * 100_000,
        "[]",
        "7",
        "\0",
    ],
)
def test_nonsense_of_another_broker_takes_nothing_away(tmp_path, clock, text):
    here, other = Peers(tmp_path, "login1", clock), Peers(tmp_path, "login2", clock)
    with pytest.raises(ValueError):
        Told.read(text.encode())
    other.tell({**SAID, "closed": [["s" * 32, clock.now + 60]]})
    known = here.others()
    assert known[0].closed
    (tmp_path / "nodes" / "login2.json").write_text(text)
    assert here.others() == known
    (tmp_path / "nodes" / "login2.json").unlink()
    assert here.others() == []


def test_a_broker_that_hears_nothing_lets_nobody_in_after_a_while(make, places, clock, caplog):
    broker = make()
    cluster = registered(broker)
    asyncio.run(broker.exchange.tell())
    make("login2").exchange.peers.tell({**SAID, "sessions": [["s" * 32, OTHER, clock.now + 999]]})
    asyncio.run(broker.exchange.hear())
    _, mine = logged_in(broker, ME, cluster)
    word = broker.logins.link(ME).partition("#")[2]
    folder = places.secret / "nodes"
    folder.rename(places.secret / "away")
    folder.write_text("no folder")
    for _ in range(3):
        clock.now += STALE / 4
        asyncio.run(broker.exchange.hear())
        assert broker.gate.decide(Asked(cluster, mine)).status == 204
        assert broker.sessions.get("s" * 32), "what is known stays"
    clock.now += STALE / 2
    word = broker.logins.link(ME).partition("#")[2]
    for _ in range(3):
        asyncio.run(broker.exchange.hear())
        assert broker.gate.decide(Asked(cluster, mine)).status == 503
    assert asyncio.run(broker.logins.open(word)) is None
    assert caplog.text.count("Nobody is let in") == 1
    assert caplog.text.count("can't be read: ") == 1
    folder.unlink()
    (places.secret / "away").rename(folder)
    asyncio.run(broker.exchange.hear())
    assert broker.gate.decide(Asked(cluster, mine)).status == 204
    assert asyncio.run(broker.logins.open(word)) is not None


def test_a_folder_that_hangs_does_the_same(make, places, clock):
    broker = make()
    cluster = registered(broker)
    asyncio.run(broker.exchange.tell())
    _, mine = logged_in(broker, ME, cluster)
    hung = places.secret / "nodes" / "login2.json"
    os.mkfifo(hung)

    async def hears():
        hearing = asyncio.create_task(broker.exchange.hear())
        await asyncio.sleep(0.1)
        assert not hearing.done()
        assert broker.gate.decide(Asked(cluster, mine)).status == 204
        clock.now += STALE + 1
        await asyncio.wait_for(broker.exchange.hear_again(), 20)  # nobody else waits for it
        assert broker.gate.decide(Asked(cluster, mine)).status == 503
        with hung.open("wb") as file:
            file.write(json.dumps({"host": "login2", "seen": clock.now, **SAID}).encode())
        await hearing
        assert broker.gate.decide(Asked(cluster, mine)).status == 204

    asyncio.run(hears())


def test_what_a_broker_remembers_holds_once_it_hears_the_others(make):
    before = make()
    cluster = registered(before)
    _, mine = logged_in(before, ME, cluster)
    asyncio.run(before.exchange.tell())
    after = make()
    after.restore()
    assert after.gate.decide(Asked(cluster, mine)).status == 503
    asyncio.run(after.exchange.hear())
    assert after.gate.decide(Asked(cluster, mine)).status == 204


def test_what_others_ended_does_not_come_back_with_a_restart(make, clock):
    here, there = make("login1"), make("login2")
    session = here.sessions.begin(ME)[1]
    asyncio.run(here.exchange.tell())
    asyncio.run(there.exchange.hear())
    there.logins.close(there.sessions.get(session.id))
    asyncio.run(there.exchange.tell())
    asyncio.run(here.exchange.hear())
    assert here.exchange._changed.is_set(), "it is written without that session soon"


# -- keys, floods --------------------------------------------------------------------------------


def test_an_authority_that_ends_is_told_of_a_year_before(places, monkeypatch):
    assert keys.ending(places) == []
    monkeypatch.setattr(keys, "_AUTHORITY_LASTS", keys._TOLD)
    for name in ("site", "clusters"):
        (places.public / f"{name}.pem").unlink()
    keys.ensure(places, web=True)
    told = keys.ending(places)
    assert [name in line for line, name in zip(told, ("site.pem", "clusters.pem"), strict=True)]
    assert all("remove it and" in line and "restart dask-dashboards" in line for line in told)
    assert "tell browsers" in told[0] and "tell browsers" not in told[1]


def test_what_is_published_holds_the_certificate_before(places, monkeypatch):
    path = places.proxy / "node-login1.pem"
    monkeypatch.setattr(keys, "_RENEWED", keys._LASTS)
    said, all_of_them = "", []
    for _ in range(5):
        keys.ensure(places, web=True)
        now = path.read_text()
        said = keys.published(said.encode(), now)
        assert keys.published(said.encode(), now) == said
        all_of_them.insert(0, now)
        assert said == "".join(all_of_them[:3])
    assert keys.published(b"spoiled", now) == now


def test_a_bucket_is_for_one_and_fills_again():
    now = [0.0]
    buckets = Buckets(2.0, 5, lambda: now[0])
    assert [buckets.take("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert buckets.take("b")
    now[0] += 1
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    now[0] += 1000
    assert [buckets.take("a") for _ in range(6)] == [True] * 5 + [False]
    for number in range(30_000):
        now[0] += 0.01
        assert buckets.take(number)
    assert len(buckets._left) <= 10_001
