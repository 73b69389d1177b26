"""The words that let browsers in: once, for a while, and where they are meant for."""

import string

import pytest

from dask_site.dashboards.sessions import LINK_SECONDS, TICKET_SECONDS, Session, Sessions

KEY = b"k" * 32
A, B = "a" * 16, "b" * 16


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(clock):
    return Sessions(KEY, 3600, clock)


def opened(sessions, word):
    used = sessions.use(word)
    return None if used is None else sessions.begin(used[0])


def changed(word):
    """Yield words that differ a little from a good one."""
    yield from (word[:-1], word + "A", "", ".", word.replace(".", ""), word.upper())
    for at in range(0, len(word), 7):
        other = "a" if word[at] != "a" else "b"
        yield word[:at] + other + word[at + 1 :]


def test_a_link_lets_its_user_in_once(sessions):
    word = sessions.link(2001)
    assert sessions.linked(word) == 2001
    cookie, session = opened(sessions, word)
    assert (session.uid, sessions.of(cookie)) == (2001, session)
    assert opened(sessions, word) is None
    assert sessions.linked(word) is None


def test_a_link_ends_after_a_minute(sessions, clock):
    word = sessions.link(2001)
    clock.now += LINK_SECONDS + 1
    assert opened(sessions, word) is None


def test_nothing_is_as_good_as_a_link(sessions):
    word = sessions.link(2001)
    for other in changed(word):
        assert opened(sessions, other) is None, other
    assert opened(Sessions(b"x" * 32, 3600), word) is None
    assert opened(sessions, word) is not None


def test_words_of_one_kind_are_none_of_another(sessions):
    cookie, session = opened(sessions, sessions.link(1))
    ticket, link = sessions.ticket(session, A), sessions.link(1)
    child = sessions.redeem(sessions.ticket(session, A), A)
    for word in (cookie, ticket, child):
        assert opened(sessions, word) is None
    for word in (cookie, link, child):
        assert sessions.redeem(word, A) is None
    for word in (cookie, link, ticket):
        assert sessions.at(word, A) is None
    for word in (link, ticket, child):
        assert sessions.of(word) is None


def test_a_ticket_is_for_one_cluster_once_and_soon(sessions, clock):
    _, session = opened(sessions, sessions.link(1))
    ticket = sessions.ticket(session, A)
    assert sessions.redeem(ticket, B) is None
    child = sessions.redeem(ticket, A)
    assert sessions.at(child, A) == session
    assert sessions.at(child, B) is None
    assert sessions.redeem(ticket, A) is None
    late = sessions.ticket(session, A)
    clock.now += TICKET_SECONDS + 1
    assert sessions.redeem(late, A) is None


def test_the_end_of_a_session_ends_what_came_of_it(sessions, clock):
    cookie, session = opened(sessions, sessions.link(1))
    ticket = sessions.ticket(session, A)
    child = sessions.redeem(sessions.ticket(session, A), A)
    sessions.close(session.id)
    assert sessions.of(cookie) is None
    assert sessions.at(child, A) is None
    assert sessions.redeem(ticket, A) is None
    cookie, session = opened(sessions, sessions.link(1))
    clock.now += 3601
    assert sessions.of(cookie) is None
    assert sessions.expired() == [session.id]
    assert sessions.expired() == []


def test_brokers_take_over_what_others_tell(clock):
    here, there = Sessions(KEY, 3600, clock), Sessions(KEY, 3600, clock)
    cookie, session = opened(here, here.link(1))
    told = here.told()
    assert cookie not in str(told)
    assert there.of(cookie) is None
    given = [Session(*row) for row in told["sessions"]]
    assert there.heard(given, []) == []
    assert there.of(cookie) == session
    there.close(session.id)
    assert here.heard([], [tuple(row) for row in there.told()["closed"]]) == [session.id]
    assert here.of(cookie) is None
    # What another tells can't last longer than what is opened here.
    forged = Session("f" * 32, 1, clock.now + 99_999_999)
    there.heard([forged], [])
    assert there.get(forged.id) is None


def test_a_broker_that_is_started_anew_logs_nobody_out_and_nobody_in(clock):
    before = Sessions(KEY, 3600, clock)
    cookie, _ = opened(before, before.link(1))
    left, gone = opened(before, before.link(2))
    before.close(gone.id)
    told = before.told()
    after = Sessions(KEY, 3600, clock)
    after.restore(
        [Session(*row) for row in told["sessions"]], [tuple(row) for row in told["closed"]]
    )
    assert after.of(cookie).uid == 1
    assert after.of(left) is None


def test_a_user_has_so_many_sessions(sessions):
    cookies = [sessions.begin(1)[0] for _ in range(25)]
    assert [sessions.of(cookie) is not None for cookie in cookies] == [False] * 5 + [True] * 20
    assert len(sessions.of_user(1)) == 20


def test_a_view_tells_nothing_of_the_session(sessions):
    _, session = opened(sessions, sessions.link(1))
    one = sessions.view(session.id, A)
    assert one == sessions.view(session.id, A) != sessions.view(session.id, B)
    assert session.id not in one
    assert set(one) <= set(string.ascii_letters + string.digits + "-_")
