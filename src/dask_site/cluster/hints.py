"""What to do about the resource manager's refusals and reasons.

Reasons and their meaning: squeue(1), "JOB REASON CODES", and Slurm's slurm_errno.
"""

from __future__ import annotations

import re

_SUBMISSION = {
    "invalid partition": "The pool's `queue` is not a partition that you may use: compare "
    "`sinfo -s` with `dask-site pools`, and tell the site's support.",
    "invalid account": "Name an account of yours: Cluster(account=...), or `dask_site: {account: "
    "...}` in ~/.config/dask/site.yaml. `sacctmgr show associations user=$USER` lists them.",
    "invalid qos": "The pool's `qos` is not one that your account may use.",
    "requested node configuration is not available": "No node of the partition has what the pool "
    "asks for: compare its cores, memory and gpus with `sinfo -N -l`.",
    "more processors requested": "No node of the partition has that many cores.",
    "memory specification can not be satisfied": "No node of the partition has that much memory.",
    "time limit": "The pool's `walltime` is over the partition's limit (`sinfo -o '%P %l'`).",
    "invalid feature": "The pool's `constraint` names a feature that no node has.",
    "reservation": "The pool's `reservation` is not there, or not for you.",
    "submit limit": "You have as many jobs in the queue as the site allows; ask for fewer.",
    "unable to contact": "The resource manager is away. Try again in a minute.",
    "no such file or directory": "Is this a login node of the site, and is the resource manager's "
    "software on PATH?",
}

_NODES_AWAY = (
    "The nodes that could run it are down, drained or reserved (`sinfo -R` says why). It starts "
    "when they are back."
)
_PENDING = {
    "PartitionDown": "The partition is down. Ask the site's support, or use another pool.",
    "PartitionInactive": "The partition is inactive. Ask the site's support, or use another pool.",
    "PartitionTimeLimit": "The pool's walltime is over the partition's limit (`sinfo -o '%P %l'`): "
    "this job will never start.",
    "PartitionNodeLimit": "The job asks for more nodes than the partition has or allows: it will "
    "never start.",
    "DOWN, DRAINED": _NODES_AWAY,
    "ReqNodeNotAvail": _NODES_AWAY,
    "BadConstraints": "No node has what the pool asks for: this job will never start.",
    "AssocGrp": "Your account has used up a limit (`sacctmgr show associations user=$USER`).",
    "AssocMax": "You are at a limit of your account; it starts when your other jobs end.",
    "QOSMax": "You are at a limit of this QOS; it starts when your other jobs end.",
    "QOSGrp": "A limit of this QOS is used up by all its users together.",
    "AssociationJobLimit": "You are at the number of jobs that your account allows.",
    "InvalidAccount": "The account is not valid: Cluster(account=...) names another.",
    "InvalidQOS": "The QOS is not valid for this account.",
    "JobHeldUser": "The job is held: `scontrol release JOB` lets it go.",
    "JobHeldAdmin": "An administrator holds the job. Ask the site's support.",
    "launch failed": "The node could not start the job and the manager holds it. Ask the site's "
    "support.",
    "Reservation": "The reservation has not begun, or has ended.",
    "Licenses": "It waits for a licence.",
}


def submission_hint(words: str) -> str:
    """Return what to do about a refused submission; the manager's words decide."""
    lowered = words.lower()
    for sign, hint in _SUBMISSION.items():
        if sign in lowered:
            return hint
    return "`dask-site pools` shows what the pool asks for; the site's support knows its limits."


_UNREACHABLE = re.compile(
    r".*(?:Timed out trying to connect|Connection refused|No route to host|Network is unreachable"
    r"|Name or service not known).*"
)


def start_hint(output: str, scheduler_address: str) -> str:
    """Return what to do about a job that ended before its worker joined; its output decides."""
    found = _UNREACHABLE.search(output)
    if found:
        return (
            f"{found[0].strip()}\nThe worker could not reach the scheduler at {scheduler_address}: "
            "`scheduler: {interface: ...}` of the site file names the network that compute nodes "
            "reach, and a firewall between the nodes must let them through."
        )
    return "The next job of the pool would end alike: mend what its output tells first."


def pending_hint(reason: str) -> str:
    """Return what to do about a reason; empty while waiting is all there is to do."""
    for sign, hint in _PENDING.items():
        if sign in reason:
            return hint
    return ""
