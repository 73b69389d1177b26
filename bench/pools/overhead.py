"""What pools cost a scheduler: 100,000 tasks that do nothing, on processes of this machine.

Both sides alternate, each run in a process of its own, with two workers of one thread and TLS:
ours, and distributed's LocalCluster. Then, on ours: microseconds in which one change of a task's
state is counted, and milliseconds of one look of the controller at 100,000 unfinished tasks of
three kinds of graphs: few needs behind each other, 20 layers of which each task waits for 20, and
barriers that wait for everything.
"""

from __future__ import annotations

import argparse
import itertools
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


def needing(client, tasks):
    """Submit work of which half waits, for what needs other pools."""
    from dask_site import needs

    each = tasks // 4
    first = client.map(time.sleep, [1] * (2 * each), pure=False)
    second = client.map(needs(gpu=1)(nothing), first[:each], pure=False)
    third = client.map(needs(memory="1500MiB")(nothing), second, pure=False)
    return first, second, third


def layers(client, tasks):
    """Submit 20 layers; each task waits for 20 of the layer before, by turns on three pools."""
    from dask_site import needs

    kinds = [gather, needs(gpu=1)(gather), needs(memory="1500MiB")(gather)]
    wide = tasks // 20
    graph = {("layer-a", i): (time.sleep, 600) for i in range(wide)}
    names = [f"layer-{letter}" for letter in "abcdefghijklmnopqrst"]
    for number, (before, name) in enumerate(itertools.pairwise(names)):
        for i in range(wide):
            inputs = [(before, (i + k) % wide) for k in range(20)]
            graph[name, i] = (kinds[number % 3], *inputs)
    return client.get(graph, [*graph], sync=False)


def barriers(client, tasks):
    """Submit barriers that all wait for all of the other tasks, and work behind each."""
    from dask_site import needs

    first = client.map(time.sleep, [600] * tasks, pure=False)
    met = [client.submit(gather, first, pure=False) for _ in range(3)]
    kinds = [nothing, needs(gpu=1)(nothing), needs(memory="1500MiB")(nothing)]
    behind = [client.submit(kind, x, pure=False) for x in met for kind in kinds]
    return first, met, behind


def gather(*_):
    return None


def ticking(tasks, graph):
    """Print the milliseconds of a tick with `tasks` unfinished tasks of one kind of graph."""
    import dask
    from distributed import futures_of

    from dask_site import Cluster

    # So short that no look ends early because what it looks at is beyond the horizon.
    dask.config.set({"distributed.scheduler.unknown-task-duration": "1us"})
    with Cluster(SITE, dashboard=False) as cluster, cluster.get_client() as client:
        cluster.adapt(cpu=(2, 2), gpu=(0, 0), highmem=(0, 0))
        while len(cluster.scheduler.workers) < 2:
            time.sleep(0.2)
        futures = futures_of(GRAPHS[graph](client, tasks))
        while len(cluster.scheduler.tasks) < len(futures):
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


GRAPHS = {"needing": needing, "layers": layers, "barriers": barriers}


def all_ticking(tasks):
    """Return what `ticking` printed for each kind of graph."""
    return {graph: child("ticking", tasks, "--graph", graph) for graph in GRAPHS}


def child(side, tasks, *more):
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, "--tasks", str(tasks), *more],
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
    parser.add_argument("--graph", choices=GRAPHS)
    given = parser.parse_args()
    if given.side == "ticking" and given.graph:
        ticking(given.tasks, given.graph)
        return
    if given.side:
        found = {"plain": plain, "ours": ours, "ticking": all_ticking}[given.side](given.tasks)
        print(json.dumps(found))
        return
    rows = {"plain": [], "ours": []}
    for pair in range(given.pairs):
        for side in ("plain", "ours") if pair % 2 else ("ours", "plain"):
            rows[side].append(child(side, given.tasks))
            print(side, rows[side][-1], file=sys.stderr, flush=True)
    ticks = all_ticking(given.tasks)
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
    for graph, tick in ticks.items():
        figures[f"tick with {tick['unfinished']} tasks, {graph}"] = (
            f"median {tick['tick']:.2f} ms, most {tick['most']:.2f} ms"
        )
    print(f"== {given.tasks} tasks that do nothing")
    for name, text in figures.items():
        print(f"   {name}: {text}")
    print("FIGURES " + json.dumps({"overhead": {"rows": rows, "ticks": ticks}}))


if __name__ == "__main__":
    main()
