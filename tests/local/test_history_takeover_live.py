"""Browsers while the writer is killed and another node takes over."""

import json
import os
import signal

import pytest
from serving import two_nodes

NAME = "dask.example.org"


@pytest.fixture(params=["sqlite", "postgresql"])
def nodes(request, tmp_path):
    """Two nodes, of which the first writes."""
    more = {}
    if request.param == "postgresql":
        more["store"] = request.getfixturevalue("new_postgresql")()
    (tmp_path / "spool").mkdir()
    with two_nodes(tmp_path, **more) as nodes:
        yield nodes


def asked(node, path, cookie="", method="GET"):
    headers = {"Host": NAME, "Cookie": cookie, "Origin": f"https://{NAME}"}
    answer, content = node.tls(method, path, headers=headers)
    return answer.status, answer, content


def link(node):
    said = node.call("POST", "/api/v1/sessions", '{"path": "/api/v1/whoami"}')[1]["url"]
    return "/" + said.split("/", 3)[3]


def entered(node):
    status, answer, _ = asked(node, link(node))
    assert status == 303
    return answer.getheader("Set-Cookie").partition(";")[0]


def stored(node):
    try:
        return len(json.loads((node.folder / "state" / "sessions.json").read_text())["sessions"])
    except FileNotFoundError:
        return 0


def test_who_is_logged_in_stays_so_and_who_has_left_does_not_come_back(nodes):
    first, second = nodes
    stays, leaves = entered(first), entered(first)
    used, unused = link(first), link(first)
    assert asked(first, used)[0] == 303
    first.until(lambda: stored(first) == 3)
    assert asked(first, "/api/v1/sessions", leaves, "DELETE")[0] == 200
    assert stored(first) == 2, "written before it is answered"
    file = first.folder / "state" / "sessions.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert stays.partition("=")[2] not in file.read_text()
    # The one that waits sends browsers on, and lets nobody in itself.
    second.until(lambda: asked(second, "/where?by=day", stays)[0] == 307)
    _, answer, _ = asked(second, "/where?by=day", stays)
    writer = json.loads((first.folder / "state" / "where.json").read_text())
    there = f"https://{writer['host']}:{first.port}/where?by=day"
    assert answer.getheader("Location") == there
    assert second.call("POST", "/api/v1/sessions", "{}")[0] == 503
    first.stop(signal.SIGKILL)
    second.writes()
    for link_before in (used, unused):
        assert asked(second, link_before)[0] == 401
    assert asked(second, "/api/v1/whoami", leaves)[0] == 401
    status, _, content = asked(second, "/api/v1/whoami", stays)
    assert status == 200 and json.loads(content)["uid"] == os.getuid()
    # Also one that ends in order leaves them to whoever comes next.
    assert second.stop() == 0
    first.start().writes()
    assert asked(first, "/api/v1/whoami", stays)[0] == 200
    assert asked(first, "/api/v1/whoami", leaves)[0] == 401
