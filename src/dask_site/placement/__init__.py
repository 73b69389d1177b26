"""Placement: which task may run on which pool."""
