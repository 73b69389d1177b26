"""Hours of mixed work on the containerised cluster, and the books of the service against Slurm's.

    make cluster rollout && python bench/history/day.py [--hours 2] [--cluster dask-site-bookworm]

Three users start clusters of all kinds of `mixed_work.py` on both login nodes, each two at a time,
and the service that was rolled out there records them. In the end what sacct accounted for all
jobs of these users, known to the history or not, is held against what the books allocate.

For a day without waiting for it, see `faster.py`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from against_sacct import WORK, Login

USERS = ("alice", "bob", "carol")
#: How often a kind comes. Most work ends as it should.
SELDOM = ("idle", "cancelled", "walltime", "memory", "kernel", "pending", "killed", "requeued")
KINDS = {"pools": 4, "plain": 4, "notebook": 2} | dict.fromkeys(SELDOM, 1)
#: Seconds until books that did not change are taken for final. The service asks again for what a
#: killed cluster left after 15 minutes.
QUIET = 1200
#: The most that `dask-site history ls` lists.
MOST = 1000
#: Seconds by which the clocks of the cluster and of this program may differ.
APART = 60


def keep_busy(cluster, user, node, end, seed, length):
    """Run clusters one after the other until a time; return how often which kind."""
    chance, login, ran = random.Random(seed), Login(cluster, user, node), Counter()
    while time.time() < end:
        (kind,) = chance.choices(list(KINDS), KINDS.values())
        program = f"timeout {300 * length} python mixed_work.py {kind} {length}"
        done = login.run(f"module load dask-site; cd day; {program}")
        ran[kind] += 1
        if done.returncode not in (0, 137):
            print(f"{user} {kind}: exit code {done.returncode}: {done.stderr[-300:].decode()}")
    return ran


def work(cluster, end, seed, length):
    """Have all users work until a time; return how often which kind of cluster ran."""
    for user in USERS:
        write = "mkdir -p ~/day && cat > ~/day/mixed_work.py"
        Login(cluster, user).run(write, input=WORK.read_bytes(), check=True)
    places = [(user, node) for user in USERS for node in ("login1", "login2")]
    with ThreadPoolExecutor(len(places)) as pool:
        runs = [
            pool.submit(keep_busy, cluster, user, node, end, seed + number, length)
            for number, (user, node) in enumerate(places)
        ]
        return sum((run.result() for run in runs), Counter())


def queued(root):
    """Say whether these users have jobs; a manager that doesn't answer is asked again."""
    while (asked := root.run(f"squeue -h -u {','.join(USERS)}")).returncode:
        print(f"squeue: {asked.stderr.decode().strip()}")
        time.sleep(5)
    return bool(asked.stdout.strip())


def accounted(root, since):
    """Return the core-seconds of each job of the users that ran, as sacct adds them up."""
    fields = ["JobIDRaw", "Submit", "CPUTimeRAW"]
    command = [*root.sacct(), "-n", "-X", "-P", "-D", "-u", ",".join(USERS), "-o"]
    command += [",".join(fields), "-S", time.strftime("%FT%T", time.gmtime(since - 60))]
    env = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    found = Counter()
    for row in text.splitlines():
        job, submitted, seconds = row.split("|")
        if int(submitted) >= since and int(seconds):
            found[job] += int(seconds)
    return found


def ask(cluster, user, *commands):
    """Return what the service answers to these commands of `dask-site history`."""
    shell = " && ".join(f"dask-site history {command} --json" for command in commands)
    while True:
        said = Login(cluster, user).run(f"module load dask-site && {shell}")
        if said.returncode == 0 and b"does not answer" not in said.stderr:
            break
        print(f"{user}: {said.stderr.decode().strip()[-300:]}", flush=True)
        time.sleep(30)
    found, decoder, text = [], json.JSONDecoder(), said.stdout.decode().strip()
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:].lstrip()
    assert len(found) == len(commands), said.stdout
    return found


def listed(cluster, since):
    """Return a row for each cluster of each user that began after a time, as the service has it."""
    days, found = (time.time() - since) / 86400, {}
    for user in USERS:
        (rows,) = ask(cluster, user, f"ls -n {MOST} --days {max(days, 0.001):.6f}")
        assert len(rows) < MOST, f"{user} has more clusters than are listed"
        found[user] = [c for c in rows if datetime.fromisoformat(c["started"]).timestamp() >= since]
    return found


def settled(cluster, since):
    """Wait until no cluster runs and the lists don't change any more, and return them."""
    last, changed = None, time.time()
    while time.time() < changed + QUIET:
        now = listed(cluster, since)
        rows = [row for some in now.values() for row in some]
        running = sum(row["state"] == "running" for row in rows)
        if now != last or running:
            last, changed = now, time.time()
        quiet = f"unchanged for {time.time() - changed:.0f} s"
        print(f"{len(rows)} clusters, {running} of them taken to run; {quiet}", flush=True)
        time.sleep(60)
    return last


def books(cluster, clusters):
    """Return the ledger of each cluster, and the core-seconds of each job that they tell of."""
    ledgers, jobs = [], Counter()
    for user, rows in clusters.items():
        ids = [row["id"] for row in rows]
        ledgers += [one["ledger"] for one in ask(cluster, user, *(f"show {i}" for i in ids))]
        for told in ask(cluster, user, *(f"jobs {i}" for i in ids)):
            for job in told:
                if job["ran_seconds"]:
                    jobs[job["job"]] += job["cores"] * job["ran_seconds"]
    return ledgers, jobs


def tell(ran, ledgers, jobs, truth):
    """Print both books."""
    parts, sources = Counter(), Counter()
    for ledger in ledgers:
        parts.update(ledger["parts"])
        sources.update(ledger["sources"])
    allocated, whole = sum(ledger["allocated"] for ledger in ledgers), truth.total()
    print(f"clusters started: {ran.total()} {dict(ran.most_common())}; recorded: {len(ledgers)}")
    print(f"jobs that ran: sacct {len(truth)}, books {len(jobs)}")
    apart = {job: truth[job] - jobs[job] for job in truth | jobs if truth[job] != jobs[job]}
    print(f"jobs of which sacct and the books differ, in core-seconds: {apart or 'none'}")
    print(f"core-seconds: sacct {whole}, books {allocated:.0f}: {allocated / whole - 1:+.3%}")
    print(f"where the books have them from: {dict(sources)}")
    for part, seconds in parts.most_common():
        print(f"  {part:24} {seconds:10.0f}  {seconds / allocated:8.2%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", default="dask-site-bookworm")
    parser.add_argument("--hours", type=float, default=2.0, help="by the cluster's clock (2)")
    parser.add_argument("--length", type=int, default=1, help="that many times longer work (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--since", type=int, help="only close the books again, from this time on")
    parser.add_argument("--out", type=Path, help="keep all ledgers in this file")
    given = parser.parse_args()
    root = Login(given.cluster, "root", "login1")
    apart = int(root.run("date +%s", check=True).stdout) - time.time()
    if abs(apart) > APART:
        sys.exit(
            f"The clock of the cluster is {apart:.0f} s ahead; see faster.py for how to share it"
        )
    since, ran = given.since or int(time.time()), Counter()
    listed(given.cluster, since)
    if not given.since:
        if queued(root):
            sys.exit(f"{', '.join(USERS)} have jobs already, which would be counted")
        print(f"To close the books again: --since {since}", flush=True)
        ran = work(given.cluster, since + 3600 * given.hours, given.seed, given.length)
    while queued(root):
        time.sleep(5)
    ledgers, jobs = books(given.cluster, settled(given.cluster, since))
    if given.out:
        given.out.write_text(json.dumps(ledgers))
    if not (truth := accounted(root, since)):
        sys.exit("No job ran")
    tell(ran, ledgers, jobs, truth)


if __name__ == "__main__":
    main()
