"""A site with open and exclusive pools, for tests of what runs where."""

from dask_site import Site
from dask_site.placement.graph import Placer
from dask_site.placement.matching import Matcher

POOLS = {
    "cpu": {"cores": 4, "memory": "16GiB"},
    "highmem": {"cores": 4, "memory": "64GiB"},
    "gpu": {"cores": 8, "memory": "32GiB", "gpus": 2, "processes": 2, "exclusive": True},
    "fat": {"cores": 2, "memory": "512GiB", "gpus": 1, "exclusive": True},
}
SITE = {
    "schema": 1,
    "name": "Four pools",
    "resource_manager": "local",
    "default_pool": "cpu",
    "escalate": ["cpu", "highmem", "fat"],
    "pools": POOLS,
}
GIB = 2**30


def matcher(**changes):
    return Matcher(Site.from_mapping({**SITE, **changes}))


def placer(**more):
    return Placer(matcher(), **more)
