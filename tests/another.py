"""Programs as another user, for tests that run as root."""

import pwd


def as_another(user):
    """Return what to put before a command for it to run as that user, a name or a number.

    It may read everything: the interpreter and the checkout may be where only root can.
    """
    uid, gid = (user, user) if isinstance(user, int) else pwd.getpwnam(user)[2:4]
    may = "-all,+dac_read_search"
    who = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return [
        "setpriv",
        *who,
        *(f"--{kind}={may}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    ]
