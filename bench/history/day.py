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
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from against_sacct import WORK, Login

USERS = ("alice", "bob", "carol")
#: How often a kind comes. Most work ends as it should.
SELDOM = ("idle", "cancelled", "walltime", "memory", "kernel", "pending", "killed", "requeued")
KINDS = {"pools": 4, "plain": 4, "notebook": 2} | dict.fromkeys(SELDOM, 1)
#: Seconds until books that did not change are taken for final.
QUIET = 240


def keep_busy(cluster, user, node, end, seed, length):
    """Run clusters one after the other until a time; return how often which kind."""
    chance, login, ran = random.Random(seed), Login(cluster, user, node), Counter()
    login.run("mkdir -p ~/day && cat > ~/day/mixed_work.py", input=WORK.read_bytes())
    while time.time() < end:
        (kind,) = chance.choices(list(KINDS), KINDS.values())
        program = f"timeout {300 * length} python mixed_work.py {kind} {length}"
        command = f"module load dask-site; cd day; {program}"
        done = login.run(command)
        ran[kind] += 1
        if done.returncode not in (0, 137):
            print(f"{user} {kind}: exit code {done.returncode}: {done.stderr[-300:].decode()}")
    return ran


def accounted(login, since):
    """Return how many jobs of the users ran, and their core-seconds, as sacct adds them up."""
    fields = ["JobIDRaw", "Submit", "Start", "CPUTimeRAW"]
    command = [*login.sacct(), "-n", "-X", "-P", "-D", "-u", ",".join(USERS), "-o"]
    command += [",".join(fields), "-S", time.strftime("%FT%T", time.gmtime(since - 60))]
    env = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    rows = [row.split("|") for row in text.splitlines()]
    mine = [row for row in rows if int(row[1]) >= since and int(row[3])]
    return len({row[0] for row in mine}), sum(int(row[3]) for row in mine)


def ask(cluster, user, *commands):
    """Return what the service tells a user who gives these commands of `dask-site history`."""
    shell = "; ".join(f"dask-site history {command} --json" for command in commands)
    said = Login(cluster, user).run(f"module load dask-site; {shell}", check=True).stdout.decode()
    found, decoder = [], json.JSONDecoder()
    while said := said.lstrip():
        one, end = decoder.raw_decode(said)
        found.append(one)
        said = said[end:]
    return found


def listed(cluster, since):
    """Return a row for each cluster of each user, as the service tells it."""
    days = (time.time() - since) / 86400
    return {user: ask(cluster, user, f"ls -n 10000 --days {days:.6f}")[0] for user in USERS}


def settled(cluster, since):
    """Wait until the lists don't change any more, and return each cluster with its ledger."""
    last, changed = None, time.time()
    while time.time() < changed + QUIET:
        now = listed(cluster, since)
        if now != last:
            last, changed = now, time.time()
        number = sum(map(len, now.values()))
        print(f"{number} clusters; unchanged for {time.time() - changed:.0f} s", flush=True)
        time.sleep(30)
    return [
        one
        for user, clusters in last.items()
        for one in ask(cluster, user, *(f"show {c['id']}" for c in clusters))
    ]


def tell(found, ran, jobs, truth):
    """Print both books."""
    ledgers = [one["ledger"] for one in found]
    allocated = sum(ledger["allocated"] for ledger in ledgers)
    parts = Counter()
    for ledger in ledgers:
        parts.update(ledger["parts"])
    print(f"clusters started: {ran.total()} {dict(ran.most_common())}; recorded: {len(found)}")
    print(f"jobs that ran: {jobs}")
    print(f"core-seconds: sacct {truth}, books {allocated:.0f}: {allocated / truth - 1:+.3%}")
    for part, seconds in parts.most_common():
        print(f"  {part:24} {seconds:10.0f}  {seconds / allocated:8.2%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", default="dask-site-bookworm")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--length", type=int, default=1, help="how many times longer all takes (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--since", type=int, help="only close the books again, from this time on")
    parser.add_argument("--out", type=Path, help="keep all ledgers in this file")
    given = parser.parse_args()
    since = given.since or int(time.time())
    ran = Counter()
    if not given.since:
        end = since + 3600 * given.hours
        places = [(user, node) for user in USERS for node in ("login1", "login2")]
        with ThreadPoolExecutor(len(places)) as pool:
            runs = [
                pool.submit(
                    keep_busy, given.cluster, user, node, end, given.seed + number, given.length
                )
                for number, (user, node) in enumerate(places)
            ]
            ran = sum((run.result() for run in runs), Counter())
    root = Login(given.cluster, "root", "login1")
    while root.run(f"squeue -h -u {','.join(USERS)}").stdout.strip():
        time.sleep(5)
    found = settled(given.cluster, since)
    if given.out:
        given.out.write_text(json.dumps(found))
    tell(found, ran, *accounted(root, since))


if __name__ == "__main__":
    main()
