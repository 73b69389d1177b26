"""Let the clock of a containerised cluster go faster, so that a day takes an hour or two.

    make cluster rollout && python bench/history/faster.py --rate 16

Puts `clock.c` under all programs of all nodes, and starts the nodes again. From a minute later
on the time that systemd, Slurm, Dask and the service know passes so many times faster. They wait
as much shorter, so that all of them have as much more to do in a second, and what they compute
seems to take as much longer. Limits that a fast clock leaves too little time for are raised: those
of Slurm for its own messages, and of Dask for connections. Not meant to be taken back: remove the
cluster afterwards. Prints how a program outside gets the same clock.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from day import USERS

#: Seconds until the clock goes faster, in which the nodes start.
AHEAD = 60
SLURM = ("BatchStartTimeout", "MessageTimeout", "TCPTimeout", "SlurmctldTimeout", "SlurmdTimeout")
#: What would take most of the time of two cores, were it done as often as it is in real time.
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
LIBRARY = "/usr/local/lib/clock.so"


def podman(*words, **values):
    return subprocess.run(["podman", *words], check=True, text=True, **values)


def nodes(cluster):
    """Return the names of all containers of a cluster, the controller first."""
    label = f"label=dask-site.cluster={cluster}"
    listed = podman("ps", "--filter", label, "--format", "{{.Names}}", capture_output=True).stdout
    return sorted(listed.split(), key=lambda name: not name.endswith("-ctl"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", default="dask-site-bookworm")
    parser.add_argument("--rate", type=float, default=16)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="clock-"))
    library, clock, dask = folder / "clock.so", folder / "rate", folder / "clock.yaml"
    source = Path(__file__).with_name("clock.c")
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    clock.write_text(f"{time.time() + AHEAD:.0f} {given.rate}\n")
    dask.write_text(DASK)
    names = nodes(given.cluster)
    if not names:
        sys.exit(f"No cluster {given.cluster} is up: make cluster rollout CLUSTER={given.cluster}")

    for name in names:
        podman("cp", library, f"{name}:{LIBRARY}")
        podman("cp", clock, f"{name}:/etc/clock-rate")
        podman("exec", name, "sh", "-c", f"echo {LIBRARY} > /etc/ld.so.preload")
    for user in USERS:
        home = f"/home/{user}/.config/dask"
        podman("exec", names[0], "runuser", "-l", user, "-c", f"mkdir -p {home}")
        podman("cp", dask, f"{names[0]}:{home}/clock.yaml")
    # One file, which all nodes share
    again = f"sed -Ei '/^({'|'.join(SLURM)})=/Id' /etc/slurm/slurm.conf"
    for limit in SLURM:
        again += f"; sed -i '1i {limit}=900' /etc/slurm/slurm.conf"
    podman("exec", names[0], "sh", "-c", again)
    for name in names:
        podman("restart", "-t", "10", name, stdout=subprocess.DEVNULL)
    print(f"LD_PRELOAD={library} CLOCK_RATE={clock}")


if __name__ == "__main__":
    main()
