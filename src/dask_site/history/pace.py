"""How often a cluster says what it does, and how long its silence means nothing."""

from __future__ import annotations

#: Seconds from one record to the next of a cluster in which nothing happens, or that is old.
SLOWEST = 30.0


def patience(interval: float) -> float:
    """Return the seconds without a record after which a cluster is not said to run.

    Parameters
    ----------
    interval : float
        As in its `ClusterRecord`.
    """
    return 3 * max(SLOWEST, interval)


# A cluster of this age, in seconds, has twice the interval, and so on: what a kill loses is at most
# an interval and a hundredth of its life, and what is written grows with the logarithm of that.
_AGE = 600.0


def pace(interval: float, age: float) -> float:
    """Return the seconds from one record to the next of a cluster that is so many seconds old."""
    return max(interval, min(SLOWEST, interval * (1 + age / _AGE)))
