"""Functions that note where they ran; workers import this module."""

import os

from dask_site import needs

NOTES = "NOTES_OF_NEEDS"


def note(tag):
    """Note that what is called `tag` ran here, if this is a worker."""
    pool = os.environ.get("DASK_SITE_POOL")
    if pool is not None:
        with open(os.environ[NOTES], "a") as file:
            file.write(f"{tag} {pool}\n")


def noted():
    """Return the pools where each function ran, and forget them."""
    ran = {}
    with open(os.environ[NOTES], "r+") as file:
        for line in file:
            tag, pool = line.split()
            ran.setdefault(tag, set()).add(pool)
        file.truncate(0)
    return ran


def before(x, *_, **__):
    note("before")
    return x


def work(x, *_, **__):
    note("work")
    return x


def after(x, *_, **__):
    note("after")
    return x


@needs(gpu=1)
def infer(x, *_, **__):
    note("infer")
    return x


@needs(gpu=1)
async def infer_later(x):
    note("infer_later")
    return x


class Model:
    def __init__(self, by=1):
        note("init")
        self.by = by

    @needs(gpu=1)
    def infer(self, x):
        note("infer")
        return x * self.by

    def fit(self, x):
        note("fit")
        return x


def drives(xs):
    """Submit work from inside a task."""
    from distributed import worker_client

    note("drives")
    with worker_client() as client:
        return client.gather(client.map(infer, xs, pure=False))
