"""A recorder's lines on their way: by the spool, to a service that is there, or is not."""

import json
import os
import socket
import time

import pytest
from history_storing import BEGUN
from web_serving import serving

from dask_site.calls import Calls, ServiceDownError
from dask_site.history import sending
from dask_site.history.collector import Collector
from dask_site.history.lines import MOST_SENT, Lines
from dask_site.history.sending import Sender
from dask_site.history.service.inbox import Inbox
from dask_site.history.spool import SpoolWriter, read_spool
from dask_site.history.ways import Ways
from dask_site.services.buckets import Buckets
from dask_site.services.listening import unix_socket

ME = os.getuid()
CLUSTER = {"k": "cluster", "t": BEGUN, "started": BEGUN, "kind": "Cluster"}
END = {"k": "end", "t": BEGUN + 99, "how": "closed"}


def span(name, tasks=1):
    many = {"p": {"states": {"memory": tasks}}}
    return {"k": "span", "t": BEGUN, "id": name, "name": [name], "enqueued": 1.0, "tasks": many}


def sample():
    return {"k": "usage", "t": 1.0, "pool": "cpu", "threads": {"busy": 1.0}}


@pytest.fixture
def served(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    with unix_socket(tmp_path / "l") as local, serving(state, local=[local]) as pages:
        pages.state, pages.socket = state, tmp_path / "l"
        there(pages)
        yield pages


def there(pages):
    """Have the service's file say where it is."""
    said = {"host": socket.gethostname(), "port": 0, "socket": str(pages.socket), "certificate": ""}
    (pages.state / "where.json").write_text(json.dumps(said))


def away(pages):
    """Have it lead to where nothing is."""
    said = {"host": socket.gethostname(), "port": 0, "socket": "/dev/null", "certificate": ""}
    (pages.state / "where.json").write_text(json.dumps(said))


def received(pages, name="c"):
    folder = pages.state / "inbox" / str(ME)
    found = sorted(folder.glob(f"{name}.*.spool"), key=lambda path: int(path.name.split(".")[-2]))
    return [[record for record, _ in read_spool(path)] for path in found]


def ids(records):
    return [getattr(one, "id", one.k) for one in records]


def soon(way):
    """Do not wait until it tries again."""
    way._not_before = 0.0


def tasks_of(pages, *spools):
    Collector(pages.store, spools, received=pages.state / "inbox").collect(BEGUN + 86400)
    return {one.id: one.tasks for one in pages.store.clusters()}


@pytest.fixture
def lose(monkeypatch):
    """Have the service take what is sent, and its answers be lost: ``lose(2)``."""
    left = [0]

    class Losing(Calls):
        def __call__(self, *given):
            answer = super().__call__(*given)
            if left[0]:
                left[0] -= 1
                raise ServiceDownError("the answer was lost")
            return answer

    monkeypatch.setattr(sending, "Calls", Losing)
    return lambda number: left.__setitem__(0, number)


# -- sending ---------------------------------------------------------------------------------


def test_what_is_sent_arrives_in_order(served):
    sender, make = Sender(served.state, "c"), Lines("c")
    assert sender.put(make.of([CLUSTER, span("a")])) == [0, 1]
    assert sender.put(make.of([span("b"), END])) == [0, 1]
    (only,) = received(served)
    assert [(ids([one])[0], one.q) for one in only] == [
        ("cluster", 1),
        ("a", 2),
        ("b", 3),
        ("end", 4),
    ]
    assert sender.problem is None and 0 < sender.share < 0.001
    assert tasks_of(served) == {"c": 2}
    assert served.store.owner_of("c") == ME


def test_an_answer_that_is_lost_costs_nothing_and_doubles_nothing(served, lose):
    sender, make = Sender(served.state, "c"), Lines("c")
    sender.put(make.of([CLUSTER]))
    lose(2)
    assert sender.put(make.of([span("a", 5)])) == []
    assert "was lost" in str(sender.problem)
    assert ids(received(served)[0]) == ["cluster", "a"]  # it has come, which nobody knows
    soon(sender)
    assert sender.put(make.of([span("a", 5)])) == []
    soon(sender)
    # As the recorder does: what it does not know to be safe comes again, as of now.
    assert sender.put(make.of([span("a", 6), END])) == [0, 1]
    assert [ids(file) for file in received(served)] == [["cluster", "a", "a", "end"]]
    assert tasks_of(served) == {"c": 6}


def test_a_service_that_has_lost_it_gets_another_file(served):
    sender, make = Sender(served.state, "c"), Lines("c")
    sender.put(make.of([CLUSTER, span("a")]))
    (served.state / "inbox" / str(ME) / "c.0.spool").unlink()
    assert sender.put(make.of([span("b")])) == [0]
    assert [ids(file) for file in received(served)] == [["b"]]
    assert sender.put(make.of([span("d")])) == [0]
    assert [ids(file) for file in received(served)] == [["b", "d"]]


def test_while_it_is_away_it_is_not_asked_all_the_time(served):
    away(served)
    sender, make = Sender(served.state, "c"), Lines("c")
    assert sender.put(make.of([CLUSTER])) == []
    first = sender.problem
    assert "/dev/null" in str(first)
    there(served)
    assert sender.put(make.of([CLUSTER])) == [] and sender.problem is first
    pauses = []
    away(served)
    for _ in range(9):
        soon(sender)
        assert sender.put(make.of([CLUSTER])) == []
        assert sender._not_before > time.monotonic()
        pauses.append(sender._pause)
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300, 300]
    there(served)
    assert sender.put(make.of([CLUSTER]), at_once=True) == [0]
    assert sender.problem is None


def test_nothing_piles_up_while_it_is_away(served, lose):
    sender, make = Sender(served.state, "c"), Lines("c")
    lose(1)
    sender.put(make.of([CLUSTER]))
    away(served)
    for number in range(50):
        soon(sender)
        assert sender.put(make.of([span(f"{number}-{n}") for n in range(100)])) == []
        assert len(sender._unsure) <= MOST_SENT
    there(served)
    soon(sender)
    assert sender.put(make.of([END])) == [0]
    assert ids(received(served)[0])[0] == "cluster" and len(received(served)[0]) <= 102


def test_much_is_sent_in_parts_and_files_follow_each_other(served):
    sender, make = Sender(served.state, "c", rotate=MOST_SENT), Lines("c")
    many = [span("x" * 120 + str(n)) for n in range(4000)]
    assert sender.put(make.of(many)) == list(range(4000))
    files = received(served)
    assert len(files) > 1
    assert [one.q for file in files for one in file] == list(range(1, 4001))


def test_of_a_cluster_no_more_is_sent_than_its_bytes(served):
    sender, make = Sender(served.state, "c", most_bytes=100_000), Lines("c")
    while sender.put(make.of([sample()]), at_once=True):
        pass
    assert "of 100000 bytes" in str(sender.problem) and 0.7 < sender.share <= 0.75
    assert sender.put(make.of([sample(), span("s"), END]), at_once=True) == [1, 2]


def test_what_it_refuses_is_the_problem_and_is_not_kept(served):
    served.context.inbox = Inbox(served.context.settings.inbox, most_bytes=10)
    sender, make = Sender(served.state, "c"), Lines("c")
    assert sender.put(make.of([CLUSTER])) == []
    assert "wait for that, or close some" in str(sender.problem) and sender._unsure == b""
    served.context.inbox = Inbox(served.context.settings.inbox)
    served.context.rate = Buckets(0.0, 1)
    assert sender.put(make.of([CLUSTER]), at_once=True) == [0]
    assert sender.put(make.of([END]), at_once=True) == []
    assert "less often" in str(sender.problem)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"host": "x", "port": "y"}'])
def test_a_broken_file_of_the_service_is_no_trouble(served, content):
    (served.state / "where.json").write_text(content)
    sender = Sender(served.state, "c")
    assert sender.put(Lines("c").of([CLUSTER])) == []
    assert "where.json can't be used" in str(sender.problem)


# -- one way or the other --------------------------------------------------------------------


class Both:
    """A spool folder that may be out of reach, and a service that may be away."""

    def __init__(self, pages, folder, first):
        self.pages, self.folder = pages, folder
        self.spool, self.sender = SpoolWriter(folder, "c"), Sender(pages.state, "c")
        ways = [self.spool, self.sender]
        self.ways = Ways("c", ways if first == "spool" else ways[::-1])

    def block(self):
        self.folder.parent.rename(self.folder.parent.with_name("elsewhere"))
        self.folder.parent.write_text("not mounted")
        self.spool.close()

    def unblock(self):
        self.folder.parent.unlink()
        self.folder.parent.with_name("elsewhere").rename(self.folder.parent)
        soon(self.spool)

    def written(self):
        files = sorted(self.folder.glob("*.spool"))
        return [one for path in files for one in ids(record for record, _ in read_spool(path))]

    def sent(self):
        return [one for file in received(self.pages) for one in ids(file)]


@pytest.fixture
def both(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "mount").mkdir()
    return lambda first: Both(served, tmp_path / "mount" / "me", first)


def test_the_spool_is_taken_where_it_can_be_written(both):
    it = both("spool")
    assert it.ways.write([CLUSTER, span("a")]) == [0, 1]
    assert (it.written(), it.sent()) == (["cluster", "a"], [])


def test_where_it_can_not_records_are_sent_and_once_it_can_they_are_not(both, served):
    it = both("spool")
    it.block()
    assert it.ways.write([CLUSTER, span("a", 3)]) == [0, 1]
    assert it.ways.write([span("a", 4)]) == [0]
    assert it.ways.problem is None
    assert it.sent() == ["cluster", "a", "a"]
    it.unblock()
    assert it.ways.write([span("a", 5), END]) == [0, 1]
    assert it.written() == ["a", "end"] and len(it.sent()) == 3
    assert tasks_of(served, it.folder.parent) == {"c": 5}
    assert served.store.load("c").end.how == "closed"


def test_a_service_that_is_wanted_and_away_leaves_them_to_the_spool(both, served):
    it = both("http")
    assert it.ways.write([CLUSTER]) == [0]
    away(served)
    assert it.ways.write([span("a", 3)]) == [0] and it.ways.problem is None
    there(served)
    assert it.ways.write([span("b")]) == [0]  # it waits before it tries again
    soon(it.sender)
    assert it.ways.write([END]) == [0]
    # What may have arrived is sent again: with the same number, so it counts once.
    assert (it.written(), it.sent()) == (["a", "b"], ["cluster", "a", "end"])
    assert tasks_of(served, it.folder.parent) == {"c": 4}


def test_what_went_on_both_ways_counts_once(both, served, lose):
    it = both("http")
    lose(1)
    assert it.ways.write([CLUSTER, span("a", 7)]) == [0, 1]  # sent, and written, as nobody knew
    soon(it.sender)
    assert it.ways.write([END]) == [0]
    assert it.written() == ["cluster", "a"] and it.sent() == ["cluster", "a", "end"]
    spools = it.folder.parent
    assert tasks_of(served, spools) == tasks_of(served, spools) == {"c": 7}


def test_with_no_way_left_both_reasons_are_told_and_nothing_is_lost_for_good(both, served):
    it = both("spool")
    it.block()
    away(served)
    assert it.ways.write([CLUSTER]) == []
    assert "mount" in str(it.ways.problem) and "/dev/null" in str(it.ways.problem)
    there(served)
    soon(it.sender)
    assert it.ways.write([CLUSTER, span("a")]) == [0, 1]
    assert it.ways.problem is None


def test_at_the_end_what_works_is_taken_first(both, served):
    it = both("http")
    away(served)
    assert it.ways.write([CLUSTER]) == [0]
    there(served)
    assert it.ways.write([END], at_once=True) == [0]
    assert (it.written(), it.sent()) == (["cluster", "end"], [])
