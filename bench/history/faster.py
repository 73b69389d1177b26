"""Let the clock of a containerised cluster go faster, so that a day takes an hour or two.

    make cluster rollout
    python bench/history/faster.py --rate 20

Puts `clock.c` under all programs of all nodes, and starts the nodes again. A minute later the time
that systemd, Slurm, Dask and the service know begins to pass so many times faster. They wait as
much shorter, so that they have as much more to do in a second, and what they compute seems to take
as much longer. Limits for which a fast clock leaves too little are raised: those of Slurm for its
messages, and of Dask for connections. What Dask's workers look at all the time, they look at less
often. Not meant to be taken back: remove the cluster afterwards.

In the end it prints the command that works with the same clock.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "out"
#: Seconds until the clock goes faster, in which the nodes start.
AHEAD = 60
LIBRARY, RATE = "/usr/local/lib/clock.so", "/etc/clock-rate"
SLURM = ("BatchStartTimeout", "MessageTimeout", "TCPTimeout", "SlurmctldTimeout", "SlurmdTimeout")
DASK = """
distributed:
  comm: {timeouts: {connect: 900 s, tcp: 900 s}}
  scheduler: {worker-ttl: 7200 s}
  worker:
    profile: {interval: 1 s, cycle: 60 s}
    memory: {monitor-interval: 2 s}
  admin: {system-monitor: {interval: 10 s}}
jobqueue: {slurm: {death-timeout: 900}}
"""
#: For each user with a home, which all nodes share.
SET_DASK = """
cd /home && for user in *; do
  id "$user" >/dev/null 2>&1 || continue
  install -d -o "$user" "$user/.config" "$user/.config/dask"
  install -o "$user" -m 644 /tmp/clock.yaml "$user/.config/dask/clock.yaml"
done
"""


def podman(*words, **values):
    return subprocess.run(["podman", *words], check=True, text=True, capture_output=True, **values)


def say(node, command):
    """Return what a command prints on a node."""
    return podman("exec", node, "sh", "-c", command).stdout.strip()


def nodes(cluster):
    """Return the names of all containers of a cluster, the controller first; or say what to do."""
    label = f"label=dask-site.cluster={cluster}"
    rows = podman("ps", "-a", "--filter", label, "--format", "{{.Names}} {{.State}}").stdout
    states = dict(row.split(maxsplit=1) for row in rows.splitlines())
    down = [name for name, state in states.items() if not state.startswith(("Up", "running"))]
    if down or not states:
        which = ", ".join(down) or f"all of {cluster}"
        sys.exit(f"Down: {which}. make cluster rollout CLUSTER={cluster}")
    return sorted(states, key=lambda name: not name.endswith("-ctl"))


def install(names, library, rate):
    """Put the clock under what the nodes will run, and raise limits."""
    for name in names:
        podman("cp", library, f"{name}:{LIBRARY}")
        podman("cp", rate, f"{name}:{RATE}")
        say(name, f"chmod 755 {LIBRARY}; chmod 644 {RATE}; echo {LIBRARY} > /etc/ld.so.preload")
    controller = names[0]
    podman("exec", "-i", controller, "sh", "-c", "cat > /tmp/clock.yaml", input=DASK)
    say(controller, SET_DASK)
    # One file, which all nodes share
    conf = "/etc/slurm/slurm.conf"
    raised = "\\n".join(f"{limit}=900" for limit in SLURM)
    say(controller, f"sed -Ei -e '/^({'|'.join(SLURM)})=/Id' -e '1i {raised}' {conf}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", default="dask-site-bookworm")
    parser.add_argument("--rate", type=float, default=20)
    given = parser.parse_args()
    missing = [tool for tool in ("cc", "podman") if not shutil.which(tool)]
    if missing:
        sys.exit(f"Not there: {', '.join(missing)}. apt-get install gcc libc6-dev podman")
    if given.rate < 1:
        sys.exit(f"--rate {given.rate:g}: a clock that goes slower was not made; give 1 or more")
    if "LD_PRELOAD" in os.environ:
        sys.exit("LD_PRELOAD is set, so that this may be the fast clock already: unset it")
    names = nodes(given.cluster)
    if any(say(name, f"ls {RATE} 2>/dev/null || true") for name in names):
        sys.exit(f"The clock of {given.cluster} goes faster already: remove the cluster first")

    OUT.mkdir(exist_ok=True)
    library, rate = OUT / f"{given.cluster}-clock.so", OUT / f"{given.cluster}-clock-rate"
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-o", library]
    subprocess.run(["cc", *flags, HERE / "clock.c", "-ldl"], check=True)
    start = time.time() + AHEAD
    rate.write_text(f"{start:.0f} {given.rate}\n")
    install(names, library, rate)
    for name in names:
        podman("restart", "-t", "10", name)
    while "UP" not in subprocess.getoutput(f"podman exec {names[0]} scontrol ping"):
        if time.time() > start:
            sys.exit("Slurm was not up in time: remove the cluster, and try again")
        time.sleep(1)
    print(
        f"LD_PRELOAD={library} CLOCK_RATE={rate} {sys.executable} {HERE / 'day.py'}"
        f" --cluster {given.cluster} --hours 24 --length 60"
    )


if __name__ == "__main__":
    main()
