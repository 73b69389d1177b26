"""A site whose environment Spack built on one cluster, and another had from the build cache."""

from life import newer
from nodes import _rolled_out, as_user, login1, python, site
