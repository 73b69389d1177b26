"""Takes workers and nodes away while losses.py computes on the cluster; runs on the host of it.

Five workers are killed (signal 9), three times a node dies (its container) and comes back, and
the jobs have a walltime of one minute. The same at the same times for both sides.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import threading
import time

KILLS = (8, 20, 32, 55, 80)
NODES = ((26, "c1"), (70, "c2"), (115, "c1"))


def ssh(given, node, command, **options):
    words = ["ssh", "-F", given.ssh_config, f"root@{node}", command]
    return subprocess.run(words, capture_output=True, text=True, **options)


def kill_one(given, nth, stop):
    """Kill the youngest process of a job, a worker and not its nanny, once there is one."""
    while not stop.wait(0.5):
        for node in ("c1", "c2")[nth % 2], ("c2", "c1")[nth % 2]:
            pattern = "dask_site.cluster.worker|distributed.cli.dask_worker|multiprocessing"
            if ssh(given, node, f"pkill -KILL -n -u {given.user} -f '{pattern}'").returncode == 0:
                return node
    return "nowhere"


def lose_node(given, node):
    name = f"{given.cluster}-{node}"
    subprocess.run(["podman", "kill", name], check=True, capture_output=True)
    time.sleep(8)
    subprocess.run(["podman", "start", name], check=True, capture_output=True)


def havoc(given, stop):
    begun = time.monotonic()
    events = [(at, "worker", nth) for nth, at in enumerate(KILLS)]
    events += [(at, "node", name) for at, name in NODES]
    for at, what, which in sorted(events, key=lambda event: event[0]):
        if stop.wait(max(0.0, begun + at - time.monotonic())):
            print(f"   it ended before {what} {which}", file=sys.stderr)
            return
        if what == "worker":
            where = kill_one(given, which, stop)
            late = time.monotonic() - begun
            print(f"   {late:.0f} s: a worker dies on {where}", file=sys.stderr)
        else:
            print(f"   {at} s: node {which} dies", file=sys.stderr)
            lose_node(given, which)


def run(given, side):
    command = (
        f"cd {given.folder} && module load dask-site && exec timeout 900 python losses.py {side} "
        f"--tasks {given.tasks} --seconds {given.seconds}"
    )
    words = ["ssh", "-F", given.ssh_config, "root@login1"]
    words.append(f"runuser -l {given.user} -c {shlex.quote(command)}")
    stop, breaker, result = threading.Event(), None, None
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("READY"):
                breaker = threading.Thread(target=havoc, args=(given, stop))
                breaker.start()
            if line.startswith("RESULT "):
                result = json.loads(line.removeprefix("RESULT "))
                stop.set()
    stop.set()
    if breaker:
        breaker.join()
    wait_for_nodes(given)
    return result


def wait_for_nodes(given):
    for _ in range(120):
        states = ssh(given, "login1", "sinfo -h -N -p standard -o %t").stdout.split()
        if states and set(states) <= {"idle", "mix", "alloc"}:
            return
        time.sleep(1)
    sys.exit(f"the nodes do not come back: {states}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ssh-config", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--user", default="carol")
    parser.add_argument("--folder", default="bench")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.12)
    parser.add_argument("--sides", nargs="+", default=["ours", "stock"])
    given = parser.parse_args()
    print("== losses")
    for side in given.sides:
        result = run(given, side)
        print(f"   {side}: {result}")
        print("FIGURES " + json.dumps({f"losses, {side}": result}), flush=True)


if __name__ == "__main__":
    main()
