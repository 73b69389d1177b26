"""What pools cost a scheduler: 100,000 tasks that do nothing, on processes of this machine.

Both sides alternate, each run in a process of its own, with two workers of one thread and TLS:
ours, and distributed's LocalCluster. Then, on ours: microseconds in which one change of a task's
state is counted, and milliseconds of one look of the controller at 100,000 tasks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

SITE = {
    "schema": 1,
    "name": "Bench",
    "resource_manager": "local",
    "default_pool": "cpu",
    "pools": {
        "cpu": {"cores": 1, "memory": "1GiB"},
        "gpu": {"cores": 2, "memory": "2GiB", "gpus": 2, "processes": 2, "exclusive": True},
        "highmem": {"cores": 1, "memory": "2GiB"},
    },
}


def nothing(_):
    return None


def timed(client, tasks):
    """Return wall time, and CPU time of this process, in which scheduler and client are."""
    from distributed import wait

    wait(client.map(nothing, range(2000), pure=False))
    time.sleep(1)
    wall, busy = time.perf_counter(), time.process_time()
    futures = client.map(nothing, range(tasks), pure=False)
    wait(futures)
    return time.perf_counter() - wall, time.process_time() - busy, futures


def plain(tasks):
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GiB"}
    options |= {"security": True, "protocol": "tls://", "dashboard_address": None}
    with LocalCluster(silence_logs=50, **options) as cluster, Client(cluster) as client:
        wall, busy, _ = timed(client, tasks)
        return {"wall": wall, "cpu": busy}


def ours(tasks):
    from dask_site import Cluster

    with Cluster(SITE, dashboard=False) as cluster, cluster.get_client() as client:
        cluster.scale(cpu=2)
        cluster.wait_for_workers()
        wall, busy, futures = timed(client, tasks)
        each = cluster.sync(counting, cluster.scheduler, [future.key for future in futures])
        return {"wall": wall, "cpu": busy, "transition": each}


async def counting(scheduler, keys):
    """Return the microseconds of one call of our hook, less those of an empty one."""
    hook = scheduler.plugins["dask-site-pools"].transition
    worker = next(iter(scheduler.workers))
    done = {"worker": worker, "startstops": [{"action": "compute", "start": 0.0, "stop": 0.0}]}

    def empty(*_, **__):
        pass

    def loop(call):
        begun = time.thread_time()
        for key in keys:
            call(key, "memory", "released")
            call(key, "released", "waiting")
            call(key, "waiting", "processing")
            call(key, "processing", "memory", **done)
        return time.thread_time() - begun

    times = [loop(hook) - loop(empty) for _ in range(3)]
    return min(times) / len(keys) / 4 * 1e6


def ticking(tasks):
    """Print the milliseconds of a tick with `tasks` unfinished tasks of different needs."""
    from dask_site import Cluster, needs

    with Cluster(SITE, dashboard=False) as cluster, cluster.get_client() as client:
        cluster.adapt(cpu=(2, 2), gpu=(0, 0), highmem=(0, 0))
        while len(cluster.scheduler.workers) < 2:
            time.sleep(0.2)
        each = tasks // 4
        first = client.map(time.sleep, [1] * (2 * each), pure=False)
        second = client.map(needs(gpu=1)(nothing), first[:each], pure=False)
        _third = client.map(needs(memory="1500MiB")(nothing), second, pure=False)
        while len(cluster.scheduler.tasks) < tasks:
            time.sleep(0.2)
        time.sleep(3)

        async def ticks():
            times = []
            for _ in range(50):
                begun = time.thread_time()
                cluster._controller.tick()
                times.append((time.thread_time() - begun) * 1e3)
            return times

        times = cluster.sync(ticks)
        counted = sum(cell.unfinished for cell in cluster.scheduler.demand.cells())
        # Now: closing takes longer than a client waits, with as many futures.
        found = {"tick": statistics.median(times), "most": max(times), "unfinished": counted}
        print(json.dumps(found), flush=True)


def child(side, tasks):
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, "--tasks", str(tasks)],
        capture_output=True,
        text=True,
    )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"a run failed:\n{done.stdout}{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", choices=["plain", "ours", "ticking"])
    given = parser.parse_args()
    if given.side:
        found = globals()[given.side](given.tasks)
        if found:
            print(json.dumps(found))
        return
    rows = {"plain": [], "ours": []}
    for pair in range(given.pairs):
        for side in ("plain", "ours") if pair % 2 else ("ours", "plain"):
            rows[side].append(child(side, given.tasks))
            print(side, rows[side][-1], file=sys.stderr, flush=True)
    tick = child("ticking", given.tasks)
    figures = {}
    for kind in ("wall", "cpu"):
        ratios = [a[kind] / b[kind] for a, b in zip(rows["ours"], rows["plain"], strict=True)]
        middle = {side: statistics.median(row[kind] for row in rows[side]) for side in rows}
        figures[f"{kind} time"] = (
            f"{middle['ours']:.1f} s by {middle['plain']:.1f} s; ratio, pair by pair: median "
            f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
        )
    each = statistics.median(row["transition"] for row in rows["ours"])
    figures["counting one change of state"] = f"{each:.2f} us"
    figures[f"tick with {tick['unfinished']} tasks"] = (
        f"median {tick['tick']:.2f} ms, most {tick['most']:.2f} ms"
    )
    print(f"== {given.tasks} tasks that do nothing")
    for name, text in figures.items():
        print(f"   {name}: {text}")
    print("FIGURES " + json.dumps({"overhead": {"rows": rows, "tick": tick}}))


if __name__ == "__main__":
    main()
