"""How often the kernel has killed a process of this job for memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

# A kill is older than the notice of it by what a starved node takes to tell.
_CLAIMABLE_SECONDS = 5.0
_OFTEN_ENOUGH = 0.1
_WORD = "oom_kill"


def counters(cgroups: str, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> list[Path]:
    """Find the files that count the kernel's kills for memory in a control group.

    Parameters
    ----------
    cgroups : str
        What /proc/self/cgroup says.
    root, proc : str
        Where the control groups and the kernel's own figures are mounted.

    Returns
    -------
    list of Path
        The group's own file where it can be seen. Else what counts more than that: the file of
        the group that is mounted as the root, as in a container, and the whole machine's.
    """
    wider = []
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mounts, name = [Path(root, "memory")], "memory.oom_control"
        elif number == "0":
            mounts, name = [Path(root), Path(root, "unified")], "memory.events"
        else:
            continue
        for mount in mounts:
            own = mount / path.lstrip("/") / name
            if _count(own) is not None:
                return [own]
            wider.append(mount / name)
    wider.append(Path(proc, "vmstat"))
    return [file for file in wider if _count(file) is not None]


class OomKills:
    """The kernel's kills for memory in this process's control group, to be matched with deaths.

    The workers of one job share a control group: each kill explains one death.

    Parameters
    ----------
    files : iterable of Path
        Each has a line with the word oom_kill and a number.
    """

    _shared: OomKills | None = None

    def __init__(self, files: Iterable[Path]) -> None:
        self._counts = {file: _count(file) or 0 for file in files}
        self._looked = time.monotonic()
        self._unclaimed: list[float] = []

    @classmethod
    def shared(cls) -> OomKills:
        """Return the one of this process."""
        if cls._shared is None:
            try:
                cls._shared = cls(counters(Path("/proc/self/cgroup").read_text("utf-8")))
            except (OSError, ValueError):
                cls._shared = cls([])
        return cls._shared

    def look(self, often: float = _OFTEN_ENOUGH) -> None:
        """Note new kills, unless somebody looked less than `often` seconds ago."""
        now = time.monotonic()
        if now - self._looked < often:
            return
        self._looked = now
        fresh = 0
        for file, before in self._counts.items():
            count = _count(file)
            if count is not None:
                fresh = max(fresh, count - before)
                self._counts[file] = count
        self._unclaimed += [now] * fresh

    def claim(self) -> bool:
        """Say whether a recent kill is not explained yet, and take it as explained."""
        self.look(often=0)
        oldest = time.monotonic() - _CLAIMABLE_SECONDS
        self._unclaimed = [at for at in self._unclaimed if at >= oldest]
        return bool(self._unclaimed) and self._unclaimed.pop(0) > 0


def _count(file: Path) -> int | None:
    try:
        text = file.read_text("ascii", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        word, _, number = line.partition(" ")
        if word == _WORD and number.strip().isdigit():
            return int(number)
    return None
