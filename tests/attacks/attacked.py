"""The cluster that is attacked, and the count of what was tried on it."""

import json
import shlex
from collections import Counter

from nodes import encoded, node, until

# A scheduler, and all paths that its web server knows.
LOCAL = """
from distributed import LocalCluster, Client

def routes(application):
    found = set()
    for one in (application, *application.applications):
        found |= set(getattr(one, "app_paths", ()))
        for rule in one.wildcard_router.rules:
            found.add(rule.matcher.regex.pattern.rstrip("$").replace("(.*)", "x"))
    return sorted(path.replace("/?", "") or "/" for path in found)

if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1)
    tell(link=cluster.dashboard_link, address=cluster.scheduler_address, node=where(),
         routes=routes(cluster.scheduler.http_application))
    time.sleep(3600)
"""
# Dask as it is without this project: to be put before anything else is imported.
OPEN = """
import dask, yaml
from pathlib import Path
import distributed
text = Path(distributed.__file__).with_name("distributed.yaml").read_text()
dask.config.set({"distributed": yaml.safe_load(text)["distributed"]})
dask.config.set({"dask_site.dashboards": None})
"""


class Tally:
    """How often what was tried."""

    def __init__(self):
        self.tried, self.through, self.open = Counter(), [], Counter()

    def said(self):
        """Return it as one line."""
        return (
            f"attacks: {self.tried.total()} tried, {len(self.through)} got through; "
            f"the same where nothing protects: {self.open[True]} of {self.open.total()} got through"
        )


TALLY = Tally()


def kept_out(held, *what):
    """Count an attack on what is protected; fail unless it was in vain."""
    TALLY.tried[bool(held)] += 1
    if not held:
        TALLY.through.append(what)
    assert held, f"it got through: {what}"


def gets_through(worked, *what):
    """Count an attack on what is not protected; fail if it was in vain, as it proves nothing."""
    TALLY.open[bool(worked)] += 1
    assert worked, f"even where nothing protects it does nothing: {what}"


def judged(through, protected, *what):
    """Do either."""
    if protected:
        kept_out(not through, *what)
    else:
        gets_through(through, *what)


def link_to_id(link):
    return link.removeprefix("https://").split(".")[0]


def told_in(text):
    """Return what a script told, None if nothing so far."""
    if "FACTS " not in text:
        return None
    return json.loads(text.split("FACTS ", 1)[1].splitlines()[0])


def started(user, code, name, host="login1"):
    """Start a script of a user that stays until `ended_by`; return what it tells."""
    run, log = node(host).run, f"/home/{user}/{name}.out"
    run(f"rm -f {log}; echo {encoded(code)} | base64 -d > /home/{user}/{name}.py")
    line = f"module load dask-site; setsid python {name}.py > {name}.out 2>&1 < /dev/null & echo"
    node(host).check_output(f"runuser -l {user} -c {shlex.quote(line)}")
    assert until(lambda: "FACTS " in run(f"cat {log}").stdout, 90), run(f"cat {log}").stdout
    return told_in(run(f"cat {log}").stdout)


def started_in_a_job(user, code, name):
    """Start it in a job; return what it tells, and the number of the job."""
    host, home = node("login1"), f"/home/{user}"
    script = f"module load dask-site\nexec python {name}.py > {name}.out 2>&1"
    host.check_output(
        f"rm -f {home}/{name}.out; echo {encoded(code)} | base64 -d > {home}/{name}.py; "
        f"printf '#!/bin/bash -l\\n%s\\n' {shlex.quote(script)} > {home}/{name}.sh"
    )
    # Pages that are looked at stay in the scheduler's memory for a while, and tests look at many.
    submit = f"sbatch --parsable --mem=5000 -o /dev/null {name}.sh"
    job = host.check_output(f"runuser -l {user} -c {shlex.quote(submit)}")
    log = f"cat {home}/{name}.out"
    assert until(lambda: told_in(host.run(log).stdout), 90), host.run(f"{log}; squeue").stdout
    return told_in(host.check_output(log)), job


def ended_by(user, name, host="login1"):
    """End what `started` started."""
    node(host).run(f"pkill -KILL -u {user} -f {name}.py")
