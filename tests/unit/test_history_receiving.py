"""Records that are sent to the service: kept once, on disk, for whoever sent them."""

import errno
import gzip
import http.client
import json
import os
import random
import socket
import stat
from types import SimpleNamespace
from urllib.parse import urlencode
from zlib import crc32

import pytest
from history_storing import BEGUN, dump, lines, marks_in, record, spool, story
from web_serving import DAEMON, NOBODY, ROOT, serving

from dask_site.history.collector import Collector
from dask_site.history.finding import LARGEST
from dask_site.history.lines import MOST_SENT
from dask_site.history.service import inbox as inboxes
from dask_site.history.service import requests
from dask_site.history.service.inbox import Inbox, InboxError
from dask_site.history.store import Store
from dask_site.identity import Peer, has_munge, request_credential
from dask_site.services.buckets import Buckets
from dask_site.services.listening import unix_socket

NOW = BEGUN + 86400
FILE = "c1.0.spool"
SAID = lines(story(ticks=3, ended=False))
ALICE = DAEMON


@pytest.fixture
def served(tmp_path):
    local = unix_socket(tmp_path / "l")
    with serving(tmp_path, local=[local]) as pages:
        pages.path, pages.folder = str(tmp_path / "l"), tmp_path
        yield pages
    local.close()


class Local(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


@pytest.fixture
def send(served, monkeypatch):
    """Send lines as a user whom the kernel knows: ``send(lines, at=0, uid=ALICE)``."""
    peer = {}
    monkeypatch.setattr(requests, "peer_of", lambda _: Peer(peer["uid"], peer["uid"], 1))

    def sent(data, at=0, file=FILE, uid=ALICE, **headers):
        peer["uid"] = uid
        call = Local(served.path)
        query = urlencode({"file": file, "at": at}, errors="surrogateescape")
        call.request("POST", f"/api/v1/records?{query}", data, headers)
        answer = call.getresponse()
        said = json.loads(answer.read())
        call.close()
        return answer.status, said

    return sent


def file_of(served, uid=ALICE, name=FILE):
    return served.folder / "inbox" / str(uid) / name


def collect(served):
    return Collector(served.store, [], received=served.folder / "inbox").collect(NOW)


# -- what is kept ----------------------------------------------------------------------------


def test_what_is_sent_is_on_disk_and_collected_as_the_senders(served, send, tmp_path):
    half = SAID.index(b"\n", len(SAID) // 2) + 1
    assert send(SAID[:half]) == (200, {"at": half})
    assert send(SAID[half:], half) == (200, {"at": len(SAID)})
    file = file_of(served)
    assert file.read_bytes() == SAID
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    done = collect(served)
    assert (done.bad, done.skipped) == (0, {})
    with Store(f"sqlite:///{tmp_path / 'plain.db'}") as plain:
        plain.ingest(ALICE, story(ticks=3, ended=False), now=NOW)
    urls = (f"sqlite:///{tmp_path / name}" for name in ("history.db", "plain.db"))
    here, there = (dump(url, "files") for url in urls)
    assert here == there
    assert served.store.owner_of("c1") == ALICE


def test_all_of_much_is_the_senders(served, send):
    many = [record(q, "error", prefix="p", exception=f"E{q}", message="no") for q in range(1, 3001)]
    assert send(lines(many))[0] == 200
    collect(served)
    assert served.store.owner_of("c1") == ALICE
    assert set(served.store.refusals()) <= {(ALICE, "too many rows of kind error")}


def test_what_is_sent_again_changes_nothing_and_says_how_far_it_is(served, send):
    cuts = [0] + [i + 1 for i, byte in enumerate(SAID) if byte == 10]
    chosen = random.Random(4)
    for _ in range(60):  # replies are lost, and more or less is sent again
        there = file_of(served).stat().st_size if file_of(served).exists() else 0
        first = chosen.choice([cut for cut in cuts[:-1] if cut <= there])
        last = chosen.choice([cut for cut in cuts if cut > first])
        assert send(SAID[first:last], first) == (200, {"at": max(there, last)})
    assert send(SAID) == (200, {"at": len(SAID)})
    assert file_of(served).read_bytes() == SAID
    collect(served)
    assert collect(served).taken.applied == 0


def test_a_gap_and_other_lines_at_a_place_are_refused(served, send):
    whole, other = lines(story(ticks=1, ended=False)), lines([record(1, "end", how="x")])
    for at in (1, 999_999_999):
        assert send(whole, at)[0] == 409
    status, said = send(whole, 1)
    assert said["at"] == 0 and "send what is between" in said["error"]
    assert not file_of(served).exists()
    assert send(whole)[0] == 200
    status, said = send(whole, len(whole) + 1)
    assert (status, said["at"]) == (409, len(whole))
    status, said = send(other)
    assert (status, said["at"]) == (409, len(whole)) and "begin another file" in said["error"]
    assert file_of(served).read_bytes() == whole
    assert send(other, file="c1.1.spool")[0] == 200


def test_the_same_lines_by_both_ways_count_once(served, send, tmp_path):
    said = story(ticks=6)
    once = served.folder / "once.db"
    with Store(f"sqlite:///{once}") as plain:
        plain.ingest(os.getuid(), said, now=NOW)
    me = os.getuid()
    spools = tmp_path / "spools"
    # A part by each way, one part by both, and the spool's last.
    spool(spools / "me", said[: len(said) // 2])
    both = Collector(served.store, [spools], received=served.folder / "inbox")
    assert send(lines(said[len(said) // 4 :]), uid=me)[0] == 200
    both.collect(NOW)
    spool(spools / "me", said)
    both.collect(NOW)
    assert both.collect(NOW).taken.applied == 0
    urls = (f"sqlite:///{path}" for path in (served.folder / "history.db", once))
    here, there = (dump(url, "files") for url in urls)
    assert here == there
    tasks = [one.tasks for one in served.store.clusters()]
    with Store(f"sqlite:///{once}") as plain:
        assert tasks == [one.tasks for one in plain.clusters()] and tasks[0] > 0


def test_it_goes_when_its_cluster_has_ended(served, send):
    said = story(ticks=2)
    send(lines(said[:-1]))
    assert collect(served).deleted == 0 and file_of(served).exists()
    send(lines(said[-1:]), len(lines(said[:-1])))
    assert collect(served).deleted == 1
    assert not file_of(served).exists() and marks_in(served.store) == {}
    # Whoever did not hear of it sends it again: there is nothing from which it could go on.
    assert send(lines(said[-1:]), len(lines(said[:-1])))[1]["at"] == 0
    send(lines(said))
    assert collect(served).taken.applied == 0
    assert len(served.store.clusters()) == 1


def test_what_a_crash_left_of_a_line_is_sent_again(served, send):
    send(SAID[: SAID.index(b"\n") + 1])
    size = file_of(served).stat().st_size
    with file_of(served).open("ab") as file:
        file.write(SAID[size : size + 40])
    assert collect(served).bad == 0
    assert send(SAID[size:], size) == (200, {"at": len(SAID)})
    assert file_of(served).read_bytes() == SAID
    assert collect(served).bad == 0
    # Or of a disk: that is no part of what is sent, so this is for another file.
    with file_of(served).open("ab") as file:
        file.write(b"\0" * 40)
    assert send(GOOD, len(SAID))[0] == 409
    assert send(GOOD, file="c1.1.spool")[0] == 200
    assert collect(served).bad == 0


def test_nothing_is_acknowledged_that_is_not_on_disk(served, send, monkeypatch):
    half = SAID.index(b"\n", len(SAID) // 2) + 1
    send(SAID[:half])
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(inboxes.os, "fsync", lambda _: (_ for _ in ()).throw(full))
        status, said = send(SAID[half:], half)
    assert status == 503 and "No space left" in said["error"]
    assert file_of(served).read_bytes() == SAID[:half]
    assert send(SAID[half:], half)[0] == 200
    assert file_of(served).read_bytes() == SAID


# -- whose it is -----------------------------------------------------------------------------


def test_another_adds_nothing_to_a_cluster(served, send):
    said = story(ticks=2, ended=False)
    send(lines(said))
    collect(served)
    end = lines([record(9999, "end", how="stolen")])
    for uid in (NOBODY, ROOT):
        status, answer = send(end, uid=uid)
        assert status == 403 and "another's" in answer["error"]
    # Nor does one who is there before the collector knows whose it is.
    taken = lines(story("c2", 1, ended=False))
    assert send(taken, file="c2.0.spool")[0] == 200
    assert (
        send(lines([record(9999, "end", "c2", how="x")]), file="c2.0.spool", uid=NOBODY)[0] == 200
    )
    collect(served)
    owners = {one.id: one.owner for one in served.store.clusters()}
    assert owners["c1"] == ALICE and len(owners) == 2
    assert sum(served.store.refusals().values()) > 0
    assert served.store.load("c1").end is None


def test_only_the_system_says_who_sends(served):
    def status(**headers):
        call = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        call.request("POST", f"/api/v1/records?file={FILE}&at=0", SAID, headers)
        answer = call.getresponse()
        said = json.loads(answer.read())["error"]
        call.close()
        return answer.status, said

    assert status()[0] == 401
    assert status(Authorization="MUNGE MUNGE:AAAA:")[0] == 401
    origin = {"Cookie": served.cookie(ALICE), "Origin": f"https://127.0.0.1:{served.port}"}
    code, said = status(**origin)
    assert code == 403 and "by munge" in said
    assert status(Cookie=served.cookie(ALICE))[0] == 403
    assert not (served.folder / "inbox").exists()


@pytest.mark.skipif(not has_munge(), reason="no munge daemon answers here")
def test_a_credential_is_for_these_lines_at_this_place(served):
    host, path = served.context.settings.host, f"/api/v1/records?file={FILE}&at="

    def status(meant, data, at):
        call = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        call.request("POST", path + str(at), data, {"Authorization": f"MUNGE {meant}"})
        answer = call.getresponse()
        answer.read()
        call.close()
        return answer.status

    half = SAID.index(b"\n", len(SAID) // 2) + 1
    meant = request_credential(host, "POST", path + "0", SAID[:half])
    assert status(meant, SAID, 0) == 401
    for other in ((host, path + "7"), ("not-" + host, path + "0"), (host, "/api/v1/clusters")):
        assert status(request_credential(other[0], "POST", other[1], SAID), SAID, 0) == 401
    assert not (served.folder / "inbox").exists()
    meant = request_credential(host, "POST", path + "0", SAID[:half])
    assert status(meant, SAID[:half], 0) == 200
    assert status(meant, SAID[:half], 0) == 401  # it holds once
    meant = request_credential(host, "POST", path + str(half), SAID[half:])
    assert status(meant, SAID[half:], half) == 200
    assert file_of(served, os.getuid()).read_bytes() == SAID


def test_a_standby_says_who_takes_it(served, send):
    served.context.writer = False
    served.context.elsewhere = "The history is kept by login2; this node stands by."
    assert send(SAID) == (503, {"error": served.context.elsewhere})
    assert not (served.folder / "inbox").exists()


# -- what is refused -------------------------------------------------------------------------


def line(body):
    return b"%08x %b\n" % (crc32(body), body)


GOOD = lines([record(1, "end", how="x")])
WRONG = {
    "nothing": b"",
    "garbage": random.Random(1).randbytes(50_000),
    "no end": GOOD[:-1],
    "an empty line": GOOD + b"\n",
    "another checksum": b"0" + GOOD[1:] if GOOD[:1] != b"0" else b"1" + GOOD[1:],
    "a torn line between": GOOD + GOOD[:-9] + b"\n" + GOOD,
    "no object": line(b"[1]"),
    "deep": line(b"[" * 100_000),
    "deep and closed": line(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no number": line(b'{"c":"c1","t":NaN}'),
    "a huge number": line(b'{"c":"c1","q":' + b"9" * 5000 + b"}"),
    "a key twice": line(b'{"c":"c1","c":"c2"}'),
    "no UTF-8": line(b'{"c":"c1","x":"\xff"}'),
    "no cluster": line(b'{"k":"end"}'),
    "another cluster": GOOD + lines([record(1, "end", "c2", how="x")]),
    "a list of clusters": line(b'{"c":["c1"]}'),
    "too long a line": line(b'{"c":"c1","x":"' + b"x" * 300_000 + b'"}'),
    "compressed": gzip.compress(GOOD),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_no_recorder_writes_is_refused_whole(served, send, what):
    headers = {"Content-Encoding": "gzip"} if what == "compressed" else {}
    status, said = send(WRONG[what], **headers)
    assert status == 400 and len(said["error"]) < 400, said
    assert not (served.folder / "inbox").exists()


def test_nothing_is_unpacked(served, send):
    bomb = gzip.compress(b"0" * 20_000_000)
    for encoding in ("gzip", "deflate", "br", "zstd"):
        assert send(bomb, **{"Content-Encoding": encoding})[0] == 400


@pytest.mark.parametrize(
    "file",
    [
        *("", "c1", "c1.spool", "c1.x.spool", "../c1.0.spool", "/etc/c1.0.spool", ".c1.0.spool"),
        *(
            "c1.0.spool/",
            "c1.0.spool\n.x",
            "c1.0.spool\0.x",
            "c1.0.spoo",
            "c/1.0.spool",
            "c1.-1.spool",
        ),
        *("c1.1234567890.spool", "x" * 200 + ".0.spool", "c1.\u0660.spool", "c1\udcff.0.spool"),
    ],
)
def test_names_that_are_no_files_of_a_spool(served, send, file):
    status, said = send(GOOD, file=file)
    assert status == 400 and said["error"]
    assert not (served.folder / "inbox").exists()


@pytest.mark.parametrize("at", ["-1", "x", "1e3", "0x1", "9" * 30, "\u0663", "1 "])
def test_offsets_that_are_none(send, at):
    assert send(GOOD, at=at)[0] in {400, 409}


def test_too_much_at_once_is_refused_in_words(served, send):
    many = GOOD * (MOST_SENT // len(GOOD) + 1)
    status, said = send(many)
    assert status == 413 and f"at most {MOST_SENT}" in said["error"]
    assert not (served.folder / "inbox").exists()


def test_a_file_does_not_grow_beyond_what_is_read(served, send):
    send(GOOD)
    filler = line(b'{"c":"c1","x":"' + b"x" * (200_000) + b'"}')
    with file_of(served).open("ab") as file:
        while file.tell() < LARGEST - len(filler):
            file.write(filler)
    size = file_of(served).stat().st_size
    status, said = send(filler * 2, size)
    assert status == 413 and "begin another" in said["error"]
    assert send(GOOD, size)[0] == 200


def test_who_has_too_much_here_waits_and_others_do_not(served, send):
    served.context.inbox = Inbox(served.context.settings.inbox, 3 * len(GOOD), 2)
    assert send(GOOD)[0] == send(GOOD, file="c1.1.spool")[0] == 200
    for refused in ({"file": "c1.2.spool"}, {"data": GOOD + GOOD, "at": len(GOOD)}):
        status, said = send(**{"data": GOOD, **refused})
        assert status == 429 and "wait for that, or close some" in said["error"]
    assert send(GOOD, uid=NOBODY)[0] == 200
    assert send(GOOD, at=len(GOOD))[0] == 200
    # It has ended, so it goes.
    collect(served)
    served.context.inbox._used.clear()
    assert send(lines(story("c3", 1, ended=False))[:60], file="c3.0.spool")[0] == 400
    assert send(lines([record(1, "end", "c3", how="x")]), file="c3.0.spool")[0] == 200


def test_the_store_keeps_room_on_its_file_system(served, send):
    known = {"f_blocks": 10**6, "f_frsize": 4096}
    with pytest.MonkeyPatch.context() as patch:
        for free, status in ((1000, 503), (60_000, 200)):
            told = SimpleNamespace(**known, f_bavail=free)
            patch.setattr(inboxes.os, "statvfs", lambda _, told=told: told)
            answer, said = send(GOOD)
            assert answer == status, said
            assert file_of(served).exists() == (status == 200)
            assert status == 200 or "tell who runs the service" in said["error"]


def test_who_sends_too_often_is_told_when_to_come_again(served, send):
    now = [0.0]
    served.context.rate = Buckets(1.0, 3, lambda: now[0])
    assert [send(GOOD)[0] for _ in range(5)] == [200] * 3 + [429] * 2
    assert "less often" in send(GOOD)[1]["error"]
    assert send(GOOD, uid=NOBODY, file="c2.0.spool")[0] == 400  # he is asked what he sends
    now[0] = 2.0
    assert send(GOOD)[0] == 200


def test_what_stands_in_the_inbox_and_was_not_put_there_is_passed_over(served, send, tmp_path):
    send(GOOD)
    inbox = served.folder / "inbox"
    for name in ("alice", "-1", "007", "99999999999", "²"):
        spool(inbox / name, story(f"by-{ord(name[0])}", 1))
    (inbox / "5").symlink_to(tmp_path)
    spool(inbox, story("loose", 1))
    collect(served)
    assert {one.id for one in served.store.clusters()} == {"c1"}


def test_a_link_in_the_place_of_a_file_is_not_followed(served, send, tmp_path):
    send(GOOD)
    file_of(served).unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    file_of(served).symlink_to(victim)
    assert send(GOOD)[0] == 503
    assert victim.read_bytes() == b"mine"


def test_nothing_wrong_without_an_inbox(tmp_path):
    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        done = Collector(store, [], received=tmp_path / "inbox").collect(NOW)
    assert (done.skipped, done.more) == ({}, False)


def test_two_writers_for_a_moment_leave_one_file(tmp_path):
    """The one that was the writer may not have noticed yet that it no longer is."""
    one, other = Inbox(tmp_path / "inbox"), Inbox(tmp_path / "inbox")
    half = SAID.index(b"\n", len(SAID) // 2) + 1
    assert one.take(7, FILE, 0, SAID[:half]) == other.take(7, FILE, 0, SAID[:half]) == half
    assert other.take(7, FILE, half, SAID[half:]) == len(SAID)
    assert one.take(7, FILE, half, SAID[half:]) == len(SAID)
    with pytest.raises(InboxError) as refused:
        one.take(7, FILE, half, GOOD)
    assert refused.value.at == len(SAID)
    assert (tmp_path / "inbox" / "7" / FILE).read_bytes() == SAID
