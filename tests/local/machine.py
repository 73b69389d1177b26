"""A site that is this machine, and waiting for what happens on it."""

import time

SITE = {
    "schema": 1,
    "name": "Test machine",
    "resource_manager": "local",
    "default_pool": "cpu",
    "escalate": ["cpu", "highmem"],
    "pools": {
        "cpu": {"cores": 1, "memory": "512MiB", "max_jobs": 4, "cost": {"core_hour": 1}},
        "highmem": {"cores": 1, "memory": "1GiB"},
        "gpu": {"cores": 2, "memory": "1GiB", "gpus": 2, "processes": 2, "exclusive": True},
    },
}


def until(condition, seconds=60):
    """Wait until a condition holds; say whether it does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
