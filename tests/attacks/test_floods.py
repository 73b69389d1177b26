"""Who floods the broker has the trouble himself (class 13)."""

import time
from urllib.parse import urlencode, urlsplit

from attacked import kept_out
from visiting import NAVIGATION

from nodes import node, until

SHOWN = "/health"
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
links, words = 0, set()
for number in range(400):
    try:
        links += "url" in asking.ask(where, op="link")
    except asking.DashboardError as error:
        words.add(str(error))
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
tell(kept=len(kept) - refused, refused=refused, links=links, words=sorted(words))
time.sleep(60)
"""


def test_floods_of_one_user_are_his_own_trouble(ids, browser, in_background, dashboards):
    facts, pid, _ = in_background("bob", FLOOD)
    try:
        kept_out(facts["kept"] <= 100 and facts["refused"] >= 300, "clusters", facts)
        assert facts["kept"] > 50  # the control: a flood it was
        kept_out(facts["links"] < 400 and any("too often" in w for w in facts["words"]), facts)
        began = time.monotonic()
        alice = browser("alice")
        assert alice.go(f"{alice.origin(ids['login'])}{SHOWN}").status == 200
        assert {one["id"] for one in dashboards("alice")["dashboards"]} >= set(ids.values())
        assert time.monotonic() - began < 60
    finally:
        node("login1").run(f"kill -KILL -- -{pid}; kill -KILL {pid}; pkill -KILL -u bob python")
    assert until(lambda: not dashboards("bob")["dashboards"], 90)


BY_MUNGE = """
from concurrent.futures import ThreadPoolExecutor
from dask_site.calls import Calls
from dask_site.dashboards import asking, keys
where_ = asking.places()
request, _ = keys.request()

def register(number):
    try:
        return asking.ask_elsewhere(where_, {"op": "register", "name": f"flood {number}",
                                             "port": 20000 + number, "request": request})
    except asking.DashboardError as error:
        return str(error)

with ThreadPoolExecutor(8) as pool:
    said = list(pool.map(register, range(260)))
kept = [one for one in said if not isinstance(one, str)]
tell(kept=len(kept), why=sorted({one for one in said if isinstance(one, str)}))
while not os.path.exists(os.path.expanduser("~/enough")):
    time.sleep(0.2)
for told, broker in kept:
    Calls(broker, "the broker", 5)("POST", ("wait",), body={"word": told["word"], "end": True})
"""


def test_a_flood_of_registrations_from_a_job(ids, browser, in_background, as_user):
    """Bob registers from a compute node what is not there, as often as he likes."""
    as_user("bob", "rm -f enough")
    facts, *_ = in_background("bob", BY_MUNGE, host="c2")
    # A hundred at each of two login nodes, of which he asks any.
    kept_out(facts["kept"] <= 200 and any("is the most" in one for one in facts["why"]), facts)
    assert facts["kept"] >= 100  # the control
    alice = browser("alice")
    for where, cluster in ids.items():
        url = f"{alice.origin(cluster)}{SHOWN}"
        kept_out(alice.go(url).status == 200 and alice.curl(url)[0] == 200, where)
    as_user("bob", "touch enough")
    told = "module load dask-site && dask-site dashboards --no-login"
    assert until(lambda: "flood" not in as_user("bob", told).stdout, 150)


def test_a_flood_of_sessions(ids, browser, stranger, dashboards):
    """Each login of bob's is good; the oldest are over when there are too many, and only his."""
    alice = browser("alice")
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    visitors = []
    for number in range(25):
        visitor = stranger()
        link = dashboards("bob")["login"]
        if number % 2:
            form = urlencode({"word": urlsplit(link).fragment})
            origin = f"Origin: {visitor.origin()}"
            status, text = visitor.curl(f"{visitor.origin()}/login", "--data", form, "-H", origin)
            word = text.split("__Host-dask-site=", 1)[1].split(";")[0]
            visitor.cookies[visitor.domain] = word
        else:
            status = visitor.log_in(link).status
        assert status == 303
        visitors.append(visitor)
    listed = [visitor.request(f"{visitor.origin()}/").status for visitor in visitors]
    kept_out(listed[:5] == [303] * 5, "sessions without end", listed)
    assert listed[5:] == [200] * 20  # the control
    kept_out(alice.request(url).status == 200 and alice.curl(url)[0] == 200, "alice is out")


def test_a_flood_of_requests_without_a_login(ids, browser, stranger):
    """Of pages that nobody is logged in for, and of words that are none."""
    alice, nobody = browser("alice"), stranger()
    url = f"{alice.origin(ids['login'])}{SHOWN}"
    assert alice.go(url).status == 200
    origin, wrong = nobody.origin(ids["login"]), f"/_dask-site/in?word={'x' * 60}&path=/"
    found = set()
    for number in range(20):
        nobody.cookies[urlsplit(origin).hostname] = f"made-up-{number}"
        found |= set(nobody.statuses(origin, [SHOWN] * 20, NAVIGATION).values())
        with nobody.http2(urlsplit(origin).hostname) as connection:
            asked = nobody.asking(f"{origin}{SHOWN}")
            numbers = [connection.begin(asked) for _ in range(20)]
            found.add(connection.answer(numbers[-1])[0])
    assert found == {302}
    with nobody.http2(urlsplit(origin).hostname) as connection:
        headers = nobody.asking(f"{origin}{wrong}")
        doors = {connection.ask(headers)[0] for _ in range(300)}
    kept_out(doors <= {403, 429}, "words that are made up", doors)
    kept_out(alice.request(url).status == 200 and alice.curl(url)[0] == 200, "alice is out")
    pid = node("login1").check_output("systemctl show -P MainPID dask-dashboards.service")
    rss = int(node("login1").check_output(f"ps -o rss= -p {pid}"))
    kept_out(rss < 150 * 1024, "memory of the broker, in KiB", rss)
