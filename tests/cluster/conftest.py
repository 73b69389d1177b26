"""The containerised cluster of inventories/demo, with dask-site rolled out on it.

SUITE and CLUSTER in the environment pick the cluster, as everywhere.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from nodes import _rolled_out, as_user, in_background, login1, python, site


@pytest.hookimpl(trylast=True)  # once all have said which one they need
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests that need one Debian suite to that one, where several share the work."""
    if not os.environ.get("DIVIDED"):
        return
    elsewhere = [
        item
        for item in items
        if any(mark.args[0] != os.environ["SUITE"] for mark in item.iter_markers("suite"))
    ]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Keep what failed in the file FAILED, if that is set, for who prints it after all else."""
    wanted = os.environ.get("FAILED")
    reports = [r for key in ("failed", "error") for r in terminalreporter.stats.get(key, ())]
    if wanted and reports:
        told = ((f"FAILED {r.nodeid}", *r.longreprtext.splitlines()[-25:]) for r in reports)
        Path(wanted).write_text("\n".join(line for lines in told for line in lines) + "\n")
