"""Real users of the containerised cluster: alice has clusters, bob and carol are after them."""

import json

import pytest
from attacked import IN_A_JOB, LOCAL, encoded, link_to_id, node, shared, until, variables
from visiting import Visitor

# The fixtures of the tests on the cluster, which both kinds of tests share.
globals().update({k: v for k, v in vars(shared).items() if not k.startswith(("__", "pytest_"))})


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """The certificate of who vouches for the proxies, which a site's browsers know."""
    state = variables()["site"]["dashboards"]["state"]
    path = tmp_path_factory.mktemp("authority") / "site.pem"
    path.write_text(node("login1").check_output(f"cat {state}/public/site.pem") + "\n")
    return path


@pytest.fixture(scope="session")
def address():
    """Return the address of a node."""
    return lambda name="login1": node(name).check_output("hostname -i").split()[0]


@pytest.fixture(scope="session")
def dashboards(as_user):
    """Ask for a user's dashboards as he would: ``dashboards("alice")``."""

    def ask(user, host="login1", more=""):
        command = f"module load dask-site && dask-site dashboards --json {more}"
        result = as_user(user, command, host)
        assert result.rc == 0, result.stderr
        return json.loads(result.stdout)

    return ask


@pytest.fixture(scope="session")
def stranger(authority, address):
    """Make a browser in which nobody is logged in."""
    domain = variables()["site"]["dashboards"]["domain"]
    return lambda host="login1": Visitor(address(host), authority, domain)


@pytest.fixture(scope="session")
def browser(stranger, dashboards):
    """Make a browser in which a user is logged in: ``browser("bob")``."""

    def make(user, host="login1"):
        visitor = stranger(host)
        answer = visitor.log_in(dashboards(user, host)["login"])
        assert answer.status == 303, answer.text
        return visitor

    return make


@pytest.fixture(scope="module")
def alices(as_user):
    """Two clusters of alice's, by where their schedulers are: ``login`` and ``job``."""
    host = node("login1")
    host.run("runuser -l alice -c 'pkill -f attacked.py'; scancel -u alice")
    script = encoded(LOCAL)
    as_user("alice", f"echo {script} | base64 -d > attacked.py; rm -f attacked.out here.out")
    as_user("alice", f"cat > attacked.sh <<'EOF'\n{IN_A_JOB}EOF\nsbatch -o /dev/null attacked.sh")
    as_user(
        "alice",
        "module load dask-site; setsid python attacked.py > here.out 2>&1 < /dev/null & echo",
    )
    found = {}
    for where, log in (("login", "here.out"), ("job", "attacked.out")):
        assert until(lambda log=log: "FACTS" in host.run(f"cat /home/alice/{log}").stdout, 90), (
            host.run(f"cat /home/alice/{log}; squeue").stdout
        )
        text = host.check_output(f"cat /home/alice/{log}")
        found[where] = json.loads(text.split("FACTS ", 1)[1].splitlines()[0])
        found[where]["id"] = link_to_id(found[where]["link"])
    yield found
    host.run("pkill -u alice -f attacked.py; scancel -u alice")
    assert until(lambda: not host.check_output("squeue -h -u alice"))


@pytest.fixture(scope="module")
def ids(alices):
    """The ids of alice's clusters."""
    return {where: facts["id"] for where, facts in alices.items()}


@pytest.fixture(scope="session")
def alice(browser):
    return browser("alice")


@pytest.fixture(scope="session")
def bob(browser):
    return browser("bob")
