"""Scaling: how many jobs each pool shall have, from the work that there is and that will be."""
