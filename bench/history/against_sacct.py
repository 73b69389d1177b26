"""Ledgers against Slurm: clusters of all kinds run, and their books are closed against sacct.

    make cluster rollout && python bench/history/against_sacct.py [--cluster dask-site-bookworm]

Runs `mixed_work.py` for each kind of cluster as an ordinary user of the containerised cluster,
takes in what they recorded, asks sacct as the history service does, and compares the allocated
core-seconds with the ``CPUTimeRAW`` that sacct itself gives for all of their jobs.
"""

import argparse
import json
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dask_site.history.accounting import Accountant
from dask_site.history.accounting.sacct import Sacct
from dask_site.history.collector import Collector
from dask_site.history.ledger import close_books
from dask_site.history.store import Store

WORK = Path(__file__).with_name("mixed_work.py")
#: Those in one row run side by side.
KINDS = (
    ("requeued", "walltime", "kernel", "cancelled", "idle"),
    ("pools", "plain"),
    ("killed", "memory", "pending"),
)
RECORDED = {
    "DASK_DASK_SITE__HISTORY__ENABLED": "True",
    "DASK_DISTRIBUTED__SCHEDULER__PRELOAD": '["dask_site.history.preload"]',
    "DASK_DISTRIBUTED__WORKER__PRELOAD": '["dask_site.history.job_id"]',
}


class Login:
    """Runs commands in the container of the login node."""

    def __init__(self, cluster, user, node="login1"):
        self.container = f"{cluster}-{node}"
        self.user = user

    def run(self, command, **values):
        """Run a command as the user, in a login shell."""
        whole = ["podman", "exec", "-i", self.container, "runuser", "-l", self.user, "-c", command]
        return subprocess.run(whole, capture_output=True, **values)

    def sacct(self):
        """Return how sacct is called here."""
        kept = ("TZ", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
        options = [option for name in kept for option in ("-e", name)]
        return ("podman", "exec", *options, self.container, "sacct")


def work(login, kind, folder):
    """Run one kind of cluster until it is over."""
    login.run(f"mkdir -p {folder} && cat > {folder}/{kind}.py", input=WORK.read_bytes())
    exports = {**RECORDED, "DASK_DASK_SITE__HISTORY__SPOOL": f"$HOME/{folder}/spool/{kind}"}
    shell = "; ".join(f"export {name}={_quoted(value)}" for name, value in exports.items())
    done = login.run(
        f"module load dask-site; {shell}; cd {folder}; timeout 280 python {kind}.py {kind}"
    )
    if done.returncode not in (0, 137):
        print(f"{kind}: exit code {done.returncode}: {done.stderr.decode()[-500:]}")


def _quoted(value):
    return '"' + value.replace('"', '\\"') + '"'


def independently(login, history):
    """Return the core-seconds that sacct adds up itself, of all jobs whose id is in the records."""
    jobs = {r.id for r in history.jobs} | {w.job for w in history.workers}
    numbers = ",".join(sorted({j.partition("_")[0] for j in jobs if j}))
    if not numbers:
        return 0
    command = [*login.sacct(), "-a", "-n", "-X", "-P", "-D", "-o", "CPUTimeRAW", "-j", numbers]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(line) for line in text.split())


def table(login, store, kinds):
    """Print the books of each cluster."""
    print(
        "kind       jobs  rows  core-s: sacct   books    error   start, stop   idle   unexplained"
    )
    worst = 0.0
    for summary in sorted(store.clusters(), key=lambda s: s.started):
        history = store.load(summary.id)
        whole = close_books(history).whole
        truth = independently(login, history)
        error = abs(whole.allocated - truth) / truth if truth else abs(whole.allocated)
        worst = max(worst, error)
        idle = whole.idle / whole.allocated if whole.allocated else 0.0
        jobs = len({r.id for r in history.jobs} | {w.job for w in history.workers} - {None})
        shares = [whole.share("start and stop"), idle, whole.share("unexplained")]
        print(
            f"{kinds.get(summary.id, '?'):10} {jobs:4}  {len(history.accounting):4}"
            f"  {truth:13}  {whole.allocated:6.0f}  {error:7.2%}"
            "  {:11.1%}  {:6.1%}  {:11.2%}".format(*shares)
        )
    print(f"largest error {worst:.2%}")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", default="dask-site-bookworm")
    parser.add_argument("--user", default="bob")
    parser.add_argument("--folder", help="of an earlier run: only close the books again")
    options = parser.parse_args()
    login = Login(options.cluster, options.user)
    folder = options.folder or f"against-{time.time():.0f}"
    if not options.folder:
        for some in KINDS:
            with ThreadPoolExecutor(len(some)) as pool:
                list(pool.map(lambda kind: work(login, kind, folder), some))
        # Jobs of the one that was killed find out by themselves.
        while login.run(f"squeue -h -u {options.user}").stdout.strip():
            time.sleep(2)
    with tempfile.TemporaryDirectory() as here:
        tar = login.run(f"tar -C {folder}/spool -cf - .").stdout
        subprocess.run(["tar", "-xpf", "-", "-C", here], input=tar, check=True)
        folders = [path for path in Path(here).iterdir() if path.is_dir()]
        kinds = {f.name.partition(".")[0]: f.parent.name for f in Path(here).glob("*/*.spool")}
        with Store(f"sqlite:///{here}/history.db") as store:
            taken = Collector(store, folders).collect()
            print(json.dumps({"records": taken.taken.applied, "skipped": dict(taken.skipped)}))
            store.silent(time.time() + 3600, 900.0)
            accountant = Accountant(store, Sacct(login.sacct()))
            for minute in range(5):
                done = accountant.refresh(time.time() + 120 * minute)
                print(f"asked for {done.asked}, kept {done.kept}, {done.problem or 'no problem'}")
            table(login, store, kinds)


if __name__ == "__main__":
    main()
