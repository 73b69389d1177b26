"""Ansible module: how systemd has units, what they have not read, what described them before."""

from __future__ import annotations

import calendar
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_site_units
short_description: Look how systemd has units, and give them back what described them before
description:
  - Looks which units are up, which systemd has not read anew, and which files their processes have
    not read, since they were written later. A run that was interrupted leaves it so.
  - With O(takes), what describes the units is kept under the name of the release that goes, what is
    kept of the one that comes is put in its place, and systemd reads it. Units that the one that
    comes did not have are stopped and removed; those that wait for something are started. No
    service is restarted.
options:
  units: {type: list, elements: str, default: [], description: Whose state is asked for.}
  readings:
    type: list
    elements: dict
    default: []
    description: What a process read, and when.
    suboptions:
      unit: {type: str, required: true, description: The service.}
      since: {type: str, required: true, description: The property of it that says when.}
      files: {type: list, elements: path, required: true, description: Those that it read then.}
  kept: {type: path, description: The folder with what is kept of each release.}
  leaves: {type: str, description: The release that goes.}
  takes: {type: str, description: The release that comes; one that serves is not put back.}
  files:
    type: list
    elements: path
    description: All that may describe units. The first one says of which release, and comes last.
attributes:
  check_mode: {support: full, description: It says what it would put back.}
author: [The dask-site developers]
"""
EXAMPLES = r"""
- name: Look how systemd has the history
  dask_site_units:
    units: [dask-history.service]
    readings:
      - unit: dask-history.service
        since: ExecMainStartTimestamp
        files: [/etc/systemd/system/dask-history.service]
"""
RETURN = r"""
up: {type: list, returned: always, description: Units that run, and will when the host starts.}
stale: {type: list, returned: always, description: Units that systemd has not read anew.}
unread: {type: list, returned: always, description: Of each of the readings, files written since.}
put: {type: list, returned: always, description: The files that were put back or removed.}
"""
UNITS = Path("/etc/systemd/system")


def systemctl(module: AnsibleModule, *arguments: str) -> str:
    """Return what systemctl says; end the module where it fails."""
    environment = {"LC_ALL": "C", "TZ": "UTC"}
    command = ["systemctl", *arguments]
    status, said, error = module.run_command(command, environ_update=environment)
    if status:
        module.fail_json(msg=f"{' '.join(command)}: {(error or said).strip()}")
    return said


def shown(module: AnsibleModule, units: set[str], times: set[str]) -> dict[str, dict[str, str]]:
    """Return how systemd has units, with some of the times that it knows of them."""
    if not units:
        return {}
    asked = {"ActiveState", "UnitFileState", "NeedDaemonReload", *times}
    asked |= {f"{since}Monotonic" for since in times}
    names = sorted(units)
    said = systemctl(module, "show", f"--property={','.join(sorted(asked))}", *names)
    blocks = [block.splitlines() for block in said.strip().split("\n\n")]
    # zip is strict as of Python 3.10 only, and nodes may have an older one
    pairs = zip(names, blocks)  # noqa: B905
    return {name: dict(line.split("=", 1) for line in block) for name, block in pairs}


def read_at(has: dict[str, str], since: str) -> float | None:
    """Return when a process read its files, as Unix time; None if it has not."""
    monotonic = int(has.get(f"{since}Monotonic") or 0) / 1e6
    if not has[since] or not monotonic:
        return None
    # By both clocks: the wall's may have been set meanwhile, and is told without parts of a second.
    told = calendar.timegm(time.strptime(has[since], "%a %Y-%m-%d %H:%M:%S UTC"))
    return max(told, time.time() - (time.monotonic() - monotonic))


def written_after(files: list[str], read: float | None) -> list[str]:
    """Return which files were written after they were read; none if they never were."""
    there = [Path(file) for file in files if Path(file).exists()]
    # As long as drift lets pass: file servers have clocks of their own.
    return [str(file) for file in there if read is not None and file.stat().st_mtime > read + 1]


def copied(source: Path, target: Path) -> Path:
    """Write a copy beside the target, for who renames it."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    beside.unlink(missing_ok=True)
    with beside.open("xb") as file:
        file.write(source.read_bytes())
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    return beside


def put_back(module: AnsibleModule) -> list[Path]:
    """Put what described units in a release in the place of what does now; return what changed."""
    files = [Path(file) for file in module.params["files"]]
    ours, theirs = (Path(module.params["kept"]) / module.params[to] for to in ("leaves", "takes"))
    had = {file: theirs / file.name for file in files if (theirs / file.name).exists()}
    if files[0] not in had:
        name = files[0].name
        module.fail_json(msg=f"{theirs} has no {name}: this host never ran it; nothing was changed")
    there = {file for file in files if file.exists()}
    changes = [
        file for file in had if file not in there or file.read_bytes() != had[file].read_bytes()
    ]
    later = [file for file in files if file.parent == UNITS and file in there - set(had)]
    if module.check_mode:
        return changes + later
    # Where that is there, a run was interrupted, and had kept what is the other release's by now.
    leaving = ours / f".leaving-{files[0].name}"
    keeps = [file for file in there if not leaving.exists() or file in changes or file in later]
    for beside, target in [(copied(file, ours / file.name), ours / file.name) for file in keeps]:
        beside.replace(target)
    ours.mkdir(mode=0o755, parents=True, exist_ok=True)
    leaving.touch()
    for file in later:
        systemctl(module, "disable", "--now", "--quiet", file.name)
        file.unlink()
    for beside, target in reversed([(copied(had[file], file), file) for file in changes]):
        beside.replace(target)
    leaving.unlink()
    return changes + later


def main() -> None:
    """Look, and put back what is asked for."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "readings": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "unit": {"type": "str", "required": True},
                    "since": {"type": "str", "required": True},
                    "files": {"type": "list", "elements": "path", "required": True},
                },
            },
            "kept": {"type": "path"},
            "leaves": {"type": "str"},
            "takes": {"type": "str"},
            "files": {"type": "list", "elements": "path"},
        },
        required_by={"takes": ["kept", "leaves", "files"]},
        supports_check_mode=True,
    )
    given: dict[str, Any] = module.params
    put: list[Path] = []
    try:
        if given["takes"] and given["takes"] != given["leaves"]:
            put = put_back(module)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    if given["takes"] and not module.check_mode:
        # Also when nothing was put back: an earlier run may have been interrupted before this.
        systemctl(module, "daemon-reload")
        there = [Path(file) for file in given["files"] if Path(file).exists()]
        waits = [file.name for file in there if file.suffix in {".path", ".timer"}]
        if waits:
            systemctl(module, "enable", "--now", "--quiet", *waits)
    units, readings = given["units"], given["readings"]
    times = {reading["since"] for reading in readings}
    has = shown(module, {*units, *(reading["unit"] for reading in readings)}, times)
    up = {"ActiveState": "active", "UnitFileState": "enabled"}
    module.exit_json(
        changed=bool(put),
        put=[str(file) for file in put],
        up=[unit for unit in units if up.items() <= has[unit].items()],
        stale=[unit for unit in units if has[unit]["NeedDaemonReload"] == "yes"],
        unread=[
            written_after(reading["files"], read_at(has[reading["unit"]], reading["since"]))
            for reading in readings
        ],
    )


if __name__ == "__main__":
    main()
