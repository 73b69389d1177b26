"""A cluster whose network leads nowhere, rolled out from a bundle by its own login node."""

from nodes import _rolled_out, as_user, login1, python, site
