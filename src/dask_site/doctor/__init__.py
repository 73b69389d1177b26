"""Looks at what could harm a user on a shared login node, and says what to do about it."""
